"""Reconstructions against their originals: peak signal-to-noise ratio, squared error and NLL."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from famecli.data.image_writers import levels_to_bytes
from famecli.model.fame import Fame
from famecli.nll.evaluate import evaluate
from famecli.nll.units import NATS_PER_BIT, bits_per_dim


def mean_square(image: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared difference of two uint8 images."""
    return float(np.mean((image.astype(np.float64) - other) ** 2))


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images in dB; infinite if they are equal."""
    error = mean_square(image, other)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def fidelity(
    model: Fame,
    levels: np.ndarray,
    images: np.ndarray,
    sources: Sequence[str],
    seed: int = 0,
    labels: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Return PSNR (dB), squared error and NLL of each image, for JSON; units are in the keys.

    Args:
        model: Model with latents.
        levels: Originals, integer levels `(N, C, H, W)`.
        images: One reconstruction per original, uint8 `(N, H, W, C)`.
        sources: Name of each original.
        seed: Seed of the latents of the NLL.
        labels: Class of each image; None for a model without classes.
    """
    nlls = evaluate(model, levels, labels=labels, seed=seed)
    rows = []
    for index, before in enumerate(levels_to_bytes(levels, model.config.levels)):
        decibels, nats = psnr(before, images[index]), float(nlls.nats[index])
        rows.append(
            {
                "index": index,
                "source": sources[index],
                "psnr": decibels if math.isfinite(decibels) else None,
                "mse": mean_square(before, images[index]),
                "nats": nats,
                "bits_per_dim": bits_per_dim(nats, model.config.image_shape),
                "kl_bits": [float(each) / NATS_PER_BIT for each in nlls.rate[index]],
            }
        )
    return rows
