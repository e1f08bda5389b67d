"""MNIST with the fixed bits of Larochelle, from three text files."""

import hashlib
import os
from pathlib import Path

import numpy as np

from famecli.data.archive import AGAIN, read_file
from famecli.data.info import DatasetInfo
from famecli.errors import InputError, IntegrityError, UnavailableError

PIXELS = 28 * 28
LARGEST_BYTES = 256 << 20


def read_amat(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split, each pixel 0 or 1 as its file has it, and no labels: there are none.

    Args:
        info: Names the files, with their hashes.
        folder: Where the files are.
        split: `train`, `valid` or `test`: each has a file of its own.

    Shape:
        `(N, 1, 28, 28)`, uint8.

    Raises:
        UnavailableError: The file is not in the folder.
        InputError: It is no such file.
        IntegrityError: It is not the official one.
    """
    name = f"binarized_mnist_{split}.amat"
    path = folder / name
    if not os.path.exists(path):
        raise UnavailableError(f"no {name} in {folder}", "add that file, or name another folder with --data")
    content = read_file(path, LARGEST_BYTES)
    pixels = parse_amat(content, str(path))
    actual = hashlib.sha256(content).hexdigest()
    expected = info.files[name].sha256
    if expected is not None and actual != expected:
        raise IntegrityError(
            f"{path}: not the official file of {info.name} (sha256 {actual[:12]}, expected {expected[:12]})",
            f"delete {path} and download it again",
        )
    return pixels.reshape(-1, *info.shape), None


def parse_amat(content: bytes, name: str) -> np.ndarray:
    """Return the bits in a text of lines of 784 digits, 0 or 1, with a space between two.

    Shape:
        `(N, 784)`, uint8.

    Raises:
        InputError: The text is of another form.
    """
    characters = np.frombuffer(content, np.uint8)
    line_bytes = 2 * PIXELS
    if len(characters) == 0 or len(characters) % line_bytes:
        raise InputError(f"{name}: {len(content):,} bytes are not lines of {line_bytes}", AGAIN)
    lines = characters.reshape(-1, line_bytes)
    digits, separators = lines[:, 0::2], lines[:, 1::2]
    if (separators[:, :-1] != ord(" ")).any() or (separators[:, -1] != ord("\n")).any():
        raise InputError(f"{name}: not lines of {PIXELS} digits with a space between two", AGAIN)
    bits: np.ndarray = digits - np.uint8(ord("0"))
    if (bits > 1).any():
        raise InputError(f"{name}: digits other than 0 and 1", AGAIN)
    return bits
