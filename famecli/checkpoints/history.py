"""The trainings that made a checkpoint: its own, and before it those of its first weights. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from famecli.config.schema import build, check_ranges, ranged
from famecli.errors import ConfigError

MOST = 1e15


@dataclass(frozen=True)
class PastTraining:
    """One training, as a checkpoint tells of it; no seed or CPU time is one that is not recorded.

    Raises:
        ConfigError: A value is outside its range.
    """

    dataset: str = "unknown images"
    images_seen: int = ranged(0, MOST, "images seen", 0)
    seconds: float = ranged(0.0, MOST, "time of training", 0.0)
    threads: int = ranged(1, MOST, "threads of each process", 1)
    processes: int = ranged(1, MOST, "processes", 1)
    seed: int | None = None
    cpu_seconds: float | None = None

    def __post_init__(self) -> None:
        problems = check_ranges(self, "")
        if self.cpu_seconds is not None and not 0.0 <= self.cpu_seconds <= MOST:
            problems.append(f"cpu_seconds = {self.cpu_seconds} is outside 0.0 to {MOST}")
        if problems:
            raise ConfigError("past training: " + "; ".join(problems))

    @property
    def thread_hours(self) -> float:
        """Hours, times threads."""
        return self.seconds / 3600 * self.threads * self.processes


def trainings(metadata: Mapping[str, Any]) -> tuple[PastTraining, ...]:
    """Return the trainings that the metadata of a checkpoint tell of, the first one first, its own last.

    Raises:
        ConfigError: They are not as famecli writes them.
    """
    provenance, config = metadata.get("provenance"), metadata.get("training")
    if not isinstance(provenance, dict):
        return ()
    told = provenance | {"seed": config.get("seed") if isinstance(config, dict) else None}
    own = {item.name: told[item.name] for item in fields(PastTraining) if item.name in told}
    return (*before(provenance), build(PastTraining, own, "provenance"))


def before(provenance: Mapping[str, Any]) -> tuple[PastTraining, ...]:
    """Return the trainings of the weights that a checkpoint began with; errors are those of `trainings`."""
    init = provenance.get("init")
    past = init.get("past", []) if isinstance(init, dict) else []
    if not isinstance(past, list):
        raise ConfigError("provenance: init.past is no list")
    return tuple(build(PastTraining, each, "provenance: init.past") for each in past)


def thread_hours(past: tuple[PastTraining, ...]) -> float:
    """Return the hours of all trainings together, times threads."""
    return sum(each.thread_hours for each in past)


def cpu_hours(past: tuple[PastTraining, ...]) -> float | None:
    """Return the hours of CPU time of all trainings together; None if one did not record its own."""
    told = [each.cpu_seconds for each in past if each.cpu_seconds is not None]
    return sum(told) / 3600 if told and len(told) == len(past) else None


def described(past: tuple[PastTraining, ...]) -> str:
    """Return data, images, time and seed of each training, in words, the first one first."""
    return ", then ".join(
        f"{each.images_seen:,} of {each.dataset} ({each.thread_hours:.2f} hours, seed {each.seed})"
        for each in past
    )


def seeds(past: tuple[PastTraining, ...]) -> list[int]:
    """Return the seeds of all trainings, as far as they are recorded."""
    return [each.seed for each in past if each.seed is not None]
