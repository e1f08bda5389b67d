"""Locations of the files of data sets on this machine, and checks that they are the official ones."""

import functools
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from famecli.data.archive import opened, unzipped
from famecli.data.fetch import fetch_file, file_sha256, git_blob, is_offline, say_nothing
from famecli.data.registry import FOLDER, DataFile, DatasetInfo
from famecli.errors import InputError, IntegrityError, UnavailableError
from famecli.files import cache_root, check_exists

State = Literal["official", "unverified", "differs", "missing"]


def find_file(folder: Path, name: str) -> Path | None:
    """Return a file in `folder`, or None.

    Args:
        folder: Folder of the files of a data set.
        name: Name of the file at its source, found with or without `.gz`; or name in its archive, found with
            or without its folder.
    """
    zipped = [folder / f"{name}.gz"] if name.endswith(".amat") else []
    candidates = (folder / name, folder / name.removesuffix(".gz"), folder / os.path.basename(name), *zipped)
    # Unlike Path's methods, os.path treats a folder without access as empty.
    return next((path for path in candidates if os.path.exists(path)), None)


def missing_files(info: DatasetInfo, folder: Path, split: str | None = None) -> list[str]:
    """Return the files of a data set that `split` (None: any split) needs and `folder` lacks."""

    def has(name: str, members: Collection[str]) -> bool:
        unpacked = bool(members) and all(find_file(folder, member) for member in members)
        return unpacked or find_file(folder, name) is not None

    return [
        name for name, file in info.files.items() if file.needed_for(split) and not has(name, file.members)
    ]


def official_file(info: DatasetInfo, folder: Path, name: str) -> Path:
    """Return the file `name` of a data set in `folder`, after a check of its hash.

    Raises:
        UnavailableError: The file is not in the folder, or cannot be read.
        IntegrityError: The file is not the official one.
    """
    path = find_file(folder, name)
    if path is None:
        raise UnavailableError(f"no {name} in {folder}", "add that file, or name another folder")
    file = info.files[name]
    # Hashing a pipe would block; readers refuse anything but regular files.
    if os.path.isfile(path):
        sha256 = file_sha256(path)
        if file.content_sha256 is not None and sha256 != file.sha256:
            check_hash(info, path, content_sha256(path, sha256), file.content_sha256, "sha256 of its content")
        else:
            check_hash(info, path, sha256, file.sha256)
        if file.git_blob is not None:
            check_hash(info, path, git_blob(path), file.git_blob, "git blob")
    return path


@functools.lru_cache
def content_sha256(path: Path, sha256: str) -> str:
    """Return the SHA-256 of what a file holds, however it is packed: drawings, a text, or an IDX array.

    Args:
        path: Path of the file.
        sha256: SHA-256 of the file, part of the cache key: each split of a data set asks again.
    """
    # Deferred: `fame info` can do without numpy.
    from famecli.data.arrays import idx_sha256, read_idx
    from famecli.data.drawings import drawings_sha256

    if ".amat" in path.suffixes:
        with opened(path) as file:
            return hashlib.file_digest(unzipped(file), "sha256").hexdigest()  # type: ignore[arg-type]
    return drawings_sha256(path) if path.suffix == ".zip" else idx_sha256(read_idx(path))


def check_hash(
    info: DatasetInfo, file: Path | str, actual: str, expected: str | None, kind: str = "sha256"
) -> None:
    """Check that a file of a data set has its official hash, if there is one.

    Args:
        info: Data set.
        file: Path or description of the file, for the error.
        actual: Hash of the file.
        expected: Official hash, or None if nobody published one.
        kind: Name of the hash, for the error.

    Raises:
        IntegrityError: The hashes differ.
    """
    if expected is not None and actual != expected:
        reason = f"{kind} {actual[:12]}, expected {expected[:12]}"
        message = f"{file}: not the official file of {info.name} ({reason})"
        raise IntegrityError(
            message, f"fame datasets pull {info.name} gets it; other images are read by `dataset={FOLDER}`"
        )


def members_or_archive(info: DatasetInfo, folder: Path, name: str, members: Sequence[str]) -> list[Path]:
    """Return the files `members` of the archive `name`, unpacked in `folder`, or else the archive alone.

    Raises:
        UnavailableError: Neither is in the folder.
    """
    found = [find_file(folder, member) for member in members]
    if all(found):
        return [path for path in found if path is not None]
    archive = find_file(folder, name)
    if archive is None:
        missing = PurePosixPath(members[found.index(None)]).name
        raise UnavailableError(f"no {missing} and no {name} in {folder}", "add it, or name another folder")
    return [archive]


def dataset_cache(info: DatasetInfo, cache_dir: Path | None = None) -> Path:
    """Return the folder in the cache where downloaded files of a data set are, or would be."""
    return cache_root(cache_dir) / "datasets" / info.family


def find_dataset(
    info: DatasetInfo, data: Path | None = None, cache_dir: Path | None = None, split: str | None = None
) -> Path | None:
    """Return the folder with files of a data set on this machine, or None; arguments are those of `locate`.

    Raises:
        InputError: `data` holds the data set only as pickles.
    """
    if data is not None:
        found = _fullest(_places(data, info), info, split)
        if found is None:
            _refuse_pickles(data, info)
        return found
    named = os.environ.get("FAME_DATA")
    places = _places(Path(named), info) if named else []
    return _fullest([*places, dataset_cache(info, cache_dir)], info, split)


def locate(
    info: DatasetInfo,
    data: Path | None = None,
    cache_dir: Path | None = None,
    offline: bool = False,
    report: Callable[[str], None] = say_nothing,
    split: str | None = None,
) -> Path:
    """Return the folder with the files of a data set, after a download of missing ones.

    Search order: `data`, the folder in FAME_DATA, the cache, the official mirrors. The first two may hold the
    files themselves, or a folder with the name of the data set, of its family, or of the family's part before
    the dash. Of all these folders, the one that lacks the fewest files of the split is taken.

    Args:
        info: The data set.
        data: Folder with the files; no other place is searched.
        cache_dir: See `cache_root`.
        offline: Whether downloads are forbidden.
        report: Called with one line of text before each download.
        split: Split whose files are needed; None for all.

    Raises:
        InputError: `data` does not exist, or holds the data set only as pickles.
        UnavailableError: The files are not on this machine, and cannot be downloaded.
        IntegrityError: No mirror has the right file.
    """
    found = find_dataset(info, data, cache_dir, split)
    folder = dataset_cache(info, cache_dir)
    if found is not None and (data is not None or found != folder):
        return found
    if data is not None:
        check_exists(data)
        # Deferred: needs numpy, which `fame --help` does without.
        from famecli.data.listing import holds_images

        own = f"for images of your own, add `dataset={FOLDER}`; else " if holds_images(str(data)) else ""
        hint = f"{own}put {next(iter(info.files), 'them')} and the other files there, or leave `data` out"
        raise UnavailableError(f"no files of {info.name} in {data}", hint)
    missing = missing_files(info, folder, split)
    if missing and is_offline(offline):
        if found:
            return folder
        hint = "put its files into the folder that FAME_DATA names, or allow downloads"
        raise UnavailableError(f"{info.name} is not on this machine, and downloads are off", hint)
    for name in missing:
        file = info.files[name]
        fetch_file(
            [mirror + name for mirror in info.mirrors],
            file.sha256,
            folder / name,
            size_bytes=file.size_bytes,
            blob=file.git_blob,
            offline=offline,
            report=report,
        )
    return folder


def _fullest(places: Sequence[Path], info: DatasetInfo, split: str | None) -> Path | None:
    """Return the first place that lacks the fewest files of a split; None if no place has any file."""
    names = [*info.files, *(member for file in info.files.values() for member in file.members)]
    found = [place for place in places if any(find_file(place, name) for name in names)]
    return min(found, key=lambda place: len(missing_files(info, place, split)), default=None)


def _places(folder: Path, info: DatasetInfo) -> list[Path]:
    """Return the possible folders of a data set in a data root; `omniglot` serves the whole family."""
    names = dict.fromkeys((info.name, info.family, info.family.partition("-")[0]))
    return [folder, *(folder / name for name in names)]


def _refuse_pickles(folder: Path, info: DatasetInfo) -> None:
    for path in (place / name for place in _places(folder, info) for name in info.pickles):
        if os.path.exists(path):
            raise InputError(
                f"{path} holds {info.name} as pickles, which can run any code: refused",
                f"put {next(iter(info.files))} there, or leave `data` out to download it",
            )


@dataclass(frozen=True)
class FileState:
    """A file of a data set, compared with its official hash.

    Args:
        name: Name at the source, or in the archive.
        path: Path of the file; None if it is missing.
        sha256: SHA-256 of the file found.
        state: `official` if the hash of the file or of its content is the official one, `differs` if it is
            not, `unverified` if no official hash applies, `missing` without a file.
    """

    name: str
    path: Path | None
    sha256: str | None
    state: State


def file_states(info: DatasetInfo, folder: Path) -> list[FileState]:
    """Return the state of each file of a data set in `folder`.

    Raises:
        UnavailableError: A file cannot be read.
        InputError: A gzipped file is damaged.
    """
    return [state for name, file in info.files.items() for state in _states(name, file, folder)]


def _states(name: str, file: DataFile, folder: Path) -> Iterator[FileState]:
    if (path := find_file(folder, name)) is not None:
        # The members of an ungzipped archive have hashes of their own, which are checked when they are read.
        yield _state(name, path, file, "differs" if file.known and path.name == name else "unverified")
        return
    members = {member: place for member in file.members if (place := find_file(folder, member))}
    if not members:
        yield FileState(name, None, None, "missing")
    for member, place in members.items():
        sha256 = file.members[member]
        yield _state(member, place, DataFile(sha256), "differs" if sha256 else "unverified")


def _state(name: str, path: Path, file: DataFile, otherwise: State) -> FileState:
    """Return the state of a file that exists: `otherwise` unless one of its official hashes matches."""
    actual, official = file_sha256(path), False
    if file.content_sha256 is not None and actual != file.sha256:
        official, otherwise = content_sha256(path, actual) == file.content_sha256, "differs"
    elif file.git_blob is not None:
        official = git_blob(path) == file.git_blob
    return FileState(name, path, actual, "official" if official or actual == file.sha256 else otherwise)
