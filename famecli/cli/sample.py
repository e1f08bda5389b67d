"""`fame sample`."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famecli import __version__
from famecli.cli import options
from famecli.cli.sources import ModelChoice
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoint import Checkpoint
    from famecli.images import ImageWriter

SCHEMA = "famecli/sample/1"
AUTOMATIC_BATCH = 64

Number = Annotated[int, typer.Option("-n", "--num", min=1, metavar="IMAGES", help="How many.")]
StartIndex = Annotated[
    int, typer.Option("--start-index", min=0, metavar="K", help="Image k comes from --seed + K + k.")
]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0.01, help="Spread of each pixel; 1 is the model's own.")
]
LatentTemperature = Annotated[
    float, typer.Option("--latent-temperature", min=0.0, help="Factor on the deviations of the priors.")
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

    def facts(self) -> dict[str, str | int | float]:
        """Return what, with its seed, makes an image again: stored in each file."""
        return {"weights_sha256": self.loaded.weights_sha256, "famecli": __version__, **self.settings}


def sample(
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
    no_cache: NoCache = False,
    batch_size: options.BatchSize = "auto",
    preview: options.Preview = False,
    weights: options.Weights = "ema",
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw images: latents from the prior, then pixels. Prints the path of what was written.

    Image k depends on --seed + k alone, whatever -n, --batch-size and --threads are. -o takes grid.png,
    a folder, x.npz (arr_0, uint8, NHWC), x.npy, x.zip, or - for an npy stream on stdout.

    Examples:

      fame sample --dataset mnist -n 64 -o grid.png

      fame sample run/best.safetensors -n 50000 -o samples/

      fame sample --dataset mnist -n 256 -o - > samples.npy
    """
    from famecli.images import open_writer

    output = Output(json=json, quiet=quiet)
    target = options.image_target(out, "samples", json)
    options.check_decoder_output(decoder)
    batch = options.count(batch_size, "--batch-size", AUTOMATIC_BATCH)
    loaded = ModelChoice(checkpoint, dataset, model, weights, device, threads).load(output)
    settings = {"temperature": temperature, "latent_temperature": latent_temperature}
    seeds = range(seed + start_index, seed + start_index + number)
    request = Request(loaded, seeds, settings | {"decoder_output": decoder}, not no_cache, batch)
    with open_writer(target, number, format=format, rgb=rgb, force=force) as writer:  # type: ignore[arg-type]
        seconds, shown = _draw(request, writer, output)
    if preview:
        options.show_preview(shown, output)
    _report(output, request, target, seconds)


def _draw(request: Request, writer: "ImageWriter", output: Output) -> tuple[float, "np.ndarray"]:
    """Write all images; return the seconds that took, and the first batch as bytes `(n, H, W, C)`."""
    from famecli.images import levels_to_bytes
    from famecli.sampling.generate import generate_batches

    batches = generate_batches(
        request.loaded.model,
        request.seeds,
        batch_size=request.batch,
        cached=request.cached,
        **request.settings,
    )
    first: np.ndarray | None = None
    seed = request.seeds[0]
    started_s = time.monotonic()
    with output.progress("sampling", len(request.seeds)) as advance:
        for found in batches:
            images = levels_to_bytes(found, request.loaded.model.config.levels)
            writer.add(images, [request.facts() | {"seed": seed + place} for place in range(len(images))])
            first = images if first is None else first
            seed += len(images)
            advance(len(images), "")
    assert first is not None
    return time.monotonic() - started_s, first


def _report(output: Output, request: Request, target: str, seconds: float) -> None:
    loaded, seeds = request.loaded, request.seeds
    data = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "out": target,
        "images": len(seeds),
        "shape": list(loaded.model.config.image_shape),
        "seeds": [seeds[0], seeds[-1]],
        **request.facts(),
        "device": loaded.model.device.type,
        "seconds": round(seconds, 3),
        "images_per_s": round(len(seeds) / max(seconds, 1e-9), 2),
    }
    output.note(f"{len(seeds):,} images in {seconds:.1f} s")
    if target != "-":
        output.result(data, target)
