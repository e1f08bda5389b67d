"""Splits of images, and the levels that a model sees of them: fixed for scoring, fresh for training."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from famecli.config.schema import ModelConfig
from famecli.data.arrays import image_shape_of, images_of, read_stream
from famecli.data.cache import locate
from famecli.data.fetch import say_nothing
from famecli.data.folder import SPLITS, read_folder, seen_with
from famecli.data.folder import describe as describe
from famecli.data.handwritten import read_amat, read_chardata, read_drawings, read_mnist
from famecli.data.photographs import read_batches, read_cifar10, read_pngs
from famecli.data.preparation import Preparation
from famecli.data.reading import levels_of, read_images, read_one
from famecli.data.registry import FOLDER, DatasetInfo, dataset_info
from famecli.errors import ArgumentError, InputError
from famecli.files import STDIN, open_input, read_up_to, write_atomic
from famecli.rng import stream

Split = Literal["train", "valid", "test", "all"]
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
}
CHUNK_IMAGES = 1000
# Seed of data sets whose bits are drawn once.
PUBLISHED_SEED = 0
ALL = "all"
STDIN_NAME = "stdin"
# Hashes of the training images, in the folder of a run: later commands see by them that an image was trained
# on. They never go into a checkpoint, since they tell whether a given image was among them.
SEEN_IMAGES = "training-images.bin"
# The start of a hash is enough: two of a million images are equal in it by chance once in 10^7 lists.
SHORT = "<u8"
LARGEST_LIST_BYTES = 1 << 30


@dataclass(frozen=True)
class ImageSplit:
    """Images as stored in their files.

    Args:
        info: Data set.
        split: Name of the split.
        pixels: `(N, C, H, W)`, uint8: values 0 to 255, bits where the files hold bits, levels 0 to
            `info.levels - 1` for a user's images; or float32 in 0 to 1, where the files hold probabilities of
            bits.
        labels: Class of each image, an index of `info.classes`, `(N,)`; None if there are none.
        files: Name of each image's file; None if images are not files.
    """

    info: DatasetInfo
    split: str
    pixels: np.ndarray
    labels: np.ndarray | None = None
    files: Sequence[str] | None = None


@dataclass(frozen=True)
class FixedLevels:
    """Images as a model scores them.

    Args:
        levels: `(n, C, H, W)`, uint8, 0 to the data set's `levels - 1`.
        numbers: Number of each image in its split, from 0.
        sha256: SHA-256 of the bytes of `levels`; equal hashes mean that the same bits were scored.
        labels: Class that each image is given with, int64, `(n,)`; None without classes.
    """

    levels: np.ndarray
    numbers: Sequence[int]
    sha256: str
    labels: np.ndarray | None = None


def load_split(
    name: str,
    split: Split,
    *,
    data: Path | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
    levels: int | None = None,
    channels: int | None = None,
    preparation: Preparation | None = None,
) -> ImageSplit:
    """Return a split of a data set; `famecli.data.cache.locate` says where its files are searched.

    Args:
        name: Name of the data set.
        split: Name of the split, or `all` for all of them, one after the other.
        data: Folder with the files; for `folder`, the images themselves.
        cache_dir: See `famecli.files.cache_root`.
        offline: Whether downloads are forbidden.
        report: Called with a line before each download, and with lines about the user's images.
        levels: For `folder`, number of levels of the model; see `describe`.
        channels: For `folder`, number of channels of the model; see `describe`.
        preparation: For `folder`, preparation of the images.

    Raises:
        ArgumentError: There is no such data set or split.
        UnavailableError: The files are not on this machine, and cannot be downloaded.
        InputError: A file is damaged.
        IntegrityError: A file is not the official one.
    """
    info = describe(name, data, levels, channels, preparation)
    for line in info.told:
        report(line)

    def read(part: str) -> ImageSplit:
        if info.family == FOLDER and data is not None:
            return read_split(info, data, part, report)
        return read_split(info, locate(info, data, cache_dir, offline, report, part), part)

    if split == ALL:
        parts = [read(each) for each in get_args(Split) if info.splits.get(each)]
        files = [file for part in parts for file in part.files or ()]
        labels = [part.labels for part in parts if part.labels is not None]
        every = np.concatenate(labels) if len(labels) == len(parts) else None
        pixels = np.concatenate([part.pixels for part in parts])
        return ImageSplit(info, ALL, pixels, every, files=files or None)
    if split not in info.splits:
        raise ArgumentError(f"{name} has no split {split!r}", f"splits: {', '.join(info.splits)}")
    return read(split)


def read_split(
    info: DatasetInfo, folder: Path, split: str, report: Callable[[str], None] = say_nothing
) -> ImageSplit:
    """Return a split from the files in `folder`; `report` and errors are those of `load_split`."""
    if info.family == FOLDER:
        pixels, labels = read_folder(info, folder, split, report)
    else:
        pixels, labels = READERS[info.family](info, folder, split)
    if info.bits_of is not None:
        pixels = _bits(pixels, info.bits_of, split, PUBLISHED_SEED)
    return ImageSplit(info, split, pixels, labels, info.names.get(split))


def even_part(images: int, limit: int | None = None) -> Sequence[int]:
    """Return the numbers of images that are spread evenly over a split: `floor(i * images / limit)`.

    Splits may be sorted by class, so the first images would not stand for all.

    Args:
        images: Number of images of the split.
        limit: Largest number of images in the part; None for all.

    >>> even_part(10, 4)
    [0, 2, 5, 7]
    """
    count = images if limit is None else min(limit, images)
    return [index * images // count for index in range(count)]


def fixed_levels(split: ImageSplit, seed: int = 0, numbers: Sequence[int] | None = None) -> FixedLevels:
    """Return the levels to score, determined by the seed. An image's bits do not depend on `numbers`.

    Args:
        split: Images.
        seed: Seed of the bits, where the data set has random ones.
        numbers: Ascending numbers of the images in the split; None for all.
    """
    if numbers is None:
        numbers = range(len(split.pixels))
    # One stream draws the bits in order, so those of all earlier images are drawn as well.
    levels = split.pixels[: numbers[-1] + 1] if len(numbers) else split.pixels[:0]
    if split.info.binarization == "dynamic":
        levels = _bits_of_parts(split, levels, seed)
    if len(numbers) < len(levels):
        levels = levels[list(numbers)]
    levels = np.ascontiguousarray(levels)
    return FixedLevels(levels, numbers, hashlib.sha256(levels.data).hexdigest())


def _bits_of_parts(split: ImageSplit, pixels: np.ndarray, seed: int) -> np.ndarray:
    """Return the bits of the first images of a split; those of `all` are the bits of each split."""
    if split.split != ALL:
        return _bits(pixels, split.info.name, split.split, seed)
    ends = np.cumsum([split.info.splits.get(name, 0) for name in SPLITS])
    parts = zip(SPLITS, np.split(pixels, ends[:-1]), strict=True)
    return np.concatenate([_bits(part, split.info.name, name, seed) for name, part in parts if len(part)])


def _bits(pixels: np.ndarray, name: str, split: str, seed: int) -> np.ndarray:
    """Return bits with the probabilities in `pixels`, determined by data set, split and seed."""
    generator = stream("binarize", name, split, seed)
    chunks = [pixels[start : start + CHUNK_IMAGES] for start in range(0, len(pixels), CHUNK_IMAGES)]
    bits = [generator.random(chunk.shape) < _probabilities(chunk, np.float64) for chunk in chunks]
    return np.concatenate(bits).astype(np.uint8) if bits else pixels


def training_levels(split: ImageSplit, indices: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return levels of the images at `indices`, with fresh bits where the data set has random ones.

    Shape:
        `(len(indices), C, H, W)`, uint8.
    """
    chances = bit_probabilities(split, indices)
    if chances is None:
        pixels: np.ndarray = split.pixels[indices]
        return pixels
    bits = generator.random(chances.shape, np.float32) < chances
    return np.asarray(bits).view(np.uint8)


def bit_probabilities(split: ImageSplit, indices: np.ndarray) -> np.ndarray | None:
    """Return the probabilities of the bits of `training_levels`; None if they are not random."""
    if split.info.binarization != "dynamic":
        return None
    return _probabilities(split.pixels[indices], np.float32)


def _probabilities(pixels: np.ndarray, dtype: type[np.floating]) -> np.ndarray:
    """Return pixels as probabilities of bits; floats are probabilities already."""
    return np.asarray(pixels / dtype(255)) if pixels.dtype == np.uint8 else pixels


def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """Return the order in which an epoch visits the images, a permutation of `range(images)`."""
    return stream("order", seed, epoch).permutation(images)


def read_stdin(shape: tuple[int, int, int], levels: int) -> ImageSplit:
    """Return all images on stdin, in order, as levels of a model; `fame sample -o -` writes such images.

    Args:
        shape: `(C, H, W)` of the model; other images are refused before their pixels are read.
        levels: Number of levels of the model.

    Raises:
        InputError: stdin is not one whole npy or npz array of such images.
    """

    def accept(found: tuple[int, ...]) -> None:
        if (actual := image_shape_of(found, STDIN_NAME)) != shape:
            sizes = ("x".join(map(str, each)) for each in (actual, shape))
            raise InputError(
                "{} has images of {}, the model takes {}".format(STDIN_NAME, *sizes),
                "sample without `rgb`" if actual == (3, *shape[1:]) else "",
            )

    with open_input(STDIN, "images") as file:
        pixels = images_of(read_stream(file, STDIN_NAME, accept), STDIN_NAME)
    found = levels_of(pixels, levels, lambda index: f"{STDIN_NAME}: image {index}")
    return own_images(found, levels, STDIN_NAME, "Images on stdin")


def read_files(
    config: ModelConfig,
    files: Sequence[str],
    preparation: Preparation | None = None,
    report: Callable[[str], None] = say_nothing,
    *,
    single: bool = False,
) -> ImageSplit:
    """Return the images in files as levels of a model, with the labels of arrays if all images have one.

    Args:
        config: Configuration of the model.
        files: Image files, folders of them, archives or arrays; or `-` for one image on stdin.
        preparation: Preparation of the images; None where they must stay as they are.
        report: Called with one line about the images.
        single: Whether each of `files` must be one image.

    Raises:
        InputError: See `read_images`, for single images `read_one`, and for levels `levels_of`.
    """
    if single:
        found = [read_one(file, config.image_shape, preparation, report) for file in files]
    else:
        found = read_images(files, config.image_shape, preparation, report)
    stored, images = zip(*found, strict=True)
    names = [each.name for each in stored]
    pixels = levels_of(np.stack(images), config.levels, lambda index: names[index], preparation, report)
    split = own_images(pixels, config.levels, "files", "Image files", names, preparation)
    classes, labels = np.unique([each.label for each in stored], return_inverse=True)
    if "" in classes:
        return split
    info = dataclasses.replace(split.info, classes=tuple(map(str, classes)))
    return dataclasses.replace(split, info=info, labels=labels)


def own_images(
    pixels: np.ndarray,
    levels: int,
    name: str,
    title: str,
    files: Sequence[str] | None = None,
    preparation: Preparation | None = None,
) -> ImageSplit:
    """Return a user's images as the only split of a data set.

    Args:
        pixels: Integer levels, uint8, `(N, C, H, W)`.
        levels: Number of values of a pixel.
        name: Name of the data set, and of its family.
        title: Title of the data set.
        files: Name of each image's file; None if images are not files.
        preparation: Preparation of the images; None where they are as they were given.
    """
    info = dataclasses.replace(
        seen_with(dataset_info(FOLDER), levels),
        name=name,
        family=name,
        title=title,
        shape=pixels.shape[1:],
        splits={ALL: len(pixels)},
        rule="all of them",
        preparation=preparation,
    )
    return ImageSplit(info, ALL, pixels, files=files)


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
    """Return how many of the images are in the list of training images; None if the folder has no list.

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
