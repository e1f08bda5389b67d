"""IDX files, the format of MNIST: unsigned bytes behind a header that gives the shape."""

import gzip
import math
import stat
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from famecli.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08
MOST_DIMENSIONS = 4
LARGEST_BYTES = 4 << 30
# What zlib's documentation gives as the most that deflate can shrink anything.
LARGEST_DEFLATE_RATIO = 1032

_AGAIN = "download the file again"


def read_idx(path: Path) -> np.ndarray:
    """Return the array in the IDX file `path`, plain or gzipped, whatever its name.

    The size that the header promises is compared with the file's before anything of that size is allocated.

    Args:
        path: A file of unsigned bytes with one to four dimensions.

    Shape:
        As the header says, uint8.

    Raises:
        InputError: The file cannot be read, is not of this kind, or has another size than its header says.

    Source:
        The format: http://yann.lecun.com/exdb/mnist/, "File formats for the MNIST database".
    """
    try:
        # Asked before opening, since opening a pipe would wait for its writer.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: not a regular file", "name an IDX file")
        with path.open("rb") as file:
            return _read(file, status.st_size, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged gzip file ({error})", _AGAIN) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def idx_header(shape: tuple[int, ...]) -> bytes:
    """Return the header of an IDX file of unsigned bytes with that shape."""
    return struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTE, len(shape), *shape)


def _read(file: BinaryIO, file_bytes: int, path: Path) -> np.ndarray:
    start = file.read(2)
    file.seek(0)
    if start != GZIP_MAGIC:
        shape = _read_shape(file, path)
        found = file_bytes - len(idx_header(shape))
        if found != math.prod(shape):
            raise InputError(f"{path}: {found} bytes of data, expected {_product(shape)}", _AGAIN)
        return _read_exactly(file, shape, path)
    with gzip.GzipFile(fileobj=file) as content:
        # GzipFile is a binary stream, though not declared as one.
        stream = cast(BinaryIO, content)
        shape = _read_shape(stream, path)
        if math.prod(shape) > file_bytes * LARGEST_DEFLATE_RATIO:
            raise InputError(f"{path}: {file_bytes} gzipped bytes cannot hold {_product(shape)}", _AGAIN)
        return _read_exactly(stream, shape, path)


def _read_shape(file: BinaryIO, path: Path) -> tuple[int, ...]:
    magic = _read_up_to(file, 4)
    if len(magic) < 4 or magic[:3] != bytes([0, 0, UNSIGNED_BYTE]) or not 1 <= magic[3] <= MOST_DIMENSIONS:
        found = magic.hex(" ") or "nothing"
        raise InputError(
            f"{path}: not an IDX file of unsigned bytes (starts with {found}, expected 00 00 08 01..04)"
        )
    dimensions = magic[3]
    sizes = _read_up_to(file, 4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise InputError(f"{path}: ends inside its header, expected {dimensions} dimensions", _AGAIN)
    shape = struct.unpack(f">{dimensions}I", sizes)
    # Zeros count as one here: numpy refuses (0, 2**32 - 1, 2**32 - 1) too.
    if math.prod(max(size, 1) for size in shape) > LARGEST_BYTES:
        raise InputError(f"{path}: its header asks for {_product(shape)}, the limit is {LARGEST_BYTES}")
    return shape


def _read_exactly(file: BinaryIO, shape: tuple[int, ...], path: Path) -> np.ndarray:
    array = np.empty(math.prod(shape), np.uint8)
    view = array.data
    filled = 0
    while filled < len(array):
        piece = file.read(min(1 << 20, len(array) - filled))
        if not piece:
            raise InputError(
                f"{path}: truncated after {filled} bytes of data, expected {_product(shape)}", _AGAIN
            )
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    # For gzip this also reaches the checksum at the end.
    if file.read(1):
        raise InputError(f"{path}: bytes after its data, expected {_product(shape)}", _AGAIN)
    return array.reshape(shape)


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    """Return the next `size` bytes, fewer only at the end; gzip may give them in pieces."""
    content = b""
    while len(content) < size and (piece := file.read(size - len(content))):
        content += piece
    return content


def _product(shape: tuple[int, ...]) -> str:
    """Return for example `2 x 3 = 6 bytes`."""
    factors = " x ".join(str(size) for size in shape)
    return f"{factors} = {math.prod(shape)} bytes" if len(shape) > 1 else f"{factors} bytes"
