"""Wall and CPU time of a training, of which a stop of the process is no part."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.trainers import Times, metrics, resumed, run_of, train, trainer_of
from torch import Tensor

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors, save_tensors
from famecli.runtime.distributed import Group
from famecli.training.run import STATE_SCHEMA

STOP_S = 2.5
# Busy for as long as stdin is open, so that the only silence is a stop.
BUSY = """
import sys, threading, time
from famecli.training.clock import Clock
clock, over = Clock(), threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set())).start()
with clock.running():
    start, whole = clock.now_s(), time.monotonic()
    print("started", flush=True)
    while not over.is_set():
        sum(range(1000))
    print(clock.now_s() - start, time.monotonic() - whole, flush=True)
"""


def test_a_stopped_process_takes_no_time() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", BUSY], env=environment, **pipes) as child:  # type: ignore[call-overload]
        assert child.stdout.readline() == "started\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGSTOP)
        time.sleep(STOP_S)
        child.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        counted_s, whole_s = map(float, child.communicate()[0].split())
    assert whole_s > STOP_S + 0.5
    assert whole_s - counted_s == pytest.approx(STOP_S, abs=0.6)


@pytest.mark.parametrize(
    ("wall_s", "cpu_s", "counted_s"),
    [(60.0, 0.0, 0.0), (60.0, 5.9, 0.0), (60.0, 6.1, 60.0), (1.4, 0.0, 1.4), (0.5, 0.5, 0.5)],
)
def test_a_long_silence_without_cpu_time_is_a_stop(wall_s: float, cpu_s: float, counted_s: float) -> None:
    times = Times()
    clock = times.clock()
    started_s = clock.now_s()
    times.wall_s, times.cpu_s = wall_s, cpu_s
    assert clock.now_s() - started_s == counted_s
    times.wall_s += 1
    assert clock.now_s() - started_s == counted_s + 1


def test_cpu_seconds_are_recorded_and_go_on(tmp_path: Path) -> None:
    train(run_of(tmp_path), until=3)
    before = load_tensors(tmp_path / "state.safetensors", STATE_SCHEMA)[1].metadata["progress"]
    assert 0 < before["cpu_seconds"] < 60
    later = resumed(tmp_path)
    assert later.progress.cpu_seconds == before["cpu_seconds"]
    later.progress.cpu_seconds += 1000
    train(later)
    last = load_checkpoint(tmp_path / "last.safetensors").provenance
    assert 1000 < (last.cpu_seconds or 0) < 1060
    found = [record["cpu_s"] for record in metrics(tmp_path)]
    assert found == sorted(found)
    assert found[-1] >= 1000 > found[0]


def test_a_run_that_began_without_cpu_seconds_never_has_them(tmp_path: Path) -> None:
    train(run_of(tmp_path), until=3)
    path = tmp_path / "state.safetensors"
    tensors, header, _ = load_tensors(path, STATE_SCHEMA)
    for key in ("cpu_seconds", "size", "budget_s"):
        del header.metadata["progress"][key]
    save_tensors(path, tensors, header.metadata)
    train(resumed(tmp_path))
    assert metrics(tmp_path)[-1]["cpu_s"] is None
    assert load_checkpoint(tmp_path / "last.safetensors").provenance.cpu_seconds is None


class Three(Group):
    """One of three processes that each do the same."""

    def sum(self, values: Tensor) -> Tensor:
        return values * 3


def test_cpu_seconds_of_all_processes_are_added(tmp_path: Path) -> None:
    run = run_of(tmp_path, trainer_of(group=Three()))
    run._counted_cpu_s = time.process_time() - 100.0
    run._count_time()
    assert run.progress.cpu_seconds == pytest.approx(300.0, abs=3.0)
