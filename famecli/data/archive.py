"""Archives, read in memory and never unpacked to disk; sizes are checked before anything is allocated."""

import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from famecli.errors import InputError, brief
from famecli.files import read_up_to

GZIP_MAGIC = b"\x1f\x8b"
# What zlib's documentation gives as the most that deflate can shrink anything.
LARGEST_DEFLATE_RATIO = 1032
LARGEST_MEMBERS = 2_000_000
AGAIN = "download the file again"

_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    # How zipfile answers encryption and unknown methods.
    RuntimeError,
    NotImplementedError,
    # How both answer damaged names and numbers.
    ValueError,
)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Yield the regular file `path`, open for reading; damages of archives become errors that name it.

    Raises:
        InputError: It is no such file, cannot be read, or what is read of it is damaged.
    """
    with reading(str(path)):
        # Asked before opening, since opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: not a regular file")
        with path.open("rb") as file:
            yield file


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn damages of archives, and failures to read, into errors that name them.

    Raises:
        InputError: There was one.
    """
    try:
        yield
    except _DAMAGES as error:
        reason = brief(error) or type(error).__name__
        raise InputError(f"{name}: damaged archive ({reason})", AGAIN) from error
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise InputError(f"{name}: damaged archive ({error})", AGAIN) from error
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


def read_file(path: Path, largest_bytes: int) -> bytes:
    """Return the content of a file that must not be larger than `largest_bytes`.

    Raises:
        InputError: It is, or it cannot be read.
    """
    with opened(path) as file:
        content = read_up_to(file, largest_bytes + 1)
    if len(content) > largest_bytes:
        raise InputError(f"{path}: more than {largest_bytes:,} bytes, too large for what it should be")
    return content


def zip_members(
    file: BinaryIO, name: str, suffix: str, largest_bytes: int, order: Sequence[str] = ()
) -> Iterator[tuple[str, int, BinaryIO]]:
    """Yield name, size and content of the files in a ZIP archive whose names end on `suffix`.

    Args:
        file: The archive; errors in it are left to `opened`.
        name: Of the archive, for errors.
        suffix: In lower case, for example `.png`.
        largest_bytes: That a file in it may have, uncompressed.
        order: The names without folders that are wanted, in that order; all, sorted by name, if empty.

    Raises:
        InputError: A file in it claims more than that, or more than its compressed bytes can hold.
    """
    archive_bytes = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        named = [each for each in archive.infolist() if each.filename.lower().endswith(suffix)]
        members = sorted(named, key=lambda each: each.filename)
        if order:
            by_base = {PurePosixPath(each.filename).name: each for each in members}
            members = [by_base[base] for base in order if base in by_base]
        for member in members:
            within = f"{name}: {member.filename}"
            packed_bytes = member.compress_size
            # zipfile asks for all packed bytes at once, and memory is taken for as many as it asks for.
            if packed_bytes > archive_bytes or member.file_size > min(
                largest_bytes, LARGEST_DEFLATE_RATIO * packed_bytes
            ):
                raise InputError(f"{within} claims {member.file_size:,} bytes, more than it may have")
            with archive.open(member) as content:
                yield member.filename, member.file_size, cast(BinaryIO, content)


class _Counted:
    """A stream for tarfile to read that ends in an error where it is longer than it may be."""

    def __init__(self, stream: BinaryIO, limit_bytes: int, name: str) -> None:
        self.stream, self.left_bytes, self.limit_bytes, self.name = stream, limit_bytes, limit_bytes, name

    def read(self, size: int) -> bytes:
        piece = self.stream.read(size)
        self.left_bytes -= len(piece)
        if self.left_bytes < 0:
            raise InputError(f"{self.name}: more than {self.limit_bytes:,} bytes unpacked, too large", AGAIN)
        return piece


def tar_members(
    path: Path, suffix: str, largest_bytes: int, *, limit_bytes: int, wanted: Collection[str] = ()
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a tar archive, gzipped or not, in their order there.

    Args:
        path: The archive.
        suffix: Files whose names end otherwise are passed over.
        largest_bytes: That a file in it may have.
        limit_bytes: That the archive may have, unpacked.
        wanted: Names without folders that are enough; all if empty.

    Raises:
        InputError: It is damaged or larger than it may be.
    """
    left = set(wanted)
    with opened(path) as file:
        zipped = file.read(2) == GZIP_MAGIC
        file.seek(0)
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file
        counted = cast(BinaryIO, _Counted(stream, limit_bytes, str(path)))
        with tarfile.open(fileobj=counted, mode="r|") as archive:
            for count, member in enumerate(archive):
                if count >= LARGEST_MEMBERS:
                    raise InputError(f"{path}: more than {LARGEST_MEMBERS:,} files")
                base = PurePosixPath(member.name).name
                # Else tarfile would remember every header that it has passed.
                archive.members.clear()  # type: ignore[attr-defined]
                if not member.isfile() or not base.endswith(suffix) or (wanted and base not in left):
                    continue
                yield member.name, _tar_content(archive, member, path, largest_bytes)
                left.discard(base)
                if wanted and not left:
                    return


def _tar_content(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, largest_bytes: int) -> bytes:
    if member.size > largest_bytes:
        raise InputError(f"{path}: {member.name} claims {member.size:,} bytes, more than {largest_bytes:,}")
    content = archive.extractfile(member)
    found = b"" if content is None else content.read()
    if len(found) != member.size:
        raise InputError(f"{path}: truncated in {member.name}", AGAIN)
    return found
