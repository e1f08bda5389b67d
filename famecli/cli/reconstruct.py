"""`fame reconstruct`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from famecli.cli import options
from famecli.cli.evaluate_nll import BITS_SEED, check_fits
from famecli.cli.image_output import ImageOutput, read_levels
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoint import Checkpoint

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


@dataclass(frozen=True)
class Originals:
    """Images to reconstruct: where each comes from, and its levels `(N, C, H, W)`."""

    sources: list[str]
    levels: "np.ndarray"


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

      fame reconstruct run/ digits/ --json | jq -r '.images[] | [.source, .psnr] | @tsv'
    """
    output = Output(json=json, quiet=quiet)
    style = "grid" if format == "pairs" else format
    target = ImageOutput(out, "reconstructions", style, rgb, force, preview, output)
    options.check_decoder_output(decoder)
    options.check_absent(force, latents)
    checkpoint, files = _split_words(words or [])
    choice = ModelChoice(checkpoint, dataset, model, weights, device, threads)
    loaded = choice.load(output)
    place = DataPlace(data, cache_dir, offline, output.note)
    originals = _from_files(loaded, files) if files else _from_dataset(loaded, place, choice, split, number)
    results = _run(loaded, originals, (seed, keep_layers, samples, decoder), output)
    _write(loaded, originals, results, target, pairs=format == "pairs")
    if latents is not None:
        _write_latents(loaded, originals, seed, latents)
    _report(output, loaded, originals, results, seed, target.target)


def _split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """Return checkpoint and images; a first word that can only be an image leaves the checkpoint out."""
    # Here, since it needs numpy, which `fame --help` can do without.
    from famecli.data.image_files import has_image_suffix

    if not words or has_image_suffix(words[0]):
        return None, words
    return words[0], words[1:]


def _from_files(loaded: "Checkpoint", files: list[str]) -> Originals:
    import numpy as np

    found = read_levels(loaded.model.config, files)
    return Originals([name for name, _ in found], np.stack([levels for _, levels in found]))


def _from_dataset(
    loaded: "Checkpoint", place: DataPlace, choice: ModelChoice, split: str, number: int
) -> Originals:
    from famecli.data.dataset import fixed_levels

    dataset = choice.dataset_of(loaded)
    images = place.split(dataset, split)  # type: ignore[arg-type]
    check_fits(loaded, images.info.shape, images.info.levels, dataset)
    levels = fixed_levels(images, BITS_SEED, number).levels
    return Originals([f"{dataset}/{split}/{index}" for index in range(len(levels))], levels)


def _run(
    loaded: "Checkpoint", originals: Originals, settings: tuple[int, int | None, int, str], output: Output
) -> "np.ndarray":
    """Return reconstructions as bytes `(N, samples, H, W, C)`."""
    import numpy as np

    from famecli.images import levels_to_bytes
    from famecli.reconstruction import Settings
    from famecli.reconstruction import reconstruct as rebuild

    seed, keep_layers, samples, decoder = settings
    chosen = Settings(seed, keep_layers, samples, decoder)  # type: ignore[arg-type]
    with output.progress("reconstructing", len(originals.levels)) as advance:
        found = rebuild(loaded.model, originals.levels, chosen, lambda done: advance(done, ""))
    flat = levels_to_bytes(found.reshape(-1, *found.shape[2:]), loaded.model.config.levels)
    result: np.ndarray = flat.reshape(*found.shape[:2], *flat.shape[1:])
    return result


def _write(
    loaded: "Checkpoint", originals: Originals, results: "np.ndarray", target: ImageOutput, *, pairs: bool
) -> None:
    """Write the reconstructions, with `pairs` each image's original before them."""
    import numpy as np

    from famecli.images import levels_to_bytes

    count, samples = results.shape[:2]
    columns = None
    if pairs:
        before = levels_to_bytes(originals.levels, loaded.model.config.levels)
        results = np.concatenate([before[:, None], results], axis=1)
        columns = (1 + samples) * max(1, round(math.sqrt(count / (1 + samples))))
    images = results.reshape(-1, *results.shape[2:])
    rows: list[dict[str, str | int | float]] = [
        {"weights_sha256": loaded.weights_sha256, "index": index} for index in range(len(images))
    ]
    with target.open(len(images), columns) as writer:
        writer.add(images, rows)
    target.show(images)


def _write_latents(loaded: "Checkpoint", originals: Originals, seed: int, path: Path) -> None:
    from famecli.checkpoint import save_tensors
    from famecli.reconstruction import posteriors

    facts = {"schema": LATENTS_SCHEMA, "weights_sha256": loaded.weights_sha256, "sources": originals.sources}
    save_tensors(path, posteriors(loaded.model, originals.levels, seed), facts)


def _report(
    output: Output, loaded: "Checkpoint", originals: Originals, results: "np.ndarray", seed: int, target: str
) -> None:
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "checkpoint": {"name": loaded.source, "sha256": loaded.sha256, "weights": loaded.weights},
        "out": target,
        "seed": seed,
    }
    if output.json:
        data["images"] = _measures(loaded, originals, results, seed)
    if target != "-":
        output.result(data, target)


def _measures(
    loaded: "Checkpoint", originals: Originals, results: "np.ndarray", seed: int
) -> list[dict[str, Any]]:
    """Return a row per image; error and PSNR are of the first reconstruction."""
    from famecli.evaluation import NATS_PER_BIT, bits_per_dim, evaluate
    from famecli.images import levels_to_bytes, mean_square, psnr

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
