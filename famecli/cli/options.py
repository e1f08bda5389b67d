"""Options of the commands that do not take the groups of `famecli.cli.groups`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famecli.cli.groups import COMMON, Machine
from famecli.cli.groups import Force as Force
from famecli.cli.groups import Limit as Limit
from famecli.cli.groups import Seed as Seed
from famecli.cli.groups import check_absent as check_absent
from famecli.errors import UsageError

if TYPE_CHECKING:
    import torch

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


def use_device(name: str, threads: int | None) -> "torch.device":
    """Return the device called `name` and set the number of CPU threads; see `Machine.torch_device`."""
    return Machine(device=name, threads=threads).torch_device()
