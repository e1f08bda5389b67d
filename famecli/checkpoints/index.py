"""The index of the weights that have names: what they are, and where they are to be had. No torch here."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from famecli.checkpoints.claims import claims_in
from famecli.checkpoints.header import parse_header
from famecli.checkpoints.history import seeds, thread_hours, trainings
from famecli.config.presets import PRESETS, SIZES, model_config, preset_named
from famecli.config.schema import ModelConfig, build
from famecli.errors import InputError, UnavailableError, UsageError, closest
from famecli.files import read_bytes

SCHEMA = "famecli/weights/1"
INDEX = "index.json"
DEFAULT_DATASET = "mnist"
DEFAULT_MODEL = "fame"


@dataclass(frozen=True)
class FurtherNll:
    """What else a file claims: an NLL by another estimator; see `WeightsEntry` for the fields."""

    nats_per_image: float
    stderr_nats: float
    bound: str
    importance_samples: int
    split: str
    images: int
    pixels_sha256: str


@dataclass(frozen=True)
class WeightsEntry:
    """One model of the index.

    Args:
        name: As typed in place of a file.
        dataset: What it was trained on.
        model: Its preset.
        size: Of the preset; `custom` where it is none of them.
        parameters: Number of weights.
        images_seen: In all trainings, those of the weights that it began with included.
        thread_hours: Hours of them, times threads.
        seeds: Of them, the first one first.
        file: Name of the file: beside the index, or under the mirrors.
        mirrors: Addresses that the file's name is appended to, tried in order.
        sha256: Of the file.
        size_bytes: Of the file.
        licence: SPDX identifier.
        nats_per_image: The NLL that the file claims, mean over `images`.
        stderr_nats: Its standard error.
        bound: `exact`, `elbo` or `iwae`.
        importance_samples: Draws of the latents per image.
        split: Of the data set, whose images were scored.
        images: That were scored.
        pixels_sha256: Of what was scored.
        further: NLLs by other estimators, of other numbers of images.
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
    nats_per_image: float
    stderr_nats: float
    bound: str
    importance_samples: int
    split: str
    images: int
    pixels_sha256: str
    further: tuple[FurtherNll, ...] = ()


def describe(path: Path, mirrors: Sequence[str] = ()) -> WeightsEntry:
    """Return the entry of a checkpoint file, by what its header says; its name is the file's.

    Args:
        path: The file.
        mirrors: Where else the file is to be had.

    Raises:
        InputError: It is no checkpoint, or claims no NLL with its standard error.
    """
    content = read_bytes(path, "checkpoint")
    header = parse_header(content, len(content), str(path))
    model, provenance, claim = (_table(header.metadata, key) for key in ("model", "provenance", "claim"))
    if not (model and provenance and claim):
        raise InputError(f"{path} claims no NLL", f"fame evaluate-nll {path} --record FILE")
    past = trainings(header.metadata)
    entry = {
        "name": path.stem,
        "dataset": provenance.get("dataset"),
        "model": model.get("preset"),
        "size": _size_of(ModelConfig.from_dict(model)),
        "parameters": header.parameters,
        "images_seen": sum(each.images_seen for each in past),
        "thread_hours": round(thread_hours(past), 2),
        "seeds": seeds(past),
        "file": path.name,
        "mirrors": mirrors,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "licence": "MIT",
        **_figures(claim),
        "further": [_figures(each) for each in claims_in(header.metadata)[1:] if isinstance(each, dict)],
    }
    return build(WeightsEntry, entry, str(path))


def _figures(claim: dict[str, Any]) -> dict[str, Any]:
    """Return what the index says of a claim."""
    scored = _table(claim, "data")
    return {
        "nats_per_image": claim.get("nats_per_image"),
        "stderr_nats": claim.get("stderr_nats_per_image"),
        "bound": claim.get("bound"),
        "importance_samples": claim.get("importance_samples"),
        **{key: scored.get(key) for key in ("split", "images", "pixels_sha256")},
    }


def _table(data: dict[str, Any], key: str) -> dict[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _size_of(config: ModelConfig) -> str:
    shape = (config.channels, config.height, config.width)
    if config.preset in PRESETS:
        for size in SIZES:
            if model_config(config.preset, size, shape, config.levels) == config:
                return size
    return "custom"


def index_text(folder: Path) -> str:
    """Return the index of all checkpoints in `folder`, as it stands in its `index.json`.

    What only the index knows is kept: the mirrors of a file, and entries of files that are on mirrors alone.
    """
    path = folder / INDEX
    old = json.loads(path.read_text(encoding="utf-8"))["weights"] if path.exists() else []
    entries = {entry["name"]: entry for entry in old if entry.get("mirrors")}
    for file in folder.glob("*.safetensors"):
        mirrors = entries.get(file.stem, {}).get("mirrors", ())
        entries[file.stem] = dataclasses.asdict(describe(file, mirrors))
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
    entries = [build(WeightsEntry, entry, str(path)) for entry in content["weights"]]
    return {entry.name: entry for entry in entries}


def named_weights(name: str) -> WeightsEntry | None:
    """Return the entry called `name`, or None."""
    return index().get(name)


def default_weights(dataset: str | None, model: str | None) -> WeightsEntry:
    """Return the entry of a data set and a model; the defaults are mnist and fame.

    Raises:
        UsageError: There is no such model.
        UnavailableError: There are no weights for this pair.
    """
    dataset, model = dataset or DEFAULT_DATASET, model or DEFAULT_MODEL
    preset_named(model)
    for entry in index().values():
        if (entry.dataset, entry.model) == (dataset, model):
            return entry
    raise UnavailableError(
        f"there are no weights of {model} for {dataset}",
        f"weights: {', '.join(index()) or 'none'}; or name a checkpoint file, or train one: "
        f"fame train {model} --dataset {dataset}",
    )


def unknown_checkpoint(name: str) -> UsageError:
    """Return the error for a CKPT argument that is neither a file nor a name."""
    hint = closest(name, index(), "names of weights")
    return UsageError(f"no checkpoint file, run folder or weights called {name}", hint)
