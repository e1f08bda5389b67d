"""Facts that runs, checkpoints and named weights record."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famecli.checkpoints.description import describe
from famecli.checkpoints.provenance import Provenance
from famecli.config.schema import ModelConfig, TrainConfig, to_dict
from famecli.data.registry import DATASETS, FOLDER
from famecli.errors import ConfigError, truncate
from famecli.escape import printable
from famecli.nll.record import NllRecord, ScoredImages, Terms, binarization_words, bits_per_dim, unit_of
from famecli.report.metrics import METRICS, Metrics, Record, read_metrics

MOST_OF_A_NAME = 60


@dataclass(frozen=True)
class RunFacts:
    """A run, a checkpoint file, or named weights.

    Args:
        name: Display name.
        path: Run, as typed.
        model: Configuration of the model.
        training: Settings of the training; None where they are not recorded.
        provenance: Origin of the checkpoint; empty without one.
        parameters: Number of weights; None without a checkpoint.
        weights_sha256: Hash recorded with the averaged weights; None where they cannot be checked.
        metrics: Metrics of the training; None where there is no such file.
        claims: Claims of the checkpoint, the one on the most images first.
    """

    name: str
    path: str
    model: ModelConfig
    training: TrainConfig | None
    provenance: Provenance
    parameters: int | None = None
    weights_sha256: str | None = None
    metrics: Metrics | None = None
    claims: tuple[NllRecord, ...] = ()

    @property
    def dataset(self) -> str | None:
        """Data set of the training; None where it is not recorded."""
        return self.provenance.dataset

    @property
    def images(self) -> tuple[str | None, str | None]:
        """Data set of the training, and the hash of the training images where they are the user's own."""
        data = self.provenance.data
        return self.dataset, data.train_sha256 if data is not None and self.dataset == FOLDER else None

    @property
    def unit(self) -> Literal["nats/image", "bits/dim"]:
        """Unit in which papers report the NLL."""
        return unit_of(self.model.levels)

    @property
    def images_seen(self) -> int | None:
        """Number of images seen in training, from the checkpoint or else from the last record."""
        last = self.metrics.records[-1:] if self.metrics else []
        return self.provenance.images_seen or (last[0].images if last else None)

    @property
    def hours(self) -> float | None:
        """Hours of training, from the checkpoint or else from the last record."""
        last = self.metrics.records[-1:] if self.metrics else []
        return self.provenance.seconds / 3600 or (last[0].hours if last else None)

    @property
    def validation(self) -> NllRecord | None:
        """Lowest NLL of a validation during training; None without one."""
        best = self.metrics.best if self.metrics else None
        if best is None or best.nats_per_image is None:
            return None
        return self._validation(best, best.nats_per_image)

    def _validation(self, record: Record, nats: float) -> NllRecord:
        stderr, shape, info = record.stderr_nats, self.model.image_shape, DATASETS.get(self.dataset or "")
        rates = tuple(each for each in record.kl_nats if each is not None)
        bits = None if info is None else binarization_words(info.binarization)
        return NllRecord(
            data=ScoredImages(self.dataset, "valid", record.valid_images, binarization=bits),
            bound="elbo" if self.model.stochastic_layers else "exact",
            importance_samples=1,
            given="label" if self.model.classes else None,
            nats_per_image=nats,
            stderr_nats_per_image=stderr,
            bits_per_dim=bits_per_dim(nats, shape),
            stderr_bits_per_dim=None if stderr is None else bits_per_dim(stderr, shape),
            # If one layer is not finite, the sum of the others is not the total.
            terms_nats_per_image=Terms(nats - sum(rates), rates)
            if len(rates) == len(record.kl_nats)
            else None,
            seed=None if self.training is None else self.training.seed,
            # The checkpoint may be from another step than the best.
            weights_sha256=self.weights_sha256 if self.images_seen == record.images else None,
            origin="validation",
        )

    def settings(self) -> dict[str, Any]:
        """Return the configurations of model and training as plain tables."""
        training = {} if self.training is None else {"train": to_dict(self.training)}
        return {"model": to_dict(self.model), **training}


def read_run(path: str, checkpoint: Path, folder: Path | None) -> RunFacts:
    """Return the facts of a checkpoint, with the metrics in its run folder if it is from one.

    Raises:
        InputError: A file is invalid; the message names it, and the line of metrics.
        ConfigError: A configuration, a claim or an earlier training is invalid.
    """
    found = describe(checkpoint)
    training = found.header.metadata.get("training")
    try:
        trained = None if training is None else TrainConfig.from_dict(training)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint}: {truncate(error, 400)}", error.hint) from error
    return RunFacts(
        _name(folder or checkpoint),
        path,
        found.model,
        trained,
        found.provenance,
        found.header.parameters,
        found.weights_sha256,
        _metrics(folder),
        found.claims,
    )


def unfinished_run(path: str, folder: Path, model: ModelConfig, training: TrainConfig) -> RunFacts:
    """Return the facts of a run without a checkpoint; errors are those of `read_run`."""
    return RunFacts(_name(folder), path, model, training, Provenance(), metrics=_metrics(folder))


def with_own_names(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Return runs with unique names: later duplicates are numbered."""
    found: list[RunFacts] = []
    for run in runs:
        taken = {each.name for each in found}
        names = [run.name, *(f"{run.name} ({count})" for count in range(2, len(runs) + 1))]
        found.append(dataclasses.replace(run, name=next(name for name in names if name not in taken)))
    return found


def differences(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """Return the keys by which configurations differ, each with the values of the runs; "" for none."""
    tables = [_flat(run.settings()) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [(key, [table.get(key, "") for table in tables]) for key in keys]
    return [row for row in rows if len(set(row[1])) > 1]


def _flat(value: Any, key: str = "") -> dict[str, str]:  # noqa: ANN401
    """Return the values in nested tables and lists, by key path."""
    if not isinstance(value, dict | list):
        return {key: str(value).lower() if isinstance(value, bool) else str(value)}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        path: text
        for name, entry in entries
        for path, text in _flat(entry, f"{key}.{name}" if key else str(name)).items()
    }


def _metrics(folder: Path | None) -> Metrics | None:
    path = None if folder is None else folder / METRICS
    return None if path is None or not path.exists() else read_metrics(path)


def _name(path: Path) -> str:
    """Return a folder's name, or a file's without its ending; `best` says little without its folder."""
    path = path.absolute()
    name = path.stem if path.suffix == ".safetensors" else path.name
    return truncate(
        printable(f"{path.parent.name}/{name}" if name in ("best", "last") else name), MOST_OF_A_NAME
    )
