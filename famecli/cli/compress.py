"""`fame compress`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famecli.cli import options
from famecli.cli.image_output import free_name
from famecli.cli.reconstruct import split_words
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.errors import InputError, UsageError
from famecli.files import write_atomic
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.coding.codec import Coded
    from famecli.coding.container import CodedFile

SCHEMA = "famecli/compress/1"
SUFFIX = ".fame"

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CKPT] [IMAGES…]", help="A checkpoint, then image files and folders, or one npy or npz file."
    ),
]
Split = Annotated[
    str | None,
    typer.Option("--split", metavar="train|valid|test", help="Without IMAGES: part of the data set [test]."),
]
Out = Annotated[
    str | None, typer.Option("-o", "--out", metavar="FILE|-", help="Where to; by default a free name.")
]
Group = Annotated[
    int,
    typer.Option("--group", min=1, max=1024, metavar="IMAGES", help="Most images that are coded at once."),
]
Start = Annotated[
    int | None,
    typer.Option("--start", min=0, metavar="INDEX", help="Without IMAGES: first one of the part [0]."),
]


@dataclass(frozen=True)
class Images:
    """The images to code.

    Args:
        names: Of their files; None where they have numbers.
        levels: `(N, C, H, W)`.
        first: Number of the first one, where they have.
    """

    names: list[str] | None
    levels: "np.ndarray"
    first: int = 0


@dataclass(frozen=True)
class Part:
    """Which images of a data set; what is None was not said."""

    split: str | None
    start: int | None
    limit: int | None


def compress(
    words: Words = None,
    dataset: options.Dataset = None,
    data: options.Data = None,
    model: options.Model = None,
    split: Split = None,
    start: Start = None,
    limit: options.Limit = None,
    out: Out = None,
    group: Group = 64,
    force: options.Force = False,
    weights: options.Weights = "ema",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Code images without loss, in as many bits as the model's NLL says. Prints the path of what was written.

    Images come from files, or else from the data set. A binary model takes black and white ones alone. They
    come back with fame decompress: docs/coding.md.

    Examples:

      fame compress --dataset mnist digits/ -o digits.fame

      fame compress --dataset cifar10 --split test --start 500 --limit 100 -o slice.fame

      fame compress run/ *.png -o - | ssh far 'cat > images.fame'
    """
    output = Output(json=json, quiet=quiet)
    target = free_name("images", SUFFIX) if out is None else out
    checkpoint, files = _split_words(words or [])
    part = Part(split, start, limit)
    if files and (part != Part(None, None, None) or data is not None):
        raise UsageError(
            "--split, --start, --limit and --data are for images of a data set", "leave the files out"
        )
    choice = ModelChoice(checkpoint, dataset, model, weights, "cpu", None, cache_dir, offline)
    place = DataPlace(data, cache_dir, offline, output.note)
    place.check_stdin(choice, split or "test")
    _check_target(target, force, json)
    loaded = choice.load(output)
    images = _load(loaded, choice, place, files, part)
    started_s = time.monotonic()
    file = _encode(loaded, images, group, output)
    seconds = time.monotonic() - started_s
    size = _write(file, target)
    _report(loaded, file.coded(), size, seconds, target, output)


def _split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """Return what `split_words` does; a first word that can only be an array leaves the checkpoint out."""
    from famecli.coding.compress import is_array

    return (None, words) if words and is_array(words[0]) else split_words(words)


def _check_target(target: str, force: bool, json: bool) -> None:
    if target != "-":
        if Path(target).is_dir():
            raise InputError(f"{target} is a folder", f"name a file in it: {target}/images{SUFFIX}")
        options.check_absent(force, Path(target))
    elif json:
        raise UsageError("--json and -o - both want stdout", "name a file for the code")
    elif sys.stdout.isatty():
        raise UsageError("bits would go to the terminal", f"redirect it: > images{SUFFIX}, or name a file")


def _load(
    loaded: "Checkpoint",
    choice: ModelChoice,
    place: DataPlace,
    files: list[str],
    part: Part,
) -> Images:
    """Return the images of the files, or without any those of the data set.

    Raises:
        UsageError: The data set has no image at the start, or is for other models.
        InputError: A file is not what the model codes without loss.
    """
    from famecli.coding.compress import read_originals
    from famecli.data.dataset import fixed_levels
    from famecli.nll.score import BITS_SEED, check_fits

    if files:
        return Images(*read_originals(loaded.model.config, files))
    found = place.images(choice, loaded, part.split or "test")  # type: ignore[arg-type]
    check_fits(loaded, found.info.shape, found.info.levels, found.info.name)
    start = part.start or 0
    if start >= len(found.pixels):
        raise UsageError(f"--start {start} is behind the last of {len(found.pixels)} images")
    # Bits that are random depend on all images before.
    end = None if part.limit is None else start + part.limit
    return Images(None, fixed_levels(found, BITS_SEED, end).levels[start:], start)


def _encode(loaded: "Checkpoint", images: Images, group: int, output: Output) -> "CodedFile":
    from famecli.coding.compress import encode_images

    with output.progress("encoding", len(images.levels)) as advance:
        return encode_images(
            loaded,
            images.levels,
            names=images.names,
            first=images.first,
            group=group,
            advance=lambda done: advance(done, ""),
        )


def _write(file: "CodedFile", target: str) -> int:
    """Write the file and return its bytes."""
    from famecli.coding.container import to_bytes

    content = to_bytes(file)
    if target == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomic(Path(target), content)
    return len(content)


def _report(
    loaded: "Checkpoint", coded: "Coded", size: int, seconds: float, target: str, output: Output
) -> None:
    images, dimensions = coded.images, loaded.model.config.dimensions
    bits = coded.net_bits / images
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "weights_sha256": loaded.weights_sha256,
        "out": target,
        "images": images,
        "bits_per_image": bits,
        "bits_per_dim": bits / dimensions,
        "initial_bits": coded.initial_bits,
        "payload_bytes": coded.payload_bits // 8,
        "file_bytes": size,
        "seconds": round(seconds, 3),
        "images_per_s": round(images / max(seconds, 1e-9), 2),
    }
    output.note(
        f"{images:,} images, {bits:,.1f} bits each ({bits / dimensions:.4f} bits/dim) and "
        f"{coded.initial_bits:,} initial bits: {size:,} bytes with header, in {seconds:.1f} s"
    )
    if target != "-":
        output.result(data, target)
