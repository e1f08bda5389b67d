"""The weights that come with the package, by name. No torch here."""

import dataclasses
import difflib
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from famecli.config import build
from famecli.errors import InputError, UnavailableError, UsageError
from famecli.files import read_bytes
from famecli.header import parse_header
from famecli.presets import preset_named

SCHEMA = "famecli/weights/1"
INDEX = "index.json"
DEFAULT_DATASET = "mnist"
DEFAULT_MODEL = "fame"


@dataclass(frozen=True)
class WeightsEntry:
    """One model of the index.

    Args:
        name: As typed in place of a file.
        dataset: What it was trained on.
        model: Its preset.
        parameters: Number of weights.
        images_seen: In training.
        file: Name of the file beside the index.
        sha256: Of the file.
        size_bytes: Of the file.
        licence: SPDX identifier.
        nats_per_image: The NLL that the file claims, mean over the test set.
        stderr_nats: Its standard error.
        bound: `exact`, `elbo` or `iwae`.
        importance_samples: Draws of the latents per image.
    """

    name: str
    dataset: str
    model: str
    parameters: int
    images_seen: int
    file: str
    sha256: str
    size_bytes: int
    licence: str
    nats_per_image: float
    stderr_nats: float
    bound: str
    importance_samples: int


def describe(path: Path) -> WeightsEntry:
    """Return the entry of a checkpoint file, by what its header says; its name is the file's.

    Raises:
        InputError: It is no checkpoint, or claims no NLL with its standard error.
    """
    content = read_bytes(path, "checkpoint")
    header = parse_header(content, len(content), str(path))
    found = (header.metadata.get(key) for key in ("model", "provenance", "claim"))
    model, provenance, claim = (table if isinstance(table, dict) else {} for table in found)
    if not (model and provenance and claim):
        raise InputError(f"{path} claims no NLL", f"fame evaluate-nll {path} --record FILE")
    weights = [tensor for key, tensor in header.tensors.items() if not key.startswith("raw.")]
    entry = {
        "name": path.stem,
        "dataset": provenance.get("dataset"),
        "model": model.get("preset"),
        "parameters": sum(math.prod(tensor.shape) for tensor in weights),
        "images_seen": provenance.get("images_seen"),
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "licence": "MIT",
        "nats_per_image": claim.get("nats_per_image"),
        "stderr_nats": claim.get("stderr_nats_per_image"),
        "bound": claim.get("bound"),
        "importance_samples": claim.get("importance_samples"),
    }
    return build(WeightsEntry, entry, str(path))


def index_text(folder: Path) -> str:
    """Return the index of all checkpoints in `folder`, as it stands in its `index.json`."""
    entries = [dataclasses.asdict(describe(path)) for path in sorted(folder.glob("*.safetensors"))]
    return json.dumps({"schema": SCHEMA, "weights": entries}, indent=2) + "\n"


def weights_folder() -> Path:
    """Return the folder with the index: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent
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
    close = difflib.get_close_matches(name, index(), 1)
    hint = f"did you mean {close[0]}?" if close else f"names of weights: {', '.join(index())}"
    return UsageError(f"no checkpoint file, run folder or weights called {name}", hint)
