"""How many CPU threads the sampler's products get: one, or all that torch has where they gain time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

import torch

# A step's products wait for each other, and each waits for its slowest thread, so small ones take one thread.
# Measured: from about this many multiplications on, threads are worth it on a machine that is idle.
THREADED_WORK = 2**23
# Typical steps that take one thread, and those with all threads before these may be given up.
SINGLES = 2
PATIENCE = 4


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
    """Gives the first typical steps one thread and the others all, unless these turn out to be slower.

    Where other programs keep all cores busy, a thread waits for its turn on a core, and each product for its
    last thread: a step can take a hundred times as long on two threads as on one. With more than two threads
    products are divided so that rounding may differ; a sample must not depend on timing, so all are taken.

    Args:
        steps: Number of steps in all; so few that nothing can be found out take all threads.
        clock_s: Function that returns the time in seconds.
    """

    def __init__(self, steps: int, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self.clock_s = clock_s
        self.all = torch.get_num_threads()
        self.single_s: list[float] = []
        self.all_s: list[float] = []
        self.over = self.all != 2 or steps <= SINGLES + PATIENCE

    @contextmanager
    def step(self, pixels: int, *, typical: bool) -> Iterator[None]:
        """Set torch's threads for the step within, of so many pixels; it is judged by if it is `typical`."""
        if self.over:
            yield
            return
        single = len(self.single_s) < SINGLES
        torch.set_num_threads(1 if single else self.all)
        start_s = self.clock_s()
        yield
        if typical:
            (self.single_s if single else self.all_s).append((self.clock_s() - start_s) / pixels)
        # The mean of all, since a few long waits make threads slow; one thread may have waited as well.
        if len(self.all_s) >= PATIENCE and fmean(self.all_s) > min(self.single_s):
            torch.set_num_threads(1)
            self.over = True
