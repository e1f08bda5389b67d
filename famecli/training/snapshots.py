"""Snapshots of a training: numbered checkpoints, and grids of samples."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from famecli import __version__
from famecli.data.image_writers import levels_to_bytes, write_images
from famecli.data.labels import labels_or_random
from famecli.files import unwritable
from famecli.sampling.generate import generate_batches
from famecli.training.resume import NUMBERED, SAMPLES_FOLDER
from famecli.training.trainer import Trainer

# The same seeds in every grid show how training changes an image.
SEEDS = range(64)


def numbered_name(images: int) -> str:
    """Return the name of the checkpoint after `images` images; names sort like the numbers.

    >>> numbered_name(25600)
    'images-000000025600.safetensors'
    """
    return f"images-{images:012d}.safetensors"


def keep_last(folder: Path, count: int) -> None:
    """Remove all numbered checkpoints in `folder` but the last `count`."""
    found = sorted(folder.glob(NUMBERED))
    for path in found[: max(0, len(found) - count)]:
        path.unlink()


def remove_later(folder: Path, images: int) -> None:
    """Remove numbered checkpoints in `folder` of more than `images` images."""
    for path in folder.glob(NUMBERED):
        if path.name > numbered_name(images):
            path.unlink()


def draw_grid(trainer: Trainer, folder: Path) -> np.ndarray:
    """Write images drawn from the averaged weights to `samples/IMAGES.png` in the folder of a run.

    Returns:
        The images, bytes `(N, H, W, C)`.
    """
    labels = labels_or_random(trainer.model.config.classes, None, SEEDS)
    batches: Iterator[np.ndarray] = generate_batches(
        trainer.averaged_model(), SEEDS, labels, group=trainer.group
    )
    images = levels_to_bytes(np.concatenate(list(batches)), trainer.model.config.levels)
    if not trainer.group.is_main:
        return images
    target = folder / SAMPLES_FOLDER / f"{trainer.images:012d}.png"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(target, error) from error
    facts: dict[str, str | int | float] = {
        "images_seen": trainer.images,
        "seeds": f"{SEEDS[0]}-{SEEDS[-1]}",
        "famecli": __version__,
    }
    write_images(images, [facts] * len(images), target, force=True)
    return images
