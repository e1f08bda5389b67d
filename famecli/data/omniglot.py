"""OMNIGLOT: Burda's 28x28 greys from a MATLAB file, and the authors' drawings from their ZIP archives."""

import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from famecli.data.archive import opened, zip_members
from famecli.data.check import check_file
from famecli.data.info import DatasetInfo
from famecli.data.mat import read_mat
from famecli.errors import InputError, UnavailableError

CHARDATA = "chardata.mat"
SHUFFLE_SEED = 123
SIDE = 28
DRAWING_SIDE = 105
LARGEST_DRAWING_BYTES = 1 << 16
LARGEST_DRAWINGS = 100_000
# (28, 105): by how many quarters a row of the image overlaps a row of the drawing.
SHARES = np.repeat(np.eye(SIDE, dtype=np.float32), 15, axis=1).reshape(SIDE, DRAWING_SIDE, 4).sum(2)
DRAWERS = {"train": range(1, 15), "valid": range(15, 16), "test": range(16, 21)}


def read_chardata(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of Burda's file as chances of a bit, and the numbers of their alphabets.

    Training and validation images are shuffled and parted as IWAE does it, with NumPy's old generator.

    Args:
        info: Names the file, with its hash.
        folder: Where it is.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 1, 28, 28)`, float32 in 0 to 1, and `(N,)`, uint8.

    Raises:
        UnavailableError: The file is not in the folder.
        InputError: It is no such file.
        IntegrityError: It is not the official one.

    Source:
        github.com/yburda/iwae, datasets.py, `binarized_shuffled_omniglot`.
    """
    path = folder / CHARDATA
    if not os.path.exists(path):
        raise UnavailableError(f"no {CHARDATA} in {folder}", "add that file, or name another with --data")
    check_file(path, info.files[CHARDATA], info.name)
    keys = ("testdata", "testtarget") if split == "test" else ("data", "target")
    arrays = read_mat(path, keys)
    if keys[0] not in arrays:
        raise InputError(f"{path}: no variable {keys[0]!r} in it")
    pixels = _upright(arrays[keys[0]], f"{path}: {keys[0]}")
    labels = _numbers(arrays.get(keys[1]), len(pixels), f"{path}: {keys[1]}")
    chosen = info.chosen(split, len(pixels))
    if split == "test":
        return pixels[chosen], None if labels is None else labels[chosen]
    # NumPy keeps the stream of this generator as it is for ever.
    order = np.random.RandomState(SHUFFLE_SEED).permutation(len(pixels))[chosen]
    return pixels[order], None if labels is None else labels[order]


def _upright(matrix: np.ndarray, name: str) -> np.ndarray:
    """Return columns of 784 chances, each column by column an image, as `(N, 1, 28, 28)`, float32."""
    if matrix.ndim != 2 or matrix.shape[0] != SIDE * SIDE:
        raise InputError(f"{name} has shape {matrix.shape}, expected ({SIDE * SIDE}, N)")
    images = matrix.T.reshape(-1, 1, SIDE, SIDE).transpose(0, 1, 3, 2).astype(np.float32)
    # Said so that NaN is refused as well.
    if not (images >= 0).all() or not (images <= 1).all():
        raise InputError(f"{name} has values outside 0 to 1")
    return np.ascontiguousarray(images)


def _numbers(matrix: np.ndarray | None, images: int, name: str) -> np.ndarray | None:
    if matrix is None:
        return None
    if matrix.ndim != 2 or matrix.shape[1] != images or not 1 <= matrix.shape[0] <= 256:
        raise InputError(f"{name} has shape {matrix.shape}, expected (50, {images})")
    numbers: np.ndarray = matrix.argmax(0).astype(np.uint8)
    return numbers


def read_drawings(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the drawings of a split, shrunk to 28x28, ink as 255, by name; no labels.

    A split is the work of some of the 20 drawers: 1 to 14 train, 15 valid, 16 to 20 test. A drawing that two
    archives have, as the small ones do, counts once.

    Args:
        info: Names the archives, with their hashes.
        folder: Where they are.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 1, 28, 28)`, uint8.

    Raises:
        UnavailableError: An archive is not in the folder.
        InputError: One is damaged.
        IntegrityError: One is not the official one.
    """
    images: dict[str, np.ndarray] = {}
    for name, file in info.files.items():
        path = folder / name
        if not os.path.exists(path):
            raise UnavailableError(f"no {name} in {folder}", "add it, or name another folder with --data")
        check_file(path, file, info.name)
        for drawing, content in _drawings(path, DRAWERS[split]):
            if drawing not in images:
                images[drawing] = shrink(_decode(content, f"{path}: {drawing}"))
    if len(images) != info.splits[split]:
        raise InputError(f"{info.name}: {len(images):,} {split} drawings, expected {info.splits[split]:,}")
    # Stacked in the order of the archives, and by name within each.
    return np.stack(list(images.values()))[:, None], None


def _drawings(path: Path, drawers: range) -> Iterator[tuple[str, bytes]]:
    """Yield `Alphabet/character01/0001_01.png` and content of the drawings of some drawers."""
    with opened(path) as file:
        for count, (name, size, content) in enumerate(
            zip_members(file, str(path), ".png", LARGEST_DRAWING_BYTES)
        ):
            if count >= LARGEST_DRAWINGS:
                raise InputError(f"{path}: more than {LARGEST_DRAWINGS:,} drawings")
            match = re.search(r"([^/]+/[^/]+/\d+_(\d\d)\.png)$", name)
            if match is None:
                raise InputError(f"{path}: {name} is not Alphabet/character/number_drawer.png")
            if int(match[2]) in drawers:
                yield match[1], content.read(size + 1)


def _decode(content: bytes, name: str) -> np.ndarray:
    """Return a drawing as `(105, 105)`, True where there is ink."""
    from PIL import Image

    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.size != (DRAWING_SIDE, DRAWING_SIDE):
            raise InputError(f"{name}: {image.size[0]}x{image.size[1]}, expected {DRAWING_SIDE} squared")
        return ~np.asarray(image.convert("1"))
    except InputError:
        raise
    # As in image_files: Pillow's decoders answer damaged files with a dozen kinds of exceptions.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: not a readable PNG ({reason})") from error


def shrink(ink: np.ndarray) -> np.ndarray:
    """Return a drawing shrunk by exact area averages: 255 where all is ink, rounded to the nearest.

    105 / 28 = 15 / 4: a pixel covers 15x15 quarters of the drawing's pixels. All sums are of small integers,
    which floats hold exactly, so that no version of any library changes a value.

    Shape:
        `(105, 105)`, bool, to `(28, 28)`, uint8.
    """
    areas = (SHARES @ ink.astype(np.float32) @ SHARES.T).astype(np.int64)
    shades: np.ndarray = ((areas * 255 * 2 + 225) // (225 * 2)).astype(np.uint8)
    return shades
