"""Weights in one tar file, for machines without a network, and what such a file or a checkpoint is taken for.

Only plain files of a plain tar are read, into memory; nothing is extracted, and no name becomes a path.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from famecli.checkpoints.header import read_checkpoint
from famecli.checkpoints.index import WeightsEntry, index
from famecli.checkpoints.store import NAME, SUFFIX, Store
from famecli.errors import FameError, InputError, IntegrityError
from famecli.files import partial_file, read_bytes, write_atomic

BLOCK_BYTES = tarfile.BLOCKSIZE
LARGEST_MEMBER_BYTES = 4 << 30
MOST_MEMBERS = 1000
TAR_MAGIC = b"ustar"


@dataclass(frozen=True)
class Arrival:
    """A checkpoint that may go into the cache.

    Args:
        name: That it will have.
        content: The file.
        sha256: Of it.
        entry: Of the index, if that knows the file.
    """

    name: str
    content: bytes
    sha256: str
    entry: WeightsEntry | None


def write_bundle(target: Path, files: dict[str, Path]) -> None:
    """Write a tar file with the checkpoints `files`, by name; equal files give equal bundles.

    Raises:
        InputError: A file cannot be read, or the bundle not written.
    """
    try:
        with partial_file(target) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(files):
                info = tarfile.TarInfo(name + SUFFIX)
                info.size = files[name].stat().st_size
                with files[name].open("rb") as file:
                    tar.addfile(info, file)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def read_members(file: BinaryIO, source: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file in a tar; all must be plain files with plain names.

    Raises:
        InputError: It is no such tar, or is damaged; said before a member that is not right is yielded.
    """
    seen: set[str] = set()
    while block := file.read(BLOCK_BYTES):
        if block == bytes(BLOCK_BYTES):
            break
        member = _member(block, source)
        if member.name in seen or len(seen) == MOST_MEMBERS:
            raise InputError(f"{source}: {member.name!r} is in it twice, or it has more than {MOST_MEMBERS}")
        seen.add(member.name)
        # Not more than there is, whatever the header says.
        content = file.read(member.size)
        file.read(-member.size % BLOCK_BYTES)
        if len(content) < member.size:
            raise InputError(f"{source}: truncated in {member.name}")
        yield member.name, content
    if not seen:
        raise InputError(f"{source}: a bundle without weights")


def _member(block: bytes, source: str) -> tarfile.TarInfo:
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise InputError(f"{source}: not a tar file, or damaged ({' '.join(str(error).split())})") from error
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise InputError(
            f"{source}: {member.name!r} is no plain file",
            "fame weights pack makes bundles, and tar --format=ustar",
        )
    name = member.name.removesuffix(SUFFIX)
    if not NAME.fullmatch(name) or name == member.name:
        raise InputError(f"{source}: {member.name!r} is not called NAME{SUFFIX}")
    if not 0 <= member.size <= LARGEST_MEMBER_BYTES:
        raise InputError(f"{source}: {member.name} has {member.size} bytes")
    return member


def recognise(content: bytes, name: str, source: str) -> Arrival:
    """Return what a checkpoint is: one of the index by its hash, else the user's own after full validation.

    Args:
        content: The file.
        name: Of the user's own.
        source: The file's name for errors.

    Raises:
        IntegrityError: It has a name of the index, but another hash.
        InputError: It is no good checkpoint.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    for entry in index().values():
        if entry.sha256 == sha256:
            return Arrival(entry.name, content, sha256, entry)
    if (known := index().get(name)) is not None:
        raise IntegrityError(
            f"{source}: sha256 {sha256[:12]}, but that of {name} is {known.sha256[:12]}",
            "import it under another name with --name",
        )
    from famecli.checkpoints.checkpoint import parse_checkpoint

    parse_checkpoint(content, source)
    return Arrival(name, content, sha256, None)


def arrivals(path: Path, name: str | None = None) -> Iterator[Arrival]:
    """Yield the checkpoints in a file: itself, or those in a bundle.

    Args:
        path: A checkpoint or a tar file.
        name: Of a single checkpoint that the index does not know; by default the file's.

    Raises:
        FameError: As `read_members` and `recognise` do.
    """
    try:
        with path.open("rb") as file:
            start = file.read(BLOCK_BYTES)
            if start[257:262] == TAR_MAGIC:
                if name is not None:
                    raise InputError(f"{path} is a bundle, whose files have names", "leave --name out")
                file.seek(0)
                for member, content in read_members(file, str(path)):
                    yield recognise(content, member.removesuffix(SUFFIX), f"{path}: {member}")
                return
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    yield recognise(read_checkpoint(path), name or path.name.removesuffix(SUFFIX), str(path))


def place(store: Store, arrival: Arrival) -> Path:
    """Return where an arrival goes, or is already.

    Raises:
        InputError: Its name cannot be one.
    """
    if arrival.entry is None:
        return store.place_of_import(arrival.name, arrival.sha256)
    return store.find(arrival.entry) or store.cached(arrival.entry.name, arrival.sha256)


def check_all(store: Store, path: Path, name: str | None, *, force: bool) -> None:
    """Check everything in a file before anything of it is stored.

    Raises:
        FameError: As `arrivals` and `place` do.
        InputError: A name is taken by another checkpoint, and `force` is not set.
    """
    for arrival in arrivals(path, name):
        target = place(store, arrival)
        others = (
            [] if arrival.entry else [each for each in target.parent.glob(f"*{SUFFIX}") if each != target]
        )
        if others and not force:
            raise InputError(
                f"another checkpoint is called {arrival.name}",
                "add --force to replace it, or choose a --name",
            )


def store_all(store: Store, path: Path, name: str | None) -> Iterator[tuple[Arrival, Path]]:
    """Store what is in a file and yield each checkpoint with its place; checked before by `check_all`.

    Raises:
        FameError: As `arrivals` does, or the cache cannot be written.
    """
    for arrival in arrivals(path, name):
        target = place(store, arrival)
        if not _holds(target, arrival):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write {target}: {error.strerror}") from error
            write_atomic(target, arrival.content)
        if arrival.entry is None:
            for other in target.parent.glob(f"*{SUFFIX}"):
                if other != target:
                    other.unlink(missing_ok=True)
        yield arrival, target


def _holds(target: Path, arrival: Arrival) -> bool:
    try:
        return hashlib.sha256(read_bytes(target, "weights")).hexdigest() == arrival.sha256
    except FameError:
        return False
