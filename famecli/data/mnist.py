"""MNIST from its four IDX files."""

import hashlib
from pathlib import Path

import numpy as np

from famecli.data.fetch import find_file
from famecli.data.idx import idx_header, read_idx
from famecli.data.info import DatasetInfo
from famecli.errors import IntegrityError, UnavailableError


def read_mnist(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split and, where their file is there, the labels.

    The last of the official training images are the validation split. Only the files of the split asked for
    are opened.

    Args:
        info: Names the files, with their hashes.
        folder: Where the files are, gzipped or not.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 1, 28, 28)` and `(N,)`, uint8.

    Raises:
        UnavailableError: The images are not in the folder.
        InputError: A file is damaged.
        IntegrityError: A file is not the official one.
    """
    part = "t10k" if split == "test" else "train"
    pixels = _read(info, folder, f"{part}-images-idx3-ubyte.gz")
    if pixels is None:
        raise UnavailableError(
            f"no {part}-images-idx3-ubyte.gz in {folder}",
            "add that file, or name another folder with --data FOLDER",
        )
    labels = _read(info, folder, f"{part}-labels-idx1-ubyte.gz")
    start = info.splits["train"] if split == "valid" else 0
    chosen = slice(start, start + info.splits[split])
    return pixels[chosen].reshape(-1, *info.shape), None if labels is None else labels[chosen]


def content_sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of the IDX file, not gzipped, that holds the array."""
    digest = hashlib.sha256(idx_header(array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read(info: DatasetInfo, folder: Path, name: str) -> np.ndarray | None:
    """Return the array in the file `name`, known to be the official one, or None if there is no file."""
    path = find_file(folder, name)
    if path is None:
        return None
    array = read_idx(path)
    expected, actual = info.files[name].content_sha256, content_sha256(array)
    if expected is not None and actual != expected:
        raise IntegrityError(
            f"{path}: not the official file of {info.name} (sha256 of its content {actual[:12]}, "
            f"expected {expected[:12]})",
            f"delete {path} and download it again",
        )
    return array
