"""The lock of a run folder: one training at a time writes there. No torch here."""

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from famecli.data.fetch import say_nothing
from famecli.errors import FameError, InputError, UnavailableError

if TYPE_CHECKING:
    from famecli.runtime.distributed import Group

LOCK = ".lock"
# Errors of file systems without locks, such as some network file systems.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
IN_USE = "wait for the other training, or choose another `out`"


class FolderLock:
    """Lock of a folder, held while the object lives.

    The system releases the lock when the process ends, however it ends, so no lock is ever stale; a process
    that is stopped keeps it. The file also holds a random ID of its owner: on file systems without locks, a
    changed ID reveals another training.

    Args:
        folder: Folder, made if missing.
        note: Called with one line if the file system has no locks.

    Raises:
        UnavailableError: Another process holds the lock.
        InputError: The folder cannot be made or written to.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder, self.owner = folder, secrets.token_hex(8)
        self.made = [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Not inherited by child processes, which could outlive this one.
            self.file = (folder / LOCK).open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot make folder {folder}: {error.strerror}", "choose another `out`"
            ) from error
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            raise UnavailableError(f"another training is running in {folder}", IN_USE) from error
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                self.file.close()
                raise InputError(f"cannot lock {folder}: {error.strerror}", "choose another `out`") from error
            note(f"the file system of {folder} has no locks: start no second training there")
        self.file.truncate(0)
        self.file.write(self.owner)
        self.file.flush()

    def place(self) -> Path | None:
        """Return where the folder is now, since it may have been moved; None if it was removed.

        Raises:
            UnavailableError: Another training took the folder, where the file system has no locks.
        """
        try:
            owner = (self.folder / LOCK).read_text(encoding="utf-8")
        except OSError:
            return self._moved_to()
        if owner != self.owner:
            raise UnavailableError(f"another training began in {self.folder}", IN_USE)
        return self.folder

    def release(self) -> None:
        """Release the lock; remove it, and the folders made for it, if nothing else is in the folder."""
        with self.file, suppress(OSError):
            if list(self.folder.iterdir()) == [self.folder / LOCK]:
                (self.folder / LOCK).unlink()
                for folder in self.made:
                    folder.rmdir()

    def _moved_to(self) -> Path | None:
        """Return the place to which the folder was moved, where the system tells it."""
        try:
            path = Path(os.readlink(f"/proc/self/fd/{self.file.fileno()}"))
            same = os.path.samestat(path.stat(), os.fstat(self.file.fileno()))
        except OSError:
            return None
        return path.parent if same else None


def check_unlocked(folder: Path) -> None:
    """Check that no training holds the lock of a folder, before anything is read.

    Only the first of several processes checks, since it is the one that takes the lock later.

    Raises:
        UnavailableError: Another training holds the lock.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    with suppress(OSError), (folder / LOCK).open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(f"another training is running in {folder}", IN_USE) from error


@contextmanager
def locked(
    folder: Path, group: "Group", note: Callable[[str], None] = say_nothing
) -> Iterator[FolderLock | None]:
    """Hold the lock of a folder in the first process of a group; yield it there, None in the others.

    Args:
        folder: Folder, made if missing.
        group: Processes that train together.
        note: Called with one line if the file system has no locks.

    Raises:
        UnavailableError: Another training holds the lock.
        InputError: The folder cannot be made or written to.
    """
    lock, refused = None, None
    if group.is_main:
        try:
            lock = FolderLock(folder, note)
        except FameError as error:
            refused = error
    if not group.all(refused is None):
        raise refused or UnavailableError(f"the first process cannot train in {folder}", IN_USE)
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()
