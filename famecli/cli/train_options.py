"""Options of `fame train`: how each parameter of a training is typed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from famecli.cli import options
from famecli.cli.groups import Machine, Network
from famecli.config.presets import DEFAULT_SIZE, PRESETS, Size
from famecli.config.resolve import Setting
from famecli.errors import ConfigError, FameError, UsageError
from famecli.training.options import AnyPrecision, Tracker, TrainOptions

RUN = "Run"
SCHEDULE = "Schedule"
# Parameters, and values of them, that are typed otherwise than --NAME and --NAME VALUE.
FLAGS = {"settings": "--set", "resume=False": "--resume never"}


def _seconds(value: object) -> float:
    return options.seconds(str(value))


def _batch_size(text: str) -> int | None:
    return options.count(text, "--batch-size", 0) or None


@dataclass(frozen=True, kw_only=True)
class TypedOptions(Network, Machine, TrainOptions):
    """Parameters of a training as options."""

    preset: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", show_default="fame", help=f"One of {', '.join(PRESETS)}."),
    ] = None
    dataset: options.Dataset = None
    data: options.Data = None
    size: Annotated[
        Size | None,
        typer.Option("--size", "--preset", show_default=DEFAULT_SIZE, help="Size of the model."),
    ] = None
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML, as --print-config prints it.")
    ] = None
    settings: Annotated[
        list[Setting] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            parser=Setting.parse,
            help="Change one key of --help-settings; may be repeated.",
        ),
    ] = None
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Images to see in all.", rich_help_panel=SCHEDULE)
    ] = None
    epochs: Annotated[
        float | None,
        typer.Option("--epochs", min=0.0, help="Length in epochs.", rich_help_panel=SCHEDULE),
    ] = None
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Length in steps.", rich_help_panel=SCHEDULE)
    ] = None
    budget_s: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            parser=_seconds,
            help="Length as time for the steps: speed is measured, then the images are fixed. "
            "Start and validations come on top.",
            rich_help_panel=SCHEDULE,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="IMAGES|auto",
            parser=_batch_size,
            show_default="auto",
            help="Images per step, over all processes; auto: 16 on the CPU, on GPUs what fits in memory.",
            envvar="FAME_BATCH_SIZE",
        ),
    ] = None
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate",
            min=1,
            help="Parts that a process splits its images of a step into, to save memory; same result.",
            rich_help_panel=SCHEDULE,
        ),
    ] = 1
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate of AdamW.", rich_help_panel=SCHEDULE)
    ] = None
    ema: Annotated[
        int | None,
        typer.Option(
            "--ema",
            min=0,
            metavar="IMAGES",
            help="Half-life of averaged weights; at most a twentieth of the images seen.",
            rich_help_panel=SCHEDULE,
        ),
    ] = None
    precision: Annotated[
        AnyPrecision,
        typer.Option(
            "--precision",
            help="Precision of the forward pass; auto: bf16 where the hardware multiplies it, or the "
            "precision that the run began with.",
            rich_help_panel=SCHEDULE,
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the step first, for minutes: long trainings end sooner.",
            rich_help_panel=SCHEDULE,
        ),
    ] = False
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the run.", rich_help_panel=RUN),
    ] = None
    resume: Annotated[
        str,
        typer.Option(
            "--resume", metavar="auto|never|FILE", help="Go on from a saved state.", rich_help_panel=RUN
        ),
    ] = "auto"
    init: Annotated[
        str | None,
        typer.Option(
            "--init", metavar="CKPT", help="Start from the weights of this model.", rich_help_panel=RUN
        ),
    ] = None
    save_every_s: Annotated[
        float,
        typer.Option(
            "--save-every",
            metavar="TIME",
            parser=_seconds,
            show_default="10m",
            help="Time between two saves.",
            rich_help_panel=RUN,
        ),
    ] = 600.0
    eval_every: Annotated[
        int | None,
        typer.Option(
            "--eval-every",
            min=1,
            metavar="IMAGES",
            help="Images between two validations.",
            rich_help_panel=RUN,
        ),
    ] = None
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            min=0,
            metavar="N",
            help="Keep images-*.safetensors of the last N validations.",
            rich_help_panel=RUN,
        ),
    ] = 0
    sample_every: Annotated[
        int | None,
        typer.Option(
            "--sample-every",
            min=1,
            metavar="IMAGES",
            help="Images between two grids of samples in samples/.",
            rich_help_panel=RUN,
        ),
    ] = None
    track: Annotated[
        Tracker | None,
        typer.Option(
            "--track", help="Write metrics for TensorBoard, too, into tensorboard/.", rich_help_panel=RUN
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience",
            min=1,
            metavar="IMAGES",
            help="Stop after so many images without progress.",
            rich_help_panel=RUN,
        ),
    ] = None
    max_time_s: Annotated[
        float | None,
        typer.Option(
            "--max-time",
            metavar="TIME",
            parser=_seconds,
            help="Save and stop with code 75 after this time.",
            rich_help_panel=RUN,
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of everything random.", envvar="FAME_SEED")
    ] = None


@dataclass(frozen=True)
class Display:
    """Output of `fame train` in place of a training, or beside its result."""

    help_settings: Annotated[
        bool, typer.Option("--help-settings", help="Print the table of all keys for --set and stop.")
    ] = False
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")
    ] = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            "-n",
            help="Measure steps on blank images, predict memory and time, read and write nothing.",
        ),
    ] = False
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the samples in the terminal, too.", rich_help_panel=RUN)
    ] = False
    log: Annotated[
        Literal["-"] | None,
        typer.Option("--log", help="Print metrics.jsonl, not the path.", rich_help_panel=RUN),
    ] = None


def check_options(asked: TrainOptions, display: Display, *, json: bool) -> None:
    """Check that options go together.

    Raises:
        UsageError: They do not.
    """
    if display.log and json:
        raise UsageError("--json and --log - both want stdout", "leave one of them out")
    if display.preview and asked.sample_every is None:
        raise UsageError("--preview shows samples of the training", "add --sample-every IMAGES")
    if not asked.save_every_s:
        raise UsageError("--save-every 0 would do nothing but save", "write for example 10m")


@contextmanager
def flags_for_parameters() -> Iterator[None]:
    """Name options where an error of the library names parameters, which it does in backticks."""

    def flag(match: re.Match[str]) -> str:
        name, _, value = match[1].partition("=")
        return FLAGS.get(match[1], f"--{name.removesuffix('_s').replace('_', '-')} {value}".rstrip())

    names = "|".join(TrainOptions.__dataclass_fields__)
    try:
        yield
    except FameError as error:
        hint = error.hint
        if not hint and isinstance(error, ConfigError):
            hint = "fame train --help-settings explains all keys"
        pattern = rf"`((?:{names})(?:=[^`]*)?)`"
        error.args, error.hint = (re.sub(pattern, flag, str(error)),), re.sub(pattern, flag, hint)
        raise
