"""`fame train`: what it prints and writes, how it stops and goes on, and what it says of mistakes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.outcomes import Command, error_lines
from support.trainers import assert_equal_runs, kill_after, metrics

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.data import handwritten
from famecli.data.arrays import read_idx
from famecli.data.dataset import ImageSplit, fixed_levels, load_split
from famecli.data.registry import DATASETS
from famecli.training import setup
from famecli.training.trainer import Trainer

SIBLING = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = [
    ".lock",
    "best.safetensors",
    "config.toml",
    "env.json",
    "last.safetensors",
    "metrics.jsonl",
    "state.safetensors",
    "training-images.bin",
]
# The subprocess knows the small data set in place of MNIST, and is the real command in all else.
LAUNCHER = """
import json, sys
from famecli.data.registry import DATASETS, DataFile, DatasetInfo
from famecli.cli.app import main
info = json.loads(sys.argv.pop(1))
info["files"] = {name: DataFile(**file) for name, file in info["files"].items()}
info["shape"] = tuple(info["shape"])
DATASETS["mnist"] = DatasetInfo(**info)
main()
"""


@pytest.fixture
def real_mnist() -> Path:
    named = os.environ.get("FAME_DATA")
    folder = Path(named) if named else SIBLING
    if not (folder / "mnist").is_dir() and not list(folder.glob("train-images*")):
        pytest.skip(f"no MNIST: FAME_DATA is not set and {SIBLING} holds none")
    return folder


def test_training_prints_the_path_of_the_best_checkpoint_and_nothing_else(train: Command) -> None:
    outcome = train("fame", "--steps", 4, "-o", "run")
    assert (outcome.code, outcome.out) == (0, "run/best.safetensors\n")
    assert sorted(os.listdir("run")) == FILES
    assert "training fame (72,825 parameters) on mnist" in outcome.err
    assert "Traceback" not in outcome.err
    loaded = load_checkpoint(Path("run/best.safetensors"))
    assert loaded.model.config.preset == "fame"
    assert loaded.metadata["training"]["total_images"] == 24
    assert os.listdir() == ["run"]


def test_json_is_exactly_one_document(train: Command) -> None:
    outcome = train("pixelcnn", "--steps", 3, "-o", "run", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, outcome.out.count("\n")) == (0, 1)
    best = load_checkpoint(Path("run/best.safetensors"))
    valid = [record for record in metrics(Path("run")) if record["split"] == "valid"]
    lowest = min(valid, key=lambda record: float(str(record["nats_per_image"])))
    assert document.pop("best") == {
        "path": "run/best.safetensors",
        "sha256": best.sha256,
        "images": lowest["images"],
        "step": lowest["step"],
        "valid_nats_per_image": lowest["nats_per_image"],
        "valid_bits_per_dim": lowest["bits_per_dim"],
    }
    assert document.pop("seconds") >= 0
    assert document.pop("cpu_seconds") > 0
    assert document == {
        "schema": "famecli/train/1",
        "run": "run",
        "steps": 3,
        "images": 18,
        "skipped": 0,
        "stopped": "done",
    }


def test_quiet_prints_the_path_alone(train: Command) -> None:
    words = ("pixelcnn", "--steps", 2, "--set", "warmup_images=6", "-o", "run", "-q")
    assert train(*words) == (0, "run/best.safetensors\n", "")


def test_the_same_command_goes_on_in_the_same_folder(train: Command) -> None:
    command = ("pixelcnn", "--steps", 3, "--seed", 5)
    first = train(*command, "--max-time", "0s")
    second, third = train(*command), train(*command)
    assert (first.code, second.code, third.code) == (75, 0, 0)
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("pixelcnn-mnist-")
    assert second.out == third.out == f"{folder}/best.safetensors\n"
    assert f"resumed at 6 images from {folder}/state.safetensors" in second.err
    assert "finished at 18 images" in third.err
    train("pixelcnn", "--steps", 3, "--seed", 6)
    assert len(os.listdir("runs")) == 2


SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75}


@pytest.fixture(autouse=True)
def _no_signal_is_ignored() -> Iterator[None]:
    """Let tests that run under nohup get SIGHUP; processes inherit this."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_signals_save_everything_and_a_rerun_ends_as_an_unbroken_one(
    train: Command, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    assert train("vae", "--steps", 5, "-o", "unbroken").code == 0
    handlers = [signal.getsignal(kind) for kind in SIGNALS]
    with monkeypatch.context() as patch:
        kill_after(patch, 3, number)
        stopped = train("vae", "--steps", 5, "-o", "run", "--json")
    assert (stopped.code, json.loads(stopped.out)["stopped"]) == (code, "signal")
    assert json.loads(stopped.out)["steps"] == 3
    assert [signal.getsignal(kind) for kind in SIGNALS] == handlers
    assert sorted(os.listdir("run")) == FILES
    assert train("vae", "--steps", 5, "-o", "run").code == 0
    assert_equal_runs(Path("run"), Path("unbroken"))


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_real_process_saves_what_it_has_when_signalled(
    train: Command, monkeypatch: pytest.MonkeyPatch, data: Path, number: int, code: int
) -> None:
    info = json.dumps(dataclasses.asdict(DATASETS["mnist"]))
    words = [
        "train",
        "pixelcnn",
        "--size",
        "tiny",
        "--steps",
        "100000",
        "--data",
        str(data),
        "--batch-size",
        "6",
    ]
    words += ["--eval-every", "12", "-o", "run", "-q"]
    with subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, info, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline_s = time.monotonic() + 60
        while not Path("run/best.safetensors").exists() and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "run/best.safetensors\n", "")
    steps = load_checkpoint(Path("run/last.safetensors")).provenance.steps
    assert steps >= 2
    kill_after(monkeypatch, steps, number)
    assert train("pixelcnn", "--steps", 100000, "-o", "again").code == code
    assert_equal_runs(Path("run"), Path("again"))


def test_max_time_saves_and_ends_with_75(train: Command) -> None:
    train("vae", "--steps", 3, "-o", "unbroken")
    outcome = train("vae", "--steps", 3, "-o", "run", "--max-time", "0s", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["stopped"], document["steps"]) == (75, "max_time", 1)
    assert document["best"] is None
    assert train("vae", "--steps", 3, "-o", "run", "--max-time", "1h").code == 0
    assert_equal_runs(Path("run"), Path("unbroken"))


def test_max_time_counts_from_the_start_of_the_command(
    train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, now_s, loads = setup.load_split, time.monotonic, []

    def take_an_hour(*told: Any, **named: Any) -> Any:
        loads.append(told)
        return load(*told, **named)

    monkeypatch.setattr(setup, "load_split", take_an_hour)
    monkeypatch.setattr(time, "monotonic", lambda: now_s() + 3600 * len(loads))
    outcome = train("vae", "--steps", 3, "--max-time", "1h", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["stopped"], document["steps"]) == (75, "max_time", 1)


def test_patience_stops_without_an_error(train: Command) -> None:
    frozen = ("--lr", 0, "--set", "muon_lr=0")
    outcome = train("pixelcnn", "--steps", 50, "--patience", 12, "-o", "run", "--json", *frozen)
    document = json.loads(outcome.out)
    assert (outcome.code, document["stopped"], document["images"]) == (0, "patience", 24)


def test_the_run_records_the_configuration_that_is_printed(train: Command) -> None:
    words = ("vae", "--steps", 1, "--set", "decoder.layers=1")
    printed = train(*words, "--print-config")
    train(*words, "-o", "run")
    assert Path("run/config.toml").read_text() == printed.out


def test_a_dry_run_measures_and_writes_nothing(train: Command, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    outcome = train("fame", "--steps", 9, "-o", "run", "--dry-run", "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["schema"], document["parameters"]) == (0, "famecli/dry-run/1", 72825)
    assert document["seconds_total"] == pytest.approx(54 / document["images_per_s"])
    assert document["seconds_per_epoch"] == pytest.approx(18 / document["images_per_s"])
    weights_mib = 72825 * 4 / 2**20
    kept_mib = 6 * document["activation_mib_per_image"]
    predicted = document["state_mib"] + weights_mib + kept_mib
    assert document["predicted_memory_mib"] == pytest.approx(predicted)
    assert 3 * weights_mib < document["state_mib"] < 4 * weights_mib
    assert document["peak_memory_mib"] > predicted
    assert train("fame", "-n", "-q", "-o", "run").out.strip().isdecimal()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_needs_no_data(fame: Command, data: Path) -> None:
    words = ("--batch-size", 2, "--dry-run", "--offline", "--json")
    documents = {}
    for name in ("cifar10", "imagenet32"):
        outcome = fame("train", "pixelcnn", "--dataset", name, *words)
        assert outcome.code == 0, outcome.err
        documents[name] = json.loads(outcome.out)
    assert [each["epoch_images"] for each in documents.values()] == [
        DATASETS[name].splits["train"] for name in documents
    ]
    assert len({each["gflops_per_image"] for each in documents.values()}) == 1
    assert fame("train", "pixelcnn", "--dataset", "cifar10", "--steps", 1, "--offline").code == 4


def test_a_run_with_another_configuration_is_not_written_over(train: Command) -> None:
    train("pixelcnn", "--steps", 2, "-o", "run")
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    outcome = train("pixelcnn", "--steps", 3, "-o", "run")
    (line,) = error_lines(outcome)
    assert outcome.code == 3
    assert "train.total_images = 12, now it is 18" in line
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before
    assert train("pixelcnn", "--steps", 3, "-o", "run", "--resume", "never").code == 0
    steps = [record["step"] for record in metrics(Path("run")) if record["split"] == "train"]
    assert steps == [1, 2, 3]


def test_init_starts_from_the_averaged_weights(train: Command) -> None:
    train("pixelcnn", "--steps", 3, "--lr", 0.1, "-o", "first")
    averaged, raw = (load_checkpoint(Path("first/last.safetensors"), kind) for kind in ("ema", "raw"))
    assert averaged.weights_sha256 != raw.weights_sha256
    frozen = ("--steps", 1, "--lr", 0, "--set", "muon_lr=0", "-o", "second")
    assert train("pixelcnn", *frozen, "--init", "first/last.safetensors").code == 0
    assert load_checkpoint(Path("second/last.safetensors"), "raw").weights_sha256 == averaged.weights_sha256
    outcome = train("vae", "--steps", 1, "-o", "third", "--init", "first/last.safetensors")
    (line,) = error_lines(outcome)
    assert outcome.code == 2
    assert "first/last.safetensors is a pixelcnn, not a vae" in line
    outcome = train(
        "pixelcnn",
        "--set",
        "decoder.kernel=5",
        "--steps",
        1,
        "-o",
        "third",
        "--init",
        "first/last.safetensors",
    )
    (line,) = error_lines(outcome)
    assert outcome.code == 3
    assert "the first weights are of another model" in line


def test_validation_images_are_the_last_and_test_images_are_never_read(
    train: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_idx(data / "train-images-idx3-ubyte.gz")[:, None]
    for path in data.glob("t10k-*"):
        path.write_bytes(b"would be an error if read")
    opened: list[str] = []
    shown: list[np.ndarray] = []
    validate = Trainer.validate

    def recorded(trainer: Trainer, levels: np.ndarray, labels: np.ndarray | None) -> object:
        shown.extend((trainer.split.pixels, levels))
        return validate(trainer, levels, labels)

    monkeypatch.setattr(handwritten, "read_idx", lambda path: (opened.append(path.name), read_idx(path))[1])
    monkeypatch.setattr(Trainer, "validate", recorded)
    assert train("pixelcnn", "--steps", 2, "-o", "run").code == 0
    assert {name.split("-")[0] for name in opened} == {"train"}
    np.testing.assert_array_equal(shown[0], whole[:18])
    expected = fixed_levels(ImageSplit(DATASETS["mnist"], "valid", whole[18:])).levels
    np.testing.assert_array_equal(shown[1], expected)


def test_validation_images_of_mnist_are_the_last_ten_thousand(real_mnist: Path) -> None:
    folder = real_mnist / "mnist" if (real_mnist / "mnist").is_dir() else real_mnist
    whole = read_idx(next(folder.glob("train-images-idx3-ubyte*")))
    valid = load_split("mnist", "valid", data=real_mnist)
    np.testing.assert_array_equal(valid.pixels[:, 0], whole[-10_000:])


def test_mnist_itself_is_trained_on(fame: Command, real_mnist: Path, tmp_path: Path) -> None:
    words = ["--data", real_mnist, "--steps", 2, "-o", tmp_path / "run", "--json", "--offline"]
    outcome = fame("train", "pixelcnn", *words, "--set", "valid_images=20", "--batch-size", 8)
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["schema"], document["steps"], document["stopped"]) == ("famecli/train/1", 2, "done")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == FILES
