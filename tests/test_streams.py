"""Pipes, terminals and locales: a result arrives whole, or the exit code and one line say that it did not."""

import contextlib
import errno
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.commands import check_error, process, save_model
from support.victims import Victims

from famecli.errors import ExitCode

COMMANDS: dict[str, tuple[str, ...]] = {
    "info": ("info", "MODEL"),
    "info --json": ("info", "MODEL", "--json"),
    "evaluate-nll --json": ("evaluate-nll", "MODEL", "--dataset", "mnist", "--json"),
    "evaluate-nll --per-image": ("evaluate-nll", "MODEL", "--dataset", "mnist", "--per-image", "-"),
    "sample to stdout": ("sample", "MODEL", "-n", "3", "-o", "-"),
    "train": ("train", "pixelcnn", "--steps", "1", "--batch-size", "2", "-o", "OUT/run"),
    "train --log": ("train", "pixelcnn", "--steps", "2", "--batch-size", "2", "--log", "-", "-o", "OUT/run"),
    "weights list": ("weights", "list"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors", "vae")


def words(command: str, model: Path, out: Path) -> list[str]:
    return [word.replace("MODEL", str(model)).replace("OUT", str(out)) for word in COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_behind_stdout_is_an_error(
    tmp_path: Path, fork: Victims, model: Path, command: str
) -> None:
    assert fork.run(*words(command, model, tmp_path), stdout="/dev/full") == ExitCode.BAD_INPUT
    assert os.strerror(errno.ENOSPC) in check_error(fork.errors.read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_is_gone_ends_a_command_without_a_word(
    tmp_path: Path, fork: Victims, model: Path, command: str
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A reader that leaves before anything is written: the pipe opens once both are there.
    reader = threading.Thread(target=lambda: os.close(os.open(pipe, os.O_RDONLY)))
    reader.start()
    code = fork.run(*words(command, model, tmp_path), stdout=pipe)
    reader.join()
    assert code == ExitCode.BROKEN_PIPE
    said = fork.errors.read_text()
    assert "error" not in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


@pytest.mark.parametrize("command", ["info", "sample to stdout", "train"])
def test_a_closed_stdout_is_an_error_before_any_work(tmp_path: Path, model: Path, command: str) -> None:
    line = ["bash", "-c", '"$@" >&-', "bash", sys.executable, "-m", "famecli"]
    done = subprocess.run([*line, *words(command, model, tmp_path)], capture_output=True, text=True)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "stdout is closed" in check_error(done.stderr)
    assert os.listdir(tmp_path) == []


def test_a_closed_stderr_changes_no_result(model: Path) -> None:
    line = ["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-m", "famecli", "info"]
    good = subprocess.run([*line, model, "-q"], capture_output=True, text=True)
    assert (good.returncode, len(good.stdout)) == (0, 65)
    bad = subprocess.run([*line, model.with_name("absent"), "-q"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (ExitCode.BAD_INPUT, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_half_a_stream_of_samples_is_not_taken_for_a_whole_one(
    tmp_path: Path, model: Path, unbuffered: str
) -> None:
    path = tmp_path / "samples.npy"
    # 2 KiB are the header, two images and a piece of the third: the system does a write in part.
    command = [sys.executable, "-m", "famecli", "sample", model, "-n", "3", "-o", "-"]
    with path.open("wb") as target:
        done = subprocess.run(
            ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *command],
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert done.returncode == ExitCode.BAD_INPUT
    assert os.strerror(errno.EFBIG) in check_error(done.stderr)
    assert path.stat().st_size == 2048


def on_a_terminal(*words: str | Path, **variables: str) -> tuple[int, str]:
    """Return exit code and output of `fame` where stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS")}
    done = subprocess.Popen(
        [sys.executable, "-m", "famecli", *words],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm-256color"} | variables,
    )
    os.close(theirs)
    pieces = []
    # An error is how Linux tells that the other end is closed.
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while piece := terminal.read(1 << 16):
            pieces.append(piece)
    return done.wait(), b"".join(pieces).decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


def test_colours_are_for_terminals_that_want_them(model: Path) -> None:
    absent = model.with_name("absent")
    code, text = on_a_terminal("info", absent)
    assert (code, bool(COLOUR.search(text))) == (3, True)
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        code, text = on_a_terminal("info", absent, **variables)
        assert code == 3
        assert COLOUR.search(text) is None
        assert text.startswith("error: ")
    done = process("info", absent, env=os.environ | {"TERM": "xterm-256color"})
    assert b"\x1b" not in done.stderr


def test_a_narrow_terminal_shows_all(model: Path) -> None:
    whole = json.loads(process("info", model, "--json").stdout)
    code, text = on_a_terminal("info", model, COLUMNS="20", NO_COLOR="1")
    lines = text.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 20
    assert "…" not in text
    # In pieces below each other, in the last column.
    start = next(line.index(whole["sha256"][:3]) for line in lines if whole["sha256"][:3] in line)
    assert whole["sha256"] in "".join(line[start:].strip() for line in lines)
    for command in ("weights", "datasets"):
        code, text = on_a_terminal(command, "list", COLUMNS="20", NO_COLOR="1")
        assert (code, "Traceback" in text) == (0, False)


LOCALES = {
    "C": {"LC_ALL": "C"},
    "C, and no UTF-8 in its place": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "UTF-8": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "utf-8:strict"},
    "ASCII": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"},
}
NAMES = ("ü 字 😀".encode(), b"not UTF-8 \xff\xfe")


@pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES)
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_of_files_are_no_matter_in_any_locale(
    tmp_path: Path, model: Path, locale: dict[str, str], name: bytes
) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    shutil.copy(model, path)
    command = [sys.executable, "-m", "famecli", "info"]
    shown = subprocess.run([*command, path], capture_output=True, env=os.environ | locale)
    assert (shown.returncode, shown.stderr) == (0, b"")
    absent = subprocess.run([*command, path + b"?"], capture_output=True, env=os.environ | locale)
    assert absent.returncode == 3
    assert absent.stderr.startswith(b"error: ")
    assert absent.stderr.count(b"\n") <= 2


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_path_that_is_printed_is_the_path_itself(
    fork: Victims, tmp_path: Path, model: Path, name: bytes
) -> None:
    target, out = os.path.join(os.fsencode(tmp_path), name) + b".npz", tmp_path / "out"
    assert fork.run("sample", model, "-n", 1, "-o", os.fsdecode(target), stdout=out) == 0
    assert out.read_bytes() == target + b"\n"
    assert os.path.exists(target)
