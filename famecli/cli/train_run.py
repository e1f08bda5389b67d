"""What `fame train` does with a run: how it starts, is followed, and is reported."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from famecli.cli.sources import CheckpointSource
from famecli.cli.train_resume import check_shared, state_of
from famecli.cli.train_track import tracker
from famecli.cli.train_warnings import record_warnings
from famecli.errors import ExitCode, InputError
from famecli.output import Output

if TYPE_CHECKING:
    from famecli.training.run import Run, Stopped

SCHEMA = "famecli/train/1"


def prepare(run: "Run", resume: str, init: CheckpointSource | None, output: Output) -> None:
    """Resume `run`, or give it first weights and an empty folder; write its configuration.

    Raises:
        InputError: There is nothing to resume, the folder cannot be made, or not all processes see it.
    """
    from famecli.training.about import describe_run

    _start(run, resume, init, output)
    check_shared(run.trainer.group, run.folder, run.trainer.step_count)
    if run.trainer.group.first:
        describe_run(run)


def _start(run: "Run", resume: str, init: CheckpointSource | None, output: Output) -> None:
    state = state_of(run.folder, resume)
    if resume not in ("auto", "never") or (resume == "auto" and state.exists()):
        if not state.exists():
            raise InputError(f"no saved state {state}", "--resume takes auto, never, or a state.safetensors")
        run.resume(state)
        output.note(f"resumed at {run.trainer.images:,} images from {state} in {run.trainer.precision}")
        return
    if init is not None:
        _start_from(run, init, output)
    run.clear()


def _start_from(run: "Run", init: CheckpointSource, output: Output) -> None:
    """Give `run` its first weights, and let its checkpoints tell which."""
    from famecli.checkpoints.checkpoint import load_checkpoint
    from famecli.checkpoints.history import trainings
    from famecli.training.grow import first_weights
    from famecli.training.run import FirstWeights

    with run.trainer.group.one_before_the_others():
        path = init.path(output)
    loaded = load_checkpoint(path)
    model = run.trainer.model
    run.trainer.start_from(first_weights(loaded.model, model))
    # Without the folders above the run's, which would be told to whoever gets the checkpoint.
    source = "/".join(Path(str(init.checkpoint)).parts[-2:])
    run.progress.init = FirstWeights(source, loaded.sha256, loaded.weights_sha256, trainings(loaded.metadata))
    more = model.count_parameters() - loaded.model.count_parameters()
    output.note(
        f"started from the weights of {init.checkpoint}" + (f" and {more:,} new ones" if more else "")
    )


def follow(
    run: "Run", output: Output, max_time_s: float | None, *, stream: bool = False, track: bool = False
) -> None:
    """Train with progress on stderr, then print the result and exit with the code that fits.

    Args:
        run: Prepared.
        output: The command's streams.
        max_time_s: Seconds after which to stop; None for never.
        stream: Whether stdout gets the lines of metrics.jsonl, in place of the result.
        track: Whether TensorBoard gets them, too.
    """
    from famecli.runtime.distributed import explain_lost_processes
    from famecli.training.failures import explain_failed_steps

    deadline_s = None if max_time_s is None else time.monotonic() + max_time_s
    signals: list[int] = []

    def interrupted() -> "Stopped | None":
        if signals:
            return "signal"
        return "max_time" if deadline_s is not None and time.monotonic() > deadline_s else None

    first = run.trainer.group.first
    with tracker(run) if track and first else nullcontext(_ignore) as record_to_tracker:
        with _catch_signals(signals), explain_lost_processes(), explain_failed_steps(run.trainer):
            for record in _shown(run.records(interrupted), run, output):
                record_to_tracker(record)
                if stream and first:
                    print(json.dumps(record, allow_nan=False), flush=True)
        if first and not stream:
            _report(run, output)
    with explain_lost_processes():
        # torchrun ends them all when one ends with a code that is not 0: none may before the first is done.
        run.trainer.group.largest(0)
    _exit(run, signals)


def _ignore(record: dict[str, Any]) -> None:
    """Track nothing."""


def _shown(records: Iterator[dict[str, Any]], run: "Run", output: Output) -> Iterator[dict[str, Any]]:
    """Yield `records`, and show the progress that they tell of."""
    config = run.trainer.config
    seen = run.trainer.images
    with output.progress("training", config.total_steps * config.batch_size) as advance:
        advance(seen, "")
        for record in records:
            advance(record["images"] - seen, _describe(record))
            seen = record["images"]
            if record["split"] == "valid" and run.trainer.group.first:
                for text in record_warnings(record):
                    output.warn(text)
            yield record


def _exit(run: "Run", signals: list[int]) -> None:
    """End the command with the code of a training that was stopped, if it was.

    Where torchrun would take such a code for a failure and start again, all is said and the code is 0.
    """
    if run.stopped not in ("signal", "max_time") or run.trainer.group.restarts:
        return
    raise typer.Exit(ExitCode.INTERRUPTED if signal.SIGINT in signals[:1] else ExitCode.PREEMPTED)


@contextmanager
def _catch_signals(caught: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM in `caught`; a second one acts as usual."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for kind in kinds:
            signal.signal(kind, before[kind])

    for kind in kinds:
        before[kind] = signal.signal(kind, remember)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])


def _describe(record: dict[str, Any]) -> str:
    text = f"{record['split']} {record['nats_per_image'] or float('nan'):.2f} nats"
    return f"{text} {record['images_per_s']:.0f} images/s" if "images_per_s" in record else text


def _report(run: "Run", output: Output) -> None:
    from famecli.nll.units import bits_per_dim

    best = run.best()
    trainer = run.trainer
    path = run.folder / "last.safetensors" if best is None else best.path
    data = {
        "schema": SCHEMA,
        "run": str(run.folder),
        "best": None
        if best is None
        else {
            "path": str(best.path),
            "sha256": best.sha256,
            "images": best.images,
            "step": best.images // trainer.config.batch_size,
            "valid_nats_per_image": best.nats,
            "valid_bits_per_dim": bits_per_dim(best.nats, trainer.model.config.image_shape),
        },
        "steps": trainer.step_count,
        "images": trainer.images,
        "skipped": trainer.skipped,
        "seconds": round(run.progress.seconds, 1),
        "cpu_seconds": None if run.progress.cpu_seconds is None else round(run.progress.cpu_seconds, 3),
        "stopped": run.stopped,
    }
    output.result(data, str(path))
