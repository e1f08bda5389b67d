"""Bytes of images as the levels of a model: the nearest ones, or the exact ones alone."""

from collections.abc import Callable

import numpy as np

from famecli.errors import InputError


def nearest_levels(levels: int) -> np.ndarray:
    """Return the level that is nearest to each byte, where the highest level stands for 255.

    Shape:
        `(256,)`, uint8.
    """
    table: np.ndarray = np.rint(np.arange(256) * ((levels - 1) / 255)).astype(np.uint8)
    return table


def exact_levels(pixels: np.ndarray, levels: int, name_of: Callable[[int], str]) -> np.ndarray:
    """Return images as the levels that `famecli.images.to_uint8` makes them of.

    Args:
        pixels: Bytes, `(N, C, H, W)`.
        levels: How many a pixel has in the model; of two, 0 is black and 1 is white.
        name_of: Returns the name of the image at an index, for errors.

    Shape:
        `(N, C, H, W)`, uint8.

    Raises:
        InputError: A pixel stands for no level; the message names its image.
    """
    if levels == 256:
        return pixels
    nearest = nearest_levels(levels)
    strange = np.rint(nearest.astype(np.int64) * 255 / (levels - 1)) != np.arange(256)
    for index, image in enumerate(pixels):
        found = strange[image]
        if found.any():
            expected = "0 and 255" if levels == 2 else f"multiples of 255 / {levels - 1}, rounded,"
            raise InputError(
                f"{name_of(index)} has a pixel of {image[found][0]}, "
                f"a model of {levels} levels takes {expected} alone",
                "make the images black and white first, or choose a model of 256 levels",
            )
    result: np.ndarray = nearest[pixels]
    return result
