"""Readers of photographs: CIFAR-10, and ImageNet at 32x32 by Chrabaszcz and by van den Oord."""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np

from famecli.data.archive import AGAIN, ends_with, opened, read_file, tar_members, zip_members
from famecli.data.arrays import npz_arrays
from famecli.data.cache import check_hash, members_or_archive, official_file
from famecli.data.image_files import decode
from famecli.data.registry import DatasetInfo
from famecli.errors import InputError

PIXELS = 3 * 32 * 32
CIFAR10 = "cifar-10-binary.tar.gz"
CLASSES = 10
LARGEST_CIFAR10_FILE_BYTES = 64 << 20
LARGEST_CIFAR10_BYTES = 512 << 20
LARGEST_BATCH_BYTES = 1 << 30
LARGEST_PNG_BYTES = 1 << 16
# Placeholder for images of other splits.
NOT_DECODED = np.zeros((1, 3, 32, 32), np.uint8)


def read_cifar10(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images and labels of a split; the last of the official training images are validation.

    Args:
        info: Data set, with the hashes of the files in its archive.
        folder: Folder of the binary archive, or of its unpacked content.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 3, 32, 32)` and `(N,)`, uint8.

    Raises:
        UnavailableError: The files are not in the folder.
        InputError: A file is damaged.
        IntegrityError: A file is not the official one.
    """
    members = info.files[CIFAR10].members
    by_name = {PurePosixPath(member).name: member for member in members}
    wanted = [name for name in by_name if ("test" in name) == (split == "test")]
    paths = members_or_archive(info, folder, CIFAR10, [by_name[name] for name in wanted])
    records = {}
    for name, content in _cifar10_files(paths):
        if name in wanted:
            expected = members[by_name[name]]
            check_hash(info, f"{name} in {folder}", hashlib.sha256(content).hexdigest(), expected)
            records[name] = _records(f"{folder / name}", content)
    if missing := [name for name in wanted if name not in records]:
        raise InputError(f"{paths[0]}: no {missing[0]} in it", AGAIN)
    whole = np.concatenate([records[name] for name in wanted])
    chosen = whole[info.chosen(split, len(whole))]
    return np.ascontiguousarray(chosen[:, 1:]).reshape(-1, *info.shape), np.ascontiguousarray(chosen[:, 0])


def _cifar10_files(paths: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of unpacked files, and of the files in archives."""
    for path in paths:
        if path.suffix == ".bin":
            yield path.name, read_file(path, LARGEST_CIFAR10_FILE_BYTES)
        else:
            for member, content in tar_members(
                path, ends_with(".bin"), LARGEST_CIFAR10_FILE_BYTES, limit_bytes=LARGEST_CIFAR10_BYTES
            ):
                yield PurePosixPath(member).name, content


def _records(name: str, content: bytes) -> np.ndarray:
    if not content or len(content) % (1 + PIXELS):
        raise InputError(f"{name}: {len(content):,} bytes are not records of {1 + PIXELS}", AGAIN)
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
    if (records[:, 0] >= CLASSES).any():
        raise InputError(f"{name}: labels of {CLASSES} and more; not a binary batch of CIFAR-10", AGAIN)
    return records


def read_batches(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of Chrabaszcz's ImageNet, from its npz files, zipped or not; no labels.

    The official validation images are the test split, the last of the training images validation.

    Args:
        info: Data set, with the hashes of its archives.
        folder: Folder of the archives, or of their unpacked content.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 3, 32, 32)`, uint8.

    Raises:
        UnavailableError: The files are not in the folder.
        InputError: A file is damaged.
        IntegrityError: An archive is not the official one.
    """
    return _gather(info, split, _batches(info, folder, _file_of(info, split))), None


def read_pngs(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split of van den Oord's ImageNet, from its tars of PNGs, in order; no labels.

    The official validation images are the test split, the last of the training images validation.

    Args:
        info: Data set, with the hashes of its archives.
        folder: Folder of the archives.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 3, 32, 32)`, uint8.

    Raises:
        UnavailableError: The archive is not in the folder.
        InputError: The archive is damaged.
        IntegrityError: The archive is not the official one.
    """
    path = official_file(info, folder, _file_of(info, split))
    pngs = tar_members(
        path, ends_with(".png"), LARGEST_PNG_BYTES, limit_bytes=4 * path.stat().st_size + (1 << 20)
    )
    wanted = info.positions(split)
    pieces = (
        decode(f"{path}: {name}", content, info.shape)[None] if index in wanted else NOT_DECODED
        for index, (name, content) in enumerate(pngs)
    )
    return _gather(info, split, pieces), None


def _file_of(info: DatasetInfo, split: str) -> str:
    return next(name for name, file in info.files.items() if file.needed_for(split))


def _gather(info: DatasetInfo, split: str, pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Return the images of a split, selected from pieces of all official test images, or of all others.

    Raises:
        InputError: There are more or fewer images than in the official files.
    """
    wanted, seen = info.positions(split), 0
    # Address space only: a page takes memory when an image is written to it.
    images = np.empty((len(wanted), *info.shape), np.uint8)
    for piece in pieces:
        start, stop = max(seen, wanted.start), min(seen + len(piece), wanted.stop)
        if start < stop:
            images[start - wanted.start : stop - wanted.start] = piece[start - seen : stop - seen]
        seen += len(piece)
    info.chosen(split, seen)
    return images


def _batches(info: DatasetInfo, folder: Path, name: str) -> Iterator[np.ndarray]:
    """Yield the images in each npz file of the archive `name`, `(N, 3, 32, 32)`, in the official order."""
    members = list(info.files[name].members)
    for path in members_or_archive(info, folder, name, members):
        with opened(path) as file:
            if path.suffix == ".npz":
                yield _pixels(file, str(path))
                continue
            official_file(info, folder, name)
            for suffix in (PurePosixPath(member).name for member in members):
                for member, size, packed in zip_members(
                    file, str(path), ends_with(suffix), LARGEST_BATCH_BYTES
                ):
                    # In memory, since an archive within an archive is read from its end.
                    content = cast(BinaryIO, io.BytesIO(packed.read(size + 1)))
                    yield _pixels(content, f"{path}: {member}")


def _pixels(file: BinaryIO, name: str) -> np.ndarray:
    for _, array in npz_arrays(file, name, lambda key, header: key == "data"):
        if array.ndim != 2 or array.shape[1] != PIXELS:
            raise InputError(f"{name} has shape {array.shape}, expected (N, {PIXELS})")
        return array.reshape(-1, 3, 32, 32)
    raise InputError(f"{name}: no array 'data' in it")
