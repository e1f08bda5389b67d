"""Numeric matrices of MATLAB 5 files: unpacked and checked here, then read by SciPy."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famecli.data.archive import AGAIN, read_file
from famecli.errors import InputError, UnavailableError

HEADER_BYTES = 128
LARGEST_FILE_BYTES = 512 << 20
LARGEST_UNPACKED_BYTES = 2 << 30
MATRIX, COMPRESSED = 14, 15


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the arrays called `names` that a MATLAB file has.

    Args:
        path: A file of version 5 (`save -v7` and earlier), compressed or not.
        names: Of its variables.

    Raises:
        UnavailableError: SciPy is not installed.
        InputError: The file is damaged or of another kind.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        hint = "pip install 'famecli[mat]'"
        raise UnavailableError(f"{path}: MATLAB files need SciPy, which is not here", hint) from error
    plain = _unpack(read_file(path, LARGEST_FILE_BYTES), str(path))
    try:
        found = loadmat(io.BytesIO(plain), variable_names=list(names))
    # SciPy answers damaged files with whatever goes wrong first.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable MATLAB file ({reason})", AGAIN) from error
    arrays = {name: found[name] for name in names if name in found}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
            raise InputError(f"{path}: {name} is not a matrix of numbers")
    return arrays


def _unpack(content: bytes, name: str) -> bytes:
    """Return the file without compression, after a check that no size in it reaches past its place.

    SciPy would allocate what a header asks for before it reads so much.
    """
    if len(content) < HEADER_BYTES or content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
        raise InputError(f"{name}: not a MATLAB 5 file", "files of -v7.3 are HDF5: save them with -v7")
    order = "<" if content[126:128] == b"IM" else ">"
    parts, left, position = [content[:HEADER_BYTES]], LARGEST_UNPACKED_BYTES, HEADER_BYTES
    while position < len(content):
        kind, size, start = _tag(content, position, order, name)
        element = content[position : start + size]
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                element = unpacker.decompress(content[start : start + size], left)
            except zlib.error as error:
                raise InputError(f"{name}: damaged ({error})", AGAIN) from error
            if not unpacker.eof:
                raise InputError(f"{name}: truncated, or more than it may have", AGAIN)
        left -= len(element)
        _check_matrix(element, order, name)
        parts.append(element)
        position = start + size
    return b"".join(parts)


def _tag(content: bytes, position: int, order: str, name: str) -> tuple[int, int, int]:
    """Return kind, size and start of the data of the element at `position`."""
    if len(content) - position < 8:
        raise InputError(f"{name}: truncated", AGAIN)
    kind, size = struct.unpack_from(f"{order}II", content, position)
    if kind >> 16:
        # The short form: up to four bytes in the tag itself.
        kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
        end = position + 8
    else:
        start = position + 8
        end = start + size
    if end > len(content) or start + size > end:
        raise InputError(f"{name}: a size of {size:,} bytes reaches past the end", AGAIN)
    return kind, size, start


def _check_matrix(element: bytes, order: str, name: str) -> None:
    kind, size, start = _tag(element, 0, order, name)
    if kind != MATRIX or start + size != len(element):
        raise InputError(f"{name}: not a file of matrices", AGAIN)
    position = start
    while position < len(element):
        _, size, start = _tag(element, position, order, name)
        # Data in the tag itself fills it up to eight bytes; other data are padded to a multiple of them.
        position = position + 8 if start - position == 4 else start + -(-size // 8) * 8
