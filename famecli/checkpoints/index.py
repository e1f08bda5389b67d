"""The index of named weights: descriptions, claimed NLLs, and addresses of files. No torch here."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from famecli.checkpoints.description import describe
from famecli.config.presets import PRESETS, SIZES, model_config, preset_named
from famecli.config.schema import ModelConfig, build, to_dict
from famecli.errors import InputError, UnavailableError
from famecli.nll.record import NllRecord, parse_nll

SCHEMA = "famecli/weights/1"
INDEX = "index.json"
DEFAULT_DATASET = "mnist"
DEFAULT_MODEL = "fame"
# Keys of an NLL in an entry.
FIGURES = (
    "nats_per_image", "stderr_nats", "bound", "importance_samples", "split", "images", "pixels_sha256",
    "part", "given",
)  # fmt: skip


@dataclass(frozen=True)
class WeightsEntry:
    """One model of the index.

    Args:
        name: Name, as typed in place of a file.
        dataset: Data set of the training.
        model: Name of the preset.
        size: Size of the preset; `custom` for another configuration.
        parameters: Number of weights.
        images_seen: Number of images seen in all trainings.
        thread_hours: Wall time of all trainings in hours, times threads.
        seeds: Seeds of all trainings, in order.
        file: Name of the file, beside the index or on the mirrors.
        mirrors: Addresses that the file's name is appended to, tried in order.
        sha256: SHA-256 of the file.
        size_bytes: Size of the file.
        licence: SPDX identifier.
        nll: Claimed NLL.
        further: Claimed NLLs by other estimators, on as many or fewer images.
    """

    name: str
    dataset: str
    model: str
    size: str
    parameters: int
    images_seen: int
    thread_hours: float
    seeds: tuple[int, ...]
    file: str
    mirrors: tuple[str, ...]
    sha256: str
    size_bytes: int
    licence: str
    nll: NllRecord
    further: tuple[NllRecord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as the index stores it, with the NLL among the other keys."""
        own = {key: value for key, value in to_dict(self).items() if key not in ("nll", "further")}
        return own | _figures(self.nll) | {"further": [_figures(each) for each in self.further]}


# Keys of an entry as the index stores it.
KEYS = (*list(WeightsEntry.__dataclass_fields__)[:-2], *FIGURES, "further")


def _figures(nll: NllRecord) -> dict[str, Any]:
    """Return an NLL as the index stores it."""
    data = nll.data
    estimate = (nll.nats_per_image, nll.stderr_nats_per_image, nll.bound, nll.importance_samples)
    return dict(
        zip(
            FIGURES,
            (*estimate, data.split, data.images, data.pixels_sha256, data.part, nll.given),
            strict=True,
        )
    )


def _parse_entry(table: dict[str, Any], where: str) -> WeightsEntry:
    """Return the entry that `WeightsEntry.to_dict` made.

    Raises:
        ConfigError: The table is malformed.
    """

    def nll(figures: dict[str, Any]) -> NllRecord:
        data = figures | {"dataset_id": table.get("dataset")}
        stderr = figures.get("stderr_nats")
        return parse_nll(figures | {"data": data, "stderr_nats_per_image": stderr}, where)

    found = nll(table)
    own = {key: value for key, value in table.items() if key not in FIGURES}
    further = [to_dict(nll(each)) for each in table.get("further", [])]
    return build(WeightsEntry, own | {"nll": to_dict(found), "further": further}, where)


def entry_of(path: Path, mirrors: Sequence[str] = ()) -> WeightsEntry:
    """Return the entry of a checkpoint file, named after the file.

    Args:
        path: Checkpoint.
        mirrors: Further addresses of the file.

    Raises:
        InputError: The file is no checkpoint, claims no NLL with its standard error, or names no data set.
        IntegrityError: Its metadata do not have their recorded hash.
    """
    found = describe(path)
    past, dataset = found.provenance, found.provenance.dataset
    if (
        dataset is None
        or not found.claims
        or any(each.stderr_nats_per_image is None for each in found.claims)
    ):
        hint = f"fame evaluate-nll {shlex.quote(str(path))} --record FILE"
        raise InputError(f"{path} claims no NLL with its standard error, or names no data set", hint)
    return WeightsEntry(
        path.stem,
        dataset,
        found.model.preset,
        _size_of(found.model),
        found.header.parameters,
        past.total_images,
        round(past.total_thread_hours, 2),
        past.seeds,
        path.name,
        tuple(mirrors),
        found.sha256,
        found.header.file_bytes,
        "MIT",
        found.claims[0],
        found.claims[1:],
    )


def _size_of(config: ModelConfig) -> str:
    shape = (config.channels, config.height, config.width)
    if config.preset in PRESETS:
        for size in SIZES:
            known = model_config(config.preset, size, shape, config.levels)
            # Older weights of the same size have no map of positions.
            decoder = dataclasses.replace(known.decoder, positions=config.decoder.positions)
            if dataclasses.replace(known, decoder=decoder) == config:
                return size
    return "custom"


def index_text(folder: Path) -> str:
    """Return the text of `index.json` for all checkpoints in `folder`.

    Mirrors, and entries of files that are only on mirrors, are taken from an existing index.
    """
    path = folder / INDEX
    old = json.loads(path.read_text(encoding="utf-8"))["weights"] if path.exists() else []
    entries = {entry["name"]: entry for entry in old if entry.get("mirrors")}
    for file in folder.glob("*.safetensors"):
        mirrors = entries.get(file.stem, {}).get("mirrors", ())
        entries[file.stem] = entry_of(file, mirrors).to_dict()
    return (
        json.dumps({"schema": SCHEMA, "weights": [entries[name] for name in sorted(entries)]}, indent=2)
        + "\n"
    )


def weights_folder() -> Path:
    """Return the folder with the index: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "weights"
    return inside if (inside / INDEX).exists() else package.parent / "weights"


@cache
def index() -> dict[str, WeightsEntry]:
    """Return all entries by name.

    Raises:
        UnavailableError: The package was installed without its weights.
    """
    path = weights_folder() / INDEX
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnavailableError(
            f"this installation has no weights ({path}: {error.strerror})", "name a checkpoint file"
        ) from error
    assert content["schema"] == SCHEMA
    entries = [_parse_entry(entry, str(path)) for entry in content["weights"]]
    return {entry.name: entry for entry in entries}


def default_weights(dataset: str | None, model: str | None) -> WeightsEntry:
    """Return the entry of a data set and a model without classes; the defaults are mnist and fame.

    Raises:
        ArgumentError: There is no such model.
        UnavailableError: There are no weights for this pair.
    """
    dataset, model = dataset or DEFAULT_DATASET, model or DEFAULT_MODEL
    preset_named(model)
    for entry in index().values():
        if (entry.dataset, entry.model, entry.nll.given) == (dataset, model, None):
            return entry
    raise UnavailableError(
        f"there are no weights of {model} for {dataset}",
        f"weights: {', '.join(index()) or 'none'}; or name a checkpoint file, or train one: "
        f"fame train {model} --dataset {dataset}",
    )
