"""Trainings that are killed, stopped, or run out of disk: files stay whole, and going on changes nothing.

The commands are whole ones, `fame train` in processes of their own; see `victims`.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.trainers import assert_equal_runs, metrics
from support.victims import Victims

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors
from famecli.training.run import STATE_SCHEMA

STEPS = 12
MANY_STEPS = 24
MODELS = ("best.safetensors", "last.safetensors")
STATE = "state.safetensors"
COMMAND = ("train", "pixelcnn", "--batch-size", 6, "--eval-every", 18, "--save-every", "0.000001s")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGKILL: -signal.SIGKILL}


@pytest.fixture(scope="module")
def unbroken(fork: Victims, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert fork.run(*COMMAND, "--steps", STEPS, "-o", folder) == 0
    return folder


@pytest.fixture(scope="module")
def long_unbroken(fork: Victims, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "run"
    assert fork.run(*COMMAND, "--steps", MANY_STEPS, "-o", folder) == 0
    return folder


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files of writes that were not finished."""
    return [name for name in os.listdir(folder) if name.endswith(".tmp")]


def stop_and_go_on(fork: Victims, unbroken: Path, step: int, kind: signal.Signals, *command: object) -> None:
    """Stop a training after `step`, start it again, and compare all that it leaves with an unbroken one."""
    folder = Path(str(command[-1]))
    assert fork.run(*command, at=(step, kind)) == CODES[kind]
    if kind != signal.SIGKILL:
        counters = load_tensors(folder / STATE, STATE_SCHEMA)[0]["counters/steps"]
        assert counters.tolist() == [step, 0, 0]
    assert fork.run(*command) == 0
    assert kind == signal.SIGKILL or "resumed at" in fork.errors.read_text()
    assert_equal_runs(folder, unbroken)


# The slow test below has all signals at all steps.
@pytest.mark.parametrize(
    ("step", "kind"),
    [*((2, kind) for kind in CODES), (9, signal.SIGKILL)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_stopped_run_that_goes_on_equals_the_unbroken_one(
    tmp_path: Path, fork: Victims, unbroken: Path, step: int, kind: signal.Signals
) -> None:
    stop_and_go_on(fork, unbroken, step, kind, *COMMAND, "--steps", STEPS, "-o", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("step", range(1, 21))
def test_any_stopped_run_that_goes_on_equals_the_unbroken_one(
    tmp_path: Path, fork: Victims, long_unbroken: Path, step: int, kind: signal.Signals
) -> None:
    stop_and_go_on(fork, long_unbroken, step, kind, *COMMAND, "--steps", MANY_STEPS, "-o", tmp_path / "run")


def test_a_run_that_is_stopped_again_and_again_equals_the_unbroken_one(
    tmp_path: Path, fork: Victims, unbroken: Path
) -> None:
    command = (*COMMAND, "--steps", STEPS, "-o", tmp_path / "run")
    for step, kind in zip((1, 3, 11), CODES, strict=True):
        assert fork.run(*command, at=(step, kind)) == CODES[kind]
    assert fork.run(*command) == 0
    assert_equal_runs(tmp_path / "run", unbroken)


def kill_at_random(fork: Victims, folder: Path, kills: int) -> tuple[int, int]:
    """Kill a training that saves all the time, again and again, at moments that nothing foresees.

    Returns:
        How many kills came in the middle of a write, and how many steps were saved in the end.
    """
    source, command = np.random.default_rng(0), (*COMMAND, "--steps", 10**6, "-o", folder)
    first_s, in_a_write, seen, steps = 0.0, 0, set(), dict.fromkeys((STATE, *MODELS), 0)
    for _ in range(kills):
        number = fork.start(*command)
        started_s = time.monotonic()
        while not (folder / "last.safetensors").exists():
            time.sleep(0.001)
        # From its very start to as long again as the first save took to come.
        first_s = first_s or time.monotonic() - started_s
        time.sleep(source.uniform(0, 2 * first_s))
        os.kill(number, signal.SIGKILL)
        assert fork.end() == -signal.SIGKILL
        in_a_write += bool(leftovers(folder))
        # What was there once is always there, whole, and no older.
        seen.update(os.listdir(folder))
        for name in {STATE, *MODELS} & seen:
            found = saved_step(folder / name)
            # The state is there before the first step.
            assert found >= max(int(name != STATE), steps[name])
            steps[name] = found
    return in_a_write, steps[STATE]


def saved_step(path: Path) -> int:
    """Return the step that a file of a run is of, after all checks that loading makes."""
    if path.name == STATE:
        return int(load_tensors(path, STATE_SCHEMA)[0]["counters/steps"][0])
    load_checkpoint(path, "raw")
    return int(load_checkpoint(path).provenance.steps)


def check_kills(fork: Victims, folder: Path, kills: int) -> None:
    in_a_write, saved = kill_at_random(fork, folder, kills)
    print(f"{kills} kills, {in_a_write} of them in the middle of a write; {saved} steps")
    # Started again, it goes on and removes what the kills left.
    command = (*COMMAND, "--steps", 10**6, "-o", folder)
    assert fork.run(*command, at=(saved + 1, signal.SIGTERM)) == CODES[signal.SIGTERM]
    assert leftovers(folder) == []
    assert [line["step"] for line in metrics(folder) if line["split"] == "train"] == [*range(1, saved + 2)]


def test_there_is_a_whole_checkpoint_after_any_kill(tmp_path: Path, fork: Victims) -> None:
    check_kills(fork, tmp_path / "run", 12)


@pytest.mark.slow
def test_there_is_a_whole_checkpoint_after_two_hundred_kills(tmp_path: Path, fork: Victims) -> None:
    check_kills(fork, tmp_path / "run", 200)


def test_a_full_disk_ends_a_run_that_can_go_on(tmp_path: Path, fork: Victims, unbroken: Path) -> None:
    folder, command = tmp_path / "run", (*COMMAND, "--steps", STEPS, "-o", tmp_path / "run")
    assert fork.run(*command, at=(4, signal.SIGTERM)) == 75
    metrics = "metrics.jsonl"
    # The header tells seconds, so a state may be some bytes shorter than the one before it.
    full = {STATE: (folder / STATE).stat().st_size // 2, metrics: (folder / metrics).stat().st_size + 1}
    for name in full:
        before = {each: (folder / each).read_bytes() for each in (STATE, *MODELS)}
        assert fork.run(*command, largest_file=full[name]) == 3
        error, hint = fork.errors.read_text().splitlines()[-2:]
        assert error == f"error: cannot write {folder / name}: File too large"
        assert hint == "hint: free space or choose another place"
        assert leftovers(folder) == []
        assert before == {each: (folder / each).read_bytes() for each in (STATE, *MODELS)}
    assert fork.run(*command) == 0
    assert_equal_runs(folder, unbroken)
