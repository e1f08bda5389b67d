"""Run the command line, with models and data for it."""

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import typer.main
from typer.testing import CliRunner

from famecli.checkpoints.checkpoint import save_checkpoint
from famecli.cli.app import main
from famecli.data.cache import locate
from famecli.data.registry import DATASETS, dataset_info
from famecli.errors import UnavailableError
from famecli.model.fame import Fame
from support.data import small_mnist
from support.models import preset_model, randomise

# Commands hold no state: they are built once, not at each call in this process.
typer.main.get_command = functools.cache(typer.main.get_command)

ROOT = Path(__file__).parents[2]
OWN_VARIABLES = ("DATASET", "SEED", "BATCH_SIZE", "THREADS", "OFFLINE", "DEBUG")
ENVIRONMENT = {f"FAME_{name}": None for name in OWN_VARIABLES} | {"FAME_DEVICE": "cpu", "COLUMNS": "200"}
PROVENANCE = {"dataset": "mnist", "images_seen": 640, "steps": 10, "seconds": 1.5, "device": "cpu"}


CLAIM = {
    "data": {
        "dataset_id": "mnist",
        "split": "test",
        "images": 10_000,
        "binarization": "dynamic, bits of seed 0",
        "pixels_sha256": "ab" * 32,
    },
    "bound": "iwae",
    "importance_samples": 100,
    "nats_per_image": 81.25,
    "stderr_nats_per_image": 0.5,
    "bits_per_dim": 0.14951,
    "terms_nats_per_image": {"decoder": 75.0, "kl": [4.5, 1.75]},
    "seed": 3,
    "weights_sha256": "cd" * 32,
}
LARGE = {"torch", "numpy", "PIL", "requests"}
IMPORTS = (
    "import sys; from famecli.cli.app import main\n"
    "try: main()\n"
    f"except SystemExit as stop: print(stop.code, *({LARGE} & set(sys.modules)))"
)


@dataclass(frozen=True)
class Done:
    """Result of a command."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()


def fame(*words: str | Path, stdin: bytes = b"") -> Done:
    """Run `fame` with `words` in this process, with the error handling of `main`."""
    threads, code = torch.get_num_threads(), 0
    argv = mock.patch.object(sys, "argv", ["fame", *map(str, words)])
    with argv, CliRunner(env=ENVIRONMENT).isolation(stdin) as (out, err, _):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            torch.set_num_threads(threads)
            sys.stdout.flush()
            sys.stderr.flush()
        return Done(code, out.getvalue(), err.getvalue().decode())


def process(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m famecli` with `words` in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    environment = kept | {key: value for key, value in ENVIRONMENT.items() if value is not None}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment} | options
    return subprocess.run([sys.executable, "-m", "famecli", *map(str, words)], check=False, **streams)


def result_of(*words: str | Path, stdin: bytes = b"") -> dict[str, Any]:
    """Return the one JSON document that a command prints with `--json`."""
    done = fame(*words, "--json", stdin=stdin)
    assert done.code == 0, done.err
    assert done.out.endswith(b"}\n")
    document: dict[str, Any] = json.loads(done.out)
    return document


def error_of(code: int, *words: str | Path, stdin: bytes = b"") -> str:
    """Check that a command fails with a well-formed error, and return the error and the hint."""
    done = fame(*words, stdin=stdin)
    assert done.code == code, done.err
    assert done.out == b""
    return check_error(done.err)


def check_error(stderr: str) -> str:
    """Return the error and the hint that end `stderr`: one error, at most one hint."""
    lines = stderr.splitlines()
    places = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    assert len(places) == 1, stderr
    assert len(lines) - places[0] <= 2, stderr
    assert all(line.startswith("hint: ") for line in lines[places[0] + 1 :]), stderr
    assert "Traceback" not in stderr
    return "\n".join(lines[places[0] :])


@functools.cache
def random_model(preset: str, shape: tuple[int, int, int], levels: int, seed: int) -> Fame:
    """Return a tiny shared model; callers must not change it."""
    return randomise(preset_model(preset, shape, levels, torch.float32), seed, torch.float32)


def save_model(
    path: Path,
    preset: str = "fame",
    shape: tuple[int, int, int] = (1, 28, 28),
    levels: int = 2,
    *,
    raw: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a tiny model with random weights and return its path; `raw` adds different raw weights."""
    model = random_model(preset, shape, levels, 0)
    others = random_model(preset, shape, levels, 1).state_dict() if raw else None
    told = {"provenance": PROVENANCE} if facts is None else dict(facts)
    save_checkpoint(path, model.config, model.state_dict(), others, told)
    return path


def use_small_mnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace MNIST, and the data sets that share its files, by 18, 12 and 7 random images."""
    folder.mkdir()
    info = small_mnist(folder)
    for name in ("mnist", "mnist-fixed", "mnist-grey"):
        small = dataclasses.replace(DATASETS[name], files=info.files, splits=info.splits)
        monkeypatch.setitem(DATASETS, name, small)
    monkeypatch.setenv("FAME_DATA", str(folder))


def real_mnist() -> Path:
    """Return the folder with the real MNIST, or skip the test."""
    for named in (os.environ.get("FAME_DATA"), ROOT.parent / "shared" / "data"):
        if named:
            with contextlib.suppress(UnavailableError):
                return locate(dataset_info("mnist"), data=Path(named))
    pytest.skip("FAME_DATA names no folder with MNIST")
