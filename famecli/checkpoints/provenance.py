"""Origin of a checkpoint: its training, and the trainings that made its initial weights. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from famecli.config.schema import build_known, check_ranges, known_keys, ranged
from famecli.data.preparation import PIXELS, TENTH, Preparation
from famecli.data.registry import FOLDER
from famecli.errors import ConfigError, UsageError

MOST = 1e15


@dataclass(frozen=True)
class PastTraining:
    """One training, as a checkpoint records it.

    Args:
        dataset: Name of the data set; None where it is not recorded.
        images_seen: Number of images seen.
        seconds: Wall time of training and validation.
        threads: CPU threads of each process.
        processes: Processes that shared the training.
        seed: Seed of the training; None where it is not recorded.
        cpu_seconds: CPU time of all processes; None where it is not recorded.
        device: Kind of device; None where it is not recorded.

    Raises:
        ConfigError: A value is outside its range.
    """

    dataset: str | None = None
    images_seen: int = ranged(0, MOST, "images seen", 0)
    seconds: float = ranged(0.0, MOST, "time of training", 0.0)
    threads: int = ranged(1, MOST, "threads of each process", 1)
    processes: int = ranged(1, MOST, "processes", 1)
    seed: int | None = None
    cpu_seconds: float | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        problems = check_ranges(self, "")
        if self.cpu_seconds is not None and not 0.0 <= self.cpu_seconds <= MOST:
            problems.append(f"cpu_seconds = {self.cpu_seconds} is outside 0.0 to {MOST}")
        if problems:
            raise ConfigError("past training: " + "; ".join(problems))

    @property
    def thread_hours(self) -> float:
        """Wall time in hours, times the threads of all processes."""
        return self.seconds / 3600 * self.threads * self.processes


def in_words(trainings: Sequence[PastTraining]) -> str:
    """Return data, images, time and seed of each training, in words."""
    return ", then ".join(
        f"{each.images_seen:,} of {each.dataset or 'unknown images'} "
        f"({time_in_words([each])}, seed {each.seed})"
        for each in trainings
    )


def time_in_words(trainings: Sequence[PastTraining]) -> str:
    """Return the hours of trainings on threads of CPUs and on GPUs, such as `1.60 hours of one thread`."""
    hours: dict[str, float] = {}
    for each in trainings:
        unit = "one GPU" if each.device == "cuda" else "one thread"
        own = each.seconds / 3600 * each.processes if each.device == "cuda" else each.thread_hours
        hours[unit] = hours.get(unit, 0.0) + own
    return " and ".join(f"{own:.2f} hours of {unit}" for unit, own in hours.items()) or "unknown"


@dataclass(frozen=True)
class TrainingData:
    """Images of a training.

    Args:
        dataset: Name of the data set.
        train_images: Number of training images.
        valid_images: Number of images in the validation split.
        test_images: Number of images in the test split.
        train_sha256: SHA-256 of the SHA-256 of each training image, in order; see
            `famecli.data.dataset.image_hashes`.
    """

    dataset: str
    train_images: int
    valid_images: int
    test_images: int
    train_sha256: str

    def __str__(self) -> str:
        """Return name, sizes and hash, for people."""
        sizes = f"{self.train_images:,} / {self.valid_images:,} / {self.test_images:,} images"
        return f"{self.dataset} ({sizes}, training images {self.train_sha256[:12]})"


@dataclass(frozen=True)
class FirstWeights:
    """Initial weights of a training, if not random; unrecorded fields are empty.

    Args:
        source: File or name of the checkpoint, with its last folder.
        sha256: SHA-256 of the file.
        weights_sha256: SHA-256 of the weights.
        past: Trainings that made the weights, in order.
    """

    source: str = ""
    sha256: str = ""
    weights_sha256: str = ""
    past: tuple[PastTraining, ...] = ()

    def __str__(self) -> str:
        """Return source and hash, for people."""
        return f"{self.source} (weights {self.weights_sha256[:12] or 'unknown'})"

    def same_as(self, other: "FirstWeights") -> bool:
        """Return whether both are the same weights: by hashes, or by sources if one has no hash."""
        if self.weights_sha256 and other.weights_sha256:
            return self.weights_sha256 == other.weights_sha256
        return self.source == other.source


@dataclass(frozen=True)
class Provenance(PastTraining):
    """Last training of a checkpoint, and its initial weights; unrecorded fields are None.

    Args:
        steps: Steps of the optimizer.
        skipped_steps: Steps left out because a gradient was not finite.
        precision: Precision of the arithmetic, `fp32` or `bf16`.
        versions: Packages with their versions.
        init: Initial weights; None for random ones.
        data: Images of the training; None where they are not recorded.
        preparation: Preparation of the user's images and the rule of their splits; None for other data sets.
    """

    steps: int | None = None
    skipped_steps: int | None = None
    precision: str | None = None
    versions: tuple[str, ...] = ()
    init: FirstWeights | None = None
    data: TrainingData | None = None
    preparation: Preparation | None = None

    def prepared(self, asked: Preparation, dataset: str = FOLDER) -> Preparation:
        """Return the preparation of images for the model: what `asked` leaves open is as in training.

        Older trainings on the user's images record none and split by position.

        Args:
            asked: Preparation that the user asks for.
            dataset: Data set of the images; only those of `folder` are prepared as in training.
        """
        if dataset != FOLDER:
            return asked
        older = self.dataset == FOLDER and self.preparation is None
        return asked.following(self.preparation or Preparation(rule=TENTH if older else PIXELS))

    @property
    def trained_on(self) -> str:
        """Data set, number of training images and preparation, in words; empty if nothing is recorded."""
        count = "" if self.data is None else f"{self.data.train_images:,} training images"
        return ", ".join(filter(None, [self.dataset, count, str(self.preparation or "")]))

    @property
    def past(self) -> tuple[PastTraining, ...]:
        """Trainings of the initial weights, in order."""
        return () if self.init is None else self.init.past

    @property
    def trainings(self) -> tuple[PastTraining, ...]:
        """All trainings, in order; empty if no provenance is recorded."""
        own = PastTraining(*(getattr(self, name) for name in PastTraining.__dataclass_fields__))
        return self.past if own == PastTraining() else (*self.past, own)

    @property
    def total_images(self) -> int:
        """Images seen in all trainings."""
        return sum(each.images_seen for each in self.trainings)

    @property
    def total_thread_hours(self) -> float:
        """Wall time of all trainings in hours, times threads."""
        return sum(each.thread_hours for each in self.trainings)

    @property
    def total_cpu_hours(self) -> float | None:
        """CPU time of all trainings in hours; None where one did not record it."""
        told = [each.cpu_seconds for each in self.trainings]
        return sum(each or 0.0 for each in told) / 3600 if told and None not in told else None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of all trainings that record one, in order."""
        return tuple(each.seed for each in self.trainings if each.seed is not None)


def parse_provenance(metadata: Mapping[str, Any], where: str = "provenance") -> Provenance:
    """Return the provenance in the untrusted metadata of a checkpoint.

    Args:
        metadata: Metadata with the keys `provenance` and `training`, both of which may be absent.
        where: Name of the table for errors.

    Raises:
        ConfigError: A value has the wrong type or range.
    """
    table, training = metadata.get("provenance"), metadata.get("training")
    if table is None:
        return Provenance()
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table of keys, got {type(table).__name__}")
    versions, seed = table.get("versions"), training.get("seed") if isinstance(training, dict) else None
    told = {
        "versions": [f"{name} {found}" for name, found in versions.items()]
        if isinstance(versions, dict)
        else (),
        "init": known_keys(FirstWeights, table.get("init")),
        "data": known_keys(TrainingData, table.get("data")),
        "preparation": known_keys(Preparation, table.get("preparation")),
        "seed": seed,
    }
    try:
        return build_known(Provenance, table | told, where)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error
