"""`fame decompress`."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from famecli.checkpoints.index import named_weights
from famecli.checkpoints.store import weights_with_hash
from famecli.cli.grouping import grouped
from famecli.cli.groups import ImageFormat, ImageOutput, Network
from famecli.cli.sources import ModelSource

SCHEMA = "famecli/decompress/1"

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
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.coding.compress import check_model, decode_images, write_named
    from famecli.coding.container import read_file
    from famecli.data.image_writers import to_uint8

    coded = read_file(file)
    header = coded.header
    name = header.name if named_weights(header.name) else f"{header.name}.safetensors"
    hint = f"name that model: --checkpoint {shlex.quote(name)}"
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
        write_named(levels, header, Path(target.name))
    else:
        made: dict[str, str | int | float] = {"weights_sha256": header.weights_sha256}
        rows = [made | {"index": index, "name": name} for index, name in enumerate(header.file_names())]
        with target.open(len(levels)) as writer:
            writer.add(to_uint8(levels, header.levels), rows)
    document = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "out": target.name,
        "images": header.images,
        "shape": list(header.shape),
        "levels_sha256": header.levels_sha256,
        "seconds": round(seconds, 3),
        "images_per_s": round(header.images / max(seconds, 1e-9), 2),
    }
    output.note(f"{header.images:,} images in {seconds:.1f} s, as they were coded")
    if target.name != "-":
        output.result(document, target.name)
