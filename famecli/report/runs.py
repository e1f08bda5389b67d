"""What a run, a checkpoint or named weights say of themselves."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famecli.checkpoints.claims import claims_in, read_header
from famecli.checkpoints.header import CHECKPOINT_SCHEMA, Header
from famecli.checkpoints.history import PastTraining, before
from famecli.config.schema import ModelConfig, TrainConfig, to_dict
from famecli.errors import ConfigError, InputError, brief
from famecli.output import printable
from famecli.report.metrics import LARGEST_NUMBER, METRICS, Metrics, read_metrics
from famecli.report.nlls import Nll, nll_of_claim, nll_of_validation

MOST_OF_A_NAME = 60


@dataclass(frozen=True)
class RunFacts:
    """A run, a checkpoint file, or weights that have a name.

    Args:
        name: For people.
        path: As typed.
        model: Its configuration.
        training: How it was trained; None where that is not recorded.
        provenance: What its checkpoint says of how it came to be.
        parameters: Number of weights; None without a checkpoint.
        weights_sha256: As recorded with the averaged weights; None where it is not: they cannot be checked.
        metrics: Of its training; None where there is no such file.
        claims: The NLLs that the checkpoint claims, that of most images first.
        past: Trainings of the weights that it began with, the first one first.
    """

    name: str
    path: str
    model: ModelConfig
    training: TrainConfig | None
    provenance: Mapping[str, Any]
    parameters: int | None = None
    weights_sha256: str | None = None
    metrics: Metrics | None = None
    claims: tuple[Nll, ...] = ()
    past: tuple[PastTraining, ...] = ()

    @property
    def dataset(self) -> str | None:
        """What it was trained on; None where that is not recorded."""
        name = self.provenance.get("dataset")
        return name if isinstance(name, str) else None

    @property
    def unit(self) -> Literal["nats/image", "bits/dim"]:
        """In which its NLL is reported, as papers do."""
        return "nats/image" if self.model.levels == 2 else "bits/dim"

    @property
    def images_seen(self) -> float | None:
        """Images of its training: those of the checkpoint, else those of the last record."""
        told = _number(self.provenance.get("images_seen"))
        last = self.metrics.records[-1:] if self.metrics else []
        return last[0].images if told is None and last else told

    @property
    def hours(self) -> float | None:
        """Hours of its training, likewise."""
        told = _number(self.provenance.get("seconds"))
        last = self.metrics.records[-1:] if self.metrics else []
        return last[0].hours if told is None and last else None if told is None else told / 3600

    @property
    def validation(self) -> Nll | None:
        """The lowest NLL of a validation during training; None without one."""
        best = self.metrics.best if self.metrics else None
        if best is None:
            return None
        kept = self.weights_sha256 if self.images_seen == best.images else None
        return nll_of_validation(best, self.model, self.training, self.dataset, kept)

    def settings(self) -> dict[str, Any]:
        """Return the configuration of model and training as plain tables."""
        training = {} if self.training is None else {"train": to_dict(self.training)}
        return {"model": to_dict(self.model), **training}


def read_run(path: str, checkpoint: Path, folder: Path | None) -> RunFacts:
    """Return what a checkpoint says, and the metrics in its run folder if it is from one.

    Raises:
        InputError: A file is not what it should be; the message names it, and the line of metrics.
        ConfigError: A configuration, a claim or an earlier training is not possible.
    """
    header = read_header(checkpoint)
    metadata = header.metadata
    if metadata.get("schema") != CHECKPOINT_SCHEMA:
        raise InputError(
            f"{checkpoint} is no checkpoint but a file of schema {brief(repr(metadata.get('schema')))}"
        )
    try:
        model = ModelConfig.from_dict(metadata.get("model"))
        training = metadata.get("training")
        trained = None if training is None else TrainConfig.from_dict(training)
        provenance = _table(metadata.get("provenance"))
        past = before(provenance)
    except ConfigError as error:
        raise ConfigError(f"{checkpoint}: {brief(error, 400)}", error.hint) from error
    claims = [claim for claim in claims_in(metadata) if isinstance(claim, dict)]
    return RunFacts(
        _name(folder or checkpoint),
        path,
        model,
        trained,
        provenance,
        header.parameters,
        _hash(header),
        _metrics(folder),
        tuple(nll_of_claim(claim, "claim", f"{checkpoint}: claim") for claim in claims),
        past,
    )


def unfinished_run(path: str, folder: Path, model: ModelConfig, training: TrainConfig) -> RunFacts:
    """Return what a run without a checkpoint says, from its configuration; errors as `read_run`."""
    return RunFacts(_name(folder), path, model, training, {}, metrics=_metrics(folder))


def with_own_names(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Return runs of which no two have the same name: later ones are numbered."""
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
    """Return what is in nested tables and lists, by the path of its key."""
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
    return brief(
        printable(f"{path.parent.name}/{name}" if name in ("best", "last") else name), MOST_OF_A_NAME
    )


def _hash(header: Header) -> str | None:
    found = _table(header.metadata.get("weights_sha256")).get("ema")
    return found if isinstance(found, str) else None


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    """Return a number of a sensible size; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER:
        return value
    return None
