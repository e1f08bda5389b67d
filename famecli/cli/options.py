"""Options that several commands share, and the words they accept."""

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famecli.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch

COMMON = "Common"

CheckpointArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[CKPT]",
        help="File, run folder, name of weights, URL, or -; else --dataset and --model choose.",
    ),
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="With --dataset: whose weights; default fame.")
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", metavar="NAME", help="Data set, for example mnist.", envvar="FAME_DATASET"),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="PATH", help="Folder with the data set's files (or set FAME_DATA), or your images."
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.", envvar="FAME_SEED")]
BatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size", metavar="IMAGES|auto", help="Images worked on at once.", envvar="FAME_BATCH_SIZE"
    ),
]
Weights = Annotated[
    str, typer.Option("--weights", metavar="ema|raw", help="Averaged weights, or those of the last step.")
]
ImagesOut = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="PATH|-", help="Where to; by default a grid under a free name."),
]
ImageFormat = Annotated[
    str,
    typer.Option(
        "--format", metavar="auto|grid|png|npz|npy|zip", help="Of the output; auto goes by the name."
    ),
]
Rgb = Annotated[bool, typer.Option("--rgb", help="Write grey images with three channels.")]
Force = Annotated[bool, typer.Option("--force", help="Write over an output that exists.")]
DecoderOutput = Annotated[
    str, typer.Option("--decoder", metavar="sample|mean", help="Drawn pixels, or expected ones.")
]
Preview = Annotated[bool, typer.Option("--preview", help="Show the first images in the terminal.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="IMAGES", help="Only the first ones.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=COMMON)]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print the one value of the result only.", rich_help_panel=COMMON),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never use the network.", envvar="FAME_OFFLINE", rich_help_panel=COMMON),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]|mps",
        help="Where to compute.",
        envvar="FAME_DEVICE",
        rich_help_panel=COMMON,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Threads on the CPU; all cores unless given.",
        envvar="FAME_THREADS",
        rich_help_panel=COMMON,
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", metavar="FOLDER", help="Where fetched files are kept.", rich_help_panel=COMMON
    ),
]

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """Return the seconds that `text` means: a number, or numbers with s, m, h or d after each.

    Raises:
        UsageError: It is something else.

    >>> seconds("90"), seconds("1.5h"), seconds("1h30m")
    (90.0, 5400.0, 5400.0)
    """
    number = r"\d+(?:\.\d+)?"
    if re.fullmatch(number, text.strip()):
        return float(text)
    if not re.fullmatch(f"(?:{number}[smhd])+", text.strip()):
        raise UsageError(f"{text!r} is not a length of time", "write for example 90s, 10m or 1.5h")
    return sum(float(value) * SECONDS[unit] for value, unit in re.findall(f"({number})([smhd])", text))


def count(text: str, name: str, automatic: int) -> int:
    """Return the whole number that `text` stands for; `automatic` for "auto".

    Raises:
        UsageError: It is neither.
    """
    if text == "auto":
        return automatic
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name} {text!r} is neither a positive whole number nor auto")
    return int(text)


def picking(context: typer.Context, checkpoint: str | None, dataset: str | None) -> str | None:
    """Return `--dataset` for a command that has no other use for it than to pick weights.

    Beside a checkpoint it counts only where it was typed: FAME_DATASET is for all commands alike.
    """
    source = context.get_parameter_source("dataset")
    typed = source is not None and source.name == "COMMANDLINE"
    return dataset if typed or checkpoint is None else None


def use_device(name: str, threads: int | None) -> "torch.device":
    """Return the device called `name` and set the number of CPU threads.

    Raises:
        UsageError: There is no such kind of device.
        UnavailableError: It is not here.
    """
    import torch

    from famecli.runtime.devices import device_named

    if threads is not None:
        torch.set_num_threads(threads)
    return device_named(name)


def check_absent(force: bool, *paths: Path | None) -> None:
    """Check that no output exists, before any work is done; folders may if they are empty.

    Raises:
        InputError: One does, and `force` is not set.
    """
    for path in paths:
        fresh = path is None or not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
        if not fresh and not force:
            raise InputError(f"{path} exists", "add --force to write over it, or choose another name")


def check_finite(name: str, value: float | None) -> None:
    """Check the number of an option, where it was given.

    Raises:
        UsageError: It is infinite or not a number.
    """
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{name} {value} is no limit", "give a number")


def check_decoder_output(word: str) -> None:
    """Check the word of `--decoder`.

    Raises:
        UsageError: It is neither of the two.
    """
    if word not in ("sample", "mean"):
        raise UsageError(f"unknown --decoder {word!r}", "choose sample or mean")


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("FAME_DEBUG", "") not in ("", "0")
