"""A run from its first step to its result."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

from famecli.errors import UnavailableError
from famecli.nll.units import bits_per_dim
from famecli.runtime.distributed import explain_lost_processes
from famecli.training.capacity import explain_failed_steps
from famecli.training.options import TrainOptions
from famecli.training.run import Run, Stopped

SCHEMA = "famecli/train/1"
TENSORBOARD = "tensorboard"
# Entries of a record that are not metrics.
PLACES = ("step", "images", "split")
SMALLEST_RATE_BITS = 0.15


def check_tracker(options: TrainOptions) -> None:
    """Check that the tracker's package is installed, before any work is done.

    Raises:
        UnavailableError: The package is missing.
    """
    if options.track == TENSORBOARD and find_spec(TENSORBOARD) is None:
        raise UnavailableError("tensorboard is not installed", "pip install 'famecli[tensorboard]'")


def follow(
    run: Run, options: TrainOptions, interrupted: Callable[[], Stopped | None] = lambda: None
) -> Iterator[dict[str, Any]]:
    """Train to the end; yield each line of metrics.jsonl. Afterwards everything is saved.

    Args:
        run: Run that was begun or resumed.
        options: Parameters of the training: its tracker, and the time after which it stops.
        interrupted: Called after each step; returns a reason to stop, or None.

    Raises:
        NumericsError: The training diverged.
        OutOfMemoryError: A step does not fit.
        UnavailableError: A step cannot be compiled here, or another process is gone.
    """
    limit_s = options.max_time_s
    deadline_s = None if limit_s is None else time.monotonic() + limit_s

    def reason() -> Stopped | None:
        late = deadline_s is not None and time.monotonic() > deadline_s
        return interrupted() or ("max_time" if late else None)

    tracked = options.track is not None and run.trainer.group.is_main
    tracker = _tracker(run) if tracked else nullcontext(_ignore)
    with tracker as track, explain_lost_processes(), explain_failed_steps(run.trainer):
        for record in run.records(reason):
            track(record)
            yield record


def warnings(record: dict[str, Any]) -> list[str]:
    """Return a warning if `record`, a line of metrics.jsonl, is a validation with unused latents."""
    idle = [str(layer) for layer, bits in enumerate(record["kl_bits"]) if bits < SMALLEST_RATE_BITS]
    if record["split"] != "valid" or not idle:
        return []
    return [
        f"stochastic layer {', '.join(idle)} (0 is nearest to the image) carries under "
        f"{SMALLEST_RATE_BITS} bits at {record['images']:,} images; a larger train.free_nats helps"
    ]


def result(run: Run) -> dict[str, Any]:
    """Return the document of `fame train --json`."""
    best, trainer, progress = run.best(), run.trainer, run.progress
    told = best and {
        "path": str(best.path),
        "sha256": best.sha256,
        "images": best.images,
        "step": best.images // trainer.config.batch_size,
        "valid_nats_per_image": best.nats,
        "valid_bits_per_dim": bits_per_dim(best.nats, trainer.model.config.image_shape),
    }
    return {
        "schema": SCHEMA,
        "run": str(run.folder),
        "best": told,
        "steps": trainer.step_count,
        "images": trainer.images,
        "skipped": trainer.skipped,
        "seconds": round(progress.seconds, 1),
        "cpu_seconds": None if progress.cpu_seconds is None else round(progress.cpu_seconds, 3),
        "stopped": run.stopped,
    }


def _ignore(record: dict[str, Any]) -> None:
    """Track nothing."""


@contextmanager
def _tracker(run: Run) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes a record's metrics for TensorBoard, against images seen."""
    from torch.utils.tensorboard import SummaryWriter

    # Hides the points that a crashed run wrote after the state to resume from.
    with SummaryWriter(run.folder / TENSORBOARD, purge_step=run.trainer.images + 1) as writer:

        def write(record: dict[str, Any]) -> None:
            for name, value in _figures(record):
                writer.add_scalar(f"{record['split']}/{name}", value, record["images"])

        yield write


def _figures(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield names and values of a record's metrics, without None, which stands for non-finite values."""
    for name, value in record.items():
        values = value if isinstance(value, list) else [value]
        for index, each in enumerate(values):
            if name not in PLACES and each is not None:
                yield (f"{name}/{index}" if isinstance(value, list) else name), each
