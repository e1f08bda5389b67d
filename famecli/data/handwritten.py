"""Readers of handwritten characters: MNIST, Larochelle's binarized MNIST, and OMNIGLOT in two versions."""

from pathlib import Path

import numpy as np

from famecli.data.archive import AGAIN, read_file
from famecli.data.arrays import idx_sha256, read_idx
from famecli.data.cache import check_hash, find_file, official_file
from famecli.data.drawings import SIDE, drawings, read_mat, shrink
from famecli.data.registry import DatasetInfo
from famecli.errors import InputError, UnavailableError

PIXELS = 28 * 28
LARGEST_AMAT_BYTES = 256 << 20
CHARDATA = "chardata.mat"
SHUFFLE_SEED = 123
DRAWERS = {"train": range(1, 15), "valid": range(15, 16), "test": range(16, 21)}


def read_mnist(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of MNIST and, where their file is there, the labels.

    The last of the official training images are the validation split. Only the files of the requested split
    are opened.

    Args:
        info: Data set, with the hashes of its files.
        folder: Folder of the files, gzipped or not.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 1, 28, 28)` and `(N,)`, uint8.

    Raises:
        UnavailableError: The images are not in the folder.
        InputError: A file is damaged.
        IntegrityError: A file is not the official one.
    """
    part = "t10k" if split == "test" else "train"
    pixels = _read_mnist_file(info, folder, f"{part}-images-idx3-ubyte.gz")
    if pixels is None:
        hint = "add that file, or name another folder"
        raise UnavailableError(f"no {part}-images-idx3-ubyte.gz in {folder}", hint)
    labels = _read_mnist_file(info, folder, f"{part}-labels-idx1-ubyte.gz")
    chosen = info.chosen(split, len(pixels))
    return pixels[chosen].reshape(-1, *info.shape), None if labels is None else labels[chosen]


def _read_mnist_file(info: DatasetInfo, folder: Path, name: str) -> np.ndarray | None:
    """Return the array in the file `name`, after a check of its content, or None if there is no file."""
    path = find_file(folder, name)
    if path is None:
        return None
    array = read_idx(path)
    check_hash(info, path, idx_sha256(array), info.files[name].content_sha256, "sha256 of its content")
    return array


def read_amat(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of Larochelle's MNIST, each pixel 0 or 1 as its file has it; no labels.

    Args:
        info: Data set, with the hashes of its files.
        folder: Folder of the files, gzipped or not.
        split: `train`, `valid` or `test`; each has a file.

    Shape:
        `(N, 1, 28, 28)`, uint8.

    Raises:
        UnavailableError: The file is not in the folder.
        InputError: The file has another format.
        IntegrityError: The file is not the official one.
    """
    path = official_file(info, folder, f"binarized_mnist_{split}.amat")
    return parse_amat(read_file(path, LARGEST_AMAT_BYTES), str(path)).reshape(-1, *info.shape), None


def parse_amat(content: bytes, name: str) -> np.ndarray:
    """Return the bits in a text of lines of 784 digits, 0 or 1, separated by single spaces.

    Shape:
        `(N, 784)`, uint8.

    Raises:
        InputError: The text has another format.
    """
    characters = np.frombuffer(content, np.uint8)
    if len(characters) == 0 or len(characters) % (2 * PIXELS):
        raise InputError(f"{name}: {len(content):,} bytes are not lines of {2 * PIXELS}", AGAIN)
    lines = characters.reshape(-1, PIXELS, 2)
    if (lines[:, :-1, 1] != ord(" ")).any() or (lines[:, -1, 1] != ord("\n")).any():
        raise InputError(f"{name}: not lines of {PIXELS} digits with a space between two", AGAIN)
    bits: np.ndarray = lines[:, :, 0] - np.uint8(ord("0"))
    if (bits > 1).any():
        raise InputError(f"{name}: digits other than 0 and 1", AGAIN)
    return bits


def read_chardata(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of Burda's OMNIGLOT as probabilities of bits, and their alphabets.

    Training and validation images are shuffled and split as in IWAE, by NumPy's old generator.

    Args:
        info: Data set, with the hash of its file.
        folder: Folder of the file.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 1, 28, 28)`, float32 in 0 to 1, and `(N,)`, uint8.

    Raises:
        UnavailableError: The file is not in the folder.
        InputError: The file has another format.
        IntegrityError: The file is not the official one.

    Source:
        github.com/yburda/iwae, datasets.py, `binarized_shuffled_omniglot`.
    """
    path = official_file(info, folder, CHARDATA)
    images, numbers = ("testdata", "testtarget") if split == "test" else ("data", "target")
    arrays = read_mat(path, (images, numbers))
    if images not in arrays:
        raise InputError(f"{path}: no variable {images!r} in it")
    pixels = _upright(arrays[images], f"{path}: {images}")
    chosen = np.arange(len(pixels))[info.chosen(split, len(pixels))]
    if split != "test":
        # The stream of this generator is the same in every version of NumPy.
        chosen = np.random.RandomState(SHUFFLE_SEED).permutation(len(pixels))[chosen]
    if numbers not in arrays:
        return pixels[chosen], None
    one_hot = arrays[numbers]
    if one_hot.ndim != 2 or one_hot.shape[1] != len(pixels) or not 1 <= one_hot.shape[0] <= 256:
        raise InputError(f"{path}: {numbers} has shape {one_hot.shape}, expected (50, {len(pixels)})")
    return pixels[chosen], one_hot.argmax(0).astype(np.uint8)[chosen]


def _upright(matrix: np.ndarray, name: str) -> np.ndarray:
    """Return columns of 784 probabilities, each a column-major image, as `(N, 1, 28, 28)`, float32."""
    if matrix.ndim != 2 or matrix.shape[0] != PIXELS:
        raise InputError(f"{name} has shape {matrix.shape}, expected ({PIXELS}, N)")
    images = matrix.T.reshape(-1, 1, SIDE, SIDE).transpose(0, 1, 3, 2).astype(np.float32)
    # Written so that NaN is refused as well.
    if not ((images >= 0) & (images <= 1)).all():
        raise InputError(f"{name} has values outside 0 to 1")
    return np.ascontiguousarray(images)


def read_drawings(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the drawings of a split of OMNIGLOT, shrunk to 28x28, ink as 255, and their alphabets.

    A split is the work of some of the 20 drawers: 1 to 14 train, 15 valid, 16 to 20 test. A drawing that two
    archives have, as the small ones do, counts once. The order is that of the archives, by name within each.

    Args:
        info: Data set, with the hashes of its archives.
        folder: Folder of the archives.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 1, 28, 28)` and `(N,)`, uint8; no labels if an alphabet is unknown.

    Raises:
        UnavailableError: An archive is not in the folder.
        InputError: An archive is damaged.
        IntegrityError: An archive is not the official one.
    """
    images: dict[str, np.ndarray] = {}
    for name in info.files:
        for drawing in drawings(official_file(info, folder, name), DRAWERS[split]):
            images.setdefault(drawing.name, shrink(drawing.ink))
    if len(images) != info.splits[split]:
        raise InputError(f"{info.name}: {len(images):,} {split} drawings, expected {info.splits[split]:,}")
    pixels, alphabets = np.stack(list(images.values()))[:, None], [name.split("/")[0] for name in images]
    if not set(alphabets) <= set(info.classes):
        return pixels, None
    return pixels, np.array([info.classes.index(each) for each in alphabets], np.uint8)
