"""Numeric matrices of MATLAB 5 files."""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from famecli.data.archive import AGAIN, read_file
from famecli.errors import InputError

HEADER_BYTES = 128
LARGEST_FILE_BYTES = 512 << 20
LARGEST_UNPACKED_BYTES = 2 << 30
MOST_DIMENSIONS = 8
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
# Types in which numbers are stored, and the classes of matrices that hold nothing else.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC = range(6, 16)
OPAQUE = 17
COMPLEX = 0x800


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the arrays called `names` that a MATLAB file has, in the type in which they are stored.

    Every size is held against the bytes that are there before anything of that size is allocated.

    Args:
        path: A file of version 5 (`save -v7` and earlier), compressed or not.
        names: Of its variables.

    Raises:
        InputError: The file is damaged or of another kind.

    Source:
        The format: MAT-File Format, MathWorks, "Level 5 MAT-File Format".
    """
    content, source = read_file(path, LARGEST_FILE_BYTES), str(path)
    if len(content) < HEADER_BYTES or content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise InputError(f"{source}: not a MATLAB 5 file", "files of -v7.3 are HDF5: save them with -v7")
    order = "<" if content[126:128] == b"IM" else ">"
    arrays: dict[str, np.ndarray] = {}
    for element in _elements(content, order, source):
        parts = _parts(element, order, source)
        flags = _words(next(parts), UINT32, order, source)
        if flags[0] & 0xFF != OPAQUE:
            shape = _words(next(parts), INT32, order, source)
            kind, name = next(parts)
            if kind == INT8 and (known := str(name, "latin-1")) in names:
                arrays[known] = _array(flags[0], shape, next(parts), order, f"{source}: {known}")
    return arrays


def _elements(content: bytes, order: str, source: str) -> Iterator[memoryview]:
    """Yield what is in each matrix of a file, unpacked."""
    left, position = LARGEST_UNPACKED_BYTES, HEADER_BYTES
    while position < len(content):
        kind, start, end, _ = _tag(content, position, order, source)
        element = content[position:end]
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                # A limit of zero would be none.
                element = unpacker.decompress(content[start:end], max(1, left))
            except zlib.error as error:
                raise InputError(f"{source}: damaged ({error})", AGAIN) from error
            if not unpacker.eof:
                raise InputError(f"{source}: truncated, or more than it may have", AGAIN)
        left -= len(element)
        kind, start, stop, _ = _tag(element, 0, order, source)
        if kind != MATRIX or stop != len(element):
            raise InputError(f"{source}: not a file of matrices", AGAIN)
        yield memoryview(element)[start:stop]
        position = end


def _parts(element: memoryview, order: str, source: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of each part of a matrix.

    Raises:
        InputError: Asked for more parts than there are, or a size reaches past the end.
    """
    position = 0
    while True:
        kind, start, end, position = _tag(element, position, order, source)
        yield kind, element[start:end]


def _tag(content: bytes | memoryview, position: int, order: str, source: str) -> tuple[int, int, int, int]:
    """Return type, start and end of the data of the element at `position`, and where the next one is."""
    if len(content) - position < 8:
        raise InputError(f"{source}: truncated", AGAIN)
    kind, size = struct.unpack_from(f"{order}II", content, position)
    start = position + 8
    # The short form: up to four bytes in the tag itself.
    short = kind >> 16
    if short:
        kind, size, start = kind & 0xFFFF, short, position + 4
    end = start + size
    if end > len(content) or short > 4:
        raise InputError(f"{source}: a size of {size:,} bytes reaches past the end", AGAIN)
    return kind, start, end, position + 8 if short else start + -(-size // 8) * 8


def _words(part: tuple[int, memoryview], expected: int, order: str, source: str) -> tuple[int, ...]:
    kind, content = part
    count = len(content) // 4
    if kind != expected or len(content) % 4 or not 2 <= count <= MOST_DIMENSIONS:
        raise InputError(f"{source}: damaged head of a matrix", AGAIN)
    return struct.unpack(f"{order}{count}{'I' if kind == UINT32 else 'i'}", content)


def _array(
    flags: int, shape: tuple[int, ...], part: tuple[int, memoryview], order: str, name: str
) -> np.ndarray:
    kind, content = part
    if flags & 0xFF not in NUMERIC or flags & COMPLEX or kind not in STORED:
        raise InputError(f"{name} is not a matrix of numbers")
    dtype = np.dtype(order + STORED[kind])
    if min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(content):
        raise InputError(
            f"{name}: {len(content):,} bytes of data are not {shape} numbers of {dtype.itemsize}"
        )
    values = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
    return values.reshape(shape, order="F")
