"""How many CPU threads the sampler's products get: one, or all that torch has where they gain time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# A step's products wait for each other, and each waits for its slowest thread, so small ones take one thread.
# Measured: from about this many multiplications on, threads are worth it on a machine that is idle.
THREADED_WORK = 2**23
TRIALS = 6


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """Let torch use one CPU thread only, while products are as small as `work`; afterwards all as before."""
    before = torch.get_num_threads()
    if work < THREADED_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadTrial:
    """Gives steps one thread and all of them in turn, until it is known which is faster; then that.

    Where other programs keep all cores busy, a thread waits for its turn on a core, and each product for its
    last thread: a step can take a hundred times as long on two threads as on one. With more than two threads
    products are divided so that rounding may differ; a sample must not depend on timing, so all are taken.
    """

    def __init__(self) -> None:
        self.all = torch.get_num_threads()
        self.single_s: list[float] = []
        self.all_s: list[float] = []

    @contextmanager
    def step(self, *, typical: bool) -> Iterator[None]:
        """Set torch's threads for the step within, which counts for the trial if it is `typical`."""
        if self.all != 2 or len(self.all_s) == TRIALS:
            yield
            return
        single = len(self.single_s) == len(self.all_s)
        torch.set_num_threads(1 if single else self.all)
        start_s = time.perf_counter()
        yield
        if typical:
            (self.single_s if single else self.all_s).append(time.perf_counter() - start_s)
        if len(self.all_s) == TRIALS:
            # Sums, since it is a few long waits that make threads slow.
            torch.set_num_threads(self.all if sum(self.all_s) < sum(self.single_s) else 1)
