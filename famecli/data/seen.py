"""Hashes of training images: of all together for a run's state, and a list in the run's folder.

By the list, later commands see that an image was trained on. It never goes into a checkpoint, since it tells
whether a given image was among them.
"""

import hashlib
from pathlib import Path

import numpy as np

from famecli.files import read_up_to, write_atomic

SEEN_IMAGES = "training-images.bin"
# The start of a hash is enough: two of a million images are equal in it by chance once in 10^7 lists.
SHORT = "<u8"
LARGEST_LIST_BYTES = 1 << 30


def image_hashes(pixels: np.ndarray) -> np.ndarray:
    """Return the SHA-256 of each image's pixels, `(N, 32)`, uint8.

    Args:
        pixels: Pixels of a split, `(N, C, H, W)`.
    """
    digests = b"".join(hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in pixels)
    return np.frombuffer(digests, np.uint8).reshape(len(pixels), -1)


def write_seen(folder: Path, hashes: np.ndarray) -> None:
    """Write the list of training images, from their `image_hashes`; errors are those of `write_atomic`."""
    write_atomic(folder / SEEN_IMAGES, np.unique(_short(hashes)).tobytes())


def count_seen(folder: Path, pixels: np.ndarray) -> int | None:
    """Return how many images are in the list of training images; None if the folder has no list.

    Args:
        folder: Folder of a run.
        pixels: Pixels of images, `(N, C, H, W)`, as in `famecli.data.dataset.ImageSplit`.
    """
    path = folder / SEEN_IMAGES
    if not path.is_file():
        return None
    with path.open("rb") as file:
        content = read_up_to(file, LARGEST_LIST_BYTES)
    known = np.frombuffer(content, SHORT, len(content) // np.dtype(SHORT).itemsize)
    return int(np.isin(_short(image_hashes(pixels)), known).sum())


def _short(hashes: np.ndarray) -> np.ndarray:
    size = np.dtype(SHORT).itemsize
    return np.ascontiguousarray(hashes[:, :size]).view(SHORT)[:, 0]
