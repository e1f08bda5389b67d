"""Memory of the process: batches that become smaller when it runs out, and reuse. Imports no torch."""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
# Substrings of errors: of torch's allocators, and of oneDNN's convolutions, which give no reason.
WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "could not create a primitive",
    "could not create a memory",
)
# Options of glibc's mallopt, variables by which a user sets them, and the largest value.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MALLOC_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
KEPT_BYTES = 2**31 - 1


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is a failed allocation on the CPU or a device; torch has several kinds."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in WORDS)


class AdaptiveBatches:
    """Work on images in batches, whose size is halved for good when memory runs out.

    Args:
        size: Initial number of images in a batch.
        smallest: Smallest number of images in a batch; divides `size`.
        report: Called with one line of text when the size changes.
    """

    def __init__(
        self, size: int, smallest: int = 1, report: Callable[[str], None] = lambda text: None
    ) -> None:
        self.size, self.smallest, self.report = size, smallest, report

    def map(self, images: range, work: Callable[[slice], T]) -> Iterator[T]:
        """Yield `work` of each batch of images, in order.

        Args:
            images: Indices of the images, in steps of 1.
            work: Function of a slice of indices; it must give the same results for any split.

        Raises:
            Exception: The exception of `work`, also if not even the smallest batch fits in memory.
        """
        first = images.start
        while first < images.stop:
            tried = min(images.stop - first, self.size)
            piece = slice(first, first + tried)
            try:
                found = work(piece)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or tried <= self.smallest:
                    raise
            else:
                first = piece.stop
                yield found
                continue
            # After the handler: inside it the error still references the memory.
            smaller = max(1, -(-tried // self.smallest) // 2) * self.smallest
            self.report(f"out of memory with {tried} images at once, going on with {smaller}")
            self.size = smaller
            release()


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep up to 2 GiB of freed memory for its next allocations.

    By default the C library returns large blocks to the system, and a training step pays for thousands of
    page faults to get them back. Does nothing without glibc, or if a variable of `MALLOC_VARIABLES` is set.

    Source: man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in MALLOC_VARIABLES):
        with contextlib.suppress(AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(TRIM_THRESHOLD, KEPT_BYTES)
            mallopt(MMAP_THRESHOLD, KEPT_BYTES)


def release() -> None:
    """Give the GPU memory that torch has cached back to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
