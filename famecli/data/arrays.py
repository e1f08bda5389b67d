"""Arrays of bytes in npy and npz files; those that hold Python objects, which are pickles, are refused."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from famecli.data.archive import AGAIN, opened, zip_members
from famecli.errors import InputError

LARGEST_BYTES = 16 << 30
LARGEST_HEADER_BYTES = 1 << 16
LARGEST_DIMENSIONS = 8


def read_array(path: Path) -> np.ndarray:
    """Return the images in an npy or npz file: its only array of bytes with three or four dimensions.

    Shape:
        As the file says, uint8.

    Raises:
        InputError: There is none or more than one, or the file is damaged.
    """
    with opened(path) as file:
        magic = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        if magic == npy.MAGIC_PREFIX:
            return read_npy(file, path.stat().st_size, str(path))
        arrays = dict(npz_arrays(file, str(path), images_only=True))
    if len(arrays) != 1:
        found = ", ".join(arrays) or "none"
        raise InputError(
            f"{path}: needs one array of bytes (N, H, W) or (N, H, W, C), found {found}",
            "save it with numpy.savez(path, images)",
        )
    return next(iter(arrays.values()))


def npz_arrays(
    file: BinaryIO, name: str, *, images_only: bool = False, only: str | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and arrays of bytes of an npz file.

    Args:
        file: Its content.
        name: For errors.
        images_only: Pass over arrays of another type or of less than three dimensions.
        only: Pass over arrays of another name.

    Raises:
        InputError: As `read_npy`.
    """
    for member, size_bytes, content in zip_members(file, name, ".npy", LARGEST_BYTES):
        key = PurePosixPath(member).stem
        if only not in (None, key):
            continue
        within = f"{name}: {key}"
        shape, fortran, dtype, header_bytes = _read_header(content, within)
        if images_only and (dtype != np.uint8 or len(shape) not in (3, 4)):
            continue
        yield key, _read_data(content, shape, fortran, dtype, size_bytes - header_bytes, within)


def read_npy(file: BinaryIO, size_bytes: int, name: str) -> np.ndarray:
    """Return the array of bytes in the npy file `file`, whose size is compared with what its header says.

    Raises:
        InputError: It holds something else, or another number of bytes than its header says.
    """
    shape, fortran, dtype, header_bytes = _read_header(file, name)
    return _read_data(file, shape, fortran, dtype, size_bytes - header_bytes, name)


def _read_header(file: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    counted = _Counting(file)
    try:
        with warnings.catch_warnings():
            # Of files that Python 2 wrote.
            warnings.simplefilter("ignore")
            version = npy.read_magic(counted)
            if version not in ((1, 0), (2, 0)):
                raise InputError(f"{name}: version {version} of npy is unknown")
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(counted)
    except InputError:
        raise
    # numpy parses the header as Python, which fails in as many ways as there are texts.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{name}: not an npy array ({reason})", AGAIN) from error
    return shape, fortran, dtype, counted.bytes


def _read_data(
    file: BinaryIO, shape: tuple[int, ...], fortran: bool, dtype: np.dtype, found_bytes: int, name: str
) -> np.ndarray:
    if dtype.hasobject:
        raise InputError(f"{name} holds pickled objects, which can run any code: refused", "save plain bytes")
    if dtype != np.uint8:
        raise InputError(f"{name} holds {dtype}, expected uint8, 0 to 255", "convert it with astype('uint8')")
    if len(shape) > LARGEST_DIMENSIONS or any(side < 0 for side in shape):
        raise InputError(f"{name}: impossible shape {shape}")
    size = math.prod(shape)
    if size != found_bytes or size > LARGEST_BYTES:
        raise InputError(f"{name}: {found_bytes:,} bytes of data, its shape {shape} asks for {size:,}", AGAIN)
    array = np.empty(size, np.uint8)
    view, filled = array.data, 0
    while filled < size:
        piece = file.read(min(1 << 20, size - filled))
        if not piece:
            raise InputError(f"{name}: truncated after {filled:,} of {size:,} bytes", AGAIN)
        view[filled : filled + len(piece)] = piece
        filled += len(piece)
    # In a ZIP archive this also reaches the checksum.
    if file.read(1):
        raise InputError(f"{name}: bytes after its data", AGAIN)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


class _Counting:
    """A stream that counts what is read, and refuses headers that no array has."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.bytes = stream, 0

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= LARGEST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        piece = self.stream.read(size)
        self.bytes += len(piece)
        return piece
