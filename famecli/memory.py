"""What to do when memory runs out: work in smaller pieces, or say what would fit. No torch here."""

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
# How torch says it: its allocators, and oneDNN, whose convolutions on a CPU tell no reason.
WORDS = (
    "out of memory",
    "can't allocate memory",
    "could not create a primitive",
    "could not create a memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or on a device: torch has several errors for it."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in WORDS)


class Pieces:
    """Work on a number of images in pieces, which become smaller for good when memory runs out.

    Args:
        size: Images in a piece.
        smallest: Fewer are not tried; divides `size`.
        report: Told when the size changes.
    """

    def __init__(
        self, size: int, smallest: int = 1, report: Callable[[str], None] = lambda text: None
    ) -> None:
        self.size, self.smallest, self.report = size, smallest, report

    def over(self, images: int, work: Callable[[slice], T]) -> Iterator[T]:
        """Yield what `work` makes of each piece of `images` images, in order; it must not depend on pieces.

        Raises:
            Exception: That of `work`, also where not even the smallest piece fits in memory.
        """
        first = 0
        while first < images:
            piece = slice(first, min(images, first + self.size))
            try:
                found = work(piece)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.size <= self.smallest:
                    raise
                # Here, not below: the error holds on to what was allocated.
                smaller = max(1, self.size // self.smallest // 2) * self.smallest
            else:
                first = piece.stop
                yield found
                continue
            self._shrink(smaller)

    def _shrink(self, smaller: int) -> None:
        self.report(f"out of memory with {self.size} images at once, going on with {smaller}")
        self.size = smaller
        release()


def release() -> None:
    """Give memory that torch keeps for later back to the device."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
