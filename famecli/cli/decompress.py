"""`fame decompress`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famecli.checkpoints.index import named_weights
from famecli.checkpoints.store import Store
from famecli.cli import options
from famecli.cli.image_output import ImageOutput, free_name
from famecli.cli.sources import ModelChoice
from famecli.errors import FameError, InputError, UnavailableError
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.coding.container import CodedFile, FileHeader

SCHEMA = "famecli/decompress/1"

File = Annotated[Path, typer.Argument(metavar="FILE", help="What fame compress wrote, or -.")]
Checkpoint_ = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="CKPT",
        help="The model, as other commands take it; else it is looked for among the weights with names.",
    ),
]
Out = Annotated[
    str | None, typer.Option("-o", "--out", metavar="PATH|-", help="Where to; by default a new folder.")
]


def decompress(
    file: File,
    checkpoint: Checkpoint_ = None,
    out: Out = None,
    format: options.ImageFormat = "auto",
    force: options.Force = False,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Restore images that fame compress coded, pixel for pixel. Prints the path of what was written.

    They are checked against a hash before anything is written. A folder gets PNG files under the names that
    the images had, or numbers; -o also takes grid.png, x.npz, x.npy, x.zip, or - for an npy stream.

    Examples:

      fame decompress digits.fame -o digits/

      fame decompress images.fame --checkpoint run/ -o images.npz
    """
    from famecli.coding.compress import check_model
    from famecli.coding.container import read_file

    output = Output(json=json, quiet=quiet)
    named = free_name("images", "") if out is None and format in ("auto", "png") else out
    target = ImageOutput(named, "images", format, False, force, False, output)
    coded = read_file(file)
    if checkpoint is None:
        checkpoint = str(_find(coded.header, Store(cache_dir, offline, output.note)))
    weights = coded.header.weights
    loaded = ModelChoice(checkpoint, None, None, weights, "cpu", None, cache_dir, offline).load(output)
    check_model(loaded, coded.header, str(file), "name that model: --checkpoint CKPT")
    started_s = time.monotonic()
    levels = _decode(loaded, coded, output)
    seconds = time.monotonic() - started_s
    _write(levels, coded.header, target)
    _report(loaded, coded.header, seconds, target)


def _find(header: "FileHeader", store: Store) -> Path:
    """Return the checkpoint with the weights that a file was written with, fetched if its name is known.

    Raises:
        UnavailableError: It is none of the weights with names.
    """
    for _, path, _ in store.installed():
        if _hashes(path).get(header.weights) == header.weights_sha256:
            return path
    if (entry := named_weights(header.name)) is not None and store.find(entry) is None:
        return store.fetch(entry)
    raise UnavailableError(
        f"the file was written with weights {header.weights_sha256[:12]} ({header.name}), which are not here",
        "name the model: --checkpoint CKPT",
    )


def _hashes(path: Path) -> dict[str, Any]:
    """Return the hashes of the weights in a checkpoint, as it says itself; none if it cannot be read."""
    from famecli.checkpoints.header import parse_header, read_checkpoint

    try:
        content = read_checkpoint(path)
        found = parse_header(content, len(content), str(path)).metadata.get("weights_sha256")
    except FameError:
        return {}
    return found if isinstance(found, dict) else {}


def _decode(loaded: "Checkpoint", coded: "CodedFile", output: Output) -> "np.ndarray":
    from famecli.coding.compress import decode_images

    with output.progress("decoding", coded.header.images) as advance:
        return decode_images(loaded, coded, lambda done: advance(done, ""))


def _write(levels: "np.ndarray", header: "FileHeader", target: ImageOutput) -> None:
    from famecli.images import resolve_format, to_uint8

    images = to_uint8(levels, header.levels)
    names = header.file_names()
    if resolve_format(target.target, target.format, target.force) == "png":
        _write_folder(Path(target.target), names, images)
        return
    facts = {"weights_sha256": header.weights_sha256}
    with target.open(len(images)) as writer:
        writer.add(images, [facts | {"index": index, "name": name} for index, name in enumerate(names)])


def _write_folder(folder: Path, names: list[str], images: "np.ndarray") -> None:
    """Write PNG files; the names were checked when the file was read."""
    from famecli.images import write_png

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}") from error
    if links := [name for name in names if (folder / name).is_symlink()]:
        raise InputError(f"{folder / links[0]} is a link", "choose another folder")
    for name, image in zip(names, images, strict=True):
        write_png(folder / name, image, {}, sync=False)


def _report(loaded: "Checkpoint", header: "FileHeader", seconds: float, target: ImageOutput) -> None:
    data = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "out": target.target,
        "images": header.images,
        "shape": list(header.shape),
        "levels_sha256": header.levels_sha256,
        "seconds": round(seconds, 3),
        "images_per_s": round(header.images / max(seconds, 1e-9), 2),
    }
    target.output.note(f"{header.images:,} images in {seconds:.1f} s, as they were coded")
    if target.target != "-":
        target.output.result(data, target.target)
