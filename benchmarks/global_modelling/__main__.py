"""Global structure in latents and in a PixelCNN: four measurements of any number of checkpoints.

    python -m benchmarks.global_modelling fame-mnist pixelcnn=runs/pixelcnn pixelvae=runs/pixelvae

Prints Markdown tables; docs/experiments.md explains them.
"""

import argparse
from dataclasses import dataclass
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
from benchmarks.global_modelling import completions, halves, maps, probe
from benchmarks.tables import Table, check_target, publish
from famecli.data.dataset import ImageSplit, Split, fixed_levels
from famecli.data.image_writers import levels_to_bytes, write_png
from famecli.data.registry import dataset_info
from famecli.errors import UsageError
from famecli.grids import grid
from famecli.nll.record import BITS_SEED

SCHEMA = "famecli/global-modelling/1"
EXPERIMENTS = ("halves", "probe", "completions", "maps")


@dataclass(frozen=True)
class Effort:
    """Sizes of the measurements.

    Args:
        images: Maximum number of test images.
        repeats: Number of draws of bits, pairs and latents for the halves.
        importance_samples: Importance samples for the NLL of halves; 1 for the ELBO.
        probe_images: Number of training images of a probe.
        valid_images: Number of validation images that choose the probe's penalty.
        few: Numbers of labels besides all.
        draws: Number of random subsets of labels for each number in `few`.
        completed: Number of completed test images.
        sweeps: Steps of the Markov chain that completes images.
        classifier_images: Number of images that a classifier sees in training.
    """

    images: int | None = None
    repeats: int = 3
    importance_samples: int = 1
    probe_images: int = 10_000
    valid_images: int = 2_000
    few: tuple[int, ...] = (1_000, 100)
    draws: int = 5
    completed: int = 1_024
    sweeps: int = 20
    classifier_images: int = 150_000


QUICK = Effort(128, 1, 1, 500, 200, (100,), 2, 32, 5, 10_000)


@dataclass(frozen=True)
class Digits:
    """Training, validation and test images, all with their classes."""

    train: ImageSplit
    valid: ImageSplit
    test: ImageSplit

    def labels(self, split: ImageSplit) -> np.ndarray:
        """Return the classes `(N,)` of a split.

        Raises:
            UsageError: The data set has no classes.
        """
        if split.labels is None:
            raise UsageError(f"{split.info.name} has no classes", "choose --dataset mnist")
        return split.labels

    def labelled(self, split: ImageSplit, limit: int | None) -> probe.Labelled:
        """Return the first images of a split with fixed bits."""
        numbers = range(len(split.pixels))[:limit]
        return probe.Labelled(fixed_levels(split, BITS_SEED, numbers).levels, self.labels(split)[:limit])


def main() -> None:
    options = parse_options()
    check_target(options.json)
    torch.set_num_threads(options.threads)
    info = dataset_info(options.dataset)
    models = load_models(options.checkpoints, info.shape, info.levels)
    parts: tuple[Split, ...] = ("train", "valid", "test")
    digits = Digits(*(read_split(info.name, part, options.data) for part in parts))
    if options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
    tables = measure(models, digits, effort_of(options), options.only, options.pictures)
    data = {"dataset": info.name, "bits_seed": BITS_SEED, "effort": vars(effort_of(options))}
    publish(tables, SCHEMA, data | shared_facts(models), options.json)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help=CHECKPOINT_HELP)
    parser.add_argument("--dataset", default="mnist", help="data set with classes; default: mnist")
    parser.add_argument(
        "--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, help="measurements; default: all"
    )
    parser.add_argument("--images", type=int, help="maximum number of test images; default: all")
    parser.add_argument(
        "--repeats", type=int, help=f"repeats of halves with new draws; default: {Effort.repeats}"
    )
    parser.add_argument("-k", "--importance-samples", type=int, help="for the NLL of halves; default: 1")
    parser.add_argument("--completed", type=int, help=f"images completed; default: {Effort.completed}")
    parser.add_argument("--sweeps", type=int, help=f"steps of the chain; default: {Effort.sweeps}")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="folder for maps and completions as PNG"
    )
    add_shared_options(parser)
    return parser.parse_args()


def effort_of(options: argparse.Namespace) -> Effort:
    """Return the default or the quick effort, with the changes of the options."""
    names = ("images", "repeats", "importance_samples", "completed", "sweeps")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if low := next((name for name, value in given.items() if value < (0 if name == "sweeps" else 1)), None):
        raise UsageError(f"--{low.replace('_', '-')} {given[low]} is too few")
    return Effort(**(vars(QUICK if options.quick else Effort()) | given))


def measure(
    models: list[NamedModel],
    digits: Digits,
    effort: Effort,
    only: tuple[str, ...] = EXPERIMENTS,
    pictures: Path | None = None,
) -> list[Table]:
    """Return the tables of the experiments `only`; pictures go to the folder `pictures`."""
    test_labels = digits.labels(digits.test)
    found: list[Table] = []
    if "halves" in only:
        wanted = (effort.images, effort.repeats, effort.importance_samples)
        cases = halves.score(models, digits.test, test_labels, *wanted)
        found += halves.tables(cases, effort.importance_samples)
    if "probe" in only:
        found += probe_tables(models, digits, effort)
    if "completions" in only:
        found += completion_tables(models, digits, effort, pictures)
    if "maps" in only:
        numbers = range(len(digits.test.pixels))[: effort.images]
        levels = fixed_levels(digits.test, BITS_SEED, numbers).levels
        bits = maps.measure(models, levels)
        found += maps.tables(bits)
        if pictures is not None:
            maps.write_picture(bits, test_labels[: len(levels)], pictures / "bits.png")
    return found


def probe_tables(models: list[NamedModel], digits: Digits, effort: Effort) -> list[Table]:
    material = probe.Material(
        digits.labelled(digits.train, effort.probe_images),
        digits.labelled(digits.valid, effort.valid_images),
        digits.labelled(digits.test, effort.images),
    )
    counts = (len(material.train.labels), *effort.few)
    return probe.tables(probe.probe(models, material, counts, effort.draws), material, effort.draws)


def completion_tables(
    models: list[NamedModel], digits: Digits, effort: Effort, pictures: Path | None
) -> list[Table]:
    training, test = ((split, digits.labels(split)) for split in (digits.train, digits.test))
    limit = min(effort.completed, effort.images or effort.completed)
    found = completions.score(models, training, test, limit, effort.sweeps, effort.classifier_images)
    if pictures is not None:
        # A row per origin, a column per image.
        shown = np.concatenate([each.levels[:16] for each in found.scored])
        image = grid(levels_to_bytes(shown, digits.test.info.levels), len(found.scored[0].levels[:16]))
        names = ", ".join(each.name for each in found.scored)
        write_png(pictures / "completions.png", image, {"rows": names})
    return completions.tables(found, effort.sweeps)


if __name__ == "__main__":
    run(main)
