"""Options of `fame train`, for each parameter of a training."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from famecli.cli.groups import Data, Dataset, Preparing, Seed, ShortDryRun, images_or_auto
from famecli.cli.sources import complete_model, complete_weights
from famecli.config.presets import DEFAULT_SIZE, PRESETS
from famecli.config.resolve import Setting
from famecli.errors import UsageError
from famecli.training.options import TrainOptions

RUN = "Run"
SCHEDULE = "Schedule"
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: object) -> float:
    """Return a length of time in seconds: `value` is a number, or numbers each followed by s, m, h or d.

    Raises:
        UsageError: `value` is something else.

    >>> seconds("90"), seconds("1.5h"), seconds("1h30m")
    (90.0, 5400.0, 5400.0)
    """
    text, number = str(value).strip(), r"\d+(?:\.\d+)?"
    if re.fullmatch(number, text):
        return float(text)
    if not re.fullmatch(f"(?:{number}[smhd])+", text):
        raise UsageError(f"{text!r} is not a length of time", "write for example 90s, 10m or 1.5h")
    return sum(float(value) * SECONDS[unit] for value, unit in re.findall(f"({number})([smhd])", text))


# Argument or option of each parameter of a training; `Network` and `Machine` have the others.
FLAGS = {
    "preset": typer.Argument(
        metavar="MODEL",
        show_default="fame",
        help=f"One of {', '.join(PRESETS)}.",
        autocompletion=complete_model,
    ),
    "dataset": get_args(Dataset)[1],
    "conditional": typer.Option(
        "--conditional/--no-conditional", help="Give the model the class of each image: p(x|y)."
    ),
    "data": get_args(Data)[1],
    "preparing": get_args(Preparing)[1],
    "size": typer.Option("--size", show_default=DEFAULT_SIZE, help="Size of the model."),
    "config": typer.Option("--config", metavar="FILE", help="TOML file, as --print-config prints it."),
    "settings": typer.Option(
        "--set",
        metavar="KEY=VALUE",
        parser=Setting.parse,
        help="Change one key of --help-settings; may be repeated.",
    ),
    "images": typer.Option("--images", min=1, help="Number of images to see.", rich_help_panel=SCHEDULE),
    "epochs": typer.Option("--epochs", min=0.0, help="Length in epochs.", rich_help_panel=SCHEDULE),
    "steps": typer.Option("--steps", min=1, help="Length in steps.", rich_help_panel=SCHEDULE),
    "budget_s": typer.Option(
        "--budget",
        metavar="TIME",
        parser=seconds,
        help="Time for the training steps; the measured speed fixes the number of images. "
        "Start and validations take extra time.",
        rich_help_panel=SCHEDULE,
    ),
    "batch_size": typer.Option(
        "--batch-size",
        metavar="IMAGES|auto",
        parser=images_or_auto,
        show_default="auto",
        help="Images per step, over all processes; auto: 16 on the CPU, on GPUs what fits in memory.",
        envvar="FAME_BATCH_SIZE",
    ),
    "accumulate": typer.Option(
        "--accumulate",
        min=1,
        help="Micro-batches per process and step: gradient accumulation, to save memory; same result.",
        rich_help_panel=SCHEDULE,
    ),
    "lr": typer.Option("--lr", help="Learning rate of AdamW.", rich_help_panel=SCHEDULE),
    "ema": typer.Option(
        "--ema",
        min=0,
        metavar="IMAGES",
        help="Half-life of averaged weights; at most a twentieth of the images seen.",
        rich_help_panel=SCHEDULE,
    ),
    "precision": typer.Option(
        "--precision",
        help="Precision of the forward pass; auto: bf16 where the hardware multiplies it, or the "
        "precision that the run began with.",
        rich_help_panel=SCHEDULE,
    ),
    "compile": typer.Option(
        "--compile/--no-compile",
        help="Compile the steps: takes minutes, speeds up long trainings.",
        rich_help_panel=SCHEDULE,
    ),
    "out": typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the run.", rich_help_panel=RUN),
    "resume": typer.Option(
        "--resume", metavar="auto|never|FILE", help="Resume from saved state.", rich_help_panel=RUN
    ),
    "init": typer.Option(
        "--init",
        metavar="CKPT",
        help="Start from this model: its weights, size, data set and preparation.",
        rich_help_panel=RUN,
        autocompletion=complete_weights,
    ),
    "save_every_s": typer.Option(
        "--save-every",
        metavar="TIME",
        parser=seconds,
        show_default="10m",
        help="Time between two saves.",
        rich_help_panel=RUN,
    ),
    "eval_every": typer.Option(
        "--eval-every",
        min=1,
        metavar="IMAGES",
        help="Images between two validations.",
        rich_help_panel=RUN,
    ),
    "keep": typer.Option(
        "--keep",
        min=0,
        metavar="N",
        help="Keep images-*.safetensors of the last N validations.",
        rich_help_panel=RUN,
    ),
    "sample_every": typer.Option(
        "--sample-every",
        min=1,
        metavar="IMAGES",
        help="Images between two grids of samples in samples/.",
        rich_help_panel=RUN,
    ),
    "track": typer.Option(
        "--track",
        help="Also log curves, samples, configuration and result to a tracker.",
        rich_help_panel=RUN,
    ),
    "patience": typer.Option(
        "--patience",
        min=1,
        metavar="IMAGES",
        help="Stop after this many images without a better validation.",
        rich_help_panel=RUN,
    ),
    "max_time_s": typer.Option(
        "--max-time",
        metavar="TIME",
        parser=seconds,
        help="Time from the start until the training saves and stops with code 75.",
        rich_help_panel=RUN,
    ),
    "seed": get_args(Seed)[1],
}
TypedOptions = Annotated[TrainOptions, FLAGS]


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
            help="Measure steps on blank images, predict memory and time, write nothing.",
        ),
    ] = False
    short_dry_run: ShortDryRun = False
    preview: Annotated[
        bool, typer.Option("--preview", help="Also show the samples in the terminal.", rich_help_panel=RUN)
    ] = False
    log: Annotated[
        Literal["-"] | None,
        typer.Option("--log", metavar="-", help="Print metrics.jsonl, not the path.", rich_help_panel=RUN),
    ] = None


def check_options(asked: TrainOptions, display: Display, *, json: bool) -> None:
    """Check that options fit together.

    Raises:
        UsageError: Two options contradict each other.
    """
    if asked.preset is not None and Path(asked.preset).is_dir():
        raise UsageError(
            f"{asked.preset} is a folder, where a model is expected", "-o names the folder of a run"
        )
    if display.log and json:
        raise UsageError("--json and --log - both want stdout", "leave one of them out")
    if display.print_config and json:
        raise UsageError("--print-config prints TOML, not JSON", "leave one of them out")
    if display.preview and asked.sample_every is None:
        raise UsageError("--preview shows samples of the training", "add --sample-every IMAGES")
    if not asked.save_every_s:
        raise UsageError("--save-every 0 would do nothing but save", "write for example 10m")
