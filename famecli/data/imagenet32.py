"""ImageNet at 32x32, which is two data sets: Chrabaszcz's arrays, and van den Oord's tars of PNGs."""

import io
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from famecli.data.archive import opened, tar_members, zip_members
from famecli.data.arrays import npz_arrays
from famecli.data.check import check_file
from famecli.data.fetch import find_member
from famecli.data.info import DatasetInfo
from famecli.errors import InputError, UnavailableError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
LARGEST_BATCH_BYTES = 1 << 30
LARGEST_PNG_BYTES = 1 << 16


def read_batches(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of the newer version, from its npz files, zipped or not; no labels.

    The official validation images are the test split, the last of the training images validation.

    Args:
        info: Names the archives, with their hashes and what is in them.
        folder: Where they are, or what is in them.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 3, 32, 32)`, uint8.

    Raises:
        UnavailableError: The files are not in the folder.
        InputError: One is damaged.
        IntegrityError: An archive is not the official one.
    """
    gathered = _Gathered(info, split)
    for array, name in _batches(info, folder, split):
        if array.ndim != 2 or array.shape[1] != PIXELS:
            raise InputError(f"{name} has shape {array.shape}, expected (N, {PIXELS})")
        gathered.add(array.reshape(-1, *info.shape))
    return gathered.images(), None


def read_pngs(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of the older version, from its tars of PNGs, in their order; no labels.

    The official validation images are the test split, the last of the training images validation.

    Args:
        info: Names the archives, with their hashes.
        folder: Where they are.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 3, 32, 32)`, uint8.

    Raises:
        UnavailableError: The archive is not in the folder.
        InputError: It is damaged.
        IntegrityError: It is not the official one.
    """
    name = next(name for name, file in info.files.items() if file.needed_for(split))
    path = folder / name
    if not os.path.exists(path):
        raise UnavailableError(f"no {name} in {folder}", "add that file, or name another folder with --data")
    check_file(path, info.files[name], info.name)
    gathered = _Gathered(info, split)
    for member, content in tar_members(
        path, ".png", LARGEST_PNG_BYTES, limit_bytes=4 * path.stat().st_size + (1 << 20)
    ):
        gathered.add(_decode(content, f"{path}: {member}", skip=gathered.passes_over_next)[None])
    return gathered.images(), None


class _Gathered:
    """The images of a split, laid into one array while those of the whole part come by.

    Args:
        info: Says which of them belong to the split.
        split: Its name.
    """

    def __init__(self, info: DatasetInfo, split: str) -> None:
        self.info, self.split = info, split
        train = info.splits["train"]
        self.first = train if split == "valid" else 0
        self.array: np.ndarray | None = None
        self.seen = 0

    @property
    def passes_over_next(self) -> bool:
        """Whether the next image is not of the split."""
        return not self.first <= self.seen < self.first + self.info.splits[self.split]

    def add(self, images: np.ndarray) -> None:
        """Take the next images; those of other splits are dropped."""
        if self.array is None:
            # Address space only: a page takes memory when an image comes to lie in it.
            self.array = np.empty((self.info.splits[self.split], *self.info.shape), np.uint8)
        start = self.seen - self.first
        begin, end = max(0, -start), min(len(images), len(self.array) - start)
        if begin < end:
            self.array[start + begin : start + end] = images[begin:end]
        self.seen += len(images)

    def images(self) -> np.ndarray:
        """Return the array.

        Raises:
            InputError: More or fewer images came than the official files have.
        """
        self.info.chosen(self.split, self.seen)
        if self.array is None:
            return np.empty((0, *self.info.shape), np.uint8)
        return self.array


def _batches(info: DatasetInfo, folder: Path, split: str) -> Iterator[tuple[np.ndarray, str]]:
    """Yield the arrays of pixels of the official test or training images, and where each is from."""
    name, file = next((name, file) for name, file in info.files.items() if file.needed_for(split))
    paths = [find_member(folder, member) for member in file.members]
    found = [path for path in paths if path is not None]
    if len(found) == len(paths):
        for path in found:
            with opened(path) as content:
                yield _pixels(content, str(path)), str(path)
        return
    archive = folder / name
    if not os.path.exists(archive):
        missing = PurePosixPath(next(m for m, path in zip(file.members, paths, strict=True) if path is None))
        raise UnavailableError(
            f"no {name} and no {missing.name} in {folder}", "add it, or name another folder with --data"
        )
    check_file(archive, file, info.name)
    order = [PurePosixPath(member).name for member in file.members]
    with opened(archive) as outer:
        for member, size, packed in zip_members(outer, str(archive), ".npz", LARGEST_BATCH_BYTES, order):
            # In memory, since an archive within an archive is read from its end.
            content = cast(BinaryIO, io.BytesIO(packed.read(size + 1)))
            yield _pixels(content, f"{archive}: {member}"), f"{archive}: {member}"


def _pixels(file: BinaryIO, name: str) -> np.ndarray:
    for _, array in npz_arrays(file, name, only="data"):
        return array
    raise InputError(f"{name}: no array 'data' in it")


def _decode(content: bytes, name: str, *, skip: bool) -> np.ndarray:
    """Return a PNG as `(3, 32, 32)`; with `skip` only its header is looked at, and zeros come back."""
    from PIL import Image

    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.size != (SIDE, SIDE):
            raise InputError(f"{name}: {image.size[0]}x{image.size[1]}, expected {SIDE}x{SIDE}")
        if skip:
            return np.zeros((3, SIDE, SIDE), np.uint8)
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except InputError:
        raise
    # As in image_files: Pillow's decoders answer damaged files with a dozen kinds of exceptions.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: not a readable PNG ({reason})") from error
