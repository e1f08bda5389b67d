"""Archives, arrays and MATLAB files, written without famecli's own code."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from famecli.data.archive import ends_with, opened, tar_members, zip_members

MIB = 1 << 20


MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
MATRIX, COMPRESSED, DOUBLE = 14, 15, 9


def tar_bytes(files: dict[str, bytes], mode: str = "w") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def read_tar(path: Path, **limits: int) -> dict[str, bytes]:
    return dict(
        tar_members(path, ends_with(".bin"), **({"largest_bytes": MIB, "limit_bytes": 4 * MIB} | limits))
    )


def read_zip(path: Path, largest_bytes: int = MIB) -> dict[str, bytes]:
    with opened(path) as file:
        members = zip_members(file, str(path), ends_with(".bin"), largest_bytes)
        return {name: content.read() for name, _, content in members}


def npy_bytes(array: np.ndarray, *, pickled: bool = False) -> bytes:
    target = io.BytesIO()
    np.save(target, array, allow_pickle=pickled)
    return target.getvalue()


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(data) if size is None else size) + data


def matrix(data_bytes: int | None = None) -> bytes:
    """Return a matrix `a` of two rows and one column whose data tag declares `data_bytes`."""
    flags = element(6, struct.pack("<II", 6, 0))
    shape = element(5, struct.pack("<ii", 2, 1))
    name = struct.pack("<HH4s", 1, 1, b"a")
    return element(MATRIX, flags + shape + name + element(DOUBLE, struct.pack("<dd", 1.5, 2.5), data_bytes))
