"""Archives, read in memory and never unpacked to disk; sizes are checked before anything is allocated."""

import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Self, cast

from famecli.errors import InputError, truncate
from famecli.files import CHUNK_BYTES, read_up_to

GZIP_MAGIC = b"\x1f\x8b"
# Largest compression ratio of deflate, from the documentation of zlib.
LARGEST_DEFLATE_RATIO = 1032
AGAIN = "download the file again"

_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    # Raised by zipfile for encryption and unknown methods.
    RuntimeError,
    NotImplementedError,
    # Raised by zipfile and tarfile for damaged names and numbers.
    ValueError,
)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Yield the regular file `path`, open for reading; errors are those of `reading`.

    Raises:
        InputError: The path is not a regular file, cannot be read, or its content is damaged.
    """
    with reading(str(path)):
        # Checked before opening, since opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: not a regular file")
        with path.open("rb") as file:
            yield file


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn damage of the archive `name`, or a failure to read it, into an InputError that names it.

    Raises:
        InputError: The archive is damaged or cannot be read.
    """
    try:
        yield
    except _DAMAGES as error:
        reason = truncate(error) or type(error).__name__
        raise InputError(f"{name}: damaged archive ({reason})", AGAIN) from error
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}") from error


def unzipped(file: BinaryIO) -> BinaryIO:
    """Return the content of an open file, unpacked if it is gzipped, whatever its name."""
    zipped = file.read(2) == GZIP_MAGIC
    file.seek(0)
    # GzipFile is a binary stream, though not declared as one.
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file


def read_file(path: Path, largest_bytes: int) -> bytes:
    """Return the content of a file, unpacked if it is gzipped: `largest_bytes` or fewer.

    Raises:
        InputError: The file is larger, or cannot be read.
    """
    with opened(path) as file:
        content = read_up_to(unzipped(file), largest_bytes + 1)
    if len(content) > largest_bytes:
        raise InputError(f"{path}: more than {largest_bytes:,} bytes, larger than expected")
    return content


def ends_with(suffix: str) -> Callable[[str], bool]:
    """Return a function that says whether a name ends with `suffix`, in any case of letters."""
    return lambda name: name.lower().endswith(suffix)


class Limited:
    """A stream that raises an InputError past its largest size.

    Args:
        stream: Source of the bytes.
        limit_bytes: Largest size.
        name: Name of the file, for the error.
    """

    def __init__(self, stream: BinaryIO, limit_bytes: int, name: str) -> None:
        self.stream, self.left_bytes, self.limit_bytes, self.name = stream, limit_bytes, limit_bytes, name

    def read(self, size: int, /) -> bytes:
        piece = self.stream.read(min(size, self.left_bytes + 1))
        self.left_bytes -= len(piece)
        if self.left_bytes < 0:
            raise InputError(f"{self.name}: more than {self.limit_bytes:,} bytes, too large", AGAIN)
        return piece


def zip_members(
    file: BinaryIO, name: str, wanted: Callable[[str], bool], largest_bytes: int
) -> Iterator[tuple[str, int, BinaryIO]]:
    """Yield name, size and content of each wanted file in a ZIP archive, by name.

    Args:
        file: Archive, opened by `opened`.
        name: Name of the archive, for errors.
        wanted: Function of a file's name that returns whether to yield the file.
        largest_bytes: Largest size of a file, uncompressed.

    Raises:
        InputError: A file claims more than `largest_bytes`, or more than its compressed bytes can hold.
    """
    archive_bytes = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        named = [each for each in archive.infolist() if wanted(each.filename)]
        for member in sorted(named, key=lambda each: each.filename):
            largest = min(largest_bytes, LARGEST_DEFLATE_RATIO * member.compress_size)
            # zipfile requests all packed bytes at once, and allocates memory for them first.
            if member.compress_size > archive_bytes or member.file_size > largest:
                raise InputError(
                    f"{name}: {member.filename} claims {member.file_size:,} bytes, more than allowed"
                )
            with archive.open(member) as content:
                yield member.filename, member.file_size, cast(BinaryIO, content)


class _Header(tarfile.TarInfo):
    """A header of a tar archive; tarfile takes any damaged one but the first as the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def tar_members(
    path: Path, wanted: Callable[[str], bool], largest_bytes: int, *, limit_bytes: int
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each wanted file in a tar archive, gzipped or not, in the archive's order.

    Args:
        path: Path of the archive.
        wanted: Function of a file's name that returns whether to yield the file.
        largest_bytes: Largest size of a file.
        limit_bytes: Largest size of the archive, unpacked.

    Raises:
        InputError: The archive is damaged, lacks its end, or is too large.
    """
    with opened(path) as file:
        limited = cast(BinaryIO, Limited(unzipped(file), limit_bytes, f"{path}, unpacked"))
        with tarfile.open(fileobj=limited, mode="r|", tarinfo=_Header) as archive:
            for member in archive:
                # Otherwise tarfile would keep every header in memory.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.isfile() and wanted(member.name):
                    if member.size > largest_bytes:
                        raise InputError(
                            f"{path}: {member.name} claims {member.size:,} bytes, more than {largest_bytes:,}"
                        )
                    yield member.name, cast(IO[bytes], archive.extractfile(member)).read()
        # The end of a gzip file verifies its checksum.
        while limited.read(CHUNK_BYTES):
            pass
