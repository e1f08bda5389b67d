"""Downloads over a network that fails: the file is right, or it is absent."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.loopback import FaultServer

from famecli.data import fetch as module
from famecli.data.fetch import fetch_file
from famecli.errors import FameError, IntegrityError, UnavailableError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


@pytest.fixture
def server(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """A server that has a file, and is waited for for no long time."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    server.files["file"] = CONTENT
    return server


def fetch(server: FaultServer, folder: Path, size_bytes: int | None = SIZE) -> Path:
    return fetch_file([server.url + "file"], SHA256, folder / "file", size_bytes=size_bytes)


# What passes: faults, then what the server has to be asked for. None is the whole file.
PASSING = {
    "good": ([], 1),
    "500 twice": (["500", "500"], 3),
    "503 and 429": (["503", "429"], 3),
    "truncated": (["truncated"], 2),
    "truncated twice": (["truncated", "truncated"], 3),
    "no length and truncated": (["no length and truncated"], 2),
    "reset": (["reset"], 2),
    "reset at once": (["reset at once"], 2),
    "stall": (["stall"], 2),
    "silence": (["silence"], 2),
    "another part": (["truncated", "other part"], 3),
    "416": (["truncated", "416"], 3),
    "everything": (["500", "reset", "stall", "truncated"], 5),
}


@pytest.mark.parametrize(("faults", "requests"), PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "Range ignored"])
def test_faults_that_pass_are_outlasted(
    server: FaultServer, tmp_path: Path, faults: list[str], requests: int, ranges: bool
) -> None:
    server.script, server.ranges = [*faults, "good"], ranges
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == requests
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


REFUSED = {
    "one byte wrong": (IntegrityError, 1),
    "longer": (IntegrityError, 1),
    "page": (IntegrityError, 1),
    "404": (UnavailableError, 1),
    "403": (UnavailableError, 1),
    "loop": (UnavailableError, 31),
    "local": (UnavailableError, 1),
    "500": (UnavailableError, module.TRIES),
    "reset at once": (UnavailableError, module.TRIES),
    "silence": (UnavailableError, module.TRIES),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_faults_that_stay_leave_nothing(server: FaultServer, tmp_path: Path, fault: str) -> None:
    kind, requests = REFUSED[fault]
    server.script = [fault]
    with pytest.raises(kind, match=r"127\.0\.0\.1") as caught:
        fetch(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == requests
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fault", ["truncated", "no length and truncated", "reset", "stall"])
def test_a_part_is_never_taken_for_the_whole(server: FaultServer, tmp_path: Path, fault: str) -> None:
    server.script, server.ranges = [fault], False
    for size_bytes in (SIZE, None):
        with pytest.raises(FameError):
            fetch(server, tmp_path, size_bytes)
        assert not list(tmp_path.iterdir())


def test_only_what_is_missing_is_asked_for_again(server: FaultServer, tmp_path: Path) -> None:
    server.script = ["truncated", "truncated", "good"]
    fetch(server, tmp_path)
    starts = [int(wanted.removeprefix("bytes=")[:-1]) for wanted in server.parts if wanted]
    assert server.parts[0] is None
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < SIZE


def test_a_wrong_part_after_a_right_one_is_no_file(server: FaultServer, tmp_path: Path) -> None:
    # The wrong byte is in the part that came first, or in the other: either way it is noticed.
    for middle in (SIZE // 4, SIZE - 5):
        wrong = CONTENT[:middle] + bytes([CONTENT[middle] ^ 1]) + CONTENT[middle + 1 :]
        server.files["file"], server.script = wrong, ["truncated", "good"]
        with pytest.raises(IntegrityError):
            fetch(server, tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_file_without_length_arrives_whole(server: FaultServer, tmp_path: Path) -> None:
    server.script = ["no length"]
    for size_bytes in (SIZE, None):
        fetch(server, tmp_path, size_bytes).unlink()
    assert len(server.asked) == 2


def test_the_pauses_grow(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.5)
    server.script = ["503"]
    with pytest.raises(UnavailableError, match=r"status 503, 5 times"):
        fetch(server, tmp_path)
    assert pauses == [0.5, 1.0, 2.0, 4.0]


def test_a_server_that_is_not_there_is_asked_once(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 60)
    started_s = time.monotonic()
    fetch_file(["http://127.0.0.1:1/file", server.url + "file"], SHA256, tmp_path / "file")
    assert time.monotonic() - started_s < 10


def test_files_of_this_machine_have_addresses_too(tmp_path: Path) -> None:
    source = tmp_path / "a name with % and ä"
    source.write_bytes(CONTENT)
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "file"
    fetch_file([source.as_uri()], SHA256, target, size_bytes=SIZE)
    assert target.read_bytes() == CONTENT
    target.unlink()
    source.write_bytes(CONTENT + b"x")
    for size_bytes in (SIZE, None):
        with pytest.raises(IntegrityError):
            fetch_file([source.as_uri()], SHA256, target, size_bytes=size_bytes)
    for url in ((tmp_path / "absent").as_uri(), tmp_path.as_uri(), "file:///nul%00byte"):
        with pytest.raises(UnavailableError, match="cannot read"):
            fetch_file([url], SHA256, target)
    assert not list(target.parent.iterdir())


def test_messages_name_no_password(server: FaultServer, tmp_path: Path) -> None:
    server.script, messages = ["404"], []
    url = server.url.replace("//", "//me:secret@") + "file"
    with pytest.raises(UnavailableError) as caught:
        fetch_file([url], SHA256, tmp_path / "file", report=messages.append)
    assert "secret" not in str(caught.value) + "".join(messages)


FETCH = (
    "import sys; from pathlib import Path; from famecli.data.fetch import fetch_file; "
    "fetch_file([sys.argv[1]], sys.argv[2], Path(sys.argv[3]))"
)


def test_an_interrupted_download_leaves_nothing(server: FaultServer, tmp_path: Path) -> None:
    server.script = ["stall"]
    arguments = [sys.executable, "-c", FETCH, server.url + "file", SHA256, str(tmp_path / "file")]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as running:
        deadline_s = time.monotonic() + 30
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert time.monotonic() < deadline_s
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
    assert running.returncode != 0
    assert not list(tmp_path.iterdir())


def test_downloads_at_once_do_not_meet(server: FaultServer, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", FETCH, server.url + "file", SHA256, str(tmp_path / "file")]
    running = [subprocess.Popen(arguments) for _ in range(4)]
    assert [each.wait(60) for each in running] == [0] * 4
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(list(tmp_path.iterdir())) == 1
