"""Files that are whole or absent: temporary file, fsync, rename."""

import errno
import itertools
import os
import secrets
import shlex
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import platformdirs

from famecli.errors import ArgumentError, InputError

CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Downloads of famecli; may be deleted.\n"
STDIN = Path("-")
CHUNK_BYTES = 1 << 20
TOKEN_BYTES = 6
# Largest file of text that is read; as JSON it may take 20 times as much memory.
LARGEST_TEXT_BYTES = 32 << 20


@contextmanager
def partial_file(path: Path, *, sync: bool = True, replace: bool = True) -> Iterator[Path]:
    """Yield an empty file beside `path`; it is renamed to `path` at the end, or deleted after an exception.

    Its random name lets several processes write the same target. The mode is that of the replaced file,
    else that of the umask. A symbolic link is kept, and its target is replaced. A pipe or a device cannot be
    replaced, so it is yielded itself.

    Args:
        path: Final name of the file.
        sync: Whether the file must survive a power cut after renaming; slow for thousands of small files.
        replace: Whether an existing file is replaced, even one that appears only in the meantime.

    Raises:
        OSError: The file cannot be created or renamed, or another exists and is not replaced.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    # File systems limit the bytes of a name, and a character can take four.
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(TOKEN_BYTES)}.tmp")
    try:
        # tempfile ignores the umask: only the owner could read the file.
        temporary.open("xb").close()
        yield temporary
        with temporary.open("rb+") as file:
            if target.exists():
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            if sync:
                os.fsync(file.fileno())
        if replace:
            os.replace(temporary, target)
        else:
            _rename_if_free(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(target.parent)


def _rename_if_free(temporary: Path, target: Path) -> None:
    """Rename a file, unless another has taken the name, also since the last check.

    Raises:
        FileExistsError: The name is taken.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(temporary, target)
    else:
        temporary.unlink()


def free_name(stem: str, suffix: str) -> str:
    """Return the first name among `stem.png`, `stem-2.png`, ... that does not exist, for suffix `.png`."""
    names = (f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def remove_leftovers(folder: Path, older_than_s: float = 0.0) -> None:
    """Delete temporary files of killed processes in `folder`.

    Args:
        folder: Folder, which may be missing.
        older_than_s: Minimum age of deleted files; 0 is safe only if no other process writes there.
    """
    for leftover in folder.glob(f".*.{'[0-9a-f]' * (2 * TOKEN_BYTES)}.tmp"):
        # In a shared cache another user's may have to stay.
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= older_than_s:
                leftover.unlink()


def write_atomic(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write `content` to `path` atomically: even after a crash, readers see the old file or the new one.

    See `partial_file` for modes, links, devices and `replace`.

    Raises:
        InputError: The file cannot be written (no such folder, no permission, disk full), or another exists
            and is not replaced.
    """
    try:
        with partial_file(path, replace=replace) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def check_named(path: Path) -> None:
    """Check that the path of an output is not `-`, which stands for stdout.

    Raises:
        ArgumentError: It is `-`.
    """
    if path == STDIN:
        raise ArgumentError("this output cannot go to stdout, which - stands for", "name a file or a folder")


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Check, before any work is done, that an output can be written.

    Args:
        path: Output; a device or a pipe will do.
        folder: Whether the output is a folder; its writer makes it and its parents.

    Raises:
        ArgumentError: `path` is `-`.
        InputError: There is no such folder, or no permission, or a folder in place of a file, or the reverse.
    """
    check_named(path)
    target = Path(os.path.realpath(path))
    place = target if target.exists() and (folder or not target.is_file()) else target.parent
    while folder and not place.exists():
        place = place.parent
    fault = None
    if not place.exists():
        fault = errno.ENOENT
    elif target.is_dir() and not folder:
        fault = errno.EISDIR
    elif not place.is_dir() and (folder or place != target):
        fault = errno.ENOTDIR
    elif not os.access(place, os.W_OK):
        fault = errno.EACCES
    if fault is not None:
        # With a number, OSError makes the matching subclass, such as FileNotFoundError.
        raise unwritable(path, OSError(fault, os.strerror(fault)))


def unwritable(path: Path | str, error: OSError) -> InputError:
    """Return the error that says why `path` cannot be written."""
    hint = "free space or choose another place"
    if isinstance(error, FileExistsError):
        hint = "choose another name"
    elif isinstance(error, FileNotFoundError):
        hint = f"make the folder first: mkdir -p {shlex.quote(str(Path(path).parent))}"
    return InputError(f"cannot write {path}: {error.strerror or error}", hint)


def read_bytes(path: Path, what: str, most_bytes: int = LARGEST_TEXT_BYTES) -> bytes:
    """Return the content of the file `path`, or of stdin if it is `-`; errors call the content `what`.

    Raises:
        InputError: The file is missing, a folder, unreadable, or larger than `most_bytes`.
    """
    with open_input(path, what) as file:
        content = read_up_to(file, most_bytes + 1)
    if len(content) > most_bytes:
        raise InputError(f"{path}: more than {most_bytes >> 20} MiB, too large for {what}")
    return content


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
    """Return the next `size` bytes, fewer only at the end; memory is allocated only for bytes that exist."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, CHUNK_BYTES))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, on systems where folders can be opened and synced."""
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


def check_exists(path: Path) -> None:
    """Check that there is a file or folder.

    Raises:
        InputError: There is none.
    """
    if not os.path.exists(path):
        raise InputError(f"no such file or folder: {path}")


def cache_root(cache_dir: Path | None = None) -> Path:
    """Return the cache folder: `cache_dir`, else FAME_CACHE, else the system's place for caches.

    A missing folder is made, with the tag by which backup programs skip it.

    Raises:
        InputError: The folder begins with `~`, which stands for no home folder.
    """
    named = cache_dir or os.environ.get("FAME_CACHE")
    try:
        root = Path(named).expanduser() if named else platformdirs.user_cache_path("famecli")
    except RuntimeError as error:
        raise InputError(
            f"{named}: ~ stands for no home folder", "write `cache_dir` or FAME_CACHE without ~"
        ) from error
    if not os.path.exists(root):
        # A home that cannot be written to matters only once something has to be stored there.
        with suppress(OSError):
            root.mkdir(parents=True)
            (root / "CACHEDIR.TAG").write_bytes(CACHE_TAG)
    return root
