"""Ladders of latent feature maps against ladders of dense latents, at equal parameters and equal compute.

    python -m benchmarks.maps_against_dense --seeds 0 1 2
    python -m benchmarks.maps_against_dense --decoders pixelcnn factorized --images 500000

The unchanged preset, a ladder with maps, sets the budget: FLOPs per image times images. Its rivals get the
same budget. Three have dense latents: the same ladder, which then has more parameters; one with fewer feature
maps and one with fewer latents, both at the parameters of the preset. One has latent maps and more feature
maps, at the parameters of the dense ladder. Two have dense latents in the lowest or in the top layer alone,
at the parameters of the preset.

All are trained by `fame train` in folders of --out; the same command resumes an interrupted
experiment. Prints Markdown tables and draws the curves in --out; see docs/experiments.md.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from benchmarks.checkpoints import run
from benchmarks.estimates import spread_of
from benchmarks.matching import assignments, fitted, flops_per_image, with_parts_of
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
from famecli.config.presets import Size, model_config
from famecli.config.schema import ModelConfig, TrainConfig
from famecli.data.registry import dataset_info
from famecli.files import write_atomic
from famecli.report.charts import Curve, LineChart

SCHEMA = "famecli/maps-against-dense/1"
PAIRS = {"pixelcnn": ("fame", "fame-dense"), "factorized": ("fame-no-concat", "lvae")}
VALIDATIONS = 10
QUICK_IMAGES = 1280


@dataclass(frozen=True)
class Contender:
    """A model and its number of training images.

    Args:
        name: Name in the tables.
        preset: Name of the preset on which it is based.
        default: Configuration of the preset.
        config: Configuration of the model.
        parameters: Number of parameters.
        flops: Floating point operations of a training step per image.
        images: Number of training images within the budget.
    """

    name: str
    preset: str
    default: ModelConfig
    config: ModelConfig
    parameters: int
    flops: int
    images: int


def main() -> None:
    options = parse_options()
    tables = []
    for decoder in options.decoders:
        tables += compare(decoder, options)
    publish_trainings(tables, SCHEMA, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--decoders", nargs="+", choices=PAIRS, default=["pixelcnn"], help="decoders; default: pixelcnn"
    )
    parser.add_argument("--size", choices=get_args(Size), default="small", help="default: small")
    parser.add_argument("--images", type=int, default=256_000, help="images for the ladder with maps")
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size)
    add_training_options(parser, "runs/maps-against-dense")
    return parse_training_options(parser, QUICK_IMAGES)


def contenders(
    decoder: str, size: Size, shape: tuple[int, int, int], levels: int, images: int
) -> list[Contender]:
    """Return the ladder with maps, then its rivals, all with the FLOPs of the first on `images` images."""
    maps_preset, dense_preset = PAIRS[decoder]
    maps = model_config(maps_preset, size, shape, levels)
    # The dense preset may have another ladder.
    dense = with_parts_of(maps, dense_preset)
    default = model_config(dense_preset, size, shape, levels)
    few, many = count_parameters(maps), count_parameters(dense)
    models = [
        (maps_preset, maps_preset, maps, maps),
        (dense_preset, dense_preset, default, dense),
        (f"{dense_preset}, fewer maps", dense_preset, default, fitted(dense, few, "width")),
        (f"{dense_preset}, fewer latents", dense_preset, default, fitted(dense, few, "latents")),
        (f"{maps_preset}, more maps", maps_preset, maps, fitted(maps, many, "width")),
    ]
    stochastic = [index for index, stage in enumerate(maps.stages) if stage.latents]
    for word, index in (("lowest", stochastic[0]), ("top", stochastic[-1])):
        hybrid = fitted(with_stage(maps, dense, index), few, "width")
        models.append((f"{maps_preset}, {word} layer dense", maps_preset, maps, hybrid))
    budget = flops_per_image(maps) * images
    found = []
    for name, preset, base, config in models:
        flops = flops_per_image(config)
        count = count_parameters(config)
        found.append(Contender(name, preset, base, config, count, flops, round(budget / flops)))
    return found


def with_stage(config: ModelConfig, other: ModelConfig, index: int) -> ModelConfig:
    """Return `config` with one stage replaced by that of `other`."""
    stages = [*config.stages]
    stages[index] = other.stages[index]
    return dataclasses.replace(config, stages=tuple(stages))


def training_of(contender: Contender, seed: int, options: argparse.Namespace) -> Training:
    """Return the training of a contender with one seed."""
    images = contender.images
    changes = [
        validations(images, VALIDATIONS),
        f"train.batch_size={options.batch_size}",
        *assignments(contender.default, contender.config),
        *options.set,
    ]
    words = (*run_words(contender.preset, images, seed, options), *set_words(changes))
    name = f"{contender.name.replace(',', '').replace(' ', '-')}-{options.size}-{images}-seed{seed}"
    return Training(name, words, options.dataset, "test", shared_words(options))


def compare(decoder: str, options: argparse.Namespace, run: Runner = fame) -> list[Table]:
    """Train all contenders with all seeds and return their table and their learning curves."""
    info = dataset_info(options.dataset)
    rivals = contenders(decoder, options.size, info.shape, info.levels, options.images)
    runs: dict[str, list[Trained]] = {rival.name: [] for rival in rivals}
    # Seeds in the outer loop give a first comparison early.
    for seed in options.seeds:
        for rival in rivals:
            runs[rival.name].append(train(training_of(rival, seed, options), options.out, run))
    drawing = chart(decoder, rivals, runs).svg("file")
    write_atomic(options.out / f"curves-{decoder}.svg", drawing.encode())
    return [_results(decoder, rivals, runs), _curves(decoder, rivals, runs)]


COLUMNS = (
    "model",
    "parameters",
    "MFLOP/image",
    "images",
    "seconds",
    "test NLL, nats",
    "minus the first, nats",
    "deviation over seeds, nats",
    "KL per layer, nats",
)


def _results(decoder: str, rivals: Sequence[Contender], runs: dict[str, list[Trained]]) -> Table:
    base = runs[rivals[0].name]
    rows: list[tuple[Cell, ...]] = []
    for rival in rivals:
        found = runs[rival.name]
        rows.append(
            (
                rival.name,
                rival.parameters,
                rival.flops / 1e6,
                found[0].images,
                mean_seconds(found),
                image_estimate(found),
                None if found is base else paired_difference(found, base),
                spread_of([each.mean for each in found]),
                rate_text(found),
            )
        )
    note = (
        f"Each run has {rivals[0].flops * rivals[0].images / 1e15:.3g} PFLOP of forward and backward passes; "
        f"{len(base)} seed(s). NLL: -ELBO with one draw, with the standard error over test images. "
        "Differences are between runs of equal seed, with the standard error over seeds if there are "
        "several, else over images. Layers are counted from the image upwards. Seconds are CPU seconds of "
        "training steps."
    )
    return Table(f"final_{decoder}", f"Maps against dense latents, {decoder} decoder", COLUMNS, rows, note)


def _curves(decoder: str, rivals: Sequence[Contender], runs: dict[str, list[Trained]]) -> Table:
    rows = curve_rows((runs[rival.name] for rival in rivals), rivals[0].flops / 1e15)
    columns = ("PFLOP", *(rival.name for rival in rivals))
    note = (
        "-ELBO in nats of validation images by averaged weights, means over seeds with their errors; the "
        "schedules end with the last row, so earlier rows are not what shorter runs would reach."
    )
    return Table(f"curves_{decoder}", f"Learning curves, {decoder} decoder", columns, rows, note)


def chart(decoder: str, rivals: Sequence[Contender], runs: dict[str, list[Trained]]) -> LineChart:
    """Return the learning curves of every run over training FLOPs."""
    curves = [
        Curve(rival.name, [(each.images * rival.flops / 1e15, each.nats) for each in found.curve], True)
        for rival in rivals
        for found in runs[rival.name]
    ]
    return LineChart(f"curves-{decoder}", "Learning curves", "PFLOP", "-ELBO, nats", curves)


if __name__ == "__main__":
    run(main)
