"""MATLAB files that promise more than they hold, made by hand as the format's description says."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from famecli.data.mat import read_mat
from famecli.errors import InputError

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
MATRIX, COMPRESSED, DOUBLE = 14, 15, 9


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(data) if size is None else size) + data


def matrix(data_bytes: int | None = None) -> bytes:
    """Return a matrix `a` of two rows and one column; its data say that they have `data_bytes`."""
    flags = element(6, struct.pack("<II", 6, 0))
    shape = element(5, struct.pack("<ii", 2, 1))
    name = struct.pack("<HH4s", 1, 1, b"a")
    return element(MATRIX, flags + shape + name + element(DOUBLE, struct.pack("<dd", 1.5, 2.5), data_bytes))


@pytest.mark.parametrize("packed", [False, True])
def test_matrices_are_read(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(HEADER + (element(COMPRESSED, zlib.compress(matrix())) if packed else matrix()))
    assert scipy.io.loadmat(path)["a"].tolist() == [[1.5], [2.5]]
    assert read_mat(path, ["a", "b"])["a"].tolist() == [[1.5], [2.5]]
    assert list(read_mat(path, ["a", "b"])) == ["a"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("claimed", [17, 1 << 20, 0xFFFF_FFFF])
def test_sizes_past_the_end_never_reach_scipy(tmp_path: Path, packed: bool, claimed: int) -> None:
    path = tmp_path / "a.mat"
    content = matrix(claimed)
    path.write_bytes(HEADER + (element(COMPRESSED, zlib.compress(content)) if packed else content))
    with pytest.raises(InputError, match="past the end"):
        read_mat(path, ["a"])


def test_a_bomb_is_unpacked_to_the_limit_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mat"
    bomb = element(MATRIX, bytes(1 << 20))
    path.write_bytes(HEADER + element(COMPRESSED, zlib.compress(bomb)))
    monkeypatch.setattr("famecli.data.mat.LARGEST_UNPACKED_BYTES", 1 << 10)
    with pytest.raises(InputError, match="more than it may have"):
        read_mat(path, ["a"])


def test_a_cut_stream_and_other_kinds_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    stream = zlib.compress(matrix())
    text = element(COMPRESSED, stream[:-6])
    for content in (HEADER + text, HEADER[:-1], b"\x89HDF".ljust(200), HEADER + element(DOUBLE, bytes(8))):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.mat"):
            read_mat(path, ["a"])
    scipy.io.savemat(path, {"a": np.array(["x", 1], dtype=object)})
    with pytest.raises(InputError, match="not a matrix of numbers"):
        read_mat(path, ["a"])
