"""Arrays of bytes in npy, npz and IDX files; Python objects in them, which are pickles, are refused."""

import hashlib
import io
import math
import re
import struct
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy

from famecli.data.archive import AGAIN, Limited, ends_with, opened, reading, unzipped, zip_members
from famecli.errors import InputError, truncate
from famecli.files import CHUNK_BYTES, read_up_to

LARGEST_BYTES = 16 << 30
LARGEST_LABELS_BYTES = 1 << 28
LARGEST_HEADER_BYTES = 1 << 16
LARGEST_IDX_BYTES = 4 << 30
MOST_DIMENSIONS = 8
MOST_IDX_DIMENSIONS = 4
UNSIGNED_BYTE = 8
CHANNELS = (1, 3)
NPY_SUFFIX = ".npy"
# Words in the names of arrays of images, and of their labels.
LABEL_WORDS = (("x", "y"), ("X", "y"), ("images", "labels"), ("image", "label"), ("data", "labels"))
NAME_AN_ARRAY = "name one as FILE.npz::NAME, or save the images with numpy.savez(path, images)"
UPSTREAM = "check the output of the command before the pipe"

Shape = tuple[int, ...]
# Shape, whether the order is Fortran's, and dtype.
Header = tuple[Shape, bool, np.dtype]


def read_arrays(path: Path, key: str = "") -> dict[str, np.ndarray]:
    """Return the images in an npy or npz file by name: arrays of bytes with three or four dimensions.

    Args:
        path: Path of the file.
        key: Name of an array of an npz file; empty for all. The name of an npy file's array is empty.

    Shape:
        As in the file, uint8.

    Raises:
        InputError: The file has no such array, or is damaged.
    """
    with opened(path) as file:
        return _read_images(file, str(path), lambda shape: None, key)


def read_labels(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Return the arrays of labels in an npz file by name: whole numbers, one for each image.

    Args:
        path: Path of the file.
        names: Names that the arrays may have.

    Shape:
        `(N,)`; an array of shape `(N, 1)` is flattened.

    Raises:
        InputError: The file is damaged.
    """
    found = {}

    def wanted(member: str) -> bool:
        return member.endswith(NPY_SUFFIX) and _key(member) in names

    with opened(path) as file:
        for member, _, content in zip_members(file, str(path), wanted, LARGEST_BYTES):
            key = _key(member)
            shape, _, dtype = _read_header(content.read(npy.MAGIC_LEN), content, f"{path}: {key}")
            if dtype.kind in "iu" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
                stored = _read_bytes(
                    content, (shape[0], dtype.itemsize), LARGEST_LABELS_BYTES, f"{path}: {key}"
                )
                found[key] = stored.view(dtype)[:, 0]
    return found


def label_names(name: str) -> list[str]:
    """Return the names that the labels of an array of images may have.

    >>> label_names("x_train"), label_names("train_images"), label_names("images")
    (['y_train'], ['train_labels'], ['labels'])
    """
    swapped = (re.sub(rf"(?<![a-z]){one}(?![a-z])", two, name) for one, two in LABEL_WORDS)
    return [each for each in swapped if each != name]


def read_stream(file: BinaryIO, name: str, accept: Callable[[Shape], None]) -> np.ndarray:
    """Return the images of an npy or npz file that comes through a pipe.

    Memory is allocated for received bytes, never for those that a header claims.

    Args:
        file: The stream; nothing may follow the array.
        name: Name of the stream, for errors.
        accept: Function that raises an error for an unwanted shape; called before npy data are read.

    Shape:
        As in the header, uint8.

    Raises:
        InputError: The stream is empty, cut off, damaged or of another format.
    """
    try:
        with reading(name):
            return _only(_read_images(file, name, accept), name)
    except InputError as error:
        if error.hint == AGAIN:
            error.hint = UPSTREAM
        raise


def _read_images(
    file: BinaryIO, name: str, accept: Callable[[Shape], None], key: str = ""
) -> dict[str, np.ndarray]:
    start = read_up_to(file, npy.MAGIC_LEN)
    if start.startswith(npy.MAGIC_PREFIX) and not key:
        return {"": _read_data(file, _read_header(start, file, name), name, accept)}
    if not start.startswith(b"PK"):
        if not start:
            raise InputError(f"{name} is empty", AGAIN)
        if key and start.startswith(npy.MAGIC_PREFIX):
            raise InputError(f"{name} is npy, which holds one array", f"leave ::{key} out")
        raise InputError(f"{name} is neither npy nor npz", "fame sample -o - writes npy, numpy.save does too")
    # A ZIP archive is read from its end.
    whole = file if file.seekable() else io.BytesIO(start + read_up_to(file, LARGEST_BYTES))
    found: dict[str, Header] = {}

    def wanted(member: str, header: Header) -> bool:
        shape, _, dtype = found[member] = header
        return member == key if key else dtype == np.uint8 and len(shape) in (3, 4)

    arrays = dict(npz_arrays(whole, name, wanted))
    if not arrays:
        likely = [member for member, (shape, *_) in found.items() if len(shape) in (3, 4)]
        if len(likely) == 1 and not key:
            # This raises the error whose hint says how to convert the array to uint8.
            return dict(npz_arrays(whole, name, lambda member, header: member in likely))
        others = ", ".join(f"{member} {dtype} {shape}" for member, (shape, _, dtype) in found.items())
        missing = f"no array {key!r}" if key else "no array of bytes (N, H, W) or (N, H, W, C)"
        raise InputError(f"{name}: {missing} in it, found {others or 'none'}", NAME_AN_ARRAY)
    for images in arrays.values():
        accept(images.shape)
    return arrays


def _only(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if len(arrays) > 1:
        raise InputError(f"{name} has several arrays of images: {', '.join(arrays)}", NAME_AN_ARRAY)
    return next(iter(arrays.values()))


def npz_arrays(
    file: BinaryIO, name: str, wanted: Callable[[str, Header], bool] = lambda key, header: True
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and content of the arrays of bytes in an npz file.

    Args:
        file: Content of the file.
        name: Name of the file, for errors.
        wanted: Function of an array's name and header that returns whether to read the array.

    Raises:
        InputError: An array holds another type, or another number of bytes than its header says.
    """
    for member, _, content in zip_members(file, name, ends_with(NPY_SUFFIX), LARGEST_BYTES):
        key = _key(member)
        header = _read_header(content.read(npy.MAGIC_LEN), content, f"{name}: {key}")
        if wanted(key, header):
            yield key, _read_data(content, header, f"{name}: {key}")


def _key(member: str) -> str:
    """Return the name of the array in a file of an npz archive; it may contain folders."""
    return member[: -len(NPY_SUFFIX)]


def _read_header(magic: bytes, file: BinaryIO, name: str) -> Header:
    """Return the header after the `magic` of an npy file, parsed."""
    readers = {npy.magic(1, 0): npy.read_array_header_1_0, npy.magic(2, 0): npy.read_array_header_2_0}
    if magic not in readers:
        raise InputError(f"{name}: not an npy array of version 1 or 2", AGAIN)
    try:
        with warnings.catch_warnings():
            # numpy warns about files that Python 2 wrote.
            warnings.simplefilter("ignore")
            return readers[magic](cast(BinaryIO, Limited(file, LARGEST_HEADER_BYTES, name)))
    # numpy parses the header as Python, so a malformed one may raise any exception.
    except Exception as error:
        raise InputError(f"{name}: not an npy array ({truncate(error)})", AGAIN) from error


def _read_data(
    file: BinaryIO, header: Header, name: str, accept: Callable[[Shape], None] = lambda shape: None
) -> np.ndarray:
    shape, fortran, dtype = header
    if dtype.hasobject:
        raise InputError(f"{name} holds pickled objects, which can run any code: refused", "save plain bytes")
    if dtype != np.uint8:
        raise InputError(f"{name} holds {dtype}, expected uint8, 0 to 255", _convert_hint(file, header))
    if len(shape) > MOST_DIMENSIONS or any(side < 0 for side in shape):
        raise InputError(f"{name}: impossible shape {shape}")
    accept(shape)
    array = _read_bytes(file, shape[::-1] if fortran else shape, LARGEST_BYTES, name)
    return array.T if fortran else array


def _convert_hint(file: BinaryIO, header: Header) -> str:
    """Return how the numbers in the rest of a file become bytes without loss, as their range allows."""
    shape, _, dtype = header
    left, low, high, whole = math.prod(shape) * dtype.itemsize, math.inf, -math.inf, True
    if dtype.kind not in "fiub" or left > LARGEST_BYTES:
        return "expected images as bytes"
    while left > 0 and (content := read_up_to(file, min(left, CHUNK_BYTES))):
        left -= len(content)
        values = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)
        if len(values):
            # Unlike min and max, these keep NaN.
            low, high = float(np.minimum(low, values.min())), float(np.maximum(high, values.max()))
            whole = whole and bool((values == np.rint(values)).all())
    if low > high:
        return "expected images as bytes; it holds no values"
    if not (math.isfinite(low) and math.isfinite(high)):
        return "its values are not all finite"
    save = "save a copy: numpy.save(NEW, {})"
    if low >= 0 and high <= 1:
        return save.format("numpy.rint(255.0 * a).astype('uint8')")
    if low >= -1 and high <= 1:
        return save.format("numpy.rint(127.5 * (a + 1.0)).astype('uint8')")
    if low >= 0 and high <= 255:
        return save.format("a.astype('uint8')" if whole else "numpy.rint(a).astype('uint8')")
    if dtype.kind == "u" and dtype.itemsize == 2:
        return save.format("numpy.rint(a / 257).astype('uint8')") + ", if white is 65,535"
    return f"its values go from {low:g} to {high:g}: bring a copy to 0 to 255, and save that as uint8"


def _read_bytes(file: BinaryIO, shape: Shape, largest_bytes: int, name: str) -> np.ndarray:
    """Return the rest of a file as an array; memory is allocated for bytes that are there."""
    size = math.prod(shape)
    product = " x ".join(map(str, shape)) + (f" = {size}" if len(shape) > 1 else "")
    # Zeros count as one here: numpy refuses (0, 2**32 - 1, 2**32 - 1) too.
    if math.prod(max(side, 1) for side in shape) > largest_bytes:
        raise InputError(f"{name}: its header asks for {product} bytes, the limit is {largest_bytes}", AGAIN)
    content = bytearray()
    while len(content) < size:
        piece = file.read(min(CHUNK_BYTES, size - len(content)))
        if not piece:
            raise InputError(f"{name}: truncated after {len(content):,} of {size:,} bytes", AGAIN)
        content += piece
    # In a gzip file or a ZIP archive, this read also verifies the checksum.
    if file.read(1):
        raise InputError(f"{name}: bytes after its data, expected {product} bytes", AGAIN)
    return np.frombuffer(content, np.uint8).reshape(shape)


def image_shape_of(shape: Shape, name: str) -> tuple[int, int, int]:
    """Return `(C, H, W)` of the images in an array of `shape`.

    Args:
        shape: `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, with one channel or three.
        name: Name of the array, for errors.

    Raises:
        InputError: The shape is none of these, or there is no image.
    """
    if len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) > shape[2]:
        first = f"{name} has shape {shape}: that would be {shape[0]} grey images of {shape[2]}x{shape[1]}"
        hint = f"is it one image? Save array[None], of shape (1, {', '.join(map(str, shape))})"
        raise InputError(first, hint)
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) == 4 and full[3] not in CHANNELS:
        full = (full[0], *full[2:], full[1])
    if len(full) != 4 or full[3] not in CHANNELS or 0 in full:
        raise InputError(f"{name}: an array of shape {shape} does not hold images", "expected (N, H, W, C)")
    return full[3], full[1], full[2]


def images_of(array: np.ndarray, name: str) -> np.ndarray:
    """Return the images in an array as `(N, C, H, W)`; errors are those of `image_shape_of`."""
    shape = image_shape_of(array.shape, name)
    if array.ndim == 4 and array.shape[3] in CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array.reshape(-1, *shape))


def read_idx(path: Path) -> np.ndarray:
    """Return the array in the IDX file `path`; see `read_idx_from`."""
    with opened(path) as file:
        return read_idx_from(file, str(path))


def read_idx_from(file: BinaryIO, name: str) -> np.ndarray:
    """Return the array in an open IDX file, plain or gzipped, whatever its name.

    Memory is allocated for bytes that are there, never for those that the header claims.

    Args:
        file: File of unsigned bytes with one to four dimensions.
        name: Name of the file, for errors.

    Shape:
        As in the header, uint8.

    Raises:
        InputError: The file cannot be read, is of another format, or has another size than its header says.

    Source:
        The format: http://yann.lecun.com/exdb/mnist/, "File formats for the MNIST database".
    """
    content = unzipped(file)
    magic = read_up_to(content, 4)
    if magic[:3] != bytes([0, 0, UNSIGNED_BYTE]) or not 1 <= magic[-1] <= MOST_IDX_DIMENSIONS:
        found = magic.hex(" ") or "nothing"
        expected = "expected 00 00 08 01..04"
        raise InputError(f"{name}: not an IDX file of unsigned bytes (starts with {found}, {expected})")
    sizes = read_up_to(content, 4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise InputError(f"{name}: ends inside its header, expected {magic[3]} dimensions", AGAIN)
    return _read_bytes(content, struct.unpack(f">{magic[3]}I", sizes), LARGEST_IDX_BYTES, name)


def idx_header(shape: Shape) -> bytes:
    """Return the header of an IDX file of unsigned bytes with that shape."""
    return struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTE, len(shape), *shape)


def idx_sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of the IDX file, not gzipped, that holds an array of bytes."""
    digest = hashlib.sha256(idx_header(array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
