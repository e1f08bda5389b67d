"""Images of the user as a data set: a folder of image files, or an npz or npy file."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from famecli.data.arrays import images_of, read_array
from famecli.data.image_files import has_image_suffix, image_shape, read_images
from famecli.data.info import DatasetInfo
from famecli.data.levels import exact_levels
from famecli.data.registry import FOLDER, dataset_info
from famecli.errors import InputError, UnavailableError, UsageError
from famecli.files import STDIN

ARRAY_SUFFIXES = (".npz", ".npy")
SPLITS = ("train", "valid", "test")
LARGEST_BYTES = 16 << 30
# Of ten images in order, the last is of the test split and the one before it of the validation split.
PERIOD = 10
REMAINDERS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}

_WHAT = "name a folder of images of one size, or an .npz or .npy file of bytes (N, H, W, C)"


def describe(name: str, data: Path | None = None, levels: int | None = None) -> DatasetInfo:
    """Return what is known of the data set `name` before its images are read.

    Args:
        name: As typed after `--dataset`.
        data: For `folder` the files themselves, of which sizes and number are looked at.
        levels: Of the model that asks, by which `folder` goes; None for 256.

    Raises:
        UsageError: There is no such data set, `folder` without `data`, or data on stdin.
        InputError: The files are not images of one size.
    """
    info = dataset_info(name)
    if data == STDIN:
        raise UsageError("only images to score or to reconstruct come through stdin", "name a file or folder")
    if info.family != FOLDER:
        return info
    if data is None:
        raise UsageError("--dataset folder is images of your own", "say where they are with --data PATH")
    return folder_info(seen_with(info, levels or info.levels), data)


def seen_with(info: DatasetInfo, levels: int) -> DatasetInfo:
    """Return the data set of images of the user as a model of so many levels sees it."""
    if levels == 2:
        return dataclasses.replace(info, levels=levels, binarization="fixed", unit="nats")
    return dataclasses.replace(info, levels=levels)


def folder_info(info: DatasetInfo, path: Path) -> DatasetInfo:
    """Return the data set of the images in `path`, with the shape and splits that they have.

    Images have three channels if any of them has colours, else one. Of image files only headers are read.

    Args:
        info: Of the data set `folder`, without shape and splits.
        path: A folder of image files, also in folders within it, or with folders `train`, `valid` and `test`
            of them; or an image, npz or npy file.

    Raises:
        UnavailableError: There is no such path.
        InputError: There are no images, or not all of one size.
    """
    if path.suffix.lower() in ARRAY_SUFFIXES:
        images = _array(path)
        shape = images.shape[1:]
        sizes = {split: len(_chosen(split, len(images))) for split in SPLITS}
    else:
        parts = _files(path)
        shape = _common_shape([file for files in parts.values() for file in files])
        sizes = {split: len(files) for split, files in parts.items()}
    if sum(sizes.values()) * np.prod(shape, dtype=float) > LARGEST_BYTES:
        raise InputError(
            f"{path}: {sum(sizes.values()):,} images of {shape} are more than {LARGEST_BYTES:,} bytes"
        )
    return dataclasses.replace(info, shape=shape, splits=sizes)


def read_folder(info: DatasetInfo, path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split, by their names or in the order of the array; no labels.

    Args:
        info: As `folder_info` returns it.
        path: As there.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, C, H, W)`, uint8, levels of `info`.

    Raises:
        InputError: The split has no images, one cannot be read, or has pixels that are none of the levels.
    """
    if not info.splits[split]:
        hint = f"give {PERIOD} images or more, or folders {', '.join(SPLITS)} in it"
        raise InputError(f"{path} has no images for the split {split}", hint)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        images = _array(path)
        chosen = _chosen(split, len(images))
        names = [f"{path}: image {index}" for index in chosen]
        pixels = images[chosen]
    else:
        found = read_images(_files(path)[split], info.shape)
        names = [name for name, _ in found]
        pixels = np.stack([each for _, each in found])
    return exact_levels(pixels, info.levels, names.__getitem__), None


def _chosen(split: str, images: int) -> list[int]:
    """Return which of so many images are of a split, where nothing else says so."""
    return [index for index in range(images) if index % PERIOD in REMAINDERS[split]]


def _files(path: Path) -> dict[str, list[Path]]:
    """Return the image files of each split, by name."""
    if not path.exists():
        raise UnavailableError(f"{path}: no such file or folder", _WHAT)
    if (path / "train").is_dir() and (path / "test").is_dir():
        return {split: _below(path / split) for split in SPLITS}
    files = _below(path)
    return {split: [files[index] for index in _chosen(split, len(files))] for split in SPLITS}


def _below(path: Path) -> list[Path]:
    """Return the image files in a folder and in those within it, by name; a file itself if it is an image."""

    def fail(error: OSError) -> None:
        raise InputError(f"cannot read folder {error.filename}: {error.strerror}") from error

    if not path.is_dir():
        return [path] if has_image_suffix(path.name) and path.exists() else []
    found = [Path(root, name) for root, _, names in os.walk(path, onerror=fail) for name in names]
    return sorted(each for each in found if has_image_suffix(each.name))


def _common_shape(files: list[Path]) -> tuple[int, int, int]:
    if not files:
        raise InputError("no images there", _WHAT)
    channels, size = 1, image_shape(files[0])[1:]
    for file in files:
        found = image_shape(file)
        if found[1:] != size:
            raise InputError(
                f"{file}: {found[2]}x{found[1]} pixels, {files[0]} has {size[1]}x{size[0]}",
                "resize or crop all to one size first",
            )
        channels = max(channels, found[0])
    return channels, *size


def _array(path: Path) -> np.ndarray:
    """Return the images in an npz or npy file as `(N, C, H, W)`."""
    if not path.exists():
        raise UnavailableError(f"{path}: no such file or folder", _WHAT)
    return images_of(read_array(path), str(path))
