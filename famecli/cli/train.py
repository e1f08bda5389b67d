"""`fame train`."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from famecli.cli.grouping import grouped
from famecli.cli.groups import Common, Machine, Network, join
from famecli.cli.train_options import Display, TypedOptions, check_options
from famecli.config.resolve import keys, to_toml
from famecli.errors import ExitCode
from famecli.output import NO_TERMINAL, FittedTable, Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.runtime.distributed import Group
    from famecli.training.plan import Plan
    from famecli.training.run import Run

SETTINGS_SCHEMA = "famecli/settings/1"


@grouped
def train(
    *, options: TypedOptions, display: Display, network: Network, machine: Machine, common: Common
) -> None:
    """Train a model. Prints the path of the best checkpoint. The same command again resumes the run.

    Exit code 75: stopped by --max-time, SIGTERM or SIGHUP; 130: stopped by Ctrl-C. Either way, all is saved.

    Examples:

      fame train fame --dataset mnist --size tiny -o run/

      fame train fame --dataset mnist --budget 10m -o run/

      fame train pixelcnn --size small --epochs 4 --max-time 1h -o run/

      fame train fame --size small --set free_nats=2 --set decoder.layers=8 --dry-run

      torchrun --nproc-per-node 8 -m famecli train fame --size paper --dataset cifar10 -o run/
    """
    output = common.output()
    if display.help_settings:
        _print_settings(output)
        return
    dry_run = display.dry_run or display.short_dry_run
    # Deferred: needs numpy, which `fame --help` does without.
    from famecli.training.plan import make_plan

    check_options(options, display, json=common.json)
    plan = make_plan(options, blank=display.print_config or dry_run, report=output.note)
    if display.print_config:
        _print_config(plan, output)
    elif dry_run:
        _predict(plan, output)
    else:
        _train(plan, display, output)


def _print_settings(output: Output) -> None:
    rows = keys()
    document = {"schema": SETTINGS_SCHEMA, "settings": [row._asdict() for row in rows]}
    names = "\n".join(row.key for row in rows)
    columns = ("key", "meaning", "default", "range", "type")
    shown = FittedTable("", columns, [[getattr(row, name) for name in columns] for row in rows], right=False)
    output.result(document, names, lambda console: console.print(shown))


def _print_config(plan: "Plan", output: Output) -> None:
    config = plan.config
    if plan.open_budget_s is not None:
        from famecli.training.setup import make_trainer

        config = make_trainer(plan, join(output), output.note, blank=True).config
    typer.echo(to_toml(plan.model, config), nl=False)


def _predict(plan: "Plan", output: Output) -> None:
    """Print parameters, memory and time, predicted from a few steps on blank images."""
    from famecli.training.costs import predict
    from famecli.training.follow import in_time
    from famecli.training.setup import make_trainer

    trainer = make_trainer(plan, join(output), output.note, blank=True)
    data = predict(trainer)
    rows = [
        ("parameters", f"{data['parameters']:,}"),
        ("weights, averaged weights, optimizer state", f"{data['state_mib']:,.0f} MiB"),
        ("activations of an image", f"{data['activation_mib_per_image']:,.2f} MiB"),
        ("forward and backward pass of an image", f"{data['gflops_per_image']:,.2f} GFLOP"),
        (f"memory for {data['images_at_once']} at once", f"{data['predicted_memory_mib']:,.0f} MiB"),
        ("peak memory, measured", f"{data['peak_memory_mib']:,.0f} MiB"),
        ("speed", f"{data['images_per_s']:,.1f} images/s"),
        (f"one epoch of {data['epoch_images']:,}", in_time(data["seconds_per_epoch"])),
        (f"all {data['total_images']:,} images", in_time(data["seconds_total"])),
    ]

    def human(console: Console) -> None:
        console.print(FittedTable(f"{plan.model.preset}; times without validation", ["", ""], rows))

    if trainer.group.is_main:
        output.result(data, f"{data['seconds_total']:.0f}", human)


def _train(plan: "Plan", display: Display, output: Output) -> None:
    """Train with progress on stderr, then print the result and exit."""
    from famecli.runtime.distributed import explain_lost_processes
    from famecli.training.follow import Remarks, follow, result
    from famecli.training.lock import locked
    from famecli.training.setup import begin, make_run
    from famecli.training.trackers import check_tracker

    check_tracker(plan.options.track)
    group = join(output)
    with _catch_signals(output) as signals, ExitStack() as stack:
        lock = stack.enter_context(locked(plan.folder, group, output.warn))
        run = make_run(plan, group, output.note, _shown(display, output, group))
        run.lock, config = lock, run.trainer.config
        total = config.total_steps * config.batch_size
        signals.begun = True
        begin(run, plan, output.note)
        seen, remarks = run.trainer.images, Remarks(run)
        records = follow(run, plan, lambda: "signal" if signals.caught else None, output.warn)
        with output.progress("training", total, tenths=False) as advance, closing(records):
            advance(seen, "")
            for record in records:
                advance(record["images"] - seen, _describe(record))
                seen = record["images"]
                if line := remarks.of(record):
                    output.note(line)
                if group.is_main and (warning := remarks.warning(record)):
                    output.warn(warning)
                if display.log and group.is_main:
                    print(json.dumps(record, allow_nan=False), flush=True)
        output.note(remarks.end())
        if group.is_main and not display.log:
            output.result(result(run), str(run.checkpoint))
        with explain_lost_processes():
            # Wait for the first process: torchrun ends all when one exits with a code other than 0.
            group.all_reduce_max(0)
        _exit(run, signals.caught)


def _shown(display: Display, output: Output, group: "Group") -> "Callable[[np.ndarray], None]":
    """Return a function that shows samples in the terminal, or does nothing."""
    if display.preview and output.errors.is_terminal:
        return output.preview
    if display.preview and group.is_main:
        output.warn(NO_TERMINAL)
    return lambda images: None


@dataclass
class _Signals:
    """Signals that came, and whether the training has begun."""

    caught: list[int] = field(default_factory=list)
    begun: bool = False


@contextmanager
def _catch_signals(output: Output) -> Iterator[_Signals]:
    """Yield the caught signals among SIGINT, SIGTERM and SIGHUP; a second one ends the process at once.

    Before the training has begun there is nothing to save, and the first one ends the process. A SIGHUP that
    is ignored from the start, as by nohup, stays ignored.
    """
    signals = _Signals()

    def remember(number: int, frame: FrameType | None) -> None:
        if signals.caught:
            # No cleaning up, which could take long: everything in the folder is whole at any time.
            os._exit(_code(signals.caught))
        signals.caught.append(number)
        if not signals.begun:
            output.note("stopped before the first step: the same command starts again")
            # Not typer.Exit, an ordinary exception that a library could swallow.
            raise SystemExit(_code(signals.caught))

    kinds = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        kinds.append(signal.SIGHUP)
    before = {kind: signal.signal(kind, remember) for kind in kinds}
    try:
        yield signals
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _code(signals: list[int]) -> ExitCode:
    return ExitCode.INTERRUPTED if signal.SIGINT in signals[:1] else ExitCode.PREEMPTED


def _describe(record: dict[str, Any]) -> str:
    """Return the speed for the bar; the lines of validations tell the NLL."""
    return f"{record['images_per_s']:,.0f} images/s" if "images_per_s" in record else ""


def _exit(run: "Run", signals: list[int]) -> None:
    """Exit with the code of a stopped training, if it was stopped.

    The code is 0 if torchrun would restart the processes after any other code.
    """
    if run.stopped not in ("signal", "max_time") or run.trainer.group.restarts:
        return
    raise typer.Exit(_code(signals))
