"""Files that are whole or absent."""

import errno
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from famecli.errors import InputError
from famecli.files import read_bytes, write_atomic


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_fault_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_atomic(path, b"new")
    if expected is InputError:
        assert f"cannot write {path}: No space left" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = f"""
import resource
from pathlib import Path
from famecli.errors import InputError
from famecli.files import write_atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    write_atomic(Path({str(path)!r}), bytes(1 << 20))
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"cannot write {path}: File too large\n", "")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_mode_follows_the_umask_or_the_file_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for umask, expected in ((0o022, 0o644), (0o077, 0o600)):
        path.unlink(missing_ok=True)
        before = os.umask(umask)
        try:
            write_atomic(path, b"x")
            assert os.umask(umask) == umask
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == expected
    path.chmod(0o640)
    write_atomic(path, b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    for content in (b"the link dangled before", b"and now it does not"):
        write_atomic(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127, "字" * 85):
        write_atomic(tmp_path / name, name.encode())
        assert read_bytes(tmp_path / name, "file") == name.encode()
    with pytest.raises(InputError, match="cannot write"):
        write_atomic(tmp_path / ("x" * 256), b"")


def test_places_that_cannot_be_written_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "file"):
        with pytest.raises(InputError, match=f"cannot write {path}"):
            write_atomic(path, b"x")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == []


def test_what_is_no_file_is_written_into_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomic(pipe, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_missing_folder_is_what_the_hint_is_about(tmp_path: Path) -> None:
    for name in ("absent", "an absent one"):
        with pytest.raises(InputError) as caught:
            write_atomic(tmp_path / name / "file", b"")
        hint, _, command = caught.value.hint.partition(": ")
        assert hint == "make the folder first"
        assert shlex.split(command) == ["mkdir", "-p", str(tmp_path / name)]
