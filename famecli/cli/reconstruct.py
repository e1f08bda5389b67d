"""`fame reconstruct`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from famecli.checkpoints.description import model_in
from famecli.checkpoints.header import Header
from famecli.cli.grouping import grouped
from famecli.cli.groups import (
    MOST_IMAGES,
    DecoderOutput,
    Files,
    Label,
    Machine,
    PictureOutput,
    Preparing,
    Seed,
    Split,
    SplitName,
    check_files,
)
from famecli.cli.sources import DataSource, ModelSource
from famecli.data.preparation import Preparation
from famecli.errors import UsageError, truncate
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.data.image_writers import Format
    from famecli.model.fame import Fame

SCHEMA = "famecli/reconstruct/1"
# Endings of outputs that are no pictures of pairs.
ARRAYS = (".npz", ".npy", ".zip")
LATENTS_SCHEMA = "famecli/latents/1"
# Most digits of an index in a split.
MOST_DIGITS = 12
# Fraction of the NLL below which the KL divergence is nearly nothing, and the number of images to measure.
LEAST_PART, FEW = 0.01, 32

Number = Annotated[
    int | None,
    typer.Option(
        "-n", "--num", min=1, metavar="IMAGES", show_default="32", help="Number of images of the data set."
    ),
]
Pairs = Literal["pairs", "grid", "png", "npz", "npy", "zip"]
PairFormat = Annotated[
    Pairs | None,
    typer.Option(
        "--format",
        metavar="pairs|grid|png|npz|npy|zip",
        show_default="pairs, or the array that -o names",
        help="pairs: each image beside its reconstructions.",
    ),
]
KeepLayers = Annotated[
    int | None,
    typer.Option(
        "--keep-layers", min=0, metavar="K", help="Draw only top K layers from the posterior; default all."
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", min=1, max=MOST_IMAGES, metavar="S", help="Reconstructions of each image.")
]
Latents = Annotated[
    Path | None,
    typer.Option("--latents", metavar="FILE", help="Write the posteriors' means and scales as safetensors."),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=2, show_default="8", help="Images of an interpolation, ends included."),
]
Interpolate = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--interpolate", metavar="A B", help="Interpolate between two images: files, or indices in the split."
    ),
]


@dataclass(frozen=True)
class Originals:
    """Images to reconstruct.

    Args:
        sources: Name of each image.
        levels: Integer levels `(N, C, H, W)`.
        labels: Class of each image, `(N,)`; None for a model without classes.
        numbers: Number of each image in its split, or among the files.
    """

    sources: list[str]
    levels: "np.ndarray"
    labels: "np.ndarray | None"
    numbers: Sequence[int]


@grouped
def reconstruct(
    context: typer.Context,
    *,
    source: ModelSource,
    files: Files = None,
    data: DataSource,
    preparing: Preparing,
    split: Split = "test",
    labels: Label = None,
    number: Number = None,
    images: PictureOutput,
    format: PairFormat = None,
    keep_layers: KeepLayers = None,
    samples: Samples = 1,
    decoder: DecoderOutput = "sample",
    interpolate: Interpolate = None,
    steps: Steps = None,
    latents: Latents = None,
    seed: Seed = 0,
    machine: Machine,
) -> None:
    """Encode images and decode them again. Prints the path of the output.

    Images come from files, or else from the data set. A binary model takes black and white pixels.
    --json gives PSNR (dB), mean squared error and NLL of each image; the NLL is that of evaluate-nll.

    Examples:

      fame reconstruct --dataset mnist -n 32 -o pairs.png

      fame reconstruct run/ --keep-layers 1 --samples 3 -o top.png

      fame reconstruct --dataset mnist --interpolate 0 7 --steps 12 -o between.png

      fame reconstruct run/ digits/ --json | jq -r '.images[] | [.source, .psnr] | @tsv'
    """
    output = images.common.output()
    target = images.target("reconstructions", _format(format, images.out), rgb=images.rgb)
    _check_ends(interpolate, files or [])
    source, names = source.with_images(context, files, (*(interpolate or ()), *data.inputs))
    check_files(images.force, latents)
    _check_together(names, interpolate, split, data, number, steps)
    for_classes, unused = "" if labels is None else "--class", bool(names or interpolate)
    _check_layers(data.check(source, output, split, for_classes, preparing, unused=unused), keep_layers)
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.checkpoints.checkpoint import save_tensors
    from famecli.data.image_writers import levels_to_bytes
    from famecli.evaluation.score import fidelity
    from famecli.sampling import reconstruction as library

    loaded = source.load(output, machine.torch_device())
    originals = _originals(
        loaded, source, data, preparing, names, interpolate, split, labels, number or 32, output
    )
    settings = library.Settings(seed, keep_layers, samples, decoder)
    with output.progress("reconstructing", len(originals.levels)) as advance:
        if interpolate is None:
            found = library.reconstruct(loaded.model, originals.levels, settings, advance, originals.labels)
        else:
            found = library.interpolate(
                loaded.model, originals.levels, steps or 8, settings, originals.labels
            )
    flat = levels_to_bytes(found.reshape(-1, *found.shape[2:]), loaded.model.config.levels)
    results = flat.reshape(*found.shape[:2], *flat.shape[1:])
    before = (
        levels_to_bytes(originals.levels, loaded.model.config.levels)
        if target.format == "grid" and format != "grid"
        else None
    )
    pixels, planned = library.arranged(results, before, interpolated=interpolate is not None)
    _note_idle_latents(loaded.model, originals, seed, output)
    made: dict[str, str | int | float] = {"weights_sha256": loaded.weights_sha256}
    with target.open(len(pixels), images.layout(planned)) as writer:
        writer.add(pixels, [made | {"index": index} for index in range(len(pixels))])
    if images.preview:
        output.preview(pixels)
    facts = {"weights_sha256": loaded.weights_sha256, "sources": originals.sources}
    if latents is not None:
        moments = library.posteriors(loaded.model, originals.levels, seed, originals.labels)
        save_tensors(latents, moments, {"schema": LATENTS_SCHEMA, **facts}, replace=images.force)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "checkpoint": loaded.reference,
        "out": target.name,
        "seed": seed,
    }
    if output.json:
        one = results[:, 0] if interpolate is None else results[0][[0, -1]]
        document["images"] = fidelity(
            loaded.model,
            originals.levels,
            one,
            originals.sources,
            seed,
            originals.labels,
            originals.numbers,
        )
    if target.name != "-":
        output.result(document, target.name)


def _format(format: Pairs | None, out: str | None) -> "Format":
    """Return the format of the file: pairs are a grid, and the default where `out` names no array."""
    if format is None and Path(out or "").suffix.lower() in ARRAYS:
        return "auto"
    return "grid" if format is None or format == "pairs" else format


def _check_layers(header: Header | None, keep_layers: int | None) -> None:
    """Check before torch is loaded that a known model has the layers; see `ModelConfig.check_layers`."""
    if header is not None:
        model_in(header.metadata, "the checkpoint").check_layers(keep_layers)


def _note_idle_latents(model: "Fame", originals: Originals, seed: int, output: Output) -> None:
    """Warn if the KL divergence is below `LEAST_PART` of the NLL: then reconstructions are nearly samples."""
    from famecli.nll.evaluate import evaluate

    labels = None if originals.labels is None else originals.labels[:FEW]
    nlls = evaluate(model, originals.levels[:FEW], labels=labels, seed=seed, numbers=originals.numbers[:FEW])
    part = nlls.rate.sum() / nlls.nats.sum()
    if part < LEAST_PART:
        output.warn(
            f"the latents carry {100 * part:.2g} % of the NLL of these images: "
            "reconstructions are little more than samples"
        )


def _check_ends(ends: tuple[str, str] | None, files: list[str]) -> None:
    """Check, before anything is loaded, that an interpolation has its two images and no others.

    Raises:
        UsageError: An end is an option or an absurd number, or there are other images.
    """
    if ends is None:
        return
    for end in ends:
        if end.startswith("-") and end != "-":
            raise UsageError(
                f"--interpolate needs two numbers or two files, {end} is neither",
                "for example --interpolate 0 7",
            )
        if end.isdecimal() and len(end) > MOST_DIGITS:
            raise UsageError(f"--interpolate {truncate(end, 40)}: no split has so many images")
    if files:
        raise UsageError("--interpolate names its two images itself", "leave the other images out")


def _places(ends: tuple[str, str] | None) -> list[int] | None:
    """Return the indices of the two ends in the split; None for files, or without an interpolation."""
    return [int(end) for end in ends] if ends and all(end.isdecimal() for end in ends) else None


def _check_together(
    files: list[str],
    ends: tuple[str, str] | None,
    split: str,
    data: DataSource,
    number: int | None,
    steps: int | None,
) -> None:
    """Check options about other images than the ones to reconstruct.

    Raises:
        UsageError: An option would be ignored; or see `_check_ends`.
    """
    _check_ends(ends, files)
    if steps is not None and ends is None:
        raise UsageError("--steps is for an interpolation", "add --interpolate A B, or leave --steps out")
    if number is not None and ends is not None:
        raise UsageError("--interpolate takes two images", "leave -n out")
    named = bool(files) or (ends is not None and _places(ends) is None)
    if named and (split != "test" or data.data is not None or number is not None):
        raise UsageError("--split, --data and -n are for images of a data set", "leave the files out")


def _originals(
    checkpoint: "Checkpoint",
    source: ModelSource,
    data: DataSource,
    preparing: Preparation,
    files: list[str],
    ends: tuple[str, str] | None,
    split: SplitName,
    label: str | None,
    number: int,
    output: Output,
) -> Originals:
    """Return the images of files, or of the data set: the first ones, or the two ends.

    Raises:
        UsageError: The model is for other images, or a place is not in the split.
        InputError: A file is not an image of the model's size, or an end is not one image.
    """
    from famecli.data.dataset import read_files
    from famecli.evaluation.score import scored_levels

    places = _places(ends)
    if files or (ends and places is None):
        config = checkpoint.model.config
        how = checkpoint.provenance.prepared(preparing)
        images = read_files(config, files or list(ends or ()), how, output.note, single=ends is not None)
        scored = scored_levels(checkpoint, images, labels=label)
        return Originals(list(images.files or ()), images.pixels, scored.labels, scored.numbers)
    found = data.images(source, checkpoint, split, output, preparing)
    name = f"{found.info.name}/{found.split}"
    count = number if places is None else max(places) + 1
    scored = scored_levels(checkpoint, found, range(min(count, len(found.pixels))), label)
    levels = scored.levels
    if places is not None and max(places) >= len(levels):
        raise UsageError(
            f"{found.info.name} has {len(found.pixels)} {found.split} images, none numbered {max(places)}"
        )
    chosen = range(len(levels)) if places is None else places
    labels = None if scored.labels is None else scored.labels[chosen]
    return Originals([f"{name}/{place}" for place in chosen], levels[chosen], labels, chosen)
