"""`fame sample`."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from famecli import __version__
from famecli.cli.grouping import grouped
from famecli.cli.groups import (
    BatchSize,
    DecoderOutput,
    ImageFormat,
    Machine,
    PictureOutput,
    Preparing,
    Seed,
    join,
)
from famecli.cli.sources import ModelSource, check_stdin_once
from famecli.errors import UsageError
from famecli.escape import counted
from famecli.files import STDIN
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.data.reading import KnownPixels
    from famecli.model.fame import Fame
    from famecli.runtime.distributed import Group

SCHEMA = "famecli/sample/1"
ALL = "all"

Number = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--num",
        min=1,
        metavar="IMAGES",
        show_default="64; 8 with --class all",
        help="Number of images.",
    ),
]
Class = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="NAME|INDEX|all",
        help="For a model with classes: class of all images; all: -n images per class (default: random).",
    ),
]
StartIndex = Annotated[
    int,
    typer.Option(
        "--start-index",
        min=0,
        metavar="K",
        help="Offset of the seeds: image k has the seed --seed + K + k.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Known part of an image."""

    complete: Annotated[
        str | None,
        typer.Option("--complete", metavar="IMAGE", help="Keep a part of this image and draw the rest."),
    ] = None
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=0, help="With --complete: number of rows from the top to keep."),
    ] = None
    mask: Annotated[
        str | None,
        typer.Option("--mask", metavar="IMAGE", help="With --complete: keep where this image is white."),
    ] = None

    preparing: Preparing

    def check(self, drawing: "Drawing", checkpoint: str | None) -> None:
        """Check that the options go together, and that the files are there.

        Args:
            drawing: Settings of the draws.
            checkpoint: Word that names the checkpoint; None without one.

        Raises:
            UsageError: Two options contradict each other, or two inputs are stdin.
            InputError: There is no such file.
        """
        check_stdin_once(checkpoint, self.complete, self.mask)
        if self.complete is None and (self.rows is not None or self.mask is not None):
            raise UsageError("--rows and --mask say what to keep of an image", "add --complete IMAGE")
        if self.complete is None and str(self.preparing):
            raise UsageError("--resize and --convert prepare the image of --complete", "leave them out")
        if self.rows is not None and self.mask is not None:
            raise UsageError("--rows and --mask both say what to keep", "leave one of them out")
        if self.complete is not None and self.rows is None and self.mask is None:
            raise UsageError("--complete needs to know what to keep", "add one of --rows R and --mask IMAGE")
        if self.complete is not None and drawing.decoder == "mean":
            raise UsageError("a completion is drawn: --complete does not go with --decoder mean")
        if self.complete is not None and drawing.latent_temperature != 1.0:
            raise UsageError(
                "a completion takes the priors as they are: --complete does not go with --latent-temperature"
            )
        # Deferred: needs numpy, which `fame --help` does without.
        from famecli.data.listing import file_and_array

        for path in (self.complete, self.mask):
            if path not in (None, str(STDIN)):
                file_and_array(str(path))

    def read(self, checkpoint: "Checkpoint", output: Output) -> "KnownPixels | None":
        """Return the known pixels for a model; None without `--complete`.

        Raises:
            InputError: A file is not an image of the model's size.
        """
        if self.complete is None:
            return None
        from famecli.data.reading import read_known

        how = checkpoint.provenance.prepared(self.preparing)
        return read_known(checkpoint.model.config, self.complete, self.rows, self.mask, how, output.note)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings of the draws."""

    temperature: Annotated[
        float,
        typer.Option(
            "--temperature", min=0.01, max=100.0, help="Temperature of the pixel distributions; 1: unchanged."
        ),
    ] = 1.0
    latent_temperature: Annotated[
        float,
        typer.Option(
            "--latent-temperature",
            min=0.0,
            max=100.0,
            help="Factor on the standard deviations of the priors.",
        ),
    ] = 1.0
    labels: Class = None
    decoder: DecoderOutput = "sample"
    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            help="Slow reference: one forward pass per pixel, same images.",
        ),
    ] = False
    batch_size: BatchSize = None
    precision: Annotated[
        Literal["fp32", "bf16", "fp64"],
        typer.Option(
            "--precision",
            metavar="fp32|bf16|fp64",
            help="Precision of the decoder (bf16), or of the whole model (fp64).",
        ),
    ] = "fp32"

    def prepare(self, model: "Fame", known: "KnownPixels | None") -> None:
        """Convert a model to the precision.

        Raises:
            UsageError: The precision is not for completions by this model.
        """
        if self.precision == "bf16":
            if known is not None and model.config.stochastic_layers:
                raise UsageError("--precision bf16 does not go with --complete where there are latents")
            model.decoder.bfloat16()
        elif self.precision == "fp64":
            model.double()

    def total(self, number: int | None, names: Sequence[str]) -> int:
        """Return the number of images, from `-n` and the names of the model's classes."""
        if self.labels == ALL and names:
            return (number or 8) * len(names)
        return number or 64

    def columns(self, images: int, names: Sequence[str]) -> int | None:
        """Return the images in a row of a grid: those of a class; None for a nearly square grid."""
        return images // len(names) if self.labels == ALL and names else None

    def classes(self, names: Sequence[str], seeds: range, completed: str | None) -> "np.ndarray | None":
        """Return the class of each image; None for a model without classes, or where it is not known.

        Args:
            names: Names of the model's classes.
            seeds: Seeds of the images.
            completed: File of the image that is completed; its folder may name the class.

        Raises:
            ArgumentError: There is no such class.
        """
        import numpy as np

        from famecli.data.labels import labels_by_folder, labels_or_random

        if (columns := self.columns(len(seeds), names)) is not None:
            return np.arange(len(names)).repeat(columns)
        if names and self.labels is None and completed is not None:
            return labels_by_folder(names, [completed] * len(seeds))
        return labels_or_random(names, self.labels, seeds)

    def chosen(self, names: Sequence[str], classes: "np.ndarray", completes: bool) -> str:
        """Return the class of all images, or `all` or `random`.

        Args:
            names: Names of the model's classes.
            classes: Class of each image.
            completes: Whether the images are completions, whose class is not random.
        """
        if self.labels is not None:
            return self.labels
        return names[classes[0]] if completes else "random"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that, with weights and seed, reproduce an image."""
        return {
            "temperature": self.temperature,
            "latent_temperature": self.latent_temperature,
            "decoder_output": self.decoder,
        }

    def batches(
        self,
        model: "Fame",
        seeds: range,
        labels: "np.ndarray | None",
        known: "KnownPixels | None",
        group: "Group",
        output: Output,
    ) -> Iterator["np.ndarray"]:
        """Yield images as levels or expected levels, `(n, C, H, W)`; note when memory runs out.

        Raises:
            NumericsError: The NLL of an image is not finite.
        """
        from famecli.nll.evaluate import checked_draws
        from famecli.sampling.generate import complete_batches, generate_batches

        cached = not self.no_cache
        if known is not None:
            batches = complete_batches(
                model,
                known.levels,
                known.mask,
                seeds,
                labels,
                batch_size=self.batch_size,
                temperature=self.temperature,
                cached=cached,
                group=group,
                report=output.note,
            )
        else:
            batches = generate_batches(
                model,
                seeds,
                labels,
                batch_size=self.batch_size,
                cached=cached,
                group=group,
                report=output.note,
                **self.settings,
            )
        return checked_draws(model, batches, seeds, labels)


@grouped
def sample(
    context: typer.Context,
    *,
    source: ModelSource,
    number: Number = None,
    images: PictureOutput,
    format: ImageFormat = "auto",
    seed: Seed = 0,
    start_index: StartIndex = 0,
    drawing: Drawing,
    part: Part,
    machine: Machine,
) -> None:
    """Draw images: latents from the prior, then pixels. Prints the path of the output.

    Image k depends only on --seed + k, whatever -n, --batch-size and --threads are. -o takes grid.png,
    a folder, x.npz (arr_0, uint8, NHWC), x.npy, x.zip, or - for an npy stream on stdout.

    With --complete, draws are exact if the model has no latents and no known pixel follows an unknown one, as
    when --rows is a multiple of decoder.patch. Otherwise a line on stderr says so.

    Examples:

      fame sample --dataset mnist -n 64 -o grid.png

      fame sample run/best.safetensors -n 50000 -o samples/

      fame sample --dataset mnist --complete digit.png --rows 14 -n 16 -o completions.png

      fame sample run/ --class all -n 8 -o classes.png

      fame sample --dataset mnist -n 256 -o - > samples.npy
    """
    output, source = images.common.output(), source.picked(context)
    part.check(drawing, source.checkpoint)
    target = images.target("samples", format, rgb=images.rgb)
    source.check(output, "" if drawing.labels is None else "--class")
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.data.image_writers import levels_to_bytes
    from famecli.grids import Layout
    from famecli.runtime.distributed import explain_lost_processes

    group = join(output)
    with group.local_main_first():
        loaded = source.load(output, machine.torch_device(group))
    source.check_trained_on(loaded.provenance.dataset)
    model, known, names = loaded.model, part.read(loaded, output), loaded.model.config.classes
    drawing.prepare(model, known)
    number, first = drawing.total(number, names), seed + start_index
    seeds = range(first, first + number)
    classes = drawing.classes(names, seeds, part.complete)
    with explain_lost_processes():
        batches = drawing.batches(model, seeds, classes, known, group, output)
        if not group.is_main:
            deque(batches, maxlen=0)
            return
        exact = {} if known is None else {"exact": _is_exact(model, known, output)}
        made: dict[str, Any] = {
            "weights_sha256": loaded.weights_sha256,
            "famecli": __version__,
            **drawing.settings,
            **({} if known is None else {"completes": known.source}),
            **({} if classes is None else {"class": drawing.chosen(names, classes, known is not None)}),
        }
        columns, started_s, done = drawing.columns(number, names), time.monotonic(), 0
        layout = Layout(columns, above=None if known is None else known.shown(model.config.levels))
        with (
            target.open(number, images.layout(layout)) as writer,
            output.progress("sampling", number) as advance,
        ):
            for found in batches:
                pixels = levels_to_bytes(found, model.config.levels)
                places = range(done, done + len(pixels))
                writer.add(pixels, [made | _own(seeds[place], names, classes, place) for place in places])
                if images.preview and not done:
                    output.preview(pixels)
                done += len(pixels)
                advance(len(pixels))
    seconds = max(time.monotonic() - started_s, 1e-9)
    document = {
        "schema": SCHEMA,
        "checkpoint": loaded.reference,
        "out": target.name,
        "images": number,
        "shape": list(model.config.image_shape),
        "seeds": [seeds[0], seeds[-1]],
        **made,
        **exact,
        "device": model.device.type,
        "seconds": round(seconds, 3),
        "images_per_s": round(number / seconds, 2),
    }
    output.note(f"{counted(number)} in {seconds:.1f} s")
    if target.name != "-":
        output.result(document, target.name)


def _own(seed: int, names: Sequence[str], classes: "np.ndarray | None", place: int) -> dict[str, str | int]:
    """Return seed and class of an image, for its file."""
    return {"seed": seed} if classes is None else {"seed": seed, "class": names[classes[place]]}


def _is_exact(model: "Fame", known: "KnownPixels", output: Output) -> bool:
    """Return whether completions are exact draws; warn if known pixels follow unknown ones."""
    from famecli.sampling.generate import SWEEPS, is_exact, looks_ahead

    if looks_ahead(model, known.mask):
        patch = model.config.decoder.patch
        rows = f"first rows, a multiple of {patch} of them" if patch > 1 else "first rows"
        output.warn(
            "unknown pixels are drawn without regard to the known pixels that follow them, so the "
            f"completions are no exact draws given the known pixels; to avoid this, keep {rows}"
        )
    if model.config.stochastic_layers:
        output.note(f"each completion takes a Markov chain of {SWEEPS} steps, and is approximate")
    return is_exact(model, known.mask)
