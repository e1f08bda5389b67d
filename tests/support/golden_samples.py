"""Equality of samples up to rounding: pixels may differ only where a uniform lies next to a boundary.

A pixel is a function of uniform numbers and of parameters that depend on earlier pixels. Processors and
library versions round parameters differently, so a uniform next to a boundary may fall on its other side.
The likelihoods are reimplemented here, independently of the package.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-4
SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE = -7.0, 40.0
MIXTURES = 10


@dataclass(frozen=True)
class Drawn:
    """Images with their parameters and random numbers.

    Args:
        levels: The images, `(N, C, H, W)`.
        parameters: Parameters of each pixel given the images' own earlier pixels, float64, `(N, P, H, W)`.
        uniforms: Uniform random numbers, float64, `(N, U, H, W)`.
        free: Mask of drawn pixels, False where a pixel is given, `(H, W)`.
        count: Number of levels.
        ordered: Whether a pixel depends on earlier ones.
    """

    levels: np.ndarray
    parameters: np.ndarray
    uniforms: np.ndarray
    free: np.ndarray
    count: int
    ordered: bool

    def may_be(self, image: int, row: int, column: int, levels: np.ndarray) -> bool:
        """Return whether the uniforms of a pixel, or neighbouring values, give these levels, `(C,)`."""
        parameters = self.parameters[image, :, row, column]
        uniforms = self.uniforms[image, :, row, column]
        rule = bits_may_be if self.count == 2 else mixture_may_be
        return rule(parameters, uniforms, levels.astype(np.int64), self.count)

    def pixels(self) -> Iterator[tuple[int, int, int]]:
        """Yield image, row and column of each pixel that is drawn."""
        for image in range(len(self.levels)):
            for row, column in np.argwhere(self.free):
                yield image, int(row), int(column)

    def check_own(self) -> None:
        """Check that the uniforms give these images, up to rounding."""
        for image, row, column in self.pixels():
            levels = self.levels[image, :, row, column]
            assert self.may_be(image, row, column, levels), (image, row, column, levels)

    def count_broken(self, found: np.ndarray) -> int:
        """Return how many images of `found` differ, after checking that rounding alone explains it.

        Where pixels depend on earlier ones, an image is compared up to its first difference: later pixels
        depend on it. Otherwise every difference is checked.
        """
        assert found.shape == self.levels.shape
        broken = 0
        for image, (one, other) in enumerate(zip(found, self.levels, strict=True)):
            # Raster order: no pixel depends on a later one.
            differences = np.argwhere((one != other).any(0))
            for row, column in differences[:1] if self.ordered else differences:
                where = (image, int(row), int(column))
                assert self.free[row, column], f"{where} was given"
                for levels in (one[:, row, column], other[:, row, column]):
                    assert self.may_be(*where, levels), f"{where} cannot be {levels}"
            broken += bool(len(differences))
        return broken


def bits_may_be(parameters: np.ndarray, uniforms: np.ndarray, bits: np.ndarray, count: int) -> bool:
    """Return whether bits `(C,)` are `uniforms < sigmoid(parameters)` for these or neighbouring uniforms."""
    chances = sigmoid(parameters)
    fits = np.where(bits == 1, uniforms < chances + TOLERANCE, uniforms >= chances - TOLERANCE)
    return bool(fits.all())


def mixture_may_be(parameters: np.ndarray, uniforms: np.ndarray, levels: np.ndarray, count: int) -> bool:
    """Return whether the first uniform may choose a component for which the others may give `levels`."""
    logits = parameters[:MIXTURES]
    weights = np.exp(logits - logits.max())
    bounds = np.concatenate([[0.0], (weights / weights.sum()).cumsum()])
    bounds[-1] = 1.0
    return any(
        bounds[k] - TOLERANCE <= uniforms[0] < bounds[k + 1] + TOLERANCE
        and _component_may_be(parameters, k, uniforms[1:], levels, count)
        for k in range(MIXTURES)
    )


def _component_may_be(
    parameters: np.ndarray, k: int, uniforms: np.ndarray, levels: np.ndarray, count: int
) -> bool:
    channels = len(levels)
    means, log_scales, coefficients = np.split(
        parameters[MIXTURES:].reshape(-1, MIXTURES)[:, k], [channels, 2 * channels]
    )
    scaled = 2.0 * levels / (count - 1) - 1.0
    factors = iter(np.tanh(coefficients))
    for channel, level in enumerate(levels):
        location = means[channel] + sum(next(factors) * scaled[earlier] for earlier in range(channel))
        scale = np.exp(np.clip(log_scales[channel], SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE))
        ends = (2.0 * np.array([level - 0.5, level + 0.5]) / (count - 1) - 1.0 - location) / scale
        low, high = sigmoid(ends)
        low, high = (0.0 if level == 0 else low), (1.0 if level == count - 1 else high)
        if not low - TOLERANCE <= uniforms[channel] < high + TOLERANCE:
            return False
    return True


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
