"""Diagonal Gaussians of the stochastic layers: prior, recognition, and their precision-weighted merge."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from famecli.model.pointwise import at_least_single

SMALLEST_SCALE = 1e-3
# Bounds of a layer's distributions before they are merged, with `bounded_latents`.
LARGEST_MEAN = 5.0
LOWEST_LOG_SCALE, HIGHEST_LOG_SCALE = -4.0, 1.5
# softplus(RAW_ONE) + SMALLEST_SCALE = 1, so that zero-initialised heads start at a standard normal.
RAW_ONE = math.log(math.expm1(1.0 - SMALLEST_SCALE))


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over latents of shape `(B, ...)`.

    Args:
        mean: Means.
        scale: Standard deviations, same shape.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def from_head(cls, raw: Tensor, *, bounded: bool = False) -> "Gaussian":
        """Return the Gaussian whose means and raw scales lie one after the other in dimension 1.

        Scales are raw ones after a softplus. With `bounded`, means and the logarithms of scales are raw ones
        after smooth bounds: huge means beside tiny scales would leave no digits for the difference.

        With the 8 bits of bfloat16, KL divergences of close Gaussians would be noise: see `at_least_single`.
        """
        mean, scale = at_least_single(raw).chunk(2, dim=1)
        if not bounded:
            return cls(mean, F.softplus(scale + RAW_ONE) + SMALLEST_SCALE)
        low, high = (bound * torch.tanh(scale / bound) for bound in (-LOWEST_LOG_SCALE, HIGHEST_LOG_SCALE))
        return cls(LARGEST_MEAN * torch.tanh(mean / LARGEST_MEAN), torch.where(scale < 0, low, high).exp())

    @classmethod
    def standard(cls, like: Tensor) -> "Gaussian":
        """Return the standard normal with the shape and device of `like`."""
        return cls(torch.zeros_like(like), torch.ones_like(like))

    def merge(self, other: "Gaussian") -> "Gaussian":
        """Return the normalised product of both densities: precisions add, means are weighted by them.

        Source: arXiv:1602.02282, equations 17 to 19.
        """
        own, others = self.scale.pow(-2), other.scale.pow(-2)
        variance = 1.0 / (own + others)
        return Gaussian((self.mean * own + other.mean * others) * variance, variance.sqrt())

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the point that standard normal `noise` stands for, with the scale times `temperature`."""
        return self.mean + self.scale * noise * temperature

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of `z` in nats, summed over each latent: `(B,)`."""
        standardised = (z - self.mean) / self.scale
        each = -0.5 * standardised.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def kl(self, other: "Gaussian") -> Tensor:
        """Return KL(self || other) in nats, summed over each latent: `(B,)`."""
        return self.kl_each(other).flatten(1).sum(1)

    def kl_each(self, other: "Gaussian") -> Tensor:
        """Return KL(self || other) of every entry, in nats: `(B, ...)`."""
        ratio = self.scale / other.scale
        shift = (self.mean - other.mean) / other.scale
        return 0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()
