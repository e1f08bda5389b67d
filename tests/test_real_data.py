"""Readers on the real files, where FAME_DATA or the folder shared/data beside the repository has them."""

import os
from pathlib import Path

import numpy as np
import pytest

from famecli.data.cache import file_states, find_dataset
from famecli.data.dataset import fixed_levels, read_split
from famecli.data.registry import DATASETS, DatasetInfo

SHARED = Path(__file__).parents[2] / "shared" / "data"
REAL = [info for info in DATASETS.values() if info.files]


def folder_of(info: DatasetInfo) -> Path:
    for named in (os.environ.get("FAME_DATA"), SHARED):
        if named and (folder := find_dataset(info, Path(named))):
            return folder
    pytest.skip(f"FAME_DATA names no folder with {info.name}")


@pytest.mark.parametrize("info", REAL, ids=lambda info: info.name)
def test_the_test_split_is_the_official_one(info: DatasetInfo) -> None:
    split = read_split(info, folder_of(info), "test")
    scored = fixed_levels(split)
    assert scored.levels.shape == (info.splits["test"], *info.shape)
    assert scored.levels.max() == info.levels - 1
    if info.pixels_sha256 is not None:
        assert scored.sha256 == info.pixels_sha256


@pytest.mark.parametrize("info", REAL, ids=lambda info: info.name)
def test_files_on_this_machine_are_the_official_ones(info: DatasetInfo) -> None:
    states = file_states(info, folder_of(info))
    assert {state.state for state in states} <= {"official", "unverified", "missing"}
    assert any(state.state == "official" for state in states)


def test_cifar10_has_the_official_means_and_order() -> None:
    info = DATASETS["cifar10"]
    test = read_split(info, folder_of(info), "test")
    np.testing.assert_allclose(test.pixels.mean((0, 2, 3)), [126.0246, 123.7085, 114.8543], atol=1e-4)
    assert test.labels is not None
    assert test.labels[:8].tolist() == [3, 8, 8, 0, 6, 6, 1, 6]
    valid = read_split(info, folder_of(info), "valid")
    assert valid.pixels.shape == (5_000, 3, 32, 32)


def test_drawings_of_omniglot_are_ink_on_nothing() -> None:
    info = DATASETS["omniglot-small"]
    splits = [read_split(info, folder_of(info), split).pixels for split in ("valid", "test")]
    assert [len(split) for split in splits] == [242, 1_210]
    for pixels in splits:
        # Strokes are thin, and nearly all drawings leave the corners free.
        assert 0.05 < pixels.mean() / 255 < 0.15
        assert pixels[:, 0, 0, 0].mean() < 5
        assert (pixels.max((1, 2, 3)) > 127).all()
