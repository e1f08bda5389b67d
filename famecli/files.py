"""Files that are whole or absent: temporary file, fsync, rename."""

import errno
import itertools
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from famecli.errors import InputError

STDIN = Path("-")
CHUNK_BYTES = 1 << 20
TOKEN_BYTES = 6


@contextmanager
def partial_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield an empty file beside `path`; it takes that name at the end, or is deleted after an exception.

    It has a name of its own, so that processes that write the same target do not meet. The mode is that of
    the file replaced, else what the umask leaves; a symbolic link stays one and its target is replaced. What
    is not a file, such as a pipe or a device, cannot be replaced and is yielded itself.

    Args:
        path: The name to be.
        sync: Whether it must survive a power cut once it has its name; slow for thousands of small files.

    Raises:
        OSError: It cannot be made or renamed.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    # Bytes of a name are limited, and a letter can be four of them.
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(TOKEN_BYTES)}.tmp")
    try:
        # Not tempfile, whose files nobody else may read whatever the umask.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(target.parent)


def free_name(stem: str, suffix: str) -> str:
    """Return the first name among `stem.png`, `stem-2.png`, ... that does not exist, for suffix `.png`."""
    names = (f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def remove_leftovers(folder: Path, older_than_s: float = 0.0) -> None:
    """Delete what processes left in `folder` that were killed while they wrote a file there.

    Args:
        folder: If there is one.
        older_than_s: Younger ones are kept; 0 only where no other process writes now.
    """
    for leftover in folder.glob(f".*.{'[0-9a-f]' * (2 * TOKEN_BYTES)}.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime >= older_than_s:
                leftover.unlink()


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash, sees the old file or the new one, never a part.

    See `partial_file` for modes, links and devices.

    Raises:
        InputError: The file cannot be written (no such folder, no permission, disk full).
    """
    try:
        with partial_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path | str, error: OSError) -> InputError:
    """Return the error that says why `path` cannot be written."""
    hint = "free space or choose another place"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        hint = f"make the folder first: mkdir -p {Path(path).parent}"
    return InputError(f"cannot write {path}: {error.strerror or error}", hint)


def read_bytes(path: Path, what: str) -> bytes:
    """Return the content of the file `path`, of stdin if it is `-`, called `what` in errors.

    Raises:
        InputError: It is missing, a folder, or unreadable.
    """
    with open_input(path, what) as file:
        return file.read()


@contextmanager
def open_input(path: Path, what: str) -> Iterator[BinaryIO]:
    """Yield the file `path`, or stdin if it is `-`, for reading; errors are those of `read_bytes`."""
    if path == STDIN and sys.stdin is None:
        raise InputError(f"cannot read {what} {path}: stdin is closed")
    try:
        if path == STDIN:
            yield sys.stdin.buffer
        else:
            with path.open("rb") as file:
                yield file
    except OSError as error:
        raise InputError(f"cannot read {what} {path}: {error.strerror or error}") from error


def read_up_to(file: BinaryIO, size: int) -> bytes:
    """Return the next `size` bytes, fewer only at the end; no memory is taken for more than there are."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, CHUNK_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable; systems where folders cannot be opened or synced do without."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
