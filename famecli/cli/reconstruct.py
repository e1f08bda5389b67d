"""`fame reconstruct`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famecli.checkpoints.store import RUN_FILES
from famecli.cli import options
from famecli.cli.image_output import ImageOutput, read_levels
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.errors import UsageError
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint

SCHEMA = "famecli/reconstruct/1"
LATENTS_SCHEMA = "famecli/latents/1"

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CKPT] [IMAGES…]", help="A checkpoint, then image files, folders, or -."),
]
Number = Annotated[int, typer.Option("-n", "--num", min=1, metavar="IMAGES", help="From the data set.")]
Split = Annotated[str, typer.Option("--split", metavar="train|valid|test", help="Part of the data set.")]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="pairs|grid|png|npz|npy|zip",
        help="pairs: each image and beside it what became of it.",
    ),
]
KeepLayers = Annotated[
    int | None,
    typer.Option(
        "--keep-layers", min=0, metavar="K", help="Posterior for the top K layers, prior below; default all."
    ),
]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="S", help="Reconstructions of each image.")]
Latents = Annotated[
    Path | None,
    typer.Option("--latents", metavar="FILE", help="Write the posteriors' means and scales as safetensors."),
]


Interpolate = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--interpolate", metavar="A B", help="From one image to another: files, or places in the split."
    ),
]
Steps = Annotated[int, typer.Option("--steps", min=2, help="Images of an interpolation, ends included.")]


@dataclass(frozen=True)
class Request:
    """How images are reconstructed.

    Args:
        settings: Seed, layers kept, reconstructions of each image, output of the decoder.
        steps: Of an interpolation between the two images; None for a reconstruction.
        pairs: Whether the originals are shown beside what became of them.
        latents: Where the posteriors go.
    """

    settings: tuple[int, int | None, int, str]
    steps: int | None
    pairs: bool
    latents: Path | None


@dataclass(frozen=True)
class Originals:
    """Images to reconstruct: where each comes from, and its levels `(N, C, H, W)`."""

    sources: list[str]
    levels: "np.ndarray"


@dataclass(frozen=True)
class Images:
    """The options that say which images.

    Args:
        files: Image files, folders, or `-`; none for the data set's.
        ends: The two images of an interpolation: files, or places in the split.
        split: Part of the data set.
        number: Images taken from it.
        place: Where it is looked for.
    """

    files: list[str]
    ends: tuple[str, str] | None
    split: str
    number: int
    place: DataPlace

    def check(self) -> None:
        """Check, before anything is loaded, that an interpolation has its two images and no others.

        Raises:
            UsageError: It has not, or an option stands in the place of one.
        """
        if self.ends is None:
            return
        for end in self.ends:
            if end.startswith("-") and end != "-":
                raise UsageError(
                    f"--interpolate needs two numbers or two files, {end} is neither",
                    "for example --interpolate 0 7",
                )
        if self.files:
            raise UsageError("--interpolate names its two images itself", "leave the other images out")

    def load(self, loaded: "Checkpoint", choice: ModelChoice) -> Originals:
        """Return the images.

        Raises:
            UsageError: The model is for other images, or a place is not in the split.
            InputError: A file is not an image of the model's size.
        """
        if self.ends is None:
            return (
                self._from_files(loaded, self.files)
                if self.files
                else self._from_dataset(loaded, choice, None)
            )
        if all(end.isdecimal() for end in self.ends):
            return self._from_dataset(loaded, choice, [int(end) for end in self.ends])
        return self._from_files(loaded, list(self.ends))

    def _from_files(self, loaded: "Checkpoint", files: list[str]) -> Originals:
        import numpy as np

        found = read_levels(loaded.model.config, files)
        return Originals([name for name, _ in found], np.stack([levels for _, levels in found]))

    def _from_dataset(self, loaded: "Checkpoint", choice: ModelChoice, places: list[int] | None) -> Originals:
        from famecli.data.dataset import fixed_levels
        from famecli.nll.score import BITS_SEED, check_fits

        images = self.place.images(choice, loaded, self.split)  # type: ignore[arg-type]
        dataset, split = images.info.name, images.split
        check_fits(loaded, images.info.shape, images.info.levels, dataset)
        if places is not None and max(places) >= len(images.pixels):
            raise UsageError(
                f"{dataset} has {len(images.pixels)} {split} images, none numbered {max(places)}"
            )
        limit = self.number if places is None else max(places) + 1
        levels = fixed_levels(images, BITS_SEED, limit).levels
        chosen = list(range(len(levels))) if places is None else places
        return Originals([f"{dataset}/{split}/{place}" for place in chosen], levels[chosen])


def reconstruct(
    words: Words = None,
    dataset: options.Dataset = None,
    data: options.Data = None,
    model: options.Model = None,
    split: Split = "test",
    number: Number = 32,
    out: options.ImagesOut = None,
    format: Format = "pairs",
    rgb: options.Rgb = False,
    force: options.Force = False,
    keep_layers: KeepLayers = None,
    samples: Samples = 1,
    decoder: options.DecoderOutput = "sample",
    interpolate: Interpolate = None,
    steps: Steps = 8,
    latents: Latents = None,
    preview: options.Preview = False,
    seed: options.Seed = 0,
    weights: options.Weights = "ema",
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Encode images and decode them again. Prints the path of what was written.

    Images come from files, or else from the data set. A binary model takes a pixel of 128 or more as white.
    --json gives PSNR (dB), squared error and NLL of each image; the NLL is that of evaluate-nll.

    Examples:

      fame reconstruct --dataset mnist -n 32 -o pairs.png

      fame reconstruct run/ --keep-layers 1 --samples 3 -o top.png

      fame reconstruct --dataset mnist --interpolate 0 7 --steps 12 -o between.png

      fame reconstruct run/ digits/ --json | jq -r '.images[] | [.source, .psnr] | @tsv'
    """
    output = Output(json=json, quiet=quiet)
    style = "grid" if format == "pairs" else format
    target = ImageOutput(out, "reconstructions", style, rgb, force, preview, output)
    checkpoint, files = split_words(words or [])
    choice = ModelChoice(checkpoint, dataset, model, weights, device, threads, cache_dir, offline)
    images = Images(files, interpolate, split, number, DataPlace(data, cache_dir, offline, output.note))
    options.check_absent(force, latents)
    options.check_decoder_output(decoder)
    settings = (seed, keep_layers, samples, decoder)
    request = Request(settings, steps if interpolate else None, format == "pairs", latents)
    _act(choice, images, request, target)


def _act(choice: ModelChoice, images: Images, request: Request, target: ImageOutput) -> None:
    """Load, reconstruct, write, report."""
    images.check()
    images.place.check_stdin(choice, images.split)
    loaded = choice.load(target.output)
    originals = images.load(loaded, choice)
    results = _run(loaded, originals, request, target.output)
    _write(loaded, originals, results, target, request)
    if request.latents is not None:
        _write_latents(loaded, originals, request.settings[0], request.latents)
    _report(loaded, originals, results, request, target)


def split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """Return checkpoint and images; a first word that can only be an image leaves the checkpoint out.

    So does a folder that has images in it and no checkpoint.
    """
    # Here, since it needs numpy, which `fame --help` can do without.
    from famecli.data.image_files import has_image_suffix

    if not words or has_image_suffix(words[0]):
        return None, words
    folder = Path(words[0])
    if folder.is_dir() and not any((folder / name).exists() for name in RUN_FILES):
        images = any(has_image_suffix(each.name) for each in folder.iterdir())
        return (None, words) if images else (words[0], words[1:])
    return words[0], words[1:]


def _run(loaded: "Checkpoint", originals: Originals, request: Request, output: Output) -> "np.ndarray":
    """Return images as bytes, `(N, samples, H, W, C)`, or of an interpolation `(samples, steps, H, W, C)`."""
    from famecli.images import levels_to_bytes
    from famecli.sampling import reconstruction

    settings = reconstruction.Settings(*request.settings)  # type: ignore[arg-type]
    with output.progress("reconstructing", len(originals.levels)) as advance:
        if request.steps is None:
            found = reconstruction.reconstruct(
                loaded.model, originals.levels, settings, lambda done: advance(done, "")
            )
        else:
            found = reconstruction.interpolate(loaded.model, originals.levels, request.steps, settings)
    flat = levels_to_bytes(found.reshape(-1, *found.shape[2:]), loaded.model.config.levels)
    result: np.ndarray = flat.reshape(*found.shape[:2], *flat.shape[1:])
    return result


def _write(
    loaded: "Checkpoint", originals: Originals, results: "np.ndarray", target: ImageOutput, request: Request
) -> None:
    """Write the images, with `pairs` the originals beside them."""
    import numpy as np

    from famecli.images import levels_to_bytes

    before = levels_to_bytes(originals.levels, loaded.model.config.levels)
    columns = None
    if request.steps is not None:
        if request.pairs:
            ends = np.broadcast_to(before, (len(results), *before.shape))
            results = np.concatenate([ends[:, :1], results, ends[:, 1:]], axis=1)
        columns = results.shape[1]
    elif request.pairs:
        results = np.concatenate([before[:, None], results], axis=1)
        columns = results.shape[1] * max(1, round(math.sqrt(len(results) / results.shape[1])))
    images = results.reshape(-1, *results.shape[2:])
    rows: list[dict[str, str | int | float]] = [
        {"weights_sha256": loaded.weights_sha256, "index": index} for index in range(len(images))
    ]
    with target.open(len(images), columns) as writer:
        writer.add(images, rows)
    target.show(images)


def _write_latents(loaded: "Checkpoint", originals: Originals, seed: int, path: Path) -> None:
    from famecli.checkpoints.checkpoint import save_tensors
    from famecli.sampling.reconstruction import posteriors

    facts = {"schema": LATENTS_SCHEMA, "weights_sha256": loaded.weights_sha256, "sources": originals.sources}
    save_tensors(path, posteriors(loaded.model, originals.levels, seed), facts)


def _report(
    loaded: "Checkpoint", originals: Originals, results: "np.ndarray", request: Request, target: ImageOutput
) -> None:
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "out": target.target,
        "seed": request.settings[0],
    }
    if target.output.json:
        ends = results if request.steps is None else results[0][[0, -1]][:, None]
        data["images"] = _measures(loaded, originals, ends, request.settings[0])
    if target.target != "-":
        target.output.result(data, target.target)


def _measures(
    loaded: "Checkpoint", originals: Originals, results: "np.ndarray", seed: int
) -> list[dict[str, Any]]:
    """Return a row per image; error and PSNR are of the first reconstruction."""
    from famecli.images import levels_to_bytes, mean_square, psnr
    from famecli.nll.evaluate import evaluate
    from famecli.nll.units import NATS_PER_BIT, bits_per_dim

    config = loaded.model.config
    before = levels_to_bytes(originals.levels, config.levels)
    nlls = evaluate(loaded.model, originals.levels, seed=seed)
    rows = []
    for index, source in enumerate(originals.sources):
        decibels = psnr(before[index], results[index, 0])
        rows.append(
            {
                "index": index,
                "source": source,
                "psnr": decibels if math.isfinite(decibels) else None,
                "mse": mean_square(before[index], results[index, 0]),
                "nats": float(nlls.nats[index]),
                "bits_per_dim": bits_per_dim(float(nlls.nats[index]), config.image_shape),
                "kl_bits": [float(each) / NATS_PER_BIT for each in nlls.rate[index]],
            }
        )
    return rows
