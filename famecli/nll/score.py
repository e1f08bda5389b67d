"""A model scored on the images of a data set."""

import time
from collections.abc import Callable

import numpy as np

from famecli.checkpoints.checkpoint import Checkpoint
from famecli.data.dataset import ImageSplit, fixed_levels
from famecli.errors import ArgumentError, InputError
from famecli.nll.evaluate import ImageNlls, evaluate
from famecli.nll.record import AUTOMATIC_BATCH as AUTOMATIC_BATCH
from famecli.nll.record import BITS_SEED as BITS_SEED
from famecli.nll.record import FIRST_IMAGES, NllRecord
from famecli.nll.report import NllReport
from famecli.output import Output


def score(
    checkpoint: Checkpoint,
    images: ImageSplit,
    evaluate: Callable[[np.ndarray], ImageNlls],
    *,
    limit: int | None,
    seed: int,
) -> NllReport:
    """Return the NLL of a model on images.

    Args:
        checkpoint: Model.
        images: Split of a data set.
        evaluate: Returns the NLLs of levels `(N, C, H, W)`.
        limit: Number of images, the first ones; None for all.
        seed: Seed of the latents in `evaluate`, for the report.

    Raises:
        ArgumentError: The model is for other images.
    """
    check_fits(checkpoint, images.info.shape, images.info.levels, images.info.name)
    scored = fixed_levels(images, BITS_SEED, limit)
    started_s = time.monotonic()
    nlls = evaluate(scored.levels)
    return NllReport(checkpoint, images, scored, nlls, seed, time.monotonic() - started_s)


def measure_again(
    checkpoint: Checkpoint,
    claim: NllRecord,
    images: Callable[..., ImageSplit],
    output: Output,
    *,
    name: str,
    limit: int = FIRST_IMAGES,
    batch_size: int = AUTOMATIC_BATCH,
) -> NllRecord:
    """Return a new measurement of a claim, by its estimator and seed.

    Args:
        checkpoint: Model, with its averaged weights.
        claim: Claim of the checkpoint.
        images: Returns a split, called with the data set, the name of the split, and `levels`.
        output: Streams for progress and notes.
        name: Name of the weights, for errors.
        limit: Number of images: 256, or at least as many as the claim is about.
        batch_size: Images times samples in one forward pass.

    Raises:
        InputError: The claim does not record its data set, its images or its seed.
        FameError: As `NllRecord.expected`, `images`, `score` and `evaluate`.
    """
    data, seed, draws = claim.data, claim.seed, claim.importance_samples
    if data.dataset_id is None or data.images is None or seed is None:
        raise InputError(f"{name}: its claim does not record data set, images and seed")
    count, _ = claim.expected(name, limit)
    split = images(data.dataset_id, data.split, levels=checkpoint.model.config.levels)

    def measured(levels: np.ndarray) -> ImageNlls:
        with output.progress("evaluating", len(levels)) as advance:
            return evaluate(
                checkpoint.model,
                levels,
                importance_samples=draws,
                seed=seed,
                batch_size=batch_size,
                advance=lambda done: advance(done, ""),
                report=output.note,
            )

    return score(checkpoint, split, measured, limit=count, seed=seed).nll


def check_fits(checkpoint: Checkpoint, shape: tuple[int, int, int], levels: int, name: str) -> None:
    """Check that a model is for images such as those of `name`.

    Raises:
        ArgumentError: It is not.
    """
    config = checkpoint.model.config
    if (config.image_shape, config.levels) != (shape, levels):
        raise ArgumentError(
            f"{checkpoint.source} is a model of {config.image_shape} images with {config.levels} levels, "
            f"{name} has {shape} with {levels}"
        )
