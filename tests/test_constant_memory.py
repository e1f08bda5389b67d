"""Memory does not grow with the number of images, be they streamed samples or evaluated ones."""

from pathlib import Path

import numpy as np
import pytest
from support.commands import save_model
from support.victims import Victims

SHAPE = (3, 32, 32)
IMAGE_KIB = 3
# Of its images as bytes, that an evaluation may have at once: as read, as levels, and one between.
COPIES = 3
# Fewer than there are images, so that all evaluations have full ones.
OPTIONS = ("--split", "train", "--batch-size", 64)
# What two runs of the same command differ by, but for a few that have more pages of libraries.
NOISE_KIB = 4096
TRIES = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors", "vae", SHAPE)


def growth_of_streams(fork: Victims, model: Path, counts: tuple[int, int], most_kib: int) -> int:
    """Return by how much the peak memory of streams of so many images differs, KiB.

    Each is the lowest of up to `TRIES` runs; there are no more once they differ by less than `most_kib`.
    """
    tries: dict[int, list[int]] = {count: [] for count in counts}
    growth = most_kib
    while growth >= most_kib and len(tries[counts[0]]) < TRIES:
        for count, peaks in tries.items():
            assert fork.run("sample", model, "-n", count, "-q", "-o", "-") == 0
            peaks.append(fork.peak_kib)
        growth = min(tries[counts[1]]) - min(tries[counts[0]])
    print(f"streams of images: {tries} KiB")
    return growth


def peaks_of_evaluations(fork: Victims, model: Path, folder: Path, counts: tuple[int, ...]) -> list[int]:
    """Return the peak memory, KiB, of evaluations of so many images."""
    peaks = []
    for count in counts:
        path, channels = folder / f"{count}.npy", SHAPE[0]
        # Of ten images eight are for training.
        stored = count * 10 // 8
        pixels = np.random.default_rng(0).integers(0, 2, (stored, *SHAPE[1:], channels), np.uint8)
        np.save(path, pixels * np.uint8(255))
        assert fork.run("evaluate-nll", model, "--dataset", "folder", "--data", path, *OPTIONS, "-q") == 0
        peaks.append(fork.peak_kib)
    print(f"evaluations of {counts} images: {peaks} KiB")
    return peaks


def test_a_stream_of_samples_needs_no_more_memory_when_it_is_longer(fork: Victims, model: Path) -> None:
    # Less than the images themselves would take; the lowest of few runs still differ by one run's noise.
    most = 4 * NOISE_KIB
    assert growth_of_streams(fork, model, (500, 6000), most) < most < 5500 * IMAGE_KIB


@pytest.mark.slow
def test_a_stream_of_fifty_thousand_samples_needs_no_more_memory(fork: Victims, model: Path) -> None:
    assert growth_of_streams(fork, model, (12_500, 50_000), NOISE_KIB) < NOISE_KIB


def test_an_evaluation_needs_no_more_memory_than_bytes_of_its_images(
    fork: Victims, model: Path, tmp_path: Path
) -> None:
    few, many = peaks_of_evaluations(fork, model, tmp_path, (500, 2000))
    assert many - few < NOISE_KIB + COPIES * 1500 * IMAGE_KIB


@pytest.mark.slow
def test_an_evaluation_of_ten_thousand_images_needs_no_more_memory_than_their_bytes(
    fork: Victims, model: Path, tmp_path: Path
) -> None:
    few, many = peaks_of_evaluations(fork, model, tmp_path, (2500, 10_000))
    assert many - few < NOISE_KIB + COPIES * 7500 * IMAGE_KIB
