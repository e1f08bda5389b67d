"""Batches that become smaller when memory runs out. Imports no torch."""

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
# Substrings of errors: of torch's allocators, and of oneDNN's convolutions, which give no reason.
WORDS = (
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",
    "could not create a memory",
)


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

    def map(self, images: int, work: Callable[[slice], T]) -> Iterator[T]:
        """Yield `work` of each batch of `images` images, in order.

        Args:
            images: Number of images.
            work: Function of the rows of a batch; it must give the same results for any split.

        Raises:
            Exception: The exception of `work`, also if not even the smallest batch fits in memory.
        """
        first = 0
        while first < images:
            piece = slice(first, min(images, first + self.size))
            try:
                found = work(piece)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.size <= self.smallest:
                    raise
            else:
                first = piece.stop
                yield found
                continue
            # After the handler: inside it the error still references the memory.
            smaller = max(1, self.size // self.smallest // 2) * self.smallest
            self.report(f"out of memory with {self.size} images at once, going on with {smaller}")
            self.size = smaller
            release()


def release() -> None:
    """Return memory that torch caches to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
