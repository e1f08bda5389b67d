"""`fame sample`."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famecli import __version__
from famecli.cli import options
from famecli.cli.image_output import ImageOutput, KnownPixels, read_known
from famecli.cli.processes import join
from famecli.cli.sources import ModelChoice
from famecli.errors import UsageError
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.runtime.distributed import Group

SCHEMA = "famecli/sample/1"
AUTOMATIC_BATCH = 64

Number = Annotated[int, typer.Option("-n", "--num", min=1, metavar="IMAGES", help="How many.")]
StartIndex = Annotated[
    int, typer.Option("--start-index", min=0, metavar="K", help="Image k comes from --seed + K + k.")
]
Temperature = Annotated[
    float,
    typer.Option("--temperature", min=0.01, max=100.0, help="Spread of each pixel; 1 is the model's own."),
]
LatentTemperature = Annotated[
    float,
    typer.Option("--latent-temperature", min=0.0, max=100.0, help="Factor on the deviations of the priors."),
]
Complete = Annotated[
    str | None,
    typer.Option("--complete", metavar="IMAGE", help="Keep a part of this image and draw the rest."),
]
Rows = Annotated[
    int | None, typer.Option("--rows", min=0, help="With --complete: keep so many rows from the top.")
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", metavar="IMAGE", help="With --complete: keep where this image is white."),
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="fp32|bf16|fp64", help="Of the decoder (bf16), or of all (fp64)."),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="The slow reference: one forward pass per pixel, same images.")
]


@dataclass(frozen=True)
class Request:
    """What is drawn, and how."""

    loaded: "Checkpoint"
    seeds: range
    settings: dict[str, Any]
    cached: bool
    batch: int
    precision: str
    known: KnownPixels | None
    group: "Group"

    def prepare(self) -> None:
        """Check what goes together, and convert the model to the precision.

        Raises:
            UsageError: A word is unknown, or two options exclude each other.
        """
        options.check_decoder_output(self.settings["decoder_output"])
        if self.known is not None and self.settings["decoder_output"] == "mean":
            raise UsageError("a completion is drawn: --complete does not go with --decoder mean")
        if self.precision not in ("fp32", "bf16", "fp64"):
            raise UsageError(f"unknown precision {self.precision!r}", "choose fp32, bf16 or fp64")
        if self.precision == "bf16":
            if self.known is not None and self.loaded.model.config.stochastic_layers:
                raise UsageError("--precision bf16 does not go with --complete where there are latents")
            self.loaded.model.decoder.bfloat16()
        elif self.precision == "fp64":
            self.loaded.model.double()

    def completion(self, output: Output) -> dict[str, bool]:
        """Return whether completions are exact draws, and say so if known pixels follow unknown ones."""
        from famecli.sampling.generate import is_exact, looks_ahead

        if self.known is None:
            return {}
        model, mask = self.loaded.model, self.known.mask
        if looks_ahead(model, mask):
            patch = model.config.decoder.patch
            rows = f"first rows, a multiple of {patch} of them," if patch > 1 else "first rows"
            output.warn(
                "known pixels come after unknown ones, which are drawn without regard to them: the "
                f"completions are no exact draws given the known pixels; {rows} come before all others"
            )
        return {"exact": is_exact(model, mask)}

    def facts(self) -> dict[str, str | int | float]:
        """Return what, with its seed, makes an image again: stored in each file."""
        part = {} if self.known is None else {"completes": self.known.source}
        return {"weights_sha256": self.loaded.weights_sha256, "famecli": __version__, **self.settings, **part}

    def batches(self, output: Output) -> Iterator["np.ndarray"]:
        """Yield images as levels or expected levels, `(n, C, H, W)`; say so if memory runs out."""
        from famecli.sampling.generate import generate_batches

        if self.known is not None:
            return self._completions(self.known)
        return generate_batches(
            self.loaded.model,
            self.seeds,
            batch_size=self.batch,
            cached=self.cached,
            group=self.group,
            report=output.note,
            **self.settings,
        )

    def _completions(self, known: KnownPixels) -> Iterator["np.ndarray"]:
        import numpy as np

        from famecli.sampling.generate import complete_batches
        from famecli.sampling.sampler import CHUNK

        def complete(seeds: range) -> "np.ndarray":
            model, temperature = self.loaded.model, self.settings["temperature"]
            found = complete_batches(
                model, known.levels, known.mask, seeds, temperature=temperature, cached=self.cached
            )
            return np.concatenate(list(found))

        starts = range(0, len(self.seeds), CHUNK)
        return self.group.in_turn([self.seeds[start : start + CHUNK] for start in starts], complete)


def sample(
    context: typer.Context,
    checkpoint: options.CheckpointArgument = None,
    dataset: options.Dataset = None,
    model: options.Model = None,
    number: Number = 64,
    out: options.ImagesOut = None,
    format: options.ImageFormat = "auto",
    rgb: options.Rgb = False,
    force: options.Force = False,
    seed: options.Seed = 0,
    start_index: StartIndex = 0,
    temperature: Temperature = 1.0,
    latent_temperature: LatentTemperature = 1.0,
    decoder: options.DecoderOutput = "sample",
    complete: Complete = None,
    rows: Rows = None,
    mask: Mask = None,
    no_cache: NoCache = False,
    batch_size: options.BatchSize = "auto",
    precision: Precision = "fp32",
    preview: options.Preview = False,
    weights: options.Weights = "ema",
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw images: latents from the prior, then pixels. Prints the path of what was written.

    Image k depends on --seed + k alone, whatever -n, --batch-size and --threads are. -o takes grid.png,
    a folder, x.npz (arr_0, uint8, NHWC), x.npy, x.zip, or - for an npy stream on stdout.

    With --complete, a model without latents draws exactly given the known pixels if none of them follows an
    unknown one: first rows do not, if they are a multiple of decoder.patch. A warning says where some do.

    Examples:

      fame sample --dataset mnist -n 64 -o grid.png

      fame sample run/best.safetensors -n 50000 -o samples/

      fame sample --dataset mnist --complete digit.png --rows 14 -n 16 -o completions.png

      fame sample --dataset mnist -n 256 -o - > samples.npy
    """
    output = Output(json=json, quiet=quiet)
    images = ImageOutput(out, "samples", format, rgb, force, preview, output)
    settings: dict[str, Any] = {"temperature": temperature, "latent_temperature": latent_temperature}
    settings["decoder_output"] = decoder
    seeds = range(seed + start_index, seed + start_index + number)
    batch = options.count(batch_size, "--batch-size", AUTOMATIC_BATCH)
    choice = ModelChoice(checkpoint, dataset, model, weights, device, threads, cache_dir, offline)
    loaded, group = _load(choice, context, output)
    known = read_known(loaded.model.config, complete, rows, mask)
    _run(Request(loaded, seeds, settings, not no_cache, batch, precision, known, group), images, output)


def _load(choice: ModelChoice, context: typer.Context, output: Output) -> "tuple[Checkpoint, Group]":
    """Return the model, on this process's device, and the processes that draw together."""
    group = join(output)
    picked = options.picking(context, choice.checkpoint, choice.dataset)
    own = dataclasses.replace(choice, dataset=picked, device=group.device(choice.device))
    with group.one_before_the_others():
        loaded = own.load(output)
    own.check_trained_on(loaded.provenance.get("dataset"))
    return loaded, group


def _run(request: Request, target: ImageOutput, output: Output) -> None:
    """Draw and write all images, and report; of several processes each draws, and the first writes."""
    from famecli.runtime.distributed import explain_lost_processes

    request.prepare()
    with explain_lost_processes():
        if request.group.first:
            _write(request, target, output)
        else:
            for _ in request.batches(output):
                pass


def _write(request: Request, target: ImageOutput, output: Output) -> None:
    from famecli.images import levels_to_bytes

    seed, levels = request.seeds[0], request.loaded.model.config.levels
    completion = request.completion(output)
    started_s = time.monotonic()
    with (
        target.open(len(request.seeds)) as writer,
        output.progress("sampling", len(request.seeds)) as advance,
    ):
        for found in request.batches(output):
            images = levels_to_bytes(found, levels)
            writer.add(images, [request.facts() | {"seed": seed + place} for place in range(len(images))])
            target.show(images)
            seed += len(images)
            advance(len(images), "")
    _report(output, request, target.target, completion, time.monotonic() - started_s)


def _report(
    output: Output, request: Request, target: str, completion: dict[str, bool], seconds: float
) -> None:
    loaded, seeds = request.loaded, request.seeds
    data = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "out": target,
        "images": len(seeds),
        "shape": list(loaded.model.config.image_shape),
        "seeds": [seeds[0], seeds[-1]],
        **request.facts(),
        **completion,
        "device": loaded.model.device.type,
        "seconds": round(seconds, 3),
        "images_per_s": round(len(seeds) / max(seconds, 1e-9), 2),
    }
    output.note(f"{len(seeds):,} images in {seconds:.1f} s")
    if target != "-":
        output.result(data, target)
