"""Work divided among forked processes: results, failures, and images that do not depend on it."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import preset_model
from torch import Tensor

from famecli.runtime import forks
from famecli.runtime.forks import fill, processes_on, shared, wiped_on_fork
from famecli.runtime.memory import is_out_of_memory
from famecli.sampling.generate import complete_batches, generate, generate_batches
from famecli.sampling.sampler import LANES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone")
CPU = torch.device("cpu")
ONE = torch.ones(1)
PARTS = [slice(0, 3), slice(3, 4), slice(4, 7)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Fail each test that leaves a process, running or dead; other tests may have some."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    yield
    assert set(children.read_text().split()) <= before


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_part_is_computed_once_on_one_thread_of_a_process_of_its_own(
    dtype: torch.dtype, two_threads: None
) -> None:
    rows, processes = shared((7, 2), dtype), shared((7,), torch.int64)

    def work(part: slice) -> Tensor:
        processes[part] = os.getpid()
        return rows[part] + torch.tensor([part.start, torch.get_num_threads()], dtype=dtype)

    fill(rows, PARTS, work)
    for part in PARTS:
        assert rows[part, 0].tolist() == [part.start] * (part.stop - part.start)
    assert rows[:, 1].tolist() == [1.0] * 7
    assert processes[-1] == os.getpid()
    assert len({int(processes[part.start]) for part in PARTS}) == 3
    assert torch.get_num_threads() == 2


def test_a_part_whose_process_dies_is_computed_here(two_threads: None) -> None:
    rows, here = shared((7, 1), torch.float32), os.getpid()

    def work(part: slice) -> Tensor:
        if os.getpid() != here and part.start == 3:
            os._exit(9)
        return torch.full((part.stop - part.start, 1), part.start + 1.0)

    fill(rows, PARTS, work)
    assert rows.flatten().tolist() == [1, 1, 1, 4, 5, 5, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_forked_process_finds_wiped_memory_zero_and_ordinary_memory_as_it_was(
    dtype: torch.dtype, two_threads: None
) -> None:
    like, rows = torch.ones(2, dtype=dtype), shared((7, 1), dtype)
    own, ordinary = wiped_on_fork((600, 1000), like), torch.ones(600, dtype=dtype)
    assert own.dtype == dtype
    assert not own.any()
    own.fill_(3.0)
    here = os.getpid()

    def work(part: slice) -> Tensor:
        seen = own.sum().ne(0).to(dtype) + 10 * ordinary.mean()
        own.fill_(float(part.start))
        if os.getpid() == here:
            # Let the others write, too.
            time.sleep(0.5)
        return seen.expand(part.stop - part.start, 1)

    fill(rows, PARTS, work)
    assert rows.flatten().tolist() == [10.0] * 4 + [11.0] * 3
    assert own.unique().tolist() == [PARTS[-1].start]
    assert wiped_on_fork((0, 3), like).shape == (0, 3)


@pytest.mark.parametrize(
    "mapped", [lambda: shared((2**60,), torch.uint8), lambda: wiped_on_fork((2**58,), ONE)]
)
def test_memory_that_cannot_be_had_is_an_error_that_batches_understand(
    mapped: Callable[[], Tensor],
) -> None:
    with pytest.raises(Exception, match="out of memory") as caught:
        mapped()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("reason", ["no process", "no status", "signal"])
def test_parts_are_computed_whatever_the_system_does(
    reason: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, here = shared((7, 1), torch.float32), os.getpid()
    before = signal.getsignal(signal.SIGCHLD)
    if reason == "no process":

        def full() -> int:
            raise BlockingIOError("Resource temporarily unavailable")

        monkeypatch.setattr(os, "fork", full)
    elif reason == "no status":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def work(part: slice) -> Tensor:
        if reason == "signal" and os.getpid() != here:
            # A handler of the parent would raise an exception here.
            os.kill(os.getpid(), signal.SIGINT)
        return torch.full((part.stop - part.start, 1), float(os.getpid() == here))

    try:
        fill(rows, PARTS, work)
    finally:
        signal.signal(signal.SIGCHLD, before)
    # Ones are of this process: the last part, or all.
    assert rows.flatten().tolist() == ([1.0] * 7 if reason == "no process" else [0.0] * 4 + [1.0] * 3)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("start", [0, 3, 4])
def test_an_error_is_raised_here_and_no_process_is_left(start: int, two_threads: None) -> None:
    def work(part: slice) -> Tensor:
        if part.start == start:
            raise MemoryError("out of memory")
        if start == 4:
            # Still at work when this process fails.
            time.sleep(30)
        return torch.zeros(part.stop - part.start, 1)

    began_s = time.monotonic()
    with pytest.raises(MemoryError):
        fill(shared((7, 1), torch.float32), PARTS, work)
    assert time.monotonic() - began_s < 20
    assert torch.get_num_threads() == 2


def test_forks_are_for_this_machines_processor_alone(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processes_on(CPU) == 2
    assert processes_on(torch.device("meta")) == 1
    with monkeypatch.context() as patch:
        patch.setenv(forks.VARIABLE, "0")
        assert processes_on(CPU) == 1
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes_on(CPU) == 1


@pytest.mark.parametrize(("forked", "sizes"), [("1", [128, 2]), ("0", [64, 64, 2])])
def test_by_default_each_process_draws_64_images_at_once(
    forked: str, sizes: list[int], two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = preset_model("pixelcnn", (1, 6, 6), dtype=torch.float32)
    monkeypatch.setenv(forks.VARIABLE, forked)
    assert [len(images) for images in generate_batches(model, range(130))] == sizes


@pytest.mark.parametrize(("preset", "images"), [("pixelcnn", 1), ("fame", 2 * LANES + 5)])
def test_images_do_not_depend_on_the_number_of_processes(
    preset: str, images: int, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = preset_model(preset, (1, 6, 6), dtype=torch.float32)
    together = generate(model, range(images))
    mask = np.zeros((6, 6), bool)
    mask[:2] = True
    completed = np.concatenate(list(complete_batches(model, together, mask, range(images), sweeps=2)))
    means = generate(model, range(images), decoder_output="mean")
    monkeypatch.setenv(forks.VARIABLE, "0")
    assert np.array_equal(together, generate(model, range(images)))
    alone = complete_batches(model, together, mask, range(images), sweeps=2)
    assert np.array_equal(completed, np.concatenate(list(alone)))
    assert np.array_equal(means, generate(model, range(images), decoder_output="mean"))
