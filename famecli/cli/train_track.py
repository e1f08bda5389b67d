"""`fame train --track tensorboard`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from famecli.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from famecli.training.run import Run

TENSORBOARD = "tensorboard"
# Of records; the rest are figures.
PLACES = ("step", "images", "split")


def check_tracker(name: str | None) -> None:
    """Check the word of `--track`, before any work is done.

    Raises:
        UsageError: There is no such tracker.
        UnavailableError: Its package is not installed.
    """
    if name not in (None, TENSORBOARD):
        raise UsageError(f"unknown tracker {name!r}", f"choose {TENSORBOARD}")
    if name is not None and find_spec(TENSORBOARD) is None:
        raise UnavailableError("tensorboard is not installed", "pip install 'famecli[tensorboard]'")


@contextmanager
def tracker(run: "Run") -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes a record of `run` for TensorBoard, over images seen."""
    from torch.utils.tensorboard import SummaryWriter

    # What a run that died wrote after the state it is resumed from is not shown.
    with SummaryWriter(run.folder / TENSORBOARD, purge_step=run.trainer.images + 1) as writer:

        def write(record: dict[str, Any]) -> None:
            for name, value in _figures(record):
                writer.add_scalar(f"{record['split']}/{name}", value, record["images"])

        yield write


def _figures(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield names and numbers of a record; those that are not finite are None there and left out."""
    for name, value in record.items():
        values = value if isinstance(value, list) else [value]
        for index, each in enumerate(values):
            if name not in PLACES and each is not None:
                yield (f"{name}/{index}" if isinstance(value, list) else name), each
