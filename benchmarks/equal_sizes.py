"""All seven models at equal parameters, images and recipe.

    python -m benchmarks.equal_sizes --images 51200
    python -m benchmarks.equal_sizes --only pixelcnn vae --seeds 0 1 2
    python -m benchmarks.equal_sizes --only fame-coarser

All models have the ladder and the decoder of `fame`, with parts switched on and off. The presets have other
sizes, which suit their kinds of model. The PixelCNN has no ladder, so its decoder gets more layers, and
feature maps up to the parameters of `fame`. The others keep their decoder, and the width of their ladder is
adjusted. `fame-coarser`, which is no preset, is `fame` with latents at half the height and width. All are
trained by `fame train` in folders of --out; the same command resumes an interrupted experiment. Prints two
Markdown tables.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import get_args

from benchmarks.checkpoints import run
from benchmarks.estimates import spread_of
from benchmarks.matching import assignments, coarser, fitted, flops_per_image, with_parts_of
from benchmarks.tables import Cell, Table
from benchmarks.trainings import (
    Runner,
    Trained,
    Training,
    add_training_options,
    curve_rows,
    fame,
    image_estimate,
    mean_seconds,
    paired_difference,
    parse_training_options,
    publish_trainings,
    rate_text,
    run_words,
    set_words,
    shared_words,
    train,
    validations,
)
from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, Size, model_config
from famecli.config.schema import ModelConfig
from famecli.data.registry import DatasetInfo, dataset_info

SCHEMA = "famecli/equal-sizes/1"
BASE = "fame"
COARSER = "fame-coarser"
VALIDATIONS = 5
QUICK_IMAGES = 640
# Layers of the PixelCNN per decoder layer of `fame`.
PIXELCNN_DEPTH = 4 / 3


def main() -> None:
    options = parse_options()
    publish_trainings(compare(options), SCHEMA, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*PRESETS, COARSER], default=list(PRESETS), help="default: all presets"
    )
    parser.add_argument(
        "--size", choices=get_args(Size), default="small", help="size of fame; default: small"
    )
    parser.add_argument("--images", type=int, default=51_200, help="images per run; default: 51200")
    add_training_options(parser, "runs/equal-sizes")
    return parse_training_options(parser, QUICK_IMAGES)


def preset_of(name: str) -> str:
    """Return the preset on which a model of this table is based."""
    return BASE if name == COARSER else name


def equal(name: str, size: Size, shape: tuple[int, int, int], levels: int) -> ModelConfig:
    """Return the model of a size whose parameters are nearest to those of `fame` at that size."""
    base = model_config(BASE, size, shape, levels)
    target = count_parameters(base)
    if name == BASE:
        return base
    config = coarser(base) if name == COARSER else with_parts_of(base, name)
    if config.stages:
        return fitted(config, target, "width")
    layers = round(config.decoder.layers * PIXELCNN_DEPTH)
    deep = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, layers=layers))
    return fitted(deep, target, "decoder")


def changes_of(name: str, info: DatasetInfo, options: argparse.Namespace) -> tuple[str, ...]:
    """Return the settings `KEY=VALUE` of a model's size and schedule for the images of `info`."""
    default = model_config(preset_of(name), options.size, info.shape, info.levels)
    sized = assignments(default, equal(name, options.size, info.shape, info.levels))
    return (validations(options.images, VALIDATIONS), *sized, *options.set)


def training_of(name: str, seed: int, options: argparse.Namespace) -> Training:
    """Return the training of a model with one seed."""
    changes = changes_of(name, dataset_info(options.dataset), options)
    words = (*run_words(preset_of(name), options.images, seed, options), *set_words(changes))
    folder = f"{name}-{options.size}-{options.images}-seed{seed}"
    return Training(folder, words, options.dataset, "test", shared_words(options))


def compare(options: argparse.Namespace, run: Runner = fame) -> list[Table]:
    """Train the models with all seeds, `fame` first, and return their table and learning curves."""
    names = [BASE, *(name for name in options.only if name != BASE)]
    runs: dict[str, list[Trained]] = {name: [] for name in names}
    # Seeds in the outer loop give a first comparison early.
    for seed in options.seeds:
        for name in names:
            runs[name].append(train(training_of(name, seed, options), options.out, run))
    return [_table(runs, options), _curves(runs)]


COLUMNS = (
    "model",
    "parameters",
    "MFLOP/image",
    "seconds",
    "test NLL, nats",
    "less fame, nats",
    "deviation over seeds, nats",
    "KL per layer, nats",
)


def _table(runs: dict[str, list[Trained]], options: argparse.Namespace) -> Table:
    base = runs[BASE]
    rows: list[tuple[Cell, ...]] = [_row(name, found, base) for name, found in runs.items()]
    note = (
        f"Size `{options.size}`, {options.images:,} images of `{options.dataset}`, {len(base)} seed(s), one "
        "recipe for all. NLL: -ELBO with one draw, exact for `pixelcnn`, with the standard error over test "
        "images. Differences are between runs of equal seed, with the standard error over seeds if there are "
        "several, else over images. FLOPs are of forward and backward passes. Layers are counted from the "
        "image upwards."
    )
    return Table("equal_sizes", "All models at equal parameters and equal images", COLUMNS, rows, note)


def _row(name: str, found: Sequence[Trained], base: Sequence[Trained]) -> tuple[Cell, ...]:
    return (
        name,
        count_parameters(found[0].config),
        flops_per_image(found[0].config) / 1e6,
        mean_seconds(found),
        image_estimate(found),
        None if found is base else paired_difference(found, base),
        spread_of([each.mean for each in found]),
        rate_text(found) or None,
    )


def _curves(runs: dict[str, list[Trained]]) -> Table:
    note = (
        "NLL in nats of validation images by averaged weights, means over seeds; the schedules end with the "
        "last row, so earlier rows are not what shorter runs would reach."
    )
    return Table("curves", "Learning curves", ("images", *runs), curve_rows(runs.values()), note)


if __name__ == "__main__":
    run(main)
