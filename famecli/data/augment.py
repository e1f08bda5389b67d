"""Random changes of training images."""

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from famecli.data.dataset import ImageSplit

# Standard deviations of a random affine map.
ROTATION_RADIANS = 0.12
LOG_SCALE = 0.08
SHEAR = 0.1
SHIFT_PIXELS = 0.7


def augmented(
    split: ImageSplit, kind: Literal["flip", "affine"], generator: np.random.Generator
) -> ImageSplit:
    """Return images after random changes, each image changed independently.

    `flip` mirrors half of the images left to right. `affine` rotates, scales, shears and shifts each image a
    little. It fills new space with the pixels of the border. Interpolation is bicubic; images of bits take
    the nearest bit.

    Source: affine training images for MNIST: LeCun et al. 1998, "Gradient-based learning applied to document
    recognition", section III; augmentation for density models: Jun et al. 2020, "Distribution augmentation
    for generative modeling".
    Differs: the model is not told how an image was changed.

    Args:
        split: Images.
        kind: Kind of the changes.
        generator: Source of the random changes.
    """
    pixels = split.pixels
    if kind == "flip":
        mirrored = generator.random(len(pixels)) < 0.5
        pixels = np.where(mirrored[:, None, None, None], pixels[..., ::-1], pixels)
    else:
        drawn = split.info.levels == 2 and split.info.binarization != "dynamic"
        pixels = _moved(pixels, "nearest" if drawn else "bicubic", generator)
    return dataclasses.replace(split, pixels=pixels)


def _moved(pixels: np.ndarray, mode: str, generator: np.random.Generator) -> np.ndarray:
    """Return each image after a random affine map, within the range of its values."""
    images = torch.from_numpy(pixels.astype(np.float32))
    maps = torch.from_numpy(_affine_maps(len(pixels), pixels.shape[-2:], generator))
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode, "border", align_corners=False)
    least, largest = (end[:, None, None, None] for end in images.flatten(1).aminmax(dim=1))
    found = moved.clamp(least, largest).numpy()
    return found if pixels.dtype == np.float32 else np.rint(found).astype(pixels.dtype)


def _affine_maps(images: int, size: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Return random affine maps of coordinates from -1 to 1, float32, `(images, 2, 3)`."""
    height, width = size
    normal = generator.standard_normal((images, 6), np.float32)
    angle, shear = ROTATION_RADIANS * normal[:, 0], SHEAR * normal[:, 1]
    across, down = np.exp(LOG_SCALE * normal[:, 2:4]).T
    right, below = 2.0 * SHIFT_PIXELS * normal[:, 4:].T / np.array([[width], [height]])
    cosine, sine = np.cos(angle), np.sin(angle)
    rows = [across * cosine, across * (shear * cosine - sine) * height / width, right]
    rows += [down * sine * width / height, down * (shear * sine + cosine), below]
    return np.stack(rows, axis=1).reshape(images, 2, 3).astype(np.float32)
