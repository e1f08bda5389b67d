"""`fame train --track tensorboard`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from famecli.errors import UnavailableError

if TYPE_CHECKING:
    from famecli.training.run import Run

FOLDER = "tensorboard"
# Of records; the rest are figures.
PLACES = ("step", "images", "split")


@contextmanager
def tracker(run: "Run") -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes a record of `run` for TensorBoard, over images seen.

    Raises:
        UnavailableError: The package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnavailableError("tensorboard is not installed", "pip install 'famecli[track]'") from error
    # What a run that died wrote after the state it is resumed from is not shown.
    with SummaryWriter(run.folder / FOLDER, purge_step=run.trainer.images + 1) as writer:

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
