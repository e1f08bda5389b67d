"""A file that is built up piece by piece and is whole or absent under its name."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def partial_file(target: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield an empty file beside `target`; it takes that name at the end, or is deleted after an exception.

    It has a name of its own, so that processes that write the same target do not meet.

    Args:
        target: The name to be.
        sync: Whether it must survive a power cut once it has its name; slow for thousands of small files.

    Raises:
        OSError: It cannot be made or renamed.
    """
    target = Path(os.path.realpath(target))
    temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(6)}.tmp")
    # Not tempfile, whose files nobody else may read whatever the umask.
    temporary.open("xb").close()
    try:
        yield temporary
        if sync:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
