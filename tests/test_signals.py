"""Signals to a training in a process of its own: a SIGHUP that is ignored, and a second signal."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.commands import fame

# The command, whose saves after a signal take long.
SLOW = """
import sys, time
from famecli.cli.app import main
from famecli.training.run import Run

def save(run):
    print("saving", flush=True)
    # Short ones: a signal that comes just before a sleep is handled after it.
    for _ in range(600):
        time.sleep(0.1)

Run.save = save
main()
"""
# The command, whose measurement of the machine's speed takes long.
MEASURING = """
import time
from famecli.cli.app import main
from famecli.training import capacity

def measure(*_):
    print("measuring", flush=True)
    for _ in range(600):
        time.sleep(0.1)

capacity.images_in_time = measure
main()
"""
PLAIN = "from famecli.cli.app import main; main()"


@contextmanager
def training(tmp_path: Path, code: str, *, ignored: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Yield a training that has had its first validation."""
    with started(tmp_path, code, "--steps 1000000 -q", ignored=ignored) as process:
        wait_for(tmp_path / "run" / "best.safetensors")
        yield process


@contextmanager
def started(
    tmp_path: Path, code: str, words: str, *, ignored: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Yield a training in a process of its own, with a length and further options."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8))
    words += " --size tiny --dataset folder --data x.npy --batch-size 4 --eval-every 40 -o run"
    kind = signal.SIG_IGN if ignored else signal.SIG_DFL
    with subprocess.Popen(
        [sys.executable, "-c", code, "train", "pixelcnn", *words.split()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, kind),
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert path.exists()


def test_a_hangup_that_is_ignored_from_the_start_stops_nothing(tmp_path: Path) -> None:
    with training(tmp_path, PLAIN, ignored=True) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60) == ("run/best.safetensors\n", "")
        assert process.returncode == 75


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        (signal.SIGTERM, signal.SIGINT, 75),
        (signal.SIGINT, signal.SIGINT, 130),
        (signal.SIGHUP, signal.SIGTERM, 75),
    ],
)
def test_a_second_signal_ends_at_once_with_the_code_of_the_first(
    tmp_path: Path, first: signal.Signals, second: signal.Signals, code: int
) -> None:
    with training(tmp_path, SLOW) as process:
        process.send_signal(first)
        assert process.stdout is not None
        assert process.stdout.readline() == "saving\n"
        process.send_signal(second)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == code


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_ends_at_once(tmp_path: Path, kind: signal.Signals, code: int) -> None:
    with started(tmp_path, MEASURING, "--budget 10m") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "measuring\n"
        process.send_signal(kind)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (code, "")
        assert "stopped before the first step" in err
        assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_command_leaves_the_handler_of_sigterm_as_it_was(before: signal.Handlers) -> None:
    found = signal.signal(signal.SIGTERM, before)
    try:
        assert fame("--version").code == 0
        assert fame("info", "absent.safetensors").code == 3
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, found)
