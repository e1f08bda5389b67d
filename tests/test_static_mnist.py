"""Larochelle's bits of MNIST: gzipped files, and images that they share with MNIST's own split."""

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from support.data import amat

from famecli.data.cache import file_states
from famecli.data.dataset import read_split
from famecli.data.registry import DataFile, dataset_info, shared_images
from famecli.errors import IntegrityError


def test_static_mnist_may_be_gzipped(tmp_path: Path) -> None:
    bits = np.random.default_rng(5).integers(0, 2, (4, 1, 28, 28), np.uint8)
    name = "binarized_mnist_test.amat"
    expected = hashlib.sha256(amat(bits)).hexdigest()
    info = dataset_info("mnist-static")
    files = {name: DataFile(expected, content_sha256=expected)}
    info = dataclasses.replace(info, files=files, splits={"train": 6, "valid": 3, "test": 4})
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(amat(bits)))
    np.testing.assert_array_equal(read_split(info, tmp_path, "test").pixels, bits)
    assert [each.state for each in file_states(info, tmp_path) if each.name == name] == ["official"]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(amat(1 - bits)))
    with pytest.raises(IntegrityError, match=r"test\.amat\.gz"):
        read_split(info, tmp_path, "test")


@pytest.mark.parametrize(
    ("trained_on", "name", "split", "warned"),
    [
        ("mnist", "mnist-static", "valid", True),
        ("mnist-static", "mnist", "valid", True),
        ("mnist-static", "mnist-grey", "valid", True),
        ("mnist", "mnist-static", "test", False),
        ("mnist", "mnist-fixed", "valid", False),
        ("omniglot", "mnist-static", "valid", False),
        (None, "mnist-static", "valid", False),
    ],
)
def test_validation_images_that_were_trained_on_are_told(
    trained_on: str | None, name: str, split: str, warned: bool
) -> None:
    assert bool(shared_images(trained_on, name, split)) == warned
