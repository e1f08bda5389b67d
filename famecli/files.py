"""Files that are whole or absent: temporary file, fsync, rename."""

import os
import stat
import sys
import tempfile
from pathlib import Path

from famecli.errors import InputError

STDIN = Path("-")


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    The mode is that of the file replaced, else what the umask leaves; a symbolic link stays one and its
    target is replaced.

    Raises:
        InputError: The file cannot be written (no such folder, no permission, disk full).
    """
    target = Path(os.path.realpath(path))
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:50]}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), _mode_for(target))
                os.fsync(file.fileno())
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}", "free space or choose another place"
        ) from error


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of the file `path`, of stdin if it is `-`, called `what` in errors.

    Raises:
        InputError: It is missing, a folder, or unreadable.
    """
    try:
        return sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror}") from error


def _mode_for(target: Path) -> int:
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; systems where folders cannot be opened do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
