"""Hashes of files, held against those of their official sources."""

import hashlib
from pathlib import Path

from famecli.data.info import DataFile
from famecli.errors import IntegrityError, UnavailableError


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        UnavailableError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error


def git_blob(path: Path) -> str:
    """Return the name that git gives to a file: the SHA-1 of its length and its content.

    Raises:
        UnavailableError: It cannot be read.
    """
    try:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def difference(path: Path, sha256: str | None, blob: str | None = None) -> str:
    """Return what differs between a file and its official hashes, in words; nothing if they agree."""
    if sha256 is not None and (actual := file_sha256(path)) != sha256:
        return f"sha256 {actual[:12]}, expected {sha256[:12]}"
    if blob is not None and (actual := git_blob(path)) != blob:
        return f"git blob {actual[:12]}, expected {blob[:12]}"
    return ""


def check_file(path: Path, file: DataFile, dataset: str) -> None:
    """Check that a file is the official one, as far as its hash is known.

    Raises:
        IntegrityError: It is another.
        UnavailableError: It cannot be read.
    """
    if wrong := difference(path, file.sha256, file.git_blob):
        message = f"{path}: not the official file of {dataset} ({wrong})"
        raise IntegrityError(message, f"delete {path} and download it again")
