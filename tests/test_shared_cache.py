"""A cache that several processes use at once, that may only be read, or that a killed process left."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import check_error, process, save_model
from support.loopback import FaultServer, fault_server

from famecli.data.fetch import fetch_file
from famecli.errors import ExitCode

PROCESSES = 16
CONTENT = bytes(range(256)) * 1200
SHA256 = hashlib.sha256(CONTENT).hexdigest()
# Each round: processes that fetch one file at the same time, and one that looks at it all the while.
FETCHERS = """
import hashlib, json, os, sys, time
from pathlib import Path
from famecli.data.fetch import fetch_file
from famecli.errors import FameError
url, sha256, folder, processes, rounds = json.loads(sys.argv[1])
reading, writing = os.pipe()

def child(work):
    if not (pid := os.fork()):
        code = 1
        # All start once the last end of this pipe that can be written into is closed.
        os.close(writing)
        os.read(reading, 1)
        try:
            work()
            code = 0
        except FameError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return pid

def fetch():
    assert fetch_file([url], sha256, target) == target
    assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256

def look():
    while not target.exists():
        time.sleep(0.0005)
    for _ in range(50):
        assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256

codes = []
for number in range(rounds):
    target = Path(folder) / str(number) / "file"
    reading, writing = os.pipe()
    children = [child(fetch) for _ in range(processes)] + [child(look)]
    os.close(writing)
    os.close(reading)
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
print(json.dumps(codes))
"""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with fault_server() as found:
        found.files["file"] = CONTENT
        yield found


def fetchers(server: FaultServer, folder: Path, rounds: int) -> list[int]:
    """Return the exit codes of all processes of some rounds."""
    asked = json.dumps([server.url + "file", SHA256, str(folder), PROCESSES, rounds])
    command = [sys.executable, "-c", FETCHERS, asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    codes: list[int] = json.loads(done.stdout)
    return codes


def fetch_at_once(server: FaultServer, folder: Path, rounds: int) -> None:
    assert fetchers(server, folder, rounds) == [0] * (PROCESSES + 1) * rounds
    for number in range(rounds):
        assert os.listdir(folder / str(number)) == ["file"]
        assert (folder / str(number) / "file").read_bytes() == CONTENT
    # That they did meet: more than one of each round asked before any had the file.
    assert len(server.asked) >= 2 * rounds


def test_processes_that_fetch_one_file_at_once_all_get_it(server: FaultServer, tmp_path: Path) -> None:
    fetch_at_once(server, tmp_path, 2)


@pytest.mark.slow
def test_processes_that_fetch_one_file_at_once_all_get_it_twenty_times(
    server: FaultServer, tmp_path: Path
) -> None:
    fetch_at_once(server, tmp_path, 20)


def test_a_server_that_sends_something_else_to_some_spoils_nothing(
    server: FaultServer, tmp_path: Path
) -> None:
    server.script = ["one byte wrong", "page", "good"]
    codes = fetchers(server, tmp_path, 1)
    # Those that got another file say so; what lies there is right all the same.
    assert sorted(codes) == [0] * (PROCESSES - 1) + [ExitCode.INTEGRITY] * 2
    assert os.listdir(tmp_path / "0") == ["file"]
    assert (tmp_path / "0" / "file").read_bytes() == CONTENT


def test_what_a_killed_download_left_goes_after_a_day(server: FaultServer, tmp_path: Path) -> None:
    old, young = tmp_path / ".file.0123456789ab.tmp", tmp_path / ".file.ba9876543210.tmp"
    # Cannot be deleted, like another user's in a folder where all may write.
    stuck = tmp_path / ".file.000000000000.tmp"
    stuck.mkdir()
    old.touch()
    young.touch()
    for path in (old, stuck):
        os.utime(path, (0, 0))
    fetch_file([server.url + "file"], SHA256, tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == sorted(["file", young.name, stuck.name])


# Starts `fame` so that permissions hold for it even if root runs the tests.
UNPRIVILEGED = """
import ctypes, os, sys
drop_from_bounding_set, override_permissions = 24, 1
ctypes.CDLL(None).prctl(drop_from_bounding_set, override_permissions, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "famecli", *sys.argv[1:]])
"""


def unprivileged(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", UNPRIVILEGED, *words], capture_output=True, text=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """A function that takes away the right to write in a folder; it comes back after the test."""
    taken: list[Path] = []

    def take(folder: Path) -> None:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
            taken.append(path)

    yield take
    for path in taken:
        path.chmod(0o755)


def test_a_cache_that_may_only_be_read_serves_what_it_has(
    tmp_path: Path, server: FaultServer, read_only: Callable[[Path], None]
) -> None:
    model, cache = save_model(tmp_path / "model.safetensors", "vae"), tmp_path / "cache"
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    url = f"{server.url}model.safetensors#sha256={sha256}"
    server.files["model.safetensors"] = model.read_bytes()
    words = ("info", url, "-q", "--cache-dir", cache)
    assert process(*words).returncode == 0
    read_only(cache)
    asked = len(server.asked)
    for more in ((), ("--offline",)):
        done = unprivileged(*words, *more)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, sha256, "")
    assert len(server.asked) == asked
    other = f"{server.url}file#sha256={SHA256}"
    done = unprivileged("info", other, "--cache-dir", cache)
    assert done.returncode == ExitCode.UNAVAILABLE
    assert "Permission denied" in check_error(done.stderr)
