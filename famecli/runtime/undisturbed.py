"""The settings of torch around a call of the library."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute as commands do whatever is set, and leave all settings as they were.

    They are: number of threads, default type, whether gradients are recorded, states of random numbers.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(list(devices)):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
