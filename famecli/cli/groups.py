"""Options that several commands share: each is declared once, as a type or as a field of a group."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from famecli.checkpoints.store import Store
from famecli.cli.grouping import COMMON, flags_for_parameters
from famecli.data.preparation import Preparation
from famecli.errors import ArgumentError, InputError, UsageError, truncate
from famecli.files import check_writable, free_name
from famecli.output import Output
from famecli.runtime.devices import MOST_THREADS, check_device

if TYPE_CHECKING:
    import torch

    from famecli.data.image_writers import Format, ImageTarget
    from famecli.grids import Layout
    from famecli.runtime.distributed import Group

# Largest number of images in memory at once: more would crash where the system has less.
MOST_IMAGES = 100_000
# Suffixes of default names; the format png is a folder.
SUFFIXES = {"grid": ".png", "png": ""}
SplitName = Literal["train", "valid", "test", "all"]
Split = Annotated[
    SplitName, typer.Option("--split", metavar="train|valid|test|all", help="Part of the data set.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Folder with the data set's files (or set FAME_DATA), or your own images.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.", envvar="FAME_SEED")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Use only N images, spread evenly over the split."),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="NAME|INDEX",
        help="For a model with classes: class of all images (default: the images' labels or folders).",
    ),
]
Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGES", help="Image files, folders, archives and arrays."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
DecoderOutput = Annotated[
    Literal["sample", "mean"],
    typer.Option("--decoder", metavar="sample|mean", help="Drawn or expected pixels."),
]
# Downloads that would be made.
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be downloaded, and from where.")
]
# Earlier spelling of --dry-run; elsewhere -n is a number of images.
ShortDryRun = Annotated[bool, typer.Option("-n", hidden=True)]
ImageFormat = Annotated[
    Literal["auto", "grid", "png", "npz", "npy", "zip"],
    typer.Option(
        "--format", metavar="auto|grid|png|npz|npy|zip", help="Format of the output; auto follows the name."
    ),
]
IMAGES = "Images of your own"
# Preparation of the user's images; the rule of their splits is that of the run or of the model.
Preparing = Annotated[
    Preparation,
    {
        "resize": typer.Option(
            "--resize", min=1, metavar="N", help="Resize your images to NxN pixels.", rich_help_panel=IMAGES
        ),
        "crop": typer.Option(
            "--crop",
            metavar="center|none",
            help="With --resize: crop to the central square (center, default), or stretch (none).",
            rich_help_panel=IMAGES,
        ),
        "pad": typer.Option(
            "--pad", help="With --resize: keep whole images, with black borders.", rich_help_panel=IMAGES
        ),
        "convert": typer.Option(
            "--convert",
            help="Allow lossy conversion: of 16 bits, greys (binary model), colours (grey model), CMYK, "
            "transparency, frames.",
            rich_help_panel=IMAGES,
        ),
    },
]


def images_or_auto(text: str) -> int | None:
    """Return a number of images; None for "auto".

    Raises:
        UsageError: `text` is neither a positive whole number nor "auto".
    """
    if text == "auto":
        return None
    if not text.isdecimal() or len(text) > 12 or int(text) < 1:
        raise UsageError(f"--batch-size {truncate(text)!r} is neither a positive whole number nor auto")
    return int(text)


def typed(context: typer.Context, parameter: str) -> bool:
    """Return whether an option was typed: a default or an environment variable may have set it instead."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def complete_dataset(incomplete: str) -> list[str]:
    """Return the data sets that a shell offers to complete a word."""
    from famecli.data.registry import DATASETS

    return [name for name in DATASETS if name.startswith(incomplete)]


Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="Data set, such as mnist.",
        envvar="FAME_DATASET",
        autocompletion=complete_dataset,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="IMAGES|auto",
        help="Images computed at once (default: auto).",
        envvar="FAME_BATCH_SIZE",
        parser=images_or_auto,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Form of the result on stdout."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=COMMON)] = (
        False
    )
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Print only the result's main value.", rich_help_panel=COMMON),
    ] = False

    def output(self) -> Output:
        """Return the streams of the command."""
        return Output(json=self.json, quiet=self.quiet, wording=flags_for_parameters)


@dataclass(frozen=True, kw_only=True)
class Network:
    """Downloads, and the folder that keeps them."""

    offline: Annotated[
        bool,
        typer.Option(
            "--offline", help="Never use the network.", envvar="FAME_OFFLINE", rich_help_panel=COMMON
        ),
    ] = False
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir", metavar="FOLDER", help="Folder of downloaded files.", rich_help_panel=COMMON
        ),
    ] = None

    def store(self, output: Output) -> Store:
        """Return the named weights of this machine; downloads are announced on stderr."""
        return Store(self.cache_dir, self.offline, output.note)


def _device(name: str) -> str:
    """Return the name of a device; see `check_device`. The option parser would drop a ValueError's hint."""
    try:
        return check_device(name)
    except ArgumentError as error:
        raise UsageError(str(error), error.hint) from None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device and threads."""

    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            max=MOST_THREADS,
            help="CPU threads (default: all cores).",
            envvar="FAME_THREADS",
            rich_help_panel=COMMON,
        ),
    ] = None
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda[:i]|mps",
            help="Device to compute on.",
            parser=_device,
            envvar="FAME_DEVICE",
            rich_help_panel=COMMON,
        ),
    ] = "auto"

    def torch_device(self, group: "Group | None" = None) -> "torch.device":
        """Return the device, after the number of CPU threads is set.

        Args:
            group: Processes of the command, which share the devices; None for a single process.

        Raises:
            UsageError: The device's kind is unknown, or several processes cannot share it.
            UnavailableError: The device is not on this machine.
        """
        import torch

        from famecli.runtime.devices import device_named

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return device_named(self.device if group is None else group.device(self.device))


@dataclass(frozen=True, kw_only=True)
class ImageOutput:
    """File or folder of images."""

    out: Annotated[
        str | None,
        typer.Option(
            "-o", "--out", metavar="PATH|-", help="Output path (default: a name, numbered if taken)."
        ),
    ] = None
    force: Force = False
    common: Common

    def target(
        self, stem: str, format: "Format", *, rgb: bool = False, suffix: str = ".png"
    ) -> "ImageTarget":
        """Return the output, checked before any work is done.

        Args:
            stem: Stem of the default name.
            format: Format of the images.
            rgb: Whether grey images are written with three channels.
            suffix: Suffix of the default name, for the format `auto`.

        Raises:
            UsageError: Images and a JSON document both go to stdout, or the output cannot take the format.
            InputError: The output exists or cannot be written.
        """
        from famecli.data.image_writers import ImageTarget

        if self.out == "-" and self.common.json:
            raise UsageError("--json and -o - both want stdout", "name a file for the images")
        end = suffix if format == "auto" else SUFFIXES.get(format, f".{format}")
        name = free_name(stem, end) if self.out is None else self.out
        return ImageTarget.of(name, format, rgb=rgb, force=self.force)


@dataclass(frozen=True, kw_only=True)
class PictureOutput(ImageOutput):
    """Output of a model's images."""

    rgb: Annotated[bool, typer.Option("--rgb", help="Write grey images with three channels.")] = False
    preview: Annotated[bool, typer.Option("--preview", help="Show the first images in the terminal.")] = False
    columns: Annotated[
        int | None,
        typer.Option(
            "--columns", min=1, max=MOST_IMAGES, metavar="IMAGES", help="Images in a row of a grid."
        ),
    ] = None
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            min=1,
            max=64,
            metavar="PIXELS",
            help="Side of a pixel in a grid (default: large enough to see).",
        ),
    ] = None

    def target(
        self, stem: str, format: "Format", *, rgb: bool = False, suffix: str = ".png"
    ) -> "ImageTarget":
        """Return the output; see `ImageOutput.target`, also for errors.

        Raises:
            UsageError: The output is no grid, and a layout of a grid was given.
        """
        target = super().target(stem, format, rgb=rgb, suffix=suffix)
        if target.format != "grid" and (self.columns or self.scale):
            raise UsageError("--columns and --scale are for a grid", "name a .png, or leave them out")
        return target

    def layout(self, planned: "Layout") -> "Layout":
        """Return a planned layout with the given columns, in whole groups, and the given scale."""
        group, columns = planned.group, planned.columns
        if self.columns is not None:
            columns = max(group, self.columns // group * group)
        return dataclasses.replace(planned, columns=columns, scale=self.scale)


def join(output: Output) -> "Group":
    """Return the processes of this command; only the first prints. See `famecli.runtime.distributed.join`.

    Check outputs before this call: it waits for all processes, and the first one may write right after it.
    """
    from famecli.runtime import distributed

    group = distributed.join()
    output.quiet = output.quiet or not group.is_main
    return group


def check_absent(force: bool, *paths: Path | None) -> None:
    """Check that no output exists, before any work is done; an empty folder may exist.

    Raises:
        InputError: An output exists, and `force` is not set.
    """
    for path in paths:
        fresh = path is None or not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir()))
        if not fresh and not force:
            raise InputError(f"{path} exists", "add --force to overwrite it, or choose another name")


def check_files(force: bool, *paths: Path | None) -> None:
    """Check that files can be written, before any work is done.

    Raises:
        InputError: A file exists, and `force` is not set; or it cannot be written.
    """
    for path in paths:
        if path is not None:
            check_writable(path)
    check_absent(force, *paths)
