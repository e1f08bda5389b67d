"""Factorized decoders against PixelCNN decoders: NLL and sampling time.

    python -m benchmarks.decoders fame-mnist no-concat=runs/no-concat --pictures samples/

Prints a Markdown table: NLL on test images, paired differences, and the time to draw --batch images. The time
is the median over --rounds rounds, in each of which every model draws once.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.checkpoints import (
    CHECKPOINT_HELP,
    NamedModel,
    add_shared_options,
    load_models,
    read_split,
    run,
    shared_facts,
)
from benchmarks.estimates import mean_of
from benchmarks.tables import Cell, Table, check_target, publish
from famecli.data.dataset import even_part, fixed_levels
from famecli.data.image_writers import levels_to_bytes, write_png
from famecli.data.registry import dataset_info
from famecli.grids import grid
from famecli.nll.evaluate import ImageNlls, evaluate
from famecli.output import Output
from famecli.sampling.generate import generate

SCHEMA = "famecli/decoders/1"
QUICK_IMAGES = 256
SHOWN = 64


def main() -> None:
    options = parse_options()
    check_target(options.json)
    torch.set_num_threads(options.threads)
    info = dataset_info(options.dataset)
    models = load_models(options.checkpoints, info.shape, info.levels)
    limit = QUICK_IMAGES if options.quick and options.images is None else options.images
    split = read_split(info.name, "test", options.data)
    levels = fixed_levels(split, numbers=even_part(len(split.pixels), limit)).levels
    nlls = score(models, levels, options.importance_samples)
    seconds = draw_seconds(models, options.batch, 1 if options.quick else options.rounds)
    if options.pictures is not None:
        write_samples(models, options.pictures)
    facts = {"dataset": info.name, "threads": torch.get_num_threads()} | shared_facts(models)
    publish([table(models, nlls, seconds, options.batch)], SCHEMA, facts, options.json)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help=CHECKPOINT_HELP)
    parser.add_argument("--dataset", default="mnist", help="default: mnist")
    parser.add_argument("--images", type=int, help="test images; default: all")
    parser.add_argument(
        "-k", "--importance-samples", type=int, default=1, help="importance samples; default: 1, the ELBO"
    )
    parser.add_argument("--batch", type=int, default=64, help="images drawn at once; default: 64")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds; default: 11")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="folder for a grid of samples of each model"
    )
    add_shared_options(parser)
    return parser.parse_args()


def score(models: Sequence[NamedModel], levels: np.ndarray, importance_samples: int) -> list[ImageNlls]:
    """Return the NLL of the images `(N, C, H, W)` under each model."""
    found = []
    with Output().progress("NLL", len(models)) as advance:
        for each in models:
            found.append(evaluate(each.model, levels, importance_samples=importance_samples))
            advance(1, each.name)
    return found


def draw_seconds(models: Sequence[NamedModel], batch: int, rounds: int) -> list[float]:
    """Return the median seconds that each model takes for `batch` images, latents included."""
    found: list[list[float]] = [[] for _ in models]
    # The first round is a warm-up.
    for turn in range(rounds + 1):
        for each, times in zip(models, found, strict=True):
            started_s = time.perf_counter()
            generate(each.model, range(turn * batch, (turn + 1) * batch))
            times.append(time.perf_counter() - started_s)
    return [statistics.median(times[1:]) for times in found]


def write_samples(models: Sequence[NamedModel], folder: Path) -> None:
    """Write a grid of samples of the first seeds for each model, named after it."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in models:
        images = levels_to_bytes(generate(each.model, range(SHOWN)), each.model.config.levels)
        facts = {"model": each.name, "weights_sha256": each.checkpoint.weights_sha256}
        write_png(folder / f"{each.name.replace(' ', '-')}.png", grid(images), facts)


COLUMNS = (
    "model",
    "decoder",
    "parameters",
    "test NLL, nats",
    "minus the first, nats",
    "KL, nats",
    "ms/image",
    "images/s",
)


def table(
    models: Sequence[NamedModel], nlls: Sequence[ImageNlls], seconds: Sequence[float], batch: int
) -> Table:
    """Return a row per model; all NLLs are of the same images, `seconds` is for `batch` images."""
    rows: list[tuple[Cell, ...]] = []
    for each, nll, drawn_s in zip(models, nlls, seconds, strict=True):
        rows.append(
            (
                each.name,
                "PixelCNN" if each.model.config.decoder.autoregressive else "factorized",
                each.model.count_parameters(),
                mean_of(nll.nats),
                None if nll is nlls[0] else mean_of(nll.nats - nlls[0].nats),
                mean_of(nll.rate.sum(1)) if each.has_latents else None,
                1000 * drawn_s / batch,
                batch / drawn_s,
            )
        )
    bounds = {"exact": "exact", "elbo": "-ELBO, one draw", "iwae": "importance-weighted"}
    kinds = ", ".join(f"{each.name} {bounds[nll.bound]}" for each, nll in zip(models, nlls, strict=True))
    note = (
        f"NLL of {len(nlls[0].nats):,} test images ({kinds}), with standard errors over images. Differences "
        "are on the same images. "
        f"Time to draw {batch} images, latents included, on {torch.get_num_threads()} CPU threads."
    )
    return Table("decoders", "Factorized against PixelCNN decoders", COLUMNS, rows, note)


if __name__ == "__main__":
    run(main)
