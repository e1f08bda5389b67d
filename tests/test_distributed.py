"""Two processes do what one does: trainings, samples, likelihoods; and they stop, die and go on together."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import check_error, fame, save_model
from support.trainers import (
    ATTENTION,
    STEP_TOLERANCE,
    Gradients,
    assert_equal_runs,
    configured,
    farthest,
    metrics,
    snapshot,
    timeless,
    trainer_of,
)
from support.two_processes import SCHEMA, STEPS
from torch import Tensor
from torch.distributed import HashStore

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors
from famecli.config.schema import TrainConfig, to_dict
from famecli.errors import UsageError
from famecli.runtime.distributed import ALONE, Group, join, store_of_this_round

ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Free nats that a layer is above in the batch, but below in the half of one of the processes.
IN_PARTS = configured("fame", 2)
TRAININGS = {
    "plain": {"precision": "fp32", "accumulate": 1, "attention": False},
    "parts": {"precision": "fp32", "accumulate": 2, "attention": False},
    "bf16": {"precision": "bf16", "accumulate": 2, "attention": False},
    "attention": {"precision": "fp32", "accumulate": 2, "attention": True},
}
# Slow enough to be killed in its middle, and with something to go on from by then.
LONG = ["--images", "720", "--eval-every", "240", "--save-every", "0.05s"]
SHORT = ["--images", "48", "--eval-every", "24", "--keep", "1", "--sample-every", "24"]


def train_words(data: Path, out: Path, *words: str) -> list[str]:
    base = ["train", "fame", "--dataset", "folder", "--data", str(data), "--batch-size", "6"]
    return [*base, "--device", "cpu", "--set", "valid_images=7", "-o", str(out), *words]


def environment() -> dict[str, str]:
    """Without what would let workers take another device, more threads, or another's place."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("FAME_")}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}


@dataclass(frozen=True)
class Pair:
    """What two processes did: by rank, what each found; the folder with their files; and their stderr."""

    folder: Path
    ranks: tuple[dict[str, Any], dict[str, Any]]
    errors: str

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_tensors(self.folder / name, SCHEMA)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images, and a model for them."""
    path: Path = tmp_path_factory.mktemp("two")
    images = np.random.default_rng(3).integers(0, 256, (70, 8, 8), np.uint8)
    np.save(path / "images.npy", images)
    save_model(path / "model.safetensors", shape=(1, 8, 8), levels=256)
    return path


def sample_words(folder: Path, name: str, *words: str) -> list[str]:
    model = str(folder / "model.safetensors")
    return ["sample", model, "--device", "cpu", "-n", "70", "--batch-size", "16", "-o", name, *words]


def nll_words(folder: Path, *words: str) -> list[str]:
    data = ["--dataset", "folder", "--data", str(folder / "images.npy"), "--split", "train"]
    model = str(folder / "model.safetensors")
    return ["evaluate-nll", model, *data, "--device", "cpu", "--batch-size", "12", *words]


def commands(folder: Path, out: Path) -> dict[str, list[str]]:
    """The commands that both one process and two run, with outputs in `out`."""
    data = folder / "images.npy"
    return {
        "train": train_words(data, out / "run", *SHORT, "--json"),
        "grid": sample_words(folder, str(out / "grid.png"), "--json"),
        "npz": sample_words(folder, str(out / "x.npz"), "-q"),
        "npy": sample_words(folder, str(out / "x.npy"), "--decoder", "mean"),
        "elbo": nll_words(folder, "--json", "--per-image", str(out / "rows.csv")),
        "iwae": nll_words(folder, "-k", "5", "--json"),
        "ais": nll_words(folder, "--ais", "3", "--leapfrog", "1", "--limit", "14", "--json", "--with-images"),
    }


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    """One start of two processes for all tests that need no other."""
    out = folder / "pair"
    out.mkdir()
    data = folder / "images.npy"
    told = {name: {"words": words} for name, words in commands(folder, out).items()}
    told |= {
        "stopped": {"words": train_words(data, out / "stopped", *SHORT, "--json"), "kill": [1, 3]},
        "resumed": {"words": train_words(data, out / "stopped", *SHORT)},
        "max-time": {
            "words": train_words(data, out / "late", *SHORT, "--max-time", "0s"),
            "save_takes_s": 1.0,
            "saved": str(out / "late" / "state.safetensors"),
        },
        "odd": {"words": train_words(data, out / "odd", "--batch-size", "7")},
    }
    trainings = {name: what | {"config": to_dict(IN_PARTS)} for name, what in TRAININGS.items()}
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"out": str(out), "trainings": trainings, "commands": told}))
    script = str(ROOT / "tests" / "support" / "two_processes.py")
    done = subprocess.run(
        [*TORCHRUN, script, str(plan)], env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1))
    return Pair(out, (first, second), done.stderr)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one(pair: Pair, name: str) -> None:
    decoder = ATTENTION if TRAININGS[name]["attention"] else None
    with Gradients() as gradients:
        trainer = trainer_of("fame", IN_PARTS, TRAININGS[name]["precision"], decoder=decoder)  # type: ignore[arg-type]
        records = [trainer.step() for _ in range(STEPS)]
    tolerance = STEP_TOLERANCE if name != "bf16" else 0.05
    assert farthest(pair.tensors(f"{name}.gradient"), gradients.first) < tolerance
    if name != "bf16":
        assert farthest(pair.tensors(f"{name}.state"), snapshot(trainer)) < 10 * tolerance
    for found, expected in zip(pair.ranks[0][name]["records"], records, strict=True):
        for key, value in dataclasses.asdict(expected).items():
            assert found[key] == pytest.approx(value, rel=tolerance, abs=1e-3 if name == "bf16" else 1e-7)


def test_nothing_looks_for_unused_weights_once_latents_have_joined(pair: Pair) -> None:
    assert "find_unused_parameters" not in pair.errors


@pytest.mark.parametrize("name", TRAININGS)
def test_all_processes_have_the_same_state(pair: Pair, name: str) -> None:
    first, second = pair.ranks
    assert first[name] == second[name]
    assert len(first[name]["hash"]) == 64


def test_bfloat16_is_that_of_the_parts(pair: Pair) -> None:
    """Two parts in each of two processes round as four parts do."""
    with Gradients() as gradients:
        trainer_of("fame", IN_PARTS, "bf16", accumulate=4).step()
    assert farthest(pair.tensors("bf16.gradient"), gradients.first) < 1e-4


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """What one process writes and, in a file of its name, prints."""
    out = folder / "alone"
    out.mkdir()
    for name, words in commands(folder, out).items():
        done = fame(*words)
        assert done.code == 0, done.err
        (out / f"{name}.out").write_bytes(done.out)
    return out


@pytest.mark.parametrize("name", ["grid.png", "x.npz", "x.npy", "rows.csv"])
def test_files_of_two_processes_are_those_of_one(pair: Pair, alone: Path, name: str) -> None:
    assert (pair.folder / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.parametrize("name", ["grid", "npz", "npy", "elbo", "iwae", "ais"])
def test_the_first_process_alone_prints_what_one_would(pair: Pair, alone: Path, name: str) -> None:
    first, second = (rank[name] for rank in pair.ranks)
    assert (first["code"], second["code"]) == (0, 0)
    assert (second["out"], second["err"]) == ("", "")
    expected = (alone / f"{name}.out").read_text()
    assert expected != ""
    if not expected.startswith("{"):
        assert first["out"] == expected.replace(str(alone), str(pair.folder))
        return
    documents = [json.loads(text) for text in (first["out"], expected)]
    for document in documents:
        for key in ("seconds", "images_per_s", "out"):
            document.pop(key, None)
    assert documents[0] == documents[1]


def test_a_run_of_two_processes_is_that_of_one(pair: Pair, alone: Path) -> None:
    first, second = (rank["train"] for rank in pair.ranks)
    assert (first["code"], second["code"], second["out"], second["err"]) == (0, 0, "", "")
    assert json.loads(first["out"])["stopped"] == "done"
    runs = [path / "run" for path in (pair.folder, alone)]
    names = [sorted(str(path.relative_to(run)) for path in run.rglob("*")) for run in runs]
    assert names[0] == names[1]
    assert "samples/000000000024.png" in names[0]
    found, expected = (timeless(metrics(run)) for run in runs)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3)), key
    loaded = [load_checkpoint(run / "last.safetensors") for run in runs]
    assert [each.provenance.processes for each in loaded] == [2, 1]
    assert farthest(*(dict(each.model.state_dict()) for each in loaded)) < 1e-3  # type: ignore[call-arg]


def test_a_signal_to_one_process_stops_all_after_the_same_step(pair: Pair, tmp_path: Path) -> None:
    for rank in pair.ranks:
        assert rank["stopped"]["code"] == 75
    document = json.loads(pair.ranks[0]["stopped"]["out"])
    assert (document["stopped"], document["steps"]) == ("signal", 3)
    assert "resumed at 18 images" in pair.ranks[0]["resumed"]["err"]
    assert_equal_runs(pair.folder / "stopped", pair.folder / "run")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list threads there")
def test_no_thread_of_the_group_outlives_python(pair: Pair) -> None:
    for rank in (0, 1):
        names = json.loads((pair.folder / f"{rank}.threads").read_text())
        assert names
        assert not [name for name in names if "gloo" in name]


def test_max_time_stops_all(pair: Pair) -> None:
    assert [rank["max-time"]["code"] for rank in pair.ranks] == [75, 75]
    # Else torchrun would end the first process in the middle of its save.
    assert [rank["max-time"]["saved"] for rank in pair.ranks] == [True, True]
    assert load_checkpoint(pair.folder / "late" / "last.safetensors").provenance.steps == 1


def test_a_batch_that_cannot_be_divided_is_a_usage_error(pair: Pair) -> None:
    for rank in pair.ranks:
        assert rank["odd"]["code"] == 2
        text = check_error(rank["odd"]["err"])
        assert "a batch of 7 images cannot be divided among 2 processes" in text
        assert "--batch-size 8" in text
    assert not (pair.folder / "odd").exists()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def steps_of(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def started(folder: Path, run: Path) -> subprocess.Popen[str]:
    """A long training in `run` of two processes that may start again once."""
    words = train_words(folder / "images.npy", run, *LONG, "-q")
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "famecli", *words]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment(), text=True, **streams)  # type: ignore[call-overload,no-any-return]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes to kill in /proc")
def test_a_killed_process_leads_to_the_run_of_an_unbroken_one(folder: Path, tmp_path: Path) -> None:
    run, unbroken = tmp_path / "run", tmp_path / "unbroken"
    with started(folder, run) as broken:
        deadline_s = time.monotonic() + 120
        while steps_of(run) < 6 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        os.kill(children(broken.pid)[1], signal.SIGKILL)
        killed_at = steps_of(run)
        out, err = broken.communicate(timeout=240)
    assert (broken.returncode, out) == (0, f"{run}/best.safetensors\n"), err
    assert 6 <= killed_at < len(metrics(run))
    with started(folder, unbroken) as whole:
        assert whole.wait(timeout=240) == 0
    assert_equal_runs(run, unbroken)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices")
def test_two_gpus_train_as_one(folder: Path, tmp_path: Path) -> None:
    found = []
    for name, launcher in (("two", TORCHRUN), ("one", [sys.executable])):
        words = train_words(folder / "images.npy", tmp_path / name, *SHORT, "--device", "cuda")
        subprocess.run([*launcher, "-m", "famecli", *words], env=environment(), check=True, timeout=240)
        found.append([record["nats_per_image"] for record in metrics(tmp_path / name)])
    assert found[0] == pytest.approx(found[1], rel=1e-2)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_shares_are_equal_and_make_up_the_batch(size: int) -> None:
    rows = [row for rank in range(size) for row in range(24)[Group(rank, size).local_rows(24)]]
    assert rows == list(range(24))
    assert len({len(range(24)[Group(rank, size).local_rows(24)]) for rank in range(size)}) == 1


def test_a_batch_is_divided_or_the_next_one_named() -> None:
    with pytest.raises(UsageError, match="10 images cannot be divided among 4") as caught:
        Group(0, 4).local_rows(10)
    assert "`batch_size=12`" in caught.value.hint


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert join() is ALONE
    # As clusters set it for other purposes.
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert join() is ALONE
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert join() is ALONE
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(UsageError, match="many"):
        join()


def test_processes_find_each_other_among_what_dead_ones_left() -> None:
    shared, ranks = HashStore(), range(3)
    shared.set("famecli/question/1", "of a process that died before it was answered")
    with ThreadPoolExecutor(len(ranks)) as pool:
        for value in ("first", "second"):
            found = list(pool.map(lambda rank: store_of_this_round(shared, Group(rank, 3)), ranks))
            assert not any(store.check(["address"]) for store in found)
            found[1].set("address", value)
            assert [store.get("address").decode() for store in found] == [value] * 3


def test_one_process_does_all_tasks_itself() -> None:
    def squares(start: int) -> Iterator[np.ndarray]:
        return ALONE.map_ordered([3, start], lambda task: np.full(task, task**2))

    assert [array.tolist() for array in squares(2)] == [[9, 9, 9], [4, 4]]
    assert ALONE.all_reduce_max(7) == 7
    assert torch.equal(ALONE.sum(torch.arange(3)), torch.arange(3))


@pytest.mark.parametrize(("typed", "own"), [("cpu", "cpu"), ("cuda", "cuda:3"), ("mps", "mps")])
def test_each_process_of_a_machine_has_a_device_of_its_own(typed: str, own: str) -> None:
    assert Group(5, 8, 3).device(typed) == own
    assert ALONE.device(typed) == typed
    with pytest.raises(UsageError, match="8 processes cannot share cuda:1"):
        Group(5, 8, 3).device("cuda:1")


def test_the_configuration_puts_a_layer_on_both_sides_of_its_free_nats() -> None:
    assert isinstance(IN_PARTS, TrainConfig)
    rate = trainer_of("fame", IN_PARTS).step().rate
    assert max(rate) > IN_PARTS.free_nats
