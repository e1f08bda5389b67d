"""OMNIGLOT's files: archives of drawings, their hash, and MATLAB's arrays."""

import hashlib
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from famecli.data.archive import AGAIN, ends_with, opened, read_file, reading, zip_members
from famecli.data.image_files import decode
from famecli.errors import InputError

SIDE = 28
DRAWING_SIZE = (105, 105)
LARGEST_DRAWING_BYTES = 1 << 16
# (28, 105): number of quarters by which a row of the image overlaps a row of the drawing.
SHARES = np.repeat(np.eye(SIDE, dtype=np.float32), 15, axis=1).reshape(SIDE, 105, 4).sum(2)
HEADER_BYTES = 128
LARGEST_FILE_BYTES = 512 << 20
LARGEST_UNPACKED_BYTES = 2 << 30
MOST_DIMENSIONS = 8
INT8, INT32, UINT32, MATRIX, COMPRESSED = 1, 5, 6, 14, 15
# Storage types of numbers, and matrix classes that hold only numbers.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC = range(6, 16)
COMPLEX = 0x800
Element = tuple[int, memoryview]


@dataclass(frozen=True)
class Drawing:
    """A drawing of a character.

    Args:
        name: Path without the archive's folder, `Alphabet/character01/0001_16.png`.
        drawer: Number of the drawer, 1 to 20.
        ink: Pixels, `(105, 105)`, bool.
    """

    name: str
    drawer: int
    ink: np.ndarray


def drawings(path: Path, drawers: range = range(1, 21)) -> Iterator[Drawing]:
    """Yield the drawings of an archive by some of its drawers, by name.

    Raises:
        InputError: The archive is damaged, or holds other images.
    """
    with opened(path) as file:
        for member, size, content in zip_members(file, str(path), ends_with(".png"), LARGEST_DRAWING_BYTES):
            match = re.search(r"([^/]+/[^/]+/\d+_(\d\d)\.png)$", member)
            if match is None:
                raise InputError(f"{path}: {member} is not Alphabet/character/number_drawer.png")
            if int(match[2]) in drawers:
                pixels = decode(f"{path}: {member}", content.read(size + 1), (1, *DRAWING_SIZE))
                yield Drawing(match[1], int(match[2]), pixels[0] < 128)


def drawings_sha256(path: Path) -> str:
    """Return the SHA-256 of the names and pixels of an archive's drawings, however they are packed.

    The hash is over all drawings by name: name, a zero byte, and `numpy.packbits` of the pixels, ink as 1.
    """
    found = hashlib.sha256()
    for each in sorted(drawings(path), key=lambda drawing: drawing.name):
        found.update(each.name.encode() + b"\0" + np.packbits(each.ink).tobytes())
    return found.hexdigest()


def shrink(ink: np.ndarray) -> np.ndarray:
    """Return a drawing shrunk by exact area averages: 255 where all is ink, rounded to the nearest.

    105 / 28 = 15 / 4: a pixel covers 15x15 quarters of the drawing's pixels. All sums are of small integers,
    which floats hold exactly, so that no version of any library changes a value.

    Shape:
        `(105, 105)`, bool, to `(28, 28)`, uint8.
    """
    areas = (SHARES @ ink.astype(np.float32) @ SHARES.T).astype(np.int64)
    return np.asarray(((areas * 255 * 2 + 225) // (225 * 2)).astype(np.uint8))


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the arrays called `names` in a MATLAB file, in their stored types.

    Every size is compared with the bytes that are there before anything of that size is allocated.

    Args:
        path: File of version 5 (`save -v7` and earlier), compressed or not.
        names: Names of variables.

    Raises:
        InputError: The file is damaged or of another format.

    Source:
        The format: MAT-File Format, MathWorks, "Level 5 MAT-File Format".
    """
    content, source = read_file(path, LARGEST_FILE_BYTES), str(path)
    if len(content) < HEADER_BYTES or content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise InputError(f"{source}: not a MATLAB 5 file", "files of -v7.3 are HDF5: save them with -v7")
    order = "<" if content[126:128] == b"IM" else ">"
    arrays: dict[str, np.ndarray] = {}
    for matrix in _matrices(content, order, source):
        parts = list(islice(_elements(matrix, order, source), 4))
        # Matrices of objects have another head.
        if [kind for kind, _ in parts[:3]] == [UINT32, INT32, INT8]:
            name = str(parts[2][1], "latin-1")
            if name in names:
                with reading(source):
                    arrays[name] = _array(
                        [data for _, data in parts[:2]], parts[3:], order, f"{source}: {name}"
                    )
    return arrays


def _matrices(content: bytes, order: str, source: str) -> Iterator[memoryview]:
    """Yield the content of each matrix of a file, unpacked."""
    left = LARGEST_UNPACKED_BYTES
    for kind, element in _elements(memoryview(content)[HEADER_BYTES:], order, source):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            with reading(source):
                # A limit of zero would mean no limit.
                element = memoryview(unpacker.decompress(element, max(1, left)))
            if not unpacker.eof:
                raise InputError(f"{source}: truncated, or larger than allowed", AGAIN)
            left -= len(element)
            kind, element = next(_elements(element, order, source), (0, element))
        if kind != MATRIX:
            raise InputError(f"{source}: not a file of matrices", AGAIN)
        yield element


def _elements(content: memoryview, order: str, source: str) -> Iterator[Element]:
    """Yield type and data of each element; compressed ones are not padded to eight bytes, all others are."""
    position = 0
    while position < len(content):
        if len(content) - position < 8:
            raise InputError(f"{source}: truncated", AGAIN)
        kind, size = struct.unpack_from(f"{order}II", content, position)
        start, padded = position + 8, size if kind == COMPRESSED else -(-size // 8) * 8
        # The short form: up to four bytes in the tag itself.
        if short := kind >> 16:
            kind, size, start, padded = kind & 0xFFFF, short, position + 4, 4
        if start + size > len(content) or short > 4:
            raise InputError(f"{source}: a size of {size:,} bytes reaches past the end", AGAIN)
        yield kind, content[start : start + size]
        position = start + padded


def _array(head: list[memoryview], data: list[Element], order: str, name: str) -> np.ndarray:
    """Return a matrix.

    Args:
        head: Flags and shape.
        data: Type and data of the real parts, if there are any.
        order: Order of bytes, `<` or `>`.
        name: Name of the file and the variable, for errors.

    Raises:
        InputError: The matrix does not hold real numbers, or another number of them than its shape says.
        ValueError: The head is damaged.
    """
    kind, content = data[0] if data else (0, memoryview(b""))
    flags, shape = (np.frombuffer(part[: 4 * MOST_DIMENSIONS], f"{order}i4").tolist() for part in head)
    if not flags or flags[0] & 0xFF not in NUMERIC or flags[0] & COMPLEX or kind not in STORED:
        raise InputError(f"{name} is not a matrix of numbers")
    dtype = np.dtype(order + STORED[kind])
    if min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(content):
        raise InputError(
            f"{name}: {len(content):,} bytes of data are not {shape} numbers of {dtype.itemsize}"
        )
    values = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
    return values.reshape(shape, order="F")
