"""Splits of images, and the levels that a model sees of them: fixed for scoring, fresh for training."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from famecli.data.amat import read_amat
from famecli.data.cifar10 import read_cifar10
from famecli.data.fetch import locate, say_nothing
from famecli.data.folder import describe as describe
from famecli.data.folder import read_folder
from famecli.data.imagenet32 import read_batches, read_pngs
from famecli.data.info import DatasetInfo
from famecli.data.mnist import read_mnist
from famecli.data.omniglot import read_chardata, read_drawings
from famecli.data.registry import FOLDER
from famecli.errors import UsageError
from famecli.rng import stream

Split = Literal["train", "valid", "test"]
Reader = Callable[[DatasetInfo, Path, str], tuple[np.ndarray, np.ndarray | None]]

READERS: Mapping[str, Reader] = {
    "mnist": read_mnist,
    "mnist-static": read_amat,
    "omniglot": read_chardata,
    "omniglot-28": read_drawings,
    "omniglot-small": read_drawings,
    "cifar10": read_cifar10,
    "imagenet32": read_batches,
    "imagenet32-old": read_pngs,
    FOLDER: read_folder,
}
CHUNK_IMAGES = 1000
# Of the bits of data sets whose bits are drawn once.
PUBLISHED_SEED = 0


@dataclass(frozen=True)
class ImageSplit:
    """Images as their files hold them.

    Args:
        info: The data set.
        split: Which part of it.
        pixels: `(N, C, H, W)`, uint8: greys or colours of 0 to 255, or bits where the files hold bits; or
            float32 in 0 to 1, where the files hold chances of bits.
        labels: `(N,)`, uint8, or None where the data set or the folder has none, or they do not matter.
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
    levels: int | None = None,
) -> ImageSplit:
    """Return a split of the data set `name`; see `locate` for where its files are looked for.

    Images of the user are taken as a model of `levels` sees them; every other data set has levels of its own.

    Raises:
        UsageError: There is no such data set or split.
        UnavailableError: Its files are neither here nor to be had.
        InputError: A file is damaged.
        IntegrityError: A file is not the official one.
    """
    info = describe(name, data, levels)
    if split not in info.splits:
        raise UsageError(f"{name} has no split {split!r}", f"splits: {', '.join(info.splits)}")
    if info.family == FOLDER and data is not None:
        return read_split(info, data, split)
    return read_split(info, locate(info, data, cache_dir, offline, report, split), split)


def read_split(info: DatasetInfo, folder: Path, split: str) -> ImageSplit:
    """Return a split from the files in `folder`; errors are those of `load_split`."""
    pixels, labels = READERS[info.family](info, folder, split)
    if info.bits_of is not None:
        pixels = _bits(pixels, info.bits_of, split, PUBLISHED_SEED)
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
        levels = _bits(pixels, split.info.name, split.split, seed)
    else:
        levels = np.ascontiguousarray(pixels)
    return FixedLevels(levels, hashlib.sha256(levels.data).hexdigest())


def _bits(pixels: np.ndarray, name: str, split: str, seed: int) -> np.ndarray:
    """Return bits with the chances that `pixels` stand for, the same for a data set, split and seed."""
    generator = stream("binarize", name, split, seed)
    chunks = [pixels[start : start + CHUNK_IMAGES] for start in range(0, len(pixels), CHUNK_IMAGES)]
    bits = [generator.random(chunk.shape) < _chances(chunk, np.float64) for chunk in chunks]
    return np.concatenate(bits).astype(np.uint8) if bits else pixels


def training_levels(split: ImageSplit, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return levels of the images at `indices`, with fresh bits where the data set has random ones.

    Shape:
        `(len(indices), C, H, W)`, uint8.
    """
    pixels: np.ndarray = split.pixels[indices]
    if split.info.binarization != "dynamic":
        return pixels
    bits: np.ndarray = generator.random(pixels.shape, np.float32) < _chances(pixels, np.float32)
    return bits.view(np.uint8)


def _chances(pixels: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """Return the chances of bits that pixels stand for; those that are chances already stay as they are."""
    chances: np.ndarray = pixels / dtype(255) if pixels.dtype == np.uint8 else pixels
    return chances


def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """Return the order in which an epoch visits the images, a permutation of `range(images)`."""
    return stream("order", seed, epoch).permutation(images)
