"""A model scored on the images of a data set, with all that an NLL is reported with."""

import time
from collections.abc import Callable

import numpy as np

from famecli.checkpoints.checkpoint import Checkpoint
from famecli.data.dataset import ImageSplit, fixed_levels
from famecli.errors import ArgumentError
from famecli.nll.evaluate import ImageNlls
from famecli.nll.report import NllReport

# The bits of a binarized test set are part of the protocol: they do not follow the seed of the latents.
BITS_SEED = 0
AUTOMATIC_BATCH = 128


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
        checkpoint: The model.
        images: Split of a data set.
        evaluate: Returns what each of the levels that it is given costs.
        limit: Number of images, the first ones; None for all.
        seed: Seed of the latents in `evaluate`, for the report.

    Raises:
        ArgumentError: The model is for other images.
    """
    check_fits(checkpoint, images.info.shape, images.info.levels, images.info.name)
    scored = fixed_levels(images, BITS_SEED, limit)
    started_s = time.monotonic()
    nlls = evaluate(scored.levels)
    return NllReport(checkpoint, images, scored, BITS_SEED, nlls, seed, time.monotonic() - started_s)


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
