"""Fixtures of tests of commands: a small data set in place of MNIST, and the command line in this process."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import no_pickle
from support.commands import CLAIM, PROVENANCE, save_model
from support.data import small_mnist
from support.loopback import FaultServer, fault_server
from support.outcomes import Command, Outcome
from support.victims import Victims, victims

from famecli.checkpoints.index import INDEX, SCHEMA, entry_of, index
from famecli.cli.app import main
from famecli.data.registry import DATASETS

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; what they start does as well.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# Else processors that multiply bfloat16 would round to 8 bits by default, here and in processes started here.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")

# As `famecli` sets it; here before anything imports the library.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

no_pickle.watch()


@pytest.fixture(autouse=True)
def _nothing_is_unpickled() -> Iterator[None]:
    """Fail each test in which famecli unpickles anything."""
    yield
    assert no_pickle.noted == []


@pytest.fixture
def threads_put_back() -> Iterator[None]:
    """Let a test change the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """The process from which whole commands are forked."""
    with victims(tmp_path_factory.mktemp("victims")) as found:
        yield found


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    """A server on this machine; the cache is an empty folder, and no variable names another place."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("FAME_DATA", "FAME_OFFLINE", "HF_HUB_OFFLINE", "FAME_WEIGHTS_URL", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    # Never the user's own, whatever else a test sets.
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("famecli.data.fetch.FIRST_PAUSE_S", 0.001)
    with fault_server() as server:
        yield server


@pytest.fixture
def far(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of weights that are in the index, and on `server`, but not in the package."""
    folder = tmp_path / "package"
    folder.mkdir()
    facts = {"provenance": PROVENANCE, "claim": CLAIM}
    path = save_model(tmp_path / "far-model.safetensors", shape=(1, 8, 8), facts=facts)
    entry = entry_of(path, [server.url + "mirror/"]).to_dict()
    (folder / INDEX).write_text(json.dumps({"schema": SCHEMA, "weights": [entry]}))
    monkeypatch.setattr("famecli.checkpoints.index.weights_folder", lambda: folder)
    monkeypatch.setattr("famecli.checkpoints.store.weights_folder", lambda: folder)
    index.cache_clear()
    server.files["mirror/far-model.safetensors"] = path.read_bytes()
    yield "far-model"
    index.cache_clear()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 18 training, 12 validation and 7 test images, which this process takes for MNIST."""
    for name in [name for name in os.environ if name.startswith("FAME_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setitem(DATASETS, "mnist", small_mnist(folder))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.fixture
def fame(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process, from the words typed to the exit code."""

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["fame", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        code = stop.value.code
        return Outcome(int(code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def train(fame: Command, data: Path) -> Command:
    """Run `fame train MODEL` on the small data set, in steps of 6 images and with a validation each two.

    The model is tiny, unless words say otherwise.
    """

    def run(*words: object) -> Outcome:
        sized = () if {"--size", "--config"} & set(words) else ("--size", "tiny")
        return fame("train", *words, *sized, "--data", data, "--batch-size", 6, "--eval-every", 12)

    return run
