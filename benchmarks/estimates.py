"""Means, ratios, probabilities and areas under curves, each with its standard error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from famecli.nll.evaluate import stderr_over_images


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error.

    Args:
        value: Estimated value.
        stderr: Standard error, in the same unit; NaN for one observation.
        count: Number of independent observations.
    """

    value: float
    stderr: float
    count: int

    def times(self, factor: float) -> "Estimate":
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, self.stderr * abs(factor), self.count)

    def __str__(self) -> str:
        if not (math.isfinite(self.stderr) and self.stderr > 0):
            return f"{self.value:.4g}"
        # Show the value to the second significant digit of its error.
        digits = max(0, 1 - math.floor(math.log10(self.stderr)))
        return f"{self.value:.{digits}f} +- {self.stderr:.{digits}f}"


def mean_of(values: np.ndarray) -> Estimate:
    """Return the mean of independent observations `(N,)`."""
    return Estimate(float(np.mean(values)), stderr_over_images(values), len(values))


def share_of(hits: np.ndarray) -> Estimate:
    """Return the proportion of True among independent `hits` `(N,)`, with its binomial standard error.

    The error adds one hit and one miss, so that it is not 0 where all are equal.
    """
    trials = len(hits)
    adjusted = (float(np.sum(hits)) + 1) / (trials + 2)
    return Estimate(float(np.mean(hits)), math.sqrt(adjusted * (1 - adjusted) / (trials + 2)), trials)


def ratio_of(part: np.ndarray, whole: np.ndarray) -> Estimate:
    """Return the sum of `part` over that of `whole`, both `(N,)`, one pair per independent observation.

    Source: the linearised variance of a ratio estimator, W. Cochran, Sampling Techniques, section 6.4.
    """
    ratio = float(part.sum() / whole.sum())
    return Estimate(ratio, mean_of(part - ratio * whole).stderr / float(np.mean(whole)), len(part))


def area_of(high: np.ndarray, low: np.ndarray) -> Estimate:
    """Return the area under the ROC curve: the probability that an entry of `high` is above one of `low`.

    Args:
        high: Scores expected to be higher, `(N, m)`; row n is one independent observation.
        low: Scores of the same observations that are expected to be lower, `(N, k)`.

    Source: the variance of clustered scores, N. Obuchowski, Biometrics 53 (1997).
    """
    above = _ranks(high.ravel(), low.ravel()).reshape(high.shape)
    below = 1.0 - _ranks(low.ravel(), high.ravel()).reshape(low.shape)
    area = float(above.mean())
    influence = above.mean(1) - area + below.mean(1) - area
    return Estimate(area, mean_of(influence).stderr, len(high))


def _ranks(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each of `values` the proportion of `others` below it; ties count half."""
    ordered = np.sort(others)
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share: np.ndarray = both / (2 * len(ordered))
    return share


def difference_of(one: Estimate, other: Estimate) -> Estimate:
    """Return `one - other`, assuming independence."""
    stderr = math.hypot(one.stderr, other.stderr)
    return Estimate(one.value - other.value, stderr, min(one.count, other.count))


def over_repeats(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of an estimate over repeats with different seeds.

    The error is that of one repeat: repeats draw new bits and latents of the same images, and so add no
    images.
    """
    value = float(np.mean([each.value for each in estimates]))
    return Estimate(value, float(np.mean([each.stderr for each in estimates])), estimates[0].count)


def spread_of(means: Sequence[float]) -> float | None:
    """Return the standard deviation of a mean over seeds; None for one seed."""
    return float(np.std(means, ddof=1)) if len(means) > 1 else None
