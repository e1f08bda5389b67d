"""`fame compress` and `fame decompress`."""

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from famecli.checkpoints.index import index
from famecli.checkpoints.store import Store, weights_with_hash
from famecli.cli.grouping import grouped
from famecli.cli.groups import (
    Common,
    Files,
    Force,
    ImageFormat,
    ImageOutput,
    Label,
    Network,
    Preparing,
    SplitName,
    check_files,
)
from famecli.cli.sources import DataSource, ModelSource, check_stdin_once
from famecli.errors import InputError, UsageError
from famecli.escape import counted
from famecli.files import STDIN, free_name, write_atomic

COMPRESS_SCHEMA = "famecli/compress/1"
SUFFIX = ".fame"

Part = Annotated[
    SplitName | None,
    typer.Option(
        "--split",
        metavar="train|valid|test|all",
        help="Without IMAGES: part of the data set (default: test; all of your own images).",
    ),
]
Out = Annotated[
    str | None, typer.Option("-o", "--out", metavar="FILE|-", help="Output (default: a free name).")
]
Group = Annotated[
    int,
    typer.Option(
        "--group", min=1, max=1024, metavar="IMAGES", help="Maximum number of images coded at once."
    ),
]
Start = Annotated[
    int | None,
    typer.Option(
        "--start", min=0, metavar="INDEX", help="Without IMAGES: first image of the split (default: 0)."
    ),
]


Number = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Without IMAGES: use only N images, from --start on."),
]
DECOMPRESS_SCHEMA = "famecli/decompress/1"
File = Annotated[Path, typer.Argument(metavar="FILE", help="Output of fame compress, or -.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="CKPT",
        help="Model, as in other commands (default: the named weights that wrote the file).",
    ),
]


@grouped
def compress(
    context: typer.Context,
    *,
    source: ModelSource,
    files: Files = None,
    data: DataSource,
    preparing: Preparing,
    split: Part = None,
    start: Start = None,
    limit: Number = None,
    labels: Label = None,
    out: Out = None,
    group: Group = 64,
    force: Force = False,
    network: Network,
    common: Common,
) -> None:
    """Compress images without loss, to about the model's NLL in bits. Prints the path of the output.

    Images come from files, or else from the data set. A binary model takes only black and white images. fame
    decompress restores the images as they are after --resize and --convert. See docs/coding.md.

    Examples:

      fame compress --dataset mnist digits/ -o digits.fame

      fame compress --dataset cifar10 --split test --start 500 --limit 100 -o slice.fame

      fame compress run/ *.png -o - | ssh far 'cat > images.fame'
    """
    output = common.output()
    target = free_name("images", SUFFIX) if out is None else out
    source, names = source.with_images(context, files, data.inputs)
    if names and any(each is not None for each in (split, start, limit, data.data)):
        raise UsageError(
            "--split, --start, --limit and --data are for images of a data set", "leave the files out"
        )
    _check_target(target, force, common.json)
    for_classes = "" if labels is None else "--class"
    data.check(source, output, split, for_classes, preparing, unused=bool(names))
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.coding.compress import encode_images, read_originals
    from famecli.coding.container import to_bytes
    from famecli.evaluation.score import scored_levels

    loaded = source.load(output)
    stored, numbers, first = None, None, start or 0
    if names:
        stored, images = read_originals(loaded.model.config, names, preparing, output.note)
    else:
        images = data.images(source, loaded, split or source.usual_split(loaded), output, preparing)
        most = len(images.pixels)
        numbers = range(first, most if limit is None else min(first + limit, most))
        if not numbers:
            raise UsageError(f"--start {first} is past the last of {most} images")
    if changed := str(images.info.preparation or ""):
        output.warn(f"the file will hold changed images, not the originals: {changed}")
    scored = scored_levels(loaded, images, numbers, labels)
    started_s = time.monotonic()
    with output.progress("encoding", len(scored.levels)) as advance:
        file = encode_images(
            loaded,
            scored.levels,
            labels=scored.labels,
            names=stored,
            first=first,
            group=group,
            advance=advance,
        )
    seconds = time.monotonic() - started_s
    content, coded = to_bytes(file), file.coded()
    if target == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_atomic(Path(target), content, replace=force)
    count, dimensions = coded.images, loaded.model.config.dimensions
    bits = coded.net_bits / count
    document = {
        "schema": COMPRESS_SCHEMA,
        "checkpoint": loaded.reference,
        "weights_sha256": loaded.weights_sha256,
        "out": target,
        "images": count,
        "bits_per_image": bits,
        "bits_per_dim": bits / dimensions,
        "initial_bits": coded.initial_bits,
        "payload_bytes": coded.payload_bits // 8,
        "file_bytes": len(content),
        "seconds": round(seconds, 3),
        "images_per_s": round(count / max(seconds, 1e-9), 2),
    }
    output.note(
        f"{counted(count)}, {bits:,.1f} bits each ({bits / dimensions:.4f} bits/dim) and "
        f"{coded.initial_bits:,} initial bits: {len(content):,} bytes with header, in {seconds:.1f} s"
    )
    if target != "-":
        output.note(f"to restore them: {_restoring(target, loaded.source, network.store(output))}")
        output.result(document, target)


def _restoring(target: str, checkpoint: str, store: Store) -> str:
    """Return the command that restores a file's images; named weights need no --checkpoint."""
    words = ["fame", "decompress", target]
    if checkpoint not in [str(each.path) for each in store.installed()]:
        words += ["--checkpoint", "CKPT" if checkpoint == "-" else checkpoint]
    return shlex.join(words)


def _check_target(target: str, force: bool, json: bool) -> None:
    """Check the output before any work is done.

    Raises:
        UsageError: Bits and a JSON document both go to stdout, or bits to a terminal.
        InputError: The output exists.
    """
    if target != "-":
        if Path(target).is_dir():
            raise InputError(f"{target} is a folder", f"name a file in it: {target}/images{SUFFIX}")
        check_files(force, Path(target))
    elif json:
        raise UsageError("--json and -o - both want stdout", "name an output file")
    elif sys.stdout.isatty():
        raise UsageError("bits would go to the terminal", f"redirect stdout: > images{SUFFIX}, or -o FILE")


@grouped
def decompress(
    file: File,
    *,
    checkpoint: Model = None,
    images: ImageOutput,
    format: ImageFormat = "auto",
    network: Network,
) -> None:
    """Restore images that fame compress coded, pixel for pixel. Prints the path of the output.

    Images are checked against a hash before anything is written. A folder gets PNG files under the original
    names, or numbers; -o also takes grid.png, x.npz, x.npy, x.zip, or - for an npy stream.

    Examples:

      fame decompress digits.fame -o digits/

      fame decompress images.fame --checkpoint run/ -o images.npz
    """
    output = images.common.output()
    target = images.target("images", format, suffix="")
    check_stdin_once(file, checkpoint)
    if file != STDIN and not file.exists():
        raise InputError(f"cannot read coded images {file}: no such file", "fame compress writes one")
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.coding.compress import check_model, decode_images, write_named
    from famecli.coding.container import read_file
    from famecli.data.image_writers import to_uint8

    coded = read_file(file)
    header = coded.header
    name = header.name if header.name in index() else f"{header.name}.safetensors"
    here = name == header.name or Path(name).exists()
    hint = f"name that model: --checkpoint {shlex.quote(name) if here else 'CKPT'}"
    if checkpoint is None:
        store = network.store(output)
        checkpoint = str(weights_with_hash(header.weights, header.weights_sha256, header.name, store, hint))
    loaded = ModelSource(checkpoint=checkpoint, weights=header.weights, network=network).load(output)
    check_model(loaded, header, str(file), hint)
    started_s = time.monotonic()
    with output.progress("decoding", header.images) as advance:
        levels = decode_images(loaded, coded, advance)
    seconds = time.monotonic() - started_s
    if target.format == "png":
        write_named(levels, header, Path(target.name), replace=target.force)
    else:
        made: dict[str, str | int | float] = {"weights_sha256": header.weights_sha256}
        rows = [made | {"index": index, "name": name} for index, name in enumerate(header.file_names())]
        with target.open(len(levels)) as writer:
            writer.add(to_uint8(levels, header.levels), rows)
    document = {
        "schema": DECOMPRESS_SCHEMA,
        "checkpoint": loaded.reference,
        "out": target.name,
        "images": header.images,
        "shape": list(header.shape),
        "levels_sha256": header.levels_sha256,
        "seconds": round(seconds, 3),
        "images_per_s": round(header.images / max(seconds, 1e-9), 2),
    }
    output.note(f"{counted(header.images)} in {seconds:.1f} s, as they were coded")
    if target.name != "-":
        output.result(document, target.name)
