"""Memory does not grow with the number of images, streamed or evaluated, and freed memory is used again."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.commands import save_model
from support.victims import Victims, victims

from famecli.runtime.memory import MALLOC_VARIABLES

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
def fork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """A process whose freed memory returns to the system: a peak is what is in use, without fragments."""
    with victims(tmp_path_factory.mktemp("victims"), {"MALLOC_TRIM_THRESHOLD_": "131072"}) as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "model.safetensors", "vae", SHAPE)


def growth(fork: Victims, run: Callable[[int], int], counts: tuple[int, int], most_kib: int) -> int:
    """Return by how much the peak memory of commands on so many images differs, KiB.

    Each is the lowest of up to `TRIES` runs; there are no more once they differ by less than `most_kib`.
    """
    tries: dict[int, list[int]] = {count: [] for count in counts}
    found = most_kib
    while found >= most_kib and len(tries[counts[0]]) < TRIES:
        for count, peaks in tries.items():
            assert run(count) == 0
            peaks.append(fork.peak_kib)
        found = min(tries[counts[1]]) - min(tries[counts[0]])
    print(f"peaks by images: {tries} KiB")
    return found


def growth_of_streams(fork: Victims, model: Path, counts: tuple[int, int], most_kib: int) -> int:
    return growth(
        fork, lambda count: fork.run("sample", model, "-n", count, "-q", "-o", "-"), counts, most_kib
    )


def growth_of_evaluations(
    fork: Victims, model: Path, folder: Path, counts: tuple[int, int], most_kib: int
) -> int:
    for count in counts:
        # Of ten images eight are for training.
        shape = (count * 10 // 8, *SHAPE[1:], SHAPE[0])
        pixels = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
        np.save(folder / f"{count}.npy", pixels * np.uint8(255))

    def evaluate(count: int) -> int:
        words = ("--dataset", "folder", "--data", folder / f"{count}.npy", *OPTIONS, "-q")
        return fork.run("evaluate-nll", model, *words)

    return growth(fork, evaluate, counts, most_kib)


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
    most = NOISE_KIB + COPIES * 1500 * IMAGE_KIB
    assert growth_of_evaluations(fork, model, tmp_path, (500, 2000), most) < most


@pytest.mark.slow
def test_an_evaluation_of_ten_thousand_images_needs_no_more_memory_than_their_bytes(
    fork: Victims, model: Path, tmp_path: Path
) -> None:
    most = NOISE_KIB + COPIES * 7500 * IMAGE_KIB
    assert growth_of_evaluations(fork, model, tmp_path, (2500, 10_000), most) < most


FAULTS = """
import resource
from famecli.runtime.memory import keep_freed_memory
keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * 2**26
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not the GNU C library")
@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_freed_memory_is_used_again(variables: dict[str, str], kept: bool) -> None:
    """Unless the user has settings of their own, a block is in memory already when it is needed again."""
    own = {name: value for name, value in os.environ.items() if name not in MALLOC_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=own | variables, capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) < 100) == kept
