"""MATLAB files that promise more than they hold, made by hand as the format's description says."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from support.archives import COMPRESSED, DOUBLE, MAT_HEADER, MATRIX, element, matrix

from famecli.data.drawings import read_mat
from famecli.errors import InputError


@pytest.mark.parametrize("packed", [False, True])
def test_matrices_are_read(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(MAT_HEADER + (element(COMPRESSED, zlib.compress(matrix())) if packed else matrix()))
    assert scipy.io.loadmat(path)["a"].tolist() == [[1.5], [2.5]]
    assert read_mat(path, ["a", "b"])["a"].tolist() == [[1.5], [2.5]]
    assert list(read_mat(path, ["a", "b"])) == ["a"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "bool"])
def test_all_types_are_read_as_scipy_reads_them(tmp_path: Path, kind: str, packed: bool) -> None:
    source, path = np.random.default_rng(0), tmp_path / "a.mat"
    shapes = {"a": (3, 4), "row": (1, 5), "none": (0, 2), "cube": (2, 3, 2), "a name of some length": (1, 1)}
    arrays = {name: source.integers(0, 100, shape).astype(kind) for name, shape in shapes.items()}
    scipy.io.savemat(path, arrays | {"text": "abc", "table": {"x": 1}}, do_compression=packed)
    expected, found = scipy.io.loadmat(path), read_mat(path, list(shapes))
    assert found.keys() == arrays.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype


def test_the_other_order_of_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    name = struct.pack(">HHs3x", 1, 1, b"a")
    head = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 2, 1) + name
    body = head + struct.pack(">IIdd", DOUBLE, 16, 1.5, 2.5)
    start = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    path.write_bytes(start + struct.pack(">II", MATRIX, len(body)) + body)
    assert scipy.io.loadmat(path)["a"].tolist() == [[1.5], [2.5]]
    assert read_mat(path, ["a"])["a"].tolist() == [[1.5], [2.5]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("claimed", [17, 1 << 20, 0xFFFF_FFFF])
def test_sizes_past_the_end_are_input_errors(tmp_path: Path, packed: bool, claimed: int) -> None:
    path = tmp_path / "a.mat"
    content = matrix(claimed)
    path.write_bytes(MAT_HEADER + (element(COMPRESSED, zlib.compress(content)) if packed else content))
    with pytest.raises(InputError, match="past the end"):
        read_mat(path, ["a"])


def test_a_bomb_is_unpacked_to_the_limit_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mat"
    bomb = element(MATRIX, bytes(1 << 20))
    path.write_bytes(MAT_HEADER + element(COMPRESSED, zlib.compress(bomb)))
    monkeypatch.setattr("famecli.data.drawings.LARGEST_UNPACKED_BYTES", 1 << 10)
    with pytest.raises(InputError, match="larger than allowed"):
        read_mat(path, ["a"])


def test_a_cut_stream_and_other_kinds_are_input_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    stream = zlib.compress(matrix())
    text = element(COMPRESSED, stream[:-6])
    for content in (
        MAT_HEADER + text,
        MAT_HEADER[:-1],
        b"\x89HDF".ljust(200),
        MAT_HEADER + element(DOUBLE, bytes(8)),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.mat"):
            read_mat(path, ["a"])
    scipy.io.savemat(path, {"a": np.array(["x", 1], dtype=object)})
    with pytest.raises(InputError, match="not a matrix of numbers"):
        read_mat(path, ["a"])
