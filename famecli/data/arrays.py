"""Arrays of bytes in npy and npz files; those that hold Python objects, which are pickles, are refused."""

import io
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from famecli.data.archive import AGAIN, opened, reading, zip_members
from famecli.errors import InputError
from famecli.files import read_up_to

LARGEST_BYTES = 16 << 30
LARGEST_HEADER_BYTES = 1 << 16
LARGEST_DIMENSIONS = 8
ZIP_MAGIC = b"PK"
CHANNELS = (1, 3)
UPSTREAM = "see what the command before the pipe says"


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
        return _only_images(file, str(path))


def read_stream(file: BinaryIO, name: str, accept: Callable[[tuple[int, ...]], None]) -> np.ndarray:
    """Return the images of an npy or npz file that comes through a pipe.

    Memory is taken for what has come, never for what a header promises.

    Args:
        file: The stream; nothing may follow the array.
        name: For errors.
        accept: Raises an error for a shape that is not wanted; of npy, it is asked before the data come.

    Shape:
        As the header says, uint8.

    Raises:
        InputError: The stream is empty, cut off, damaged or something else.
    """
    try:
        with reading(name):
            return _read_stream(file, name, accept)
    except InputError as error:
        if error.hint == AGAIN:
            raise InputError(str(error), UPSTREAM) from error
        raise


def _read_stream(file: BinaryIO, name: str, accept: Callable[[tuple[int, ...]], None]) -> np.ndarray:
    first = file.read(len(npy.MAGIC_PREFIX))
    whole = cast(BinaryIO, _Joined(first, file))
    if first == npy.MAGIC_PREFIX:
        return _read_data(whole, _read_header(whole, name), None, name, accept)
    if first.startswith(ZIP_MAGIC):
        images = _only_images(io.BytesIO(read_up_to(whole, LARGEST_BYTES)), name)
        accept(images.shape)
        return images
    if not first:
        raise InputError(f"{name} is empty", UPSTREAM)
    raise InputError(f"{name} is neither npy nor npz", "fame sample -o - writes npy")


def image_shape_of(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """Return `(C, H, W)` of the images in an array of `shape`.

    Args:
        shape: `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, with one channel or three.
        name: For errors.

    Raises:
        InputError: It is none of these, or holds no image.
    """
    channels = height = width = 0
    if len(shape) == 3:
        channels, height, width = 1, *shape[1:]
    elif _channels_last(shape):
        height, width, channels = shape[1:]
    elif len(shape) == 4 and shape[1] in CHANNELS:
        channels, height, width = shape[1:]
    if 0 in (*shape, channels):
        raise InputError(f"{name}: an array of shape {shape} is not images", "expected are (N, H, W, C)")
    return channels, height, width


def images_of(array: np.ndarray, name: str) -> np.ndarray:
    """Return the images in an array as `(N, C, H, W)`; errors are those of `image_shape_of`."""
    shape = image_shape_of(array.shape, name)
    if _channels_last(array.shape):
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array.reshape(-1, *shape))


def _channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] in CHANNELS


def _only_images(file: BinaryIO, name: str) -> np.ndarray:
    """Return the one array of images in an npz file."""
    arrays = dict(npz_arrays(file, name, images_only=True))
    if len(arrays) != 1:
        found = ", ".join(arrays) or "none"
        raise InputError(
            f"{name}: needs one array of bytes (N, H, W) or (N, H, W, C), found {found}",
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
        header = _read_header(content, within)
        if images_only and (header.dtype != np.uint8 or len(header.shape) not in (3, 4)):
            continue
        yield key, _read_data(content, header, size_bytes, within)


def read_npy(file: BinaryIO, size_bytes: int, name: str) -> np.ndarray:
    """Return the array of bytes in the npy file `file`, whose size is compared with what its header says.

    Raises:
        InputError: It holds something else, or another number of bytes than its header says.
    """
    return _read_data(file, _read_header(file, name), size_bytes, name)


@dataclass(frozen=True)
class _Header:
    """What the header of an npy file says, and its own size."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    bytes: int


def _read_header(file: BinaryIO, name: str) -> _Header:
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
    return _Header(shape, fortran, dtype, counted.bytes)


def _read_data(
    file: BinaryIO,
    header: _Header,
    size_bytes: int | None,
    name: str,
    accept: Callable[[tuple[int, ...]], None] = lambda shape: None,
) -> np.ndarray:
    """Return the array after a header; `size_bytes` is that of the file, None where nobody knows it."""
    shape, dtype = header.shape, header.dtype
    if dtype.hasobject:
        raise InputError(f"{name} holds pickled objects, which can run any code: refused", "save plain bytes")
    if dtype != np.uint8:
        raise InputError(f"{name} holds {dtype}, expected uint8, 0 to 255", "convert it with astype('uint8')")
    if len(shape) > LARGEST_DIMENSIONS or any(side < 0 for side in shape):
        raise InputError(f"{name}: impossible shape {shape}")
    accept(shape)
    size = math.prod(shape)
    found_bytes = size if size_bytes is None else size_bytes - header.bytes
    if size != found_bytes or size > LARGEST_BYTES:
        raise InputError(f"{name}: {found_bytes:,} bytes of data, its shape {shape} asks for {size:,}", AGAIN)
    content = bytearray()
    while len(content) < size:
        piece = file.read(min(1 << 20, size - len(content)))
        if not piece:
            raise InputError(f"{name}: truncated after {len(content):,} of {size:,} bytes", AGAIN)
        content += piece
    # In a ZIP archive this also reaches the checksum.
    if file.read(1):
        raise InputError(f"{name}: bytes after its data", AGAIN)
    array = np.frombuffer(content, np.uint8)
    return array.reshape(shape[::-1]).T if header.fortran else array.reshape(shape)


class _Joined:
    """A stream that begins with bytes which were already read of it."""

    def __init__(self, first: bytes, stream: BinaryIO) -> None:
        self.first, self.stream = first, stream

    def read(self, size: int) -> bytes:
        piece, self.first = self.first[:size], self.first[size:]
        return piece or self.stream.read(size)


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
