"""Helpers for golden format tests: document structure, names of random streams, and a training."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from support.golden_cases import FOLDER

RUN = FOLDER / "run"
MODEL = "run/best.safetensors"
SMALL = str(FOLDER / "pixelcnn.safetensors")
DATA = ("--data", "../data")
EVALUATE = ("evaluate-nll", MODEL, *DATA)
# A tiny fame with few features keeps the stored run small.
TRAINING = (
    *("fame", "--size", "tiny"),
    *("--steps", 6, "--threads", 1, "--device", "cpu", "--seed", 3),
    *("--set", "model.decoder.width=4", "--set", "model.decoder.condition=4"),
    *("--set", "model.stages.0.width=4", "--set", "model.stages.1.width=6"),
    *("--set", "model.stages.2.width=6"),
    *("--set", "warmup_images=12", "--set", "rate_warmup_images=12"),
)
STOPPED_AT = 3
RUN_FILES = ("best.safetensors", "config.toml", "last.safetensors", "metrics.jsonl", "state.safetensors")
# Tables to which versions may add keys; earlier keys must stay.
CONFIGURATIONS = {"model", "train", "training"}


class Words(NamedTuple):
    """A command: its output, the commands to run first, and extra words with `--json` and with `-q`."""

    command: tuple[str, ...]
    writes: str | None = None
    before: tuple[tuple[str, ...], ...] = ()
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()


CODED = ("compress", MODEL, *DATA, "--limit", "2", "-o", "x.fame")
SIDES = ((*EVALUATE, "--with-images"), (*EVALUATE, "--with-images", "--seed", "1"))
COMMANDS = {
    "info": Words(("info", MODEL)),
    "info of tensors": Words(("info", MODEL, "--tensors")),
    "info of a claim": Words(
        ("info", "claiming.safetensors"), None, ((*EVALUATE, "--record", "claiming.safetensors"),)
    ),
    "evaluate-nll": Words(EVALUATE, more=("--with-images",)),
    "evaluate-nll exact": Words(("evaluate-nll", "pixelcnn-mnist", *DATA, "--limit", "1", "--offline")),
    "evaluate-nll of samples": Words((*EVALUATE, "--limit", "2", "-k", "3")),
    "evaluate-nll by annealing": Words(
        (*EVALUATE, "--limit", "1", "--ais", "2", "--chains", "2", "--leapfrog", "1")
    ),
    "evaluate-nll of simulated images": Words(
        (*EVALUATE[:2], "--simulated", "1", "--ais", "2", "--leapfrog", "1")
    ),
    "sample": Words(("sample", MODEL, "-n", "2", "-o", "s.npy"), "s.npy"),
    "sample a completion": Words(
        ("sample", SMALL, "-n", "1", "--complete", "digits/000000.png", "--rows", "6", "-o", "c.png"),
        "c.png",
        (("sample", SMALL, "-n", "1", "-o", "digits", "--format", "png"),),
    ),
    "reconstruct": Words(("reconstruct", MODEL, *DATA, "-n", "2", "-o", "r.npy", "--format", "npy"), "r.npy"),
    "verify": Words(("verify", MODEL, *DATA, "--samples", "4", "--limit", "3"), less=("--checks", "batch")),
    "compare": Words(("compare", "a.json", "b.json")),
    "weights list": Words(("weights", "list")),
    "datasets list": Words(("datasets", "list")),
    "compress": Words(CODED, "x.fame"),
    "decompress": Words(("decompress", "x.fame", "--checkpoint", MODEL, "-o", "d.npy"), "d.npy", (CODED,)),
    "report": Words(
        ("report", "run", *DATA, "--samples", "2", "--images", "1", "--evaluate", "-o", "a.html"), "a.html"
    ),
    "train": Words(
        ("train", *map(str, TRAINING), *DATA, "--batch-size", "6", "--eval-every", "12", "-o", "more")
    ),
}
# A dry run draws random numbers too, but prints no document.
DRY_RUN = ("train", *map(str, TRAINING), "--batch-size", "6", "--dry-run")


def shape_of(value: object) -> Any:
    """Return the types in a document: tables with ordered keys, lists with each distinct type once."""
    if isinstance(value, dict):
        return {key: shape_of(entry) for key, entry in value.items()}
    if isinstance(value, list):
        shapes = [shape_of(entry) for entry in value]
        return [each for place, each in enumerate(shapes) if each not in shapes[:place]]
    return type(value).__name__


def known(found: Any, expected: Any, *, configuration: bool = False) -> Any:
    """Return `found` without configuration keys that `expected` lacks."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return {
            key: known(entry, expected.get(key), configuration=configuration or key in CONFIGURATIONS)
            for key, entry in found.items()
            if key in expected or not configuration
        }
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = zip(found, expected, strict=True)
        return [known(one, other, configuration=configuration) for one, other in pairs]
    return found


def assert_same(found: Any, expected: Any) -> None:
    """Check that two documents are the same, with their keys in the same order."""
    assert json.dumps(known(found, expected), indent=1) == json.dumps(expected, indent=1)


def kind_of(line: str) -> str:
    """Return the type of value on a line of `--quiet` output."""
    if re.fullmatch(r"[0-9a-f]{64}", line):
        return "sha256"
    if re.fullmatch(r"-?\d+\.\d+", line):
        return "number with a point"
    if re.fullmatch(r"-?\d+", line):
        return "whole number"
    return "path" if Path(line).exists() else "word" if re.fullmatch(r"\S+", line) else "text"


@contextmanager
def streams_asked_for() -> Iterator[dict[int, str]]:
    """Record the key of every Philox generator created, with the stream name it hashes."""
    found: dict[int, str] = {}
    texts: dict[int, str] = {}
    philox, sha256 = np.random.Philox, hashlib.sha256

    def noting_philox(*, key: int) -> np.random.Philox:
        found[key] = texts.get(key, f"key {key}")
        return philox(key=key)

    def noting_sha256(content: bytes = b"", **options: Any) -> Any:
        digest = sha256(content, **options)
        if bytes(content[:2]) == b"('":
            texts[int.from_bytes(digest.digest()[:16], "little")] = bytes(content).decode()
        return digest

    with (
        mock.patch.object(np.random, "Philox", noting_philox),
        mock.patch.object(hashlib, "sha256", noting_sha256),
    ):
        yield found


def key_of(text: str) -> int:
    """Return the key that the first version gave the stream with the name `text`."""
    if text.startswith("key "):
        return int(text[4:])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def tensors_in(path: Path) -> dict[str, list[object]]:
    """Return dtype and shape of each tensor in a safetensors file."""
    header = header_of(path)
    return {name: [header[name]["dtype"], header[name]["shape"]] for name in sorted(header) if name[0] != "_"}


def metadata_in(path: Path) -> dict[str, Any]:
    """Return the single metadata table of a safetensors file."""
    ((name, text),) = header_of(path)["__metadata__"].items()
    assert name == "famecli"
    table: dict[str, Any] = json.loads(text)
    return table


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def records_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def formats_in(folder: Path) -> dict[str, Any]:
    """Return the keys of all files of a run, and the values of its configuration."""
    records = records_in(folder)
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "config.toml": tomllib.loads((folder / "config.toml").read_text()),
        "env.json": list(json.loads((folder / "env.json").read_text())),
        "metrics.jsonl": {
            split: shape_of([each for each in records if each["split"] == split])
            for split in ("train", "valid")
        },
        "state.safetensors": tensors_in(folder / "state.safetensors"),
        "state's metadata": shape_of(metadata_in(folder / "state.safetensors")),
        "last.safetensors": tensors_in(folder / "last.safetensors"),
        "last's metadata": shape_of(metadata_in(folder / "last.safetensors")),
    }
