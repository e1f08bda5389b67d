"""Images drawn from a model together with their latents, which are then an exact draw from the posterior."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from famecli.data.dataset import ImageSplit
from famecli.data.folder import seen_with
from famecli.data.registry import FOLDER, dataset_info
from famecli.model.fame import Fame
from famecli.rng import ImageNoise, image_uniforms
from famecli.sampling.generate import ImageDecoder

NAME = "simulated"
ALL = "all"
BATCH = 64


@dataclass(frozen=True)
class Simulated:
    """Images with the latents that they were drawn with.

    Args:
        levels: Images, `(N, C, H, W)`, uint8.
        latents: Latents of each stochastic layer, from the image upwards, `(N, ...)`.
    """

    levels: np.ndarray
    latents: Sequence[Tensor]


@torch.no_grad()
def simulate(model: Fame, images: int, seed: int = 0) -> Simulated:
    """Return images of a model; image i depends on the seed and i alone.

    Args:
        model: Model with latents, in the precision of the later evaluation.
        images: Number of images.
        seed: Seed of latents and pixels.
    """
    decoder = ImageDecoder(model)
    levels, latents = [], []
    for start in range(0, images, BATCH):
        names = [("simulate", seed, index) for index in range(start, min(start + BATCH, images))]
        noise = ImageNoise(names, device=model.device)
        condition, draws = model.top_down(None, noise, len(names))
        uniforms = image_uniforms(names, model.uniforms_shape, torch.float64)
        levels.append(decoder(condition, uniforms).cpu().numpy().astype(np.uint8))
        latents.append([draw.z for draw in draws])
    return Simulated(np.concatenate(levels), [torch.cat(layer) for layer in zip(*latents, strict=True)])


def as_split(model: Fame, simulated: Simulated) -> ImageSplit:
    """Return simulated images as a split of a data set."""
    info = dataclasses.replace(
        seen_with(dataset_info(FOLDER), model.config.levels),
        name=NAME,
        family=NAME,
        title="Images drawn from the model",
        shape=model.config.image_shape,
        splits={ALL: len(simulated.levels)},
        rule="all of them",
    )
    return ImageSplit(info, ALL, simulated.levels)
