"""A run from its first step to its result."""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType
from typing import Any

from famecli.data.fetch import say_nothing
from famecli.nll.record import bits_per_dim, unit_of
from famecli.runtime.distributed import explain_lost_processes
from famecli.training.capacity import explain_failed_steps
from famecli.training.plan import Plan
from famecli.training.run import Run, Stopped
from famecli.training.trackers import tracking

SCHEMA = "famecli/train/1"
SMALLEST_RATE_BITS = 0.15
# The time of a shorter training is not told in advance.
SHORT_S = 60.0


def follow(
    run: Run,
    plan: Plan,
    interrupted: Callable[[], Stopped | None] = lambda: None,
    warn: Callable[[str], None] = say_nothing,
) -> Generator[dict[str, Any], None, None]:
    """Train to the end; yield each line of metrics.jsonl. Afterwards, or when closed, everything is saved.

    Args:
        run: Run that was begun or resumed.
        plan: Plan of the training, with its tracker and its deadline.
        interrupted: Called after each step; returns a reason to stop, or None.
        warn: Called with one line when the tracker fails, which does not end the training.

    Raises:
        NumericsError: The training diverged.
        OutOfMemoryError: A step does not fit.
        UnavailableError: A step cannot be compiled here, or another process is gone.
    """

    def reason() -> Stopped | None:
        late = plan.deadline_s is not None and time.monotonic() > plan.deadline_s
        return interrupted() or ("max_time" if late else None)

    name = plan.options.track if run.trainer.group.is_main else None
    tracker = nullcontext(_ignore) if name is None else tracking(run, name, warn)
    with (
        tracker as track,
        explain_lost_processes(),
        explain_failed_steps(run.trainer),
        closing(run.records(reason)) as records,
    ):
        for record in records:
            track(record)
            yield record


@contextmanager
def finish_step_on_ctrl_c() -> Iterator[Callable[[], Stopped | None]]:
    """Yield a reason to stop for `follow`, so that a training is saved before Ctrl-C ends it.

    The first Ctrl-C raises KeyboardInterrupt only at the end, the second one at once. A program's own handler
    of SIGINT stays in place.
    """
    caught: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: None
        return

    def remember(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: "signal" if caught else None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if caught:
        raise KeyboardInterrupt


class Remarks:
    """Lines about a training for people: its time, each validation, and the end.

    Args:
        run: Run that was begun or resumed.
        clock_s: Function that returns the time in seconds.
    """

    def __init__(self, run: Run, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock_s = run, clock_s
        self.began_s, self.began_images = clock_s(), run.trainer.images
        self.warned: set[str] = set()
        self.timed = False

    def of(self, record: dict[str, Any]) -> str:
        """Return images, NLL and time left for a validation; empty for other lines of metrics.jsonl.

        The first line of a longer training has its speed and time.
        """
        trainer, best, images = self.run.trainer, self.run.best(), record["images"]
        total = trainer.config.total_images
        if record["split"] != "valid":
            first, self.timed = not self.timed, True
            left_s = (total - images) / max(record["images_per_s"], 1e-9)
            if not first or left_s < SHORT_S:
                return ""
            speed = f"{record['images_per_s']:,.3g} images/s"
            return f"{images:,} of {total:,} images: {speed}, {in_time(left_s)} left"
        nll, stderr = record["nats_per_image"], record["stderr_nats"]
        told = self._nll(nll, stderr)
        if best is not None:
            lowest = f", best {self._nll(best.nats)} at {best.images:,}"
            told += " (best)" if best.images == images else lowest
        elif not trainer.has_latents:
            told += " without latents, which join later"
        seconds = (self.clock_s() - self.began_s) / max(1, images - self.began_images)
        left = f", {in_time(seconds * (total - images))} left" if images < total else ""
        return f"{images:,} of {total:,} images: validation {told}{left}"

    def warning(self, record: dict[str, Any]) -> str:
        """Return a warning about unused latents at a validation; empty if there is none, or none that is new.

        There is no warning before half of the images with latents are seen and the KL divergence has its full
        weight: until then latents may still wake up.
        """
        config = self.run.trainer.config
        alone = self.run.trainer.decoder_only_steps * config.batch_size
        settled = alone + max((config.total_images - alone) // 2, config.rate_warmup_images)
        rates = enumerate(record["kl_bits"])
        idle = [str(layer) for layer, bits in rates if bits is not None and bits < SMALLEST_RATE_BITS]
        if record["split"] != "valid" or record["images"] < settled or not idle:
            return ""
        text = (
            f"stochastic layer {', '.join(idle)} (0 is nearest to the image) carries under "
            f"{SMALLEST_RATE_BITS} bits, so it adds nothing; more free_nats would keep it in use"
        )
        found = "" if text in self.warned else text
        self.warned.add(text)
        return found

    def end(self) -> str:
        """Return why the training ended, and what was saved; to be called after the last record."""
        run, best = self.run, self.run.best()
        images, total = run.trainer.images, run.trainer.config.total_images
        none = "no validation" if run.trainer.has_latents else "no validation with latents"
        lowest = f"{none} yet" if best is None else f"best {self._nll(best.nats)} at {best.images:,} images"
        if run.stopped in ("signal", "max_time"):
            return (
                f"stopped at {images:,} of {total:,} images ({lowest}); everything is saved in {run.folder}: "
                "the same command goes on"
            )
        why = "done" if run.stopped == "done" else "stopped, since validations got no better,"
        return f"{why} after {images:,} images, {in_time(run.progress.seconds)} ({lowest})"

    def _nll(self, nats: float, stderr: float | None = None) -> str:
        """Return an NLL in the unit of the data."""
        config = self.run.trainer.model.config
        shape, unit = config.image_shape, unit_of(config.levels)
        values = [nats] if stderr is None else [nats, stderr]
        if unit == "nats/image":
            return f"{' +- '.join(f'{each:.2f}' for each in values)} nats"
        return f"{' +- '.join(f'{bits_per_dim(each, shape):.4f}' for each in values)} {unit}"


def in_time(seconds: float) -> str:
    """Return a duration in words: seconds, minutes, or hours and minutes.

    >>> in_time(42.4), in_time(3601), in_time(9000)
    ('42 s', '1 h 0 min', '2 h 30 min')
    """
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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
