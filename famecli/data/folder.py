"""Images of the user as a data set: a folder of image files, or an npz or npy file."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from famecli.data.arrays import images_of, read_array
from famecli.data.image_files import exact_levels, has_image_suffix, image_shape, read_images
from famecli.data.registry import FOLDER, DatasetInfo, dataset_info
from famecli.errors import InputError, UnavailableError, UsageError
from famecli.files import STDIN

ARRAY_SUFFIXES = (".npz", ".npy")
SPLITS = ("train", "valid", "test")
LARGEST_BYTES = 16 << 30
# Of every ten images in order, the last is test and the one before it validation.
PERIOD = 10
REMAINDERS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}

_WHAT = "name a folder of images of one size, or an .npz or .npy file of bytes (N, H, W, C)"


def describe(name: str, data: Path | None = None, levels: int | None = None) -> DatasetInfo:
    """Return the data set `name`; the shape and the splits of `folder` are those of the images in `data`.

    Images have three channels if any has colours, else one. Only the headers of image files are parsed.

    Args:
        name: Name of the data set.
        data: For `folder`, a folder of image files, nested or not, or with the subfolders `train`, `valid`
            and `test`; or an image, npz or npy file.
        levels: For `folder`, number of levels of the model; None for 256.

    Raises:
        UsageError: There is no such data set, `folder` comes without `data`, or `data` is stdin.
        UnavailableError: There is no such path.
        InputError: There are no images, or not all of one size.
    """
    info = dataset_info(name)
    if data == STDIN:
        raise UsageError("only images to score or to reconstruct come through stdin", "name a file or folder")
    if info.family != FOLDER:
        return info
    if data is None:
        raise UsageError(
            f"the data set {FOLDER} is images of your own", "pass their folder or file as `data`"
        )
    if not data.exists():
        raise UnavailableError(f"{data}: no such file or folder", _WHAT)
    if is_array(data):
        images = images_of(read_array(data), str(data))
        shape = images.shape[1:]
        splits = {split: len(_chosen(split, len(images))) for split in SPLITS}
    else:
        files = _files(data)
        shape = _common_shape([file for part in files.values() for file in part])
        splits = {split: len(part) for split, part in files.items()}
    if sum(splits.values()) * np.prod(shape, dtype=float) > LARGEST_BYTES:
        raise InputError(
            f"{data}: {sum(splits.values()):,} images of {shape} are more than {LARGEST_BYTES:,} bytes"
        )
    return dataclasses.replace(seen_with(info, levels or info.levels), shape=shape, splits=splits)


def seen_with(info: DatasetInfo, levels: int) -> DatasetInfo:
    """Return a data set of the user's images with the number of levels of a model."""
    if levels == 2:
        return dataclasses.replace(info, levels=levels, binarization="fixed", unit="nats")
    return dataclasses.replace(info, levels=levels)


def is_array(path: Path | str) -> bool:
    """Return whether the suffix of `path` is that of an array file."""
    return Path(path).suffix.lower() in ARRAY_SUFFIXES


def read_folder(info: DatasetInfo, path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split, by their names or in the order of the array; no labels.

    Args:
        info: Data set, from `describe`.
        path: Folder or file of the images, as for `describe`.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, C, H, W)`, uint8, levels of `info`.

    Raises:
        InputError: The split has no images, or an image cannot be read or has a pixel that is no level.
    """
    if not info.splits[split]:
        hint = f"give {PERIOD} images or more, or folders {', '.join(SPLITS)} in it"
        raise InputError(f"{path} has no images for the split {split}", hint)
    if is_array(path):
        images = images_of(read_array(path), str(path))
        chosen = _chosen(split, len(images))
        return exact_levels(images[chosen], info.levels, lambda index: f"{path}: image {chosen[index]}"), None
    found = read_images(_files(path)[split], info.shape)
    pixels = np.stack([image for _, image in found])
    return exact_levels(pixels, info.levels, lambda index: found[index][0]), None


def _chosen(split: str, images: int) -> list[int]:
    """Return the positions of a split among a number of images, if no folder is named after a split."""
    return [index for index in range(images) if index % PERIOD in REMAINDERS[split]]


def _files(path: Path) -> dict[str, list[Path]]:
    """Return the image files of each split, by name."""
    if (path / "train").is_dir() and (path / "test").is_dir():
        folders = {split: path / split for split in SPLITS}
        return {split: _below(each) if each.exists() else [] for split, each in folders.items()}
    files = _below(path)
    return {split: [files[index] for index in _chosen(split, len(files))] for split in SPLITS}


def _below(path: Path) -> list[Path]:
    """Return the image files in a folder and in those within it, by name; a file itself if it is an image."""

    def fail(error: OSError) -> None:
        raise InputError(f"cannot read folder {error.filename}: {error.strerror}") from error

    if path.is_file():
        return [path] if has_image_suffix(path.name) else []
    found = [Path(root, name) for root, _, names in os.walk(path, onerror=fail) for name in names]
    return sorted(each for each in found if has_image_suffix(each.name))


def _common_shape(files: list[Path]) -> tuple[int, int, int]:
    if not files:
        raise InputError("no images there", _WHAT)
    shapes = [image_shape(file) for file in files]
    _, height, width = shapes[0]
    for file, found in zip(files, shapes, strict=True):
        if found[1:] != (height, width):
            raise InputError(
                f"{file}: {found[2]}x{found[1]} pixels, {files[0]} has {width}x{height}",
                "resize or crop all to one size first",
            )
    return max(channels for channels, *_ in shapes), height, width
