"""Trainings that meet in one folder, folders that move, and data that are not those of the run."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import fame
from support.outcomes import Command
from support.trainers import assert_equal_runs, metrics, resumed, run_of, train
from support.victims import Victims

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors, save_tensors
from famecli.checkpoints.store import STATE
from famecli.data.dataset import SEEN_IMAGES, count_seen, image_hashes, write_seen
from famecli.errors import InputError, UnavailableError
from famecli.runtime.distributed import ALONE, Group
from famecli.training import setup
from famecli.training.lock import LOCK, FolderLock, locked
from famecli.training.options import TrainOptions
from famecli.training.plan import make_plan
from famecli.training.run import STATE_SCHEMA, Run
from famecli.training.setup import begin, make_run

HOLDER = """
import sys, time
from pathlib import Path
from famecli.training.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(600)
"""
LONG = ("train", "pixelcnn", "--batch-size", 6, "--steps", 100_000, "--eval-every", 600)


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that holds the lock of a folder."""
    words = [sys.executable, "-c", HOLDER, folder]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_stopped_holder_keeps_the_lock_and_a_killed_one_leaves_none(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        for kind in (signal.SIGSTOP, signal.SIGCONT):
            process.send_signal(kind)
            with pytest.raises(UnavailableError, match=f"another training is running in {tmp_path}"):
                FolderLock(tmp_path, print)
        process.kill()
        process.wait()
        with locked(tmp_path, ALONE) as lock:
            assert lock is not None
            assert lock.place() == tmp_path
    with locked(tmp_path, ALONE):
        pass


class OthersRefuse(Group):
    """Another of two processes, the first of which cannot have the lock."""

    def all(self, value: bool) -> bool:
        return False


def test_all_processes_end_where_the_first_cannot_have_the_lock(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError), locked(tmp_path / "run", OthersRefuse(1, 2)):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("apart_s", [0.0, 0.3, 1.0, 3.0])
def test_one_of_two_trainings_in_a_folder_ends_at_once(
    fork: Victims, train: Command, tmp_path: Path, apart_s: float
) -> None:
    folder = tmp_path / "run"
    number = fork.start(*LONG, "-o", folder)
    deadline_s = time.monotonic() + 60
    while apart_s and not (folder / LOCK).exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(apart_s)
    second = train(*LONG[1:3], 6, "--steps", 100_000, "--eval-every", 600, "-o", folder, "--max-time", "3s")
    if second.code == 75:
        # It was the first to have the lock.
        assert (apart_s, fork.end()) == (0.0, 4)
        assert f"another training is running in {folder}" in fork.errors.read_text()
    else:
        assert second.code == 4
        assert f"another training is running in {folder}" in second.err
        assert "hint: wait for the other training, or choose another --out" in second.err
        os.kill(number, signal.SIGTERM)
        assert fork.end() == 75
    steps = [record["step"] for record in metrics(folder) if record["split"] == "train"]
    assert steps == sorted(set(steps))
    assert load_checkpoint(folder / "last.safetensors").provenance.steps == steps[-1]


def test_without_locks_the_later_training_takes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    notes: list[str] = []
    first, second = run_of(tmp_path), run_of(tmp_path)
    with locked(tmp_path, ALONE, notes.append) as first.lock:
        train(first, until=2)
        with locked(tmp_path, ALONE, notes.append) as second.lock:
            train(second)
            before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
            with pytest.raises(UnavailableError, match="another training began"):
                train(first)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert notes == [f"the file system of {tmp_path} has no locks: start no second training there"] * 2


def test_other_errors_of_locks_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: object, kind: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(InputError, match=f"cannot lock {tmp_path}: broken"):
        FolderLock(tmp_path, print)


def in_steps(run: Run, step: int, change: Any) -> None:
    """Call `change` after a step, and train on."""
    take, done = run.trainer.step, []

    def step_and_change() -> Any:
        found = take()
        if run.trainer.step_count == step and not done:
            done.append(change())
        return found

    run.trainer.step = step_and_change  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", ["moved", "removed", "replaced"])
def test_a_training_ends_when_its_folder_is_gone_and_loses_nothing(tmp_path: Path, kind: str) -> None:
    folder, far = tmp_path / "run", tmp_path / "far" / "away"
    far.parent.mkdir()
    unbroken = run_of(tmp_path / "unbroken")
    train(unbroken)
    run = run_of(folder)
    place = far if kind == "moved" else folder

    def change() -> None:
        if kind == "moved":
            folder.rename(far)
        else:
            shutil.rmtree(folder)
        if kind == "replaced":
            folder.mkdir()

    in_steps(run, 4, change)
    with locked(folder, ALONE) as run.lock:
        with pytest.raises(InputError, match=f"was {'moved' if kind == 'moved' else 'removed'}") as caught:
            train(run)
        assert str(place) in str(caught.value)
        assert f"`out={place}`" in caught.value.hint
    tensors, _, _ = load_tensors(place / "state.safetensors", STATE_SCHEMA)
    assert tensors["counters/steps"].tolist()[0] == run.trainer.step_count < unbroken.trainer.step_count
    assert kind != "moved" or not folder.exists()
    again = resumed(place)
    train(again)
    if kind == "moved":
        assert_equal_runs(place, tmp_path / "unbroken")


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(run_of(tmp_path / "unbroken"))
    jumps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 + (-1) ** next(jumps) * 1e8)
    run = run_of(tmp_path / "run", save_every_s=3600.0)
    with locked(run.folder, ALONE) as run.lock:
        train(run)
    assert_equal_runs(tmp_path / "run", tmp_path / "unbroken")
    assert 0 <= run.progress.seconds < 60


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two arrays of 60 images of equal shape."""
    monkeypatch.chdir(tmp_path)
    found = {}
    for seed, name in enumerate("ab"):
        found[name] = tmp_path / f"digits-{name}.npy"
        images = np.random.default_rng(seed).integers(0, 256, (60, 8, 8), np.uint8)
        np.save(found[name], images)
    return found


def train_on(path: Path, *words: object) -> Any:
    command = ("train", "pixelcnn", "--size", "tiny", "--dataset", "folder", "--data", str(path))
    return fame(*command, "--batch-size", "4", "-o", "run", *map(str, words))


def test_a_run_of_another_data_set_is_refused_by_its_name(arrays: dict[str, Path], data: Path) -> None:
    assert train_on(arrays["a"], "--steps", 4, "--max-time", "0s").code == 75
    np.save("large.npy", np.zeros((60, 9, 8), np.uint8))
    np.save("wide.npy", np.zeros((60, 8, 12), np.uint8))
    began = "error: run/state.safetensors: this run began with"
    for words, told, hint in (
        (["--dataset", "mnist", "-o", "run"], "dataset = folder, now it is mnist", "choose another --out"),
        (["-o", "run"], "dataset = folder, now it is mnist", "add --dataset folder, or choose another --out"),
    ):
        done = fame("train", "pixelcnn", "--data", str(data), *words)
        assert done.code == 3, done.err
        assert f"{began} {told}\nhint: {hint}" in done.err
    for name, told in (
        ("large", "height 8, those of large.npy have 9"),
        ("wide", "width 8, those of wide.npy"),
    ):
        done = train_on(Path(f"{name}.npy"), "--steps", 4)
        assert done.code == 3
        assert f"{began} images of {told}" in done.err
    assert train_on(arrays["a"], "--steps", 4).code == 0


def test_the_lock_comes_before_the_images(arrays: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FolderLock(Path("run"), print)
    told = train_on(Path("missing.npy"), "--steps", 4)
    assert told.code == 4
    assert "another training is running in run" in told.err
    # Processes after the first leave the check to the first, which may hold the lock already.
    monkeypatch.setenv("RANK", "1")
    assert "missing.npy" in train_on(Path("missing.npy"), "--steps", 4).err
    monkeypatch.delenv("RANK")
    lock.release()
    assert "missing.npy" in train_on(Path("missing.npy"), "--steps", 4).err
    assert not Path("run").exists()


def test_the_lock_of_a_default_folder_comes_before_the_images(
    train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("vae", "--steps", 1).code == 0
    [folder] = Path("runs").iterdir()
    lock = FolderLock(folder, print)
    monkeypatch.setattr(setup, "load_split", lambda *_, **__: pytest.fail("images are read"))
    told = train("vae", "--steps", 1)
    assert told.code == 4
    assert f"another training is running in {folder}" in told.err
    lock.release()


def test_a_run_is_not_resumed_on_other_images(arrays: dict[str, Path], tmp_path: Path) -> None:
    first = train_on(arrays["a"], "--steps", 4, "--max-time", "0s")
    assert first.code == 75, first.err
    kept = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    other = train_on(arrays["b"], "--steps", 4)
    assert other.code == 3
    assert "state.safetensors: this run began with folder (" in other.err
    assert "hint: train on these with --init and another --out; or --resume never to start over" in other.err
    changed = {path.name for path in Path("run").iterdir() if path.read_bytes() != kept[path.name]}
    assert changed <= {LOCK}
    moved = tmp_path / "elsewhere.npy"
    arrays["a"].rename(moved)
    assert train_on(moved, "--steps", 4).code == 0
    data = load_checkpoint(Path("run/best.safetensors")).provenance.data
    assert data is not None
    assert (data.dataset, len(data.train_sha256)) == ("folder", 64)
    assert data.train_images + data.valid_images + data.test_images == 60
    assert str(data) in fame("info", "run", "--card").text


def test_a_run_that_does_not_record_its_images_is_resumed(arrays: dict[str, Path]) -> None:
    assert train_on(arrays["a"], "--steps", 4, "--max-time", "0s").code == 75
    state = Path("run/state.safetensors")
    tensors, header, _ = load_tensors(state, STATE_SCHEMA)
    progress = {key: value for key, value in header.metadata["progress"].items() if key != "data"}
    metadata = {key: header.metadata[key] for key in ("schema", "model", "train")}
    save_tensors(state, tensors, metadata | {"progress": progress})
    assert train_on(arrays["b"], "--steps", 4).code == 0


def test_images_that_were_trained_on_are_counted(arrays: dict[str, Path], tmp_path: Path) -> None:
    assert train_on(arrays["a"], "--steps", 2).code == 0
    assert (Path("run") / SEEN_IMAGES).stat().st_size < 60 * 8 + 1
    images = {name: np.load(path) for name, path in arrays.items()}
    np.save("mixed.npy", np.concatenate([images["a"], images["b"][:5]]))
    done = fame("evaluate-nll", "run", "mixed.npy", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.text)["trained_on_images"]
    data = load_checkpoint(Path("run/best.safetensors")).provenance.data
    assert data is not None
    assert found == data.train_images
    assert f"warning: {found} of 65 scored images are training images of run/" in done.err
    for words in (("--dataset", "folder", "--data", str(arrays["a"])), ("digits-b.npy",)):
        done = fame("evaluate-nll", "run", *words, "--json")
        assert (json.loads(done.text)["trained_on_images"], "training images" in done.err) == (0, False)
    shutil.copy("run/best.safetensors", "copy.safetensors")
    assert (
        json.loads(fame("evaluate-nll", "copy.safetensors", "mixed.npy", "--json").text)["trained_on_images"]
        is None
    )


def test_no_hash_of_an_image_goes_into_a_checkpoint(arrays: dict[str, Path]) -> None:
    assert train_on(arrays["a"], "--steps", 2).code == 0
    content = Path("run/best.safetensors").read_bytes() + Path("run/state.safetensors").read_bytes()
    hashes = image_hashes(np.load(arrays["a"])[:, None])
    assert count_seen(Path("run"), np.load(arrays["a"])[:, None]) > 40
    for each in hashes:
        assert bytes(each[:8]) not in content
        assert bytes(each).hex()[:16].encode() not in content


def test_a_damaged_list_of_training_images_is_no_error(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 4, 4), np.uint8)
    write_seen(tmp_path, image_hashes(pixels[:5]))
    assert count_seen(tmp_path, pixels) == 5
    assert count_seen(tmp_path / "none", pixels) is None
    path = tmp_path / SEEN_IMAGES
    path.write_bytes(path.read_bytes()[:-3])
    assert count_seen(tmp_path, pixels) == 4


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "metrics.jsonl", STATE])
def test_files_of_no_run_are_not_replaced(arrays: dict[str, Path], name: str) -> None:
    assert train_on(arrays["a"], "--steps", 1).code == 0
    path, content = Path("other") / name, Path("run/best.safetensors").read_bytes()
    path.parent.mkdir()
    path.write_bytes(content)
    outcome = train_on(arrays["a"], "--steps", 1, "-o", "other")
    assert (outcome.code, path.read_bytes()) == (3, content)
    assert f"{path} is not of this run, which would replace it" in outcome.err
    assert "--resume never" in outcome.err
    assert train_on(arrays["a"], "--steps", 1, "-o", "other", "--resume", "never").code == 0


def test_a_state_is_not_resumed_in_the_folder_of_another_run(arrays: dict[str, Path]) -> None:
    for folder, steps in (("run", 2), ("other", 4)):
        assert train_on(arrays["a"], "--steps", steps, "-o", folder).code == 0
    before = {path.name: path.read_bytes() for path in Path("other").iterdir()}
    state = f"run/{STATE}"
    assert train_on(arrays["a"], "--steps", 2, "-o", "other", "--resume", state).code == 3
    assert {path.name: path.read_bytes() for path in Path("other").iterdir()} == before
    # Back to an earlier state of the same run, or into an empty folder.
    shutil.copy(state, "earlier.safetensors")
    for folder in ("run", "new"):
        assert train_on(arrays["a"], "--steps", 2, "-o", folder, "--resume", "earlier.safetensors").code == 0
    # The best model and the metrics go along.
    assert (
        train_on(arrays["a"], "--steps", 2, "-o", "moved", "--resume", state).text
        == "moved/best.safetensors\n"
    )
    for name in ("best.safetensors", "metrics.jsonl"):
        assert Path("moved", name).read_bytes() == Path("run", name).read_bytes()


def test_a_run_that_never_saved_a_model_is_resumed(arrays: dict[str, Path]) -> None:
    sizes: dict[str, Any] = {"size": "tiny", "batch_size": 4, "steps": 2, "precision": "fp32"}
    told = {"preset": "pixelcnn", "dataset": "folder", "data": arrays["a"], "out": Path("run")}
    plan = make_plan(TrainOptions(**told, **sizes))
    with locked(plan.folder, ALONE):
        begin(make_run(plan), plan)
    assert (Path("run") / STATE).exists()
    assert not Path("run/last.safetensors").exists()
    outcome = train_on(arrays["a"], "--steps", 2, "--precision", "fp32")
    assert outcome.code == 0
    assert "resumed at 0 images" in outcome.err
    assert train_on(arrays["a"], "--steps", 2, "--precision", "fp32", "-o", "unbroken").code == 0
    assert_equal_runs(Path("run"), Path("unbroken"))


def test_a_training_removes_no_files_with_names_of_others(arrays: dict[str, Path]) -> None:
    grids, ours = Path("run/samples"), ("run/images-000000000004.safetensors", "run/samples/000000000004.png")
    grids.mkdir(parents=True)
    theirs = ("run/images-mine.safetensors", "run/samples/mine.png", "run/samples/4.png")
    for name in (*ours, *theirs):
        Path(name).write_bytes(b"content")
    outcome = train_on(arrays["a"], "--steps", 4)
    assert (outcome.code, "is not of this run" in outcome.err) == (3, True)
    assert all(Path(name).read_bytes() == b"content" for name in ours)
    assert train_on(arrays["a"], "--steps", 4, "--max-time", "0s", "--resume", "never").code == 75
    assert train_on(arrays["a"], "--steps", 4).code == 0
    assert not any(Path(name).exists() for name in ours)
    assert all(Path(name).read_bytes() == b"content" for name in theirs)
