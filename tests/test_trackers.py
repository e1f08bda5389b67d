"""`fame train --track`: what trackers are told, and that none of them ends a training."""

import json
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.outcomes import Command, Outcome, error_lines
from support.trainers import metrics

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors
from famecli.training import trackers
from famecli.training.run import STATE_SCHEMA
from famecli.training.trackers import TRACKERS, Figures, Subject, figures

SECRET = "hunter2-is-the-password"
WORDS = ("fame", "--steps", 4, "-o", "run", "--sample-every", 12)
# A fast one.
SHORT = ("vae", "--steps", 2, "-o", "run", "--sample-every", 12, "--track", "wandb")


class Noted:
    """Tracker that notes what it is told, and fails in the call `fault`."""

    fault = ""
    error: Callable[[], BaseException] = RuntimeError
    subjects: list[Subject]
    curves: dict[tuple[str, int], float]
    pictures: dict[int, np.ndarray]
    ends: list[tuple[dict[str, Any], str]]

    def __init__(self, subject: Subject) -> None:
        self.run_id = subject.run_id or f"run-{len(self.subjects)}"
        self.subjects.append(subject)
        self._fail("begin")

    def _fail(self, call: str) -> None:
        if self.fault == call:
            raise type(self).error()

    def log(self, values: Figures, images: int) -> None:
        self._fail("log")
        self.curves |= {(name, images): value for name, value in values.items()}

    def show(self, picture: np.ndarray, images: int) -> None:
        self._fail("show")
        self.pictures[images] = picture

    def end(self, claim: dict[str, Any], status: str) -> None:
        self._fail("end")
        self.ends.append((claim, status))


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> type[Noted]:
    """A tracker in the place of Weights & Biases."""
    kind = type("Noted", (Noted,), {"subjects": [], "curves": {}, "pictures": {}, "ends": []})
    monkeypatch.setitem(TRACKERS, "wandb", kind)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    return kind


def expected_curves(
    run: Path, levels: int = 2, shape: tuple[int, ...] = (1, 8, 8)
) -> dict[tuple[str, int], float]:
    return {
        (name, record["images"]): value
        for record in metrics(run)
        for name, value in figures(record, levels, shape).items()
    }


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        (2, {"nats_per_image": 64.0, "stderr_nats": 2.0, "kl_nats/0": 0.75 * np.log(2), "seconds": 3.0}),
        (
            256,
            {
                "bits_per_dim": 1.5, "stderr_bits_per_dim": 2 / np.log(2) / 48,
                "kl_bits_per_dim/0": 0.75 / 48, "seconds": 3.0,
            },
        ),
    ],
)  # fmt: skip
def test_curves_are_in_the_unit_of_the_data(levels: int, wanted: Figures) -> None:
    record = {
        "step": 1, "images": 6, "split": "valid", "nats_per_image": 64.0, "bits_per_dim": 1.5,
        "stderr_nats": 2.0, "kl_bits": [0.75, None], "seconds": 3.0, "grad_norm": None,
    }  # fmt: skip
    found = figures(record, levels, (3, 4, 4))
    assert found == pytest.approx({f"valid/{name}": value for name, value in wanted.items()})


def test_a_tracker_is_told_curves_samples_configuration_and_claim(train: Command, noted: type[Noted]) -> None:
    assert train(*WORDS, "--track", "wandb", "--max-time", "0s").code == 75
    assert train(*WORDS, "--track", "wandb").code == 0
    assert noted.curves == expected_curves(Path("run"))
    assert ("valid/kl_nats/1", 24) in noted.curves
    assert noted.pictures.keys() == {12, 24}
    drawn = np.asarray(Image.open("run/samples/000000000024.png").convert("RGB"))
    ours = np.asarray(
        Image.fromarray(noted.pictures[24]).resize(drawn.shape[1::-1], Image.Resampling.NEAREST)
    )
    np.testing.assert_array_equal(ours, drawn)
    first, second = noted.subjects
    assert (first.run_id, second.run_id, first.images, second.images) == (None, "run-0", 0, 6)
    assert first.name == "run"
    assert first.config["model"]["preset"] == "fame"
    assert (first.config["train"]["batch_size"], first.config["dataset"]) == (6, "mnist")
    assert [status for _, status in noted.ends] == ["KILLED", "FINISHED"]
    claim, best = noted.ends[1][0], load_checkpoint(Path("run/best.safetensors"))
    assert (claim["sha256"], claim["unit"], claim["stopped"]) == (best.sha256, "nats/image", "done")
    valid = [each for each in metrics(Path("run")) if each["split"] == "valid" and any(each["kl_bits"])]
    lowest = min(each["nats_per_image"] for each in valid)
    assert claim["nll"] == pytest.approx(lowest)
    assert claim["data"] == "mnist, valid, 12 images"
    assert claim["estimator"] == "-ELBO, K = 1"


def test_a_run_goes_on_in_the_same_tracked_run(
    train: Command, noted: type[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, words = ("--max-time", "0s"), ("vae", "--steps", 4, "-o", "run")
    train(*words, "--track", "wandb", *stop)
    _, header, _ = load_tensors(Path("run/state.safetensors"), STATE_SCHEMA)
    assert header.metadata["progress"]["tracked"] == [{"tracker": "wandb", "run_id": "run-0"}]
    # Neither a start without a tracker nor one with another makes it forget.
    train(*words, *stop)
    monkeypatch.setitem(TRACKERS, "mlflow", noted)
    train(*words, "--track", "mlflow", *stop)
    train(*words, "--track", "wandb")
    assert [each.run_id for each in noted.subjects] == [None, None, "run-0"]
    train(*words, "--track", "wandb", "--resume", "never")
    assert noted.subjects[-1].run_id is None


FAULTS: list[tuple[str, Callable[[], BaseException]]] = [
    ("begin", ConnectionError),
    ("begin", SystemExit),
    ("log", lambda: RuntimeError("two\nlines, and https://me:hunter2@host/?key=hunter2")),
    ("log", KeyboardInterrupt),
    ("show", ConnectionError),
    ("end", ConnectionError),
    ("end", SystemExit),
]


@pytest.fixture
def untracked(train: Command) -> str:
    """Hash of the weights of `SHORT` without a tracker."""
    assert train(*SHORT[:3], "-o", "alone").code == 0
    return load_checkpoint(Path("alone/last.safetensors")).weights_sha256


@pytest.mark.parametrize(("fault", "error"), FAULTS)
def test_a_tracker_that_fails_ends_no_training(
    train: Command, noted: type[Noted], untracked: str, fault: str, error: Callable[[], BaseException]
) -> None:
    noted.fault, noted.error = fault, staticmethod(error)  # type: ignore[assignment]
    outcome = train(*SHORT)
    assert (outcome.code, outcome.out) == (0, "run/best.safetensors\n")
    (line,) = warnings_of(outcome)
    assert "wandb failed, the training goes on without it" in line
    assert "hunter2" not in outcome.err
    assert load_checkpoint(Path("run/last.safetensors")).weights_sha256 == untracked


@pytest.mark.parametrize("fault", ["begin", "log", "end"])
def test_a_tracker_that_hangs_ends_no_training(
    train: Command, noted: type[Noted], untracked: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, its = socket.socketpair()
    noted.fault, noted.error = fault, staticmethod(lambda: RuntimeError(its.recv(1)))  # type: ignore[assignment]
    monkeypatch.setattr(trackers, "BEGIN_S", 0.1)
    monkeypatch.setattr(trackers, "END_S", 0.1)
    with ours, its:
        outcome = train(*SHORT)
        ours.send(b"x")
    assert outcome.code == 0
    (line,) = warnings_of(outcome)
    assert "not done after" in line
    assert load_checkpoint(Path("run/last.safetensors")).weights_sha256 == untracked


def test_a_training_that_fails_is_told_as_failed(
    train: Command, noted: type[Noted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("famecli.training.run.Run.save", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(*SHORT)
    assert [status for _, status in noted.ends] == ["FAILED"]


def warnings_of(outcome: Outcome) -> list[str]:
    return [line for line in outcome.err.splitlines() if line.startswith("warning: ") and "failed" in line]


@pytest.mark.parametrize("name", TRACKERS)
def test_without_its_package_a_tracker_is_unavailable(
    train: Command, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    outcome = train("vae", "--steps", 1, "-o", "run", "--track", name)
    assert (outcome.code, error_lines(outcome)) == (4, [f"error: {name} is not installed"])
    assert outcome.err.splitlines()[-1] == f"hint: pip install 'famecli[{name}]'"
    outcome = train("vae", "--steps", 1, "-o", "run", "--track", "comet")
    (line,) = error_lines(outcome)
    assert (outcome.code, "'comet'" in line) == (2, True)
    assert not Path("run").exists()


def package(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")


@package("tensorboard")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_written(train: Command) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train(*WORDS, "--track", "tensorboard").code == 0
    events = EventAccumulator("run/tensorboard").Reload()
    found = {
        (name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)
    }
    assert found == pytest.approx(expected_curves(Path("run")), rel=1e-6)
    assert [event.step for event in events.Images("samples")] == [12, 24]
    assert {"config/text_summary", "claim/text_summary"} <= set(events.Tags()["tensors"])


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Secrets where trackers would find them; no network."""
    for name in ("PASSWORD", "WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///store.db")
    for name in ("WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of an offline run: a log in blocks of 32 KiB, as LevelDB writes it."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    content, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        size, part = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        # 1: whole, 4: the last part.
        if part in (1, 4):
            yield Record.FromString(record)
            record = b""


@package("wandb")
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_keeps_what_was_told(train: Command, offline: None) -> None:
    secret = ("--init", f"https://me:{SECRET}@127.0.0.1:1/x#sha256={'ab' * 32}")
    assert train(*WORDS, "--track", "wandb", *secret).code == 4
    assert train(*WORDS, "--track", "wandb", "--max-time", "0s").code == 75
    second = train(*WORDS, "--track", "wandb")
    assert (second.code, second.out, warnings_of(second)) == (0, "run/best.safetensors\n", [])
    folders = sorted(Path("run/wandb").glob("offline-run-*"))
    assert len(folders) == 2
    curves, summary, ids = {}, {}, set()
    for record in (each for folder in folders for each in wandb_records(folder)):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            ids.add(record.run.run_id)
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            assert (record.run.host, record.run.display_name, record.run.project) == ("", "run", "famecli")
        if kind == "history":
            row = {
                item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item
            }
            curves |= {(name, row["images"]): value for name, value in row.items() if "/" in name}
        if kind == "summary":
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    assert curves == expected_curves(Path("run"))
    assert len(ids) == 1
    assert config["model"]["preset"] == "fame"
    assert summary["claim/sha256"] == load_checkpoint(Path("run/best.safetensors")).sha256
    assert len(list(Path("run/wandb").rglob("media/images/samples_*.png"))) == 2
    check_private(Path("run/wandb").rglob("*"))


def check_private(paths: Iterable[Path]) -> None:
    """Check that no file of a tracker has a secret, the command or the home of the user."""
    private = [SECRET, str(Path.home()), "--sample-every"]
    files = [path for path in paths if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert not [word for word in private if word.encode() in content], path


@package("wandb")
@pytest.mark.filterwarnings("ignore")
def test_without_a_key_weights_and_biases_asks_for_none(
    train: Command, offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    outcome = train(*SHORT)
    assert outcome.code == 0
    (line,) = warnings_of(outcome)
    assert "wandb login, or WANDB_MODE=offline" in line


@package("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_what_was_told(train: Command, offline: None) -> None:
    from mlflow.tracking import MlflowClient

    assert train(*WORDS, "--track", "mlflow", "--max-time", "0s").code == 75
    second = train(*WORDS, "--track", "mlflow")
    assert (second.code, second.out, warnings_of(second)) == (0, "run/best.safetensors\n", [])
    client = MlflowClient()
    experiment = client.get_experiment_by_name("famecli")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    curves = {
        (name, each.step): each.value
        for name in run.data.metrics
        for each in client.get_metric_history(run.info.run_id, name)
    }
    assert curves == pytest.approx(expected_curves(Path("run")))
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["model.preset"] == "fame"
    assert run.data.params["train.batch_size"] == "6"
    assert run.data.tags["claim.sha256"] == load_checkpoint(Path("run/best.safetensors")).sha256
    names = {each.path for each in client.list_artifacts(run.info.run_id)}
    assert {"claim.json", "images"} <= names
    check_private([Path("store.db"), *Path("mlruns").rglob("*")])


@package("mlflow")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("uri", ["nonsense://x", "sqlite:////dev/null/store.db"])
def test_a_store_of_mlflow_that_is_not_there_ends_no_training(
    train: Command, offline: None, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    outcome = train(*SHORT[:-1], "mlflow")
    assert outcome.code == 0
    assert len(warnings_of(outcome)) == 1
