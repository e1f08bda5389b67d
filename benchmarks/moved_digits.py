"""Trainings on moved digits, to test whether dense latents owe their lead to centred digits.

    python -m benchmarks.moved_digits --images 25600 --moves 0 4

Each training image of `mnist-fixed` is moved by its own whole number of pixels; the results are written to
--out. For each range of moves, all models get equal parameters and images, as in benchmarks/equal_sizes.py.
Eight of ten consecutive images are for training. Prints a Markdown table.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.checkpoints import read_split, run
from benchmarks.equal_sizes import BASE, QUICK_IMAGES, changes_of
from benchmarks.estimates import spread_of
from benchmarks.tables import Cell, Table
from benchmarks.trainings import (
    Runner,
    Trained,
    Training,
    add_training_options,
    fame,
    image_estimate,
    paired_difference,
    parse_training_options,
    publish_trainings,
    rate_text,
    run_words,
    set_words,
    shared_words,
    train,
)
from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, Size
from famecli.data.registry import FOLDER, dataset_info
from famecli.rng import stream

SCHEMA = "famecli/moved-digits/1"


def main() -> None:
    options = parse_options()
    publish_trainings([compare(options)], SCHEMA, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--moves", type=int, nargs="+", default=[0, 4], help="largest moves in pixels; default: 0 4"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PRESETS,
        default=["fame-dense"],
        help="models besides fame; default: fame-dense",
    )
    parser.add_argument(
        "--size", choices=get_args(Size), default="small", help="size of fame; default: small"
    )
    parser.add_argument("--images", type=int, default=25_600, help="images per run; default: 25600")
    add_training_options(parser, "runs/moved-digits")
    parser.set_defaults(dataset="mnist-fixed")
    return parse_training_options(parser, QUICK_IMAGES)


def moved(images: np.ndarray, most: int) -> np.ndarray:
    """Return images, each moved by a whole number of pixels in both directions and filled with 0.

    Args:
        images: Images, `(N, 1, H, W)`.
        most: Largest move in pixels; moves are uniform, and the same in each call.
    """
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (most, most), (most, most)))
    starts = stream("moves", most).integers(0, 2 * most, (len(images), 2), endpoint=True)
    cut = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, starts, strict=True)
    ]
    return np.stack(cut)


def digits(most: int, options: argparse.Namespace) -> Path:
    """Write the moved digits as black and white images, `(N, H, W)` for each split, and return their file.

    Of ten consecutive images the ninth is for validation and the tenth for testing, whatever the move.
    """
    path: Path = options.out / f"moved-{most}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = read_split(options.dataset, "train", options.data and Path(options.data)).pixels
    images, place = moved(bits, most)[:, 0] * np.uint8(255), np.arange(len(bits)) % 10
    np.savez(path, train=images[place < 8], valid=images[place == 8], test=images[place == 9])
    return path


def training_of(preset: str, most: int, file: Path, seed: int, options: argparse.Namespace) -> Training:
    """Return the training of a preset on the digits in `file` with one seed."""
    info = dataset_info(options.dataset)
    moved_options = argparse.Namespace(**(vars(options) | {"dataset": FOLDER, "data": file}))
    changes = (f"model.levels={info.levels}", *changes_of(preset, info, options))
    words = (*run_words(preset, options.images, seed, moved_options), *set_words(changes))
    name = f"{preset}-{options.size}-{options.images}-moved{most}-seed{seed}"
    return Training(name, words, FOLDER, "test", shared_words(moved_options))


def compare(options: argparse.Namespace, run: Runner = fame) -> Table:
    """Train `fame` and its rivals with all seeds on all moves, and return their table."""
    names = [BASE, *(name for name in options.only if name != BASE)]
    rows: list[tuple[Cell, ...]] = []
    for most in options.moves:
        file = digits(most, options)
        runs = {
            name: [
                train(training_of(name, most, file, seed, options), options.out, run)
                for seed in options.seeds
            ]
            for name in names
        }
        rows += [_row(most, name, found, runs[BASE]) for name, found in runs.items()]
    note = (
        f"Size `{options.size}`, {options.images:,} images, {len(options.seeds)} seed(s), one recipe and "
        f"equally many parameters for all. Digits are the training images of `{options.dataset}`, each moved "
        "by at most the given number of pixels in each direction. NLL: -ELBO with one draw, with the "
        "standard error over test images. Differences are between runs of equal seed and moves, with the "
        "standard error over seeds if there are several, else over images."
    )
    return Table("moved_digits", "Maps against dense latents on moved digits", COLUMNS, rows, note)


COLUMNS = (
    "moved by up to, pixels",
    "model",
    "parameters",
    "test NLL, nats",
    "less fame, nats",
    "deviation over seeds, nats",
    "KL per layer, nats",
)


def _row(most: int, name: str, found: Sequence[Trained], base: Sequence[Trained]) -> tuple[Cell, ...]:
    return (
        most,
        name,
        count_parameters(found[0].config),
        image_estimate(found),
        None if name == BASE else paired_difference(found, base),
        spread_of([each.mean for each in found]),
        rate_text(found) or None,
    )


if __name__ == "__main__":
    run(main)
