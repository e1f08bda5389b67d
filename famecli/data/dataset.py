"""Splits of images, and the levels that a model sees of them: fixed for scoring, fresh for training."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from famecli.data.fetch import locate, say_nothing
from famecli.data.mnist import read_mnist
from famecli.data.registry import DatasetInfo, dataset_info
from famecli.errors import UsageError
from famecli.rng import stream

Split = Literal["train", "valid", "test"]
Reader = Callable[[DatasetInfo, Path, str], tuple[np.ndarray, np.ndarray | None]]

READERS: Mapping[str, Reader] = {"mnist": read_mnist}
CHUNK_IMAGES = 1000


@dataclass(frozen=True)
class ImageSplit:
    """Images as their files hold them.

    Args:
        info: The data set.
        split: Which part of it.
        pixels: `(N, C, H, W)`, uint8, 0 to 255.
        labels: `(N,)`, uint8, or None where the data set or the folder has none.
    """

    info: DatasetInfo
    split: str
    pixels: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class FixedLevels:
    """Images as a model scores them.

    Args:
        levels: `(n, C, H, W)`, uint8, 0 to the data set's `levels - 1`.
        sha256: Of the bytes of `levels`: equal hashes mean that the same bits were scored.
    """

    levels: np.ndarray
    sha256: str


def load_split(
    name: str,
    split: Split,
    *,
    data: Path | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
) -> ImageSplit:
    """Return a split of the data set `name`; see `locate` for where its files are looked for.

    Raises:
        UsageError: There is no such data set or split.
        UnavailableError: Its files are neither here nor to be had.
        InputError: A file is damaged.
        IntegrityError: A file is not the official one.
    """
    info = dataset_info(name)
    if split not in info.splits:
        raise UsageError(f"{name} has no split {split!r}", f"splits: {', '.join(info.splits)}")
    return read_split(info, locate(info, data, cache_dir, offline, report), split)


def read_split(info: DatasetInfo, folder: Path, split: str) -> ImageSplit:
    """Return a split from the files in `folder`; errors are those of `load_split`."""
    pixels, labels = READERS[info.family](info, folder, split)
    return ImageSplit(info, split, pixels, labels)


def fixed_levels(split: ImageSplit, seed: int = 0, limit: int | None = None) -> FixedLevels:
    """Return the levels to score: the same for a seed each time, and for `limit` the first of all.

    Args:
        split: The images.
        seed: Chooses the bits, where the data set has random ones.
        limit: How many images; None for all.
    """
    pixels = split.pixels[:limit]
    if split.info.binarization == "dynamic":
        generator = stream("binarize", split.info.name, split.split, seed)
        chunks = [pixels[start : start + CHUNK_IMAGES] for start in range(0, len(pixels), CHUNK_IMAGES)]
        bits = [generator.random(chunk.shape) < chunk / 255 for chunk in chunks]
        levels = np.concatenate(bits).astype(np.uint8) if bits else pixels
    else:
        levels = np.ascontiguousarray(pixels)
    return FixedLevels(levels, hashlib.sha256(levels.data).hexdigest())


def training_levels(split: ImageSplit, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return levels of the images at `indices`, with fresh bits where the data set has random ones.

    Shape:
        `(len(indices), C, H, W)`, uint8.
    """
    pixels: np.ndarray = split.pixels[indices]
    if split.info.binarization == "none":
        return pixels
    bits: np.ndarray = generator.random(pixels.shape, np.float32) < pixels / np.float32(255)
    return bits.view(np.uint8)


def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """Return the order in which an epoch visits the images, a permutation of `range(images)`."""
    return stream("order", seed, epoch).permutation(images)
