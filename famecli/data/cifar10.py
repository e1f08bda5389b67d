"""CIFAR-10 from the binary archive, or from the six files that are in it."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from famecli.data.archive import AGAIN, read_file, tar_members
from famecli.data.fetch import find_file, find_member
from famecli.data.info import DatasetInfo
from famecli.errors import InputError, IntegrityError, UnavailableError

ARCHIVE = "cifar-10-binary.tar.gz"
CLASSES = 10
RECORD_BYTES = 1 + 3 * 32 * 32
LARGEST_FILE_BYTES = 64 << 20
LARGEST_ARCHIVE_BYTES = 512 << 20


def read_cifar10(info: DatasetInfo, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images and labels of a split; the last of the official training images are validation.

    Args:
        info: Names the files, with their hashes.
        folder: Where the archive is, or what is in it.
        split: `train`, `valid` or `test`.

    Shape:
        `(N, 3, 32, 32)` and `(N,)`, uint8.

    Raises:
        UnavailableError: The files are not in the folder.
        InputError: One is damaged.
        IntegrityError: One is not the official one.
    """
    members = info.files[ARCHIVE].members
    wanted = [name for name in members if ("test" in PurePosixPath(name).name) == (split == "test")]
    records = np.concatenate([_records(name, each) for name, each in _contents(info, folder, wanted).items()])
    chosen = records[info.chosen(split, len(records))]
    pixels = np.ascontiguousarray(chosen[:, 1:]).reshape(-1, *info.shape)
    return pixels, np.ascontiguousarray(chosen[:, 0])


def _contents(info: DatasetInfo, folder: Path, wanted: list[str]) -> dict[str, bytes]:
    """Return the contents of the files called `wanted`, in that order, each known to be the official one."""
    paths = {name: find_member(folder, name) for name in wanted}
    archive = find_file(folder, ARCHIVE)
    if all(paths.values()):
        found = {name: read_file(path, LARGEST_FILE_BYTES) for name, path in paths.items() if path}
    elif archive is not None:
        found = _unpacked(archive, wanted)
    else:
        missing = next(name for name, path in paths.items() if path is None)
        raise UnavailableError(
            f"no {os.path.basename(missing)} and no {ARCHIVE} in {folder}",
            "add it, or name another folder with --data FOLDER",
        )
    _check(info, found, folder)
    return found


def _unpacked(archive: Path, wanted: list[str]) -> dict[str, bytes]:
    by_base = {PurePosixPath(name).name: name for name in wanted}
    found: dict[str, bytes] = {}
    for name, content in tar_members(
        archive, ".bin", LARGEST_FILE_BYTES, limit_bytes=LARGEST_ARCHIVE_BYTES, wanted=by_base
    ):
        found[by_base[PurePosixPath(name).name]] = content
    if missing := [name for name in wanted if name not in found]:
        raise InputError(f"{archive}: no {missing[0]} in it", AGAIN)
    return {name: found[name] for name in wanted}


def _check(info: DatasetInfo, contents: Mapping[str, bytes], folder: Path) -> None:
    for name, content in contents.items():
        expected, actual = info.files[ARCHIVE].members[name], hashlib.sha256(content).hexdigest()
        if expected is not None and actual != expected:
            raise IntegrityError(
                f"{name} in {folder}: not the official file of {info.name} (sha256 {actual[:12]}, "
                f"expected {expected[:12]})",
                "delete it and download the archive again",
            )


def _records(name: str, content: bytes) -> np.ndarray:
    if not content or len(content) % RECORD_BYTES:
        raise InputError(f"{name}: {len(content):,} bytes are not records of {RECORD_BYTES}", AGAIN)
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    if (records[:, 0] >= CLASSES).any():
        raise InputError(f"{name}: labels of {CLASSES} and more; not a binary batch of CIFAR-10", AGAIN)
    return records
