"""What the files of a data set on this machine are, held against the official hashes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from famecli.data.check import file_sha256, git_blob
from famecli.data.fetch import find_file, find_member
from famecli.data.idx import read_idx
from famecli.data.info import DataFile, DatasetInfo
from famecli.data.mnist import content_sha256

State = Literal["official", "unverified", "differs", "missing"]


@dataclass(frozen=True)
class FileState:
    """What one file is.

    Args:
        name: At the source, or in the archive.
        path: Where it is; None if it is missing.
        sha256: Of the file as it is.
        state: `official` if it, or what is in it, has a known official hash, `unverified` if none is known.
    """

    name: str
    path: Path | None
    sha256: str | None
    state: State


def file_states(info: DatasetInfo, folder: Path) -> list[FileState]:
    """Return what each of the files of a data set in `folder` is.

    Raises:
        UnavailableError: A file cannot be read.
        InputError: A gzipped file is damaged.
    """
    states: list[FileState] = []
    for name, file in info.files.items():
        members = list(_members(file.members, folder))
        path = find_file(folder, name)
        if path is not None:
            actual = file_sha256(path)
            states.append(FileState(name, path, actual, _state(path, actual, file, path.name == name)))
        elif members:
            states += members
        else:
            states.append(FileState(name, None, None, "missing"))
    return states


def _state(path: Path, actual: str, file: DataFile, whole: bool) -> State:
    if actual == file.sha256:
        return "official"
    if file.content_sha256 is not None:
        return "official" if content_sha256(read_idx(path)) == file.content_sha256 else "differs"
    if file.git_blob is not None and git_blob(path) == file.git_blob:
        return "official"
    # Of an archive that was only ungzipped, the files in it are held against their hashes when they are read.
    return "differs" if file.known and whole else "unverified"


def _members(members: Mapping[str, str | None], folder: Path) -> Iterator[FileState]:
    for name, expected in members.items():
        path = find_member(folder, name)
        if path is not None:
            actual = file_sha256(path)
            state: State = "official" if actual == expected else "differs"
            yield FileState(name, path, actual, "unverified" if expected is None else state)
