"""Completed lower halves: does a classifier see the digit of the upper half?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.checkpoints import NamedModel, reference_of
from benchmarks.estimates import mean_of, share_of
from benchmarks.global_modelling.classifier import Verdicts, judge, train
from benchmarks.tables import Cell, Table
from famecli.data.dataset import ImageSplit, fixed_levels
from famecli.model.fame import Fame
from famecli.nll.record import BITS_SEED
from famecli.output import Output
from famecli.rng import stream
from famecli.sampling.generate import complete_batches


@dataclass(frozen=True)
class Scored:
    """Images of one origin and their predictions; the first `rows` rows were given."""

    name: str
    levels: np.ndarray
    verdicts: Verdicts
    model: NamedModel | None = None


@dataclass(frozen=True)
class Completions:
    """All scored images.

    Args:
        whole: Predictions for all test images, by the classifier that scores completions.
        upper: Predictions for the upper halves alone, by a classifier trained on upper halves.
        scored: Real images, images with random other bottoms, and each model's completions.
        rows: Number of given rows.
    """

    whole: Verdicts
    upper: Verdicts
    scored: list[Scored]
    rows: int


def complete(model: Fame, levels: np.ndarray, rows: int, seed: int, sweeps: int) -> np.ndarray:
    """Return each image `(N, C, H, W)` with all but its first `rows` rows drawn anew.

    Image i is completed with the seed `seed * N + i`.
    """
    mask = np.repeat(np.arange(levels.shape[2])[:, None] < rows, levels.shape[3], axis=1)
    seeds = range(seed * len(levels), (seed + 1) * len(levels))
    return np.concatenate(list(complete_batches(model, levels, mask, seeds, sweeps=sweeps)))


def score(
    models: Sequence[NamedModel],
    training: tuple[ImageSplit, np.ndarray],
    test: tuple[ImageSplit, np.ndarray],
    limit: int,
    sweeps: int,
    classifier_images: int,
) -> Completions:
    """Train the classifiers, complete the first `limit` test images under each model and score them.

    Args:
        models: Models that complete the images.
        training: Training images and their classes.
        test: Test images and their classes.
        limit: Number of completed images.
        sweeps: Steps of the Markov chain of a model with latents.
        classifier_images: Number of images that a classifier sees in training.
    """
    split, labels = test
    levels = fixed_levels(split, BITS_SEED).levels
    rows = levels.shape[2] // 2
    whole = train(*training, classifier_images)
    upper = train(*training, classifier_images, rows)
    real, wanted = levels[:limit], labels[:limit]
    other = real.copy()
    other[:, :, rows:] = real[stream("bottoms").permutation(len(real)), :, rows:]
    made: list[tuple[str, np.ndarray, NamedModel | None]] = [
        ("real images", real, None),
        ("bottoms of random other images", other, None),
    ]
    with Output().progress("completions", len(models)) as advance:
        for each in models:
            made.append((each.name, complete(each.model, real, rows, 0, sweeps), each))
            advance(1, each.name)
    scored = [Scored(name, images, judge(whole, images, wanted), model) for name, images, model in made]
    return Completions(judge(whole, levels, labels), judge(upper, real, wanted, rows), scored, rows)


COLUMNS = (
    "images",
    "class of the original, %",
    "less the reference, %",
    "probability of that class",
    "confidence",
    "entropy, nats",
)


def tables(found: Completions, sweeps: int) -> list[Table]:
    """Return a row per origin of the lower halves."""
    rows: list[tuple[Cell, ...]] = [_row("upper halves alone, own classifier", found.upper, None)]
    models = [each for each in found.scored if each.model is not None]
    reference = reference_of([each.model for each in models if each.model is not None])
    base = next(each.verdicts for each in models if each.model is reference)
    for each in found.scored:
        compare = each.model is not None and each.model is not reference
        rows.append(_row(each.name, each.verdicts, base if compare else None))
    accuracy = share_of(found.whole.right).times(100)
    note = (
        f"The first {found.rows} rows of {len(base.right):,} test images are given, the others drawn: for a "
        f"model with latents by {sweeps} sweeps of a chain that uses the approximate posterior in place of "
        "the exact one, for a PixelCNN exactly. Standard errors are over images; the reference is "
        f"{reference.name}, on the same images. The classifier gets {accuracy} % of all "
        f"{len(found.whole.right):,} test images right. Even exact draws cannot match real images, since an "
        "upper half does not determine the digit. The first row is a classifier of upper halves: a class "
        "drawn from its predictions is right with the probability in that row."
    )
    return [Table("completions", "Completed images, as a classifier sees them", COLUMNS, rows, note)]


def _row(name: str, verdicts: Verdicts, base: Verdicts | None) -> tuple[Cell, ...]:
    return (
        name,
        share_of(verdicts.right).times(100),
        None if base is None else mean_of(100.0 * verdicts.right - 100.0 * base.right),
        mean_of(verdicts.chance),
        mean_of(verdicts.confidence),
        mean_of(verdicts.entropy),
    )
