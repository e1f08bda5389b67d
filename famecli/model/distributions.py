"""Distributions: probability mass functions of pixels, and diagonal Gaussians of latents.

`log_prob`, `mean` and `sample` of a likelihood share one mass function. Dimension 1 holds channels or
parameters; any later dimensions are positions. Images are integer levels 0 to levels - 1, stored as floats;
networks read them scaled by `scale_levels`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from famecli.config.schema import ModelConfig
from famecli.model.layers import to_float32_or_wider

SMALLEST_LOG_SCALE = -7.0
# In float32, gradients and then masses overflow at log-scales above about 86.
LARGEST_LOG_SCALE = 40.0
SMALLEST_SCALE = 1e-3
# Bounds of prior and recognition Gaussians before merging, with `bounded_latents`.
LARGEST_MEAN = 5.0
LOWEST_LOG_SCALE, HIGHEST_LOG_SCALE = -4.0, 1.5
# softplus(RAW_ONE) + SMALLEST_SCALE = 1: a head with outputs near 0 gives nearly a standard normal.
RAW_ONE = math.log(math.expm1(1.0 - SMALLEST_SCALE))


def scale_levels(x: Tensor, levels: int) -> Tensor:
    """Return levels 0 to `levels - 1` mapped to [-1, 1]."""
    return x * (2.0 / (levels - 1)) - 1.0


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return `logits / temperature`; `logits` itself at temperature 1."""
    return logits if temperature == 1.0 else logits / temperature


class Bernoulli:
    """Independent bits given one logit each.

    Args:
        channels: Channels per pixel.

    Attributes:
        parameters: Number of parameters per pixel.
        uniforms: Number of uniform random numbers to sample a pixel.
    """

    def __init__(self, channels: int) -> None:
        self.parameters = self.uniforms = channels

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Return nats `(B, ...)` per pixel, channels summed, of levels `x` `(B, C, ...)`."""
        return F.logsigmoid(parameters * (2.0 * x - 1.0)).sum(1)

    def expected_log_prob(self, probabilities: Tensor, parameters: Tensor) -> Tensor:
        """Return the expected `log_prob`, `(B, ...)`, of bits that are 1 with `(B, C, ...)` probabilities."""
        return (probabilities * parameters + F.logsigmoid(-parameters)).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected levels `(B, C, ...)`."""
        return torch.sigmoid(parameters)

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the levels `(B, C, ...)` sampled with `uniforms` `(B, self.uniforms, ...)` in [0, 1).

        Logits are divided by `temperature`.
        """
        return (uniforms < torch.sigmoid(_tempered(parameters, temperature))).to(parameters.dtype)

    def initial_bias(self) -> Tensor:
        """Return the initial parameters `(self.parameters,)` of an untrained decoder."""
        return torch.zeros(self.parameters)


class LogisticMixture:
    """Discretized mixture of logistics; later channels depend linearly on earlier ones within a component.

    A level holds the mass of the logistic between the midpoints to its neighbours; the first and the last
    reach to infinity, so the masses of all levels sum to 1 exactly.

    Args:
        channels: Channels per pixel, 1 or 3.
        levels: Number of values of a channel.
        mixtures: Number of components.

    Attributes:
        parameters: Number of parameters per pixel.
        uniforms: Number of uniform random numbers to sample a pixel.

    Source: arXiv:1701.05517, sections 2.1 and 2.2.
    Differs: the mass of an inner level is computed in a closed form that is stable everywhere, with no
    approximation by the density.
    """

    def __init__(self, channels: int, levels: int, mixtures: int) -> None:
        self.channels, self.levels, self.mixtures = channels, levels, mixtures
        self.coefficients = channels * (channels - 1) // 2
        self.parameters = mixtures * (1 + 2 * channels + self.coefficients)
        self.uniforms = 1 + channels
        self.half_width = 1.0 / (levels - 1)

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits `(B, K, ...)`, means, log-scales `(B, C, K, ...)`, coefficients `(B, c, K, ...)`."""
        # The gradient of a split is one concatenation; that of a slice is filled with zeros and added.
        sizes = [self.mixtures, self.parameters - self.mixtures]
        logits, tables = parameters.split(sizes, dim=1)
        return logits, *self._components(tables.unflatten(1, (-1, self.mixtures)))

    def _components(self, tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return means, log-scales and coefficients from `tables`, `(B, 2 * C + coefficients, ...)`."""
        sizes = [self.channels, self.channels, self.coefficients]
        means, log_scales, coefficients = tables.split(sizes, dim=1)
        return means, log_scales.clamp(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE), torch.tanh(coefficients)

    def location(self, mean: Tensor, coefficients: Sequence[Tensor], earlier: Sequence[Tensor]) -> Tensor:
        """Return the components' locations `(B, K, ...)` of a channel given the scaled earlier channels.

        Args:
            mean: Means of the channel.
            coefficients: Coefficients of all channels, `(B, K, ...)` each.
            earlier: Earlier channels.
        """
        first = len(earlier) * (len(earlier) - 1) // 2
        for coefficient, value in zip(coefficients[first:], earlier, strict=False):
            mean = mean + coefficient * value
        return mean

    def log_mass(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log-mass in nats of the level at scaled `x` under each logistic; arguments broadcast.

        With a and b the level's standardised ends, sigmoid(b) - sigmoid(a) equals
        sigmoid(b) * sigmoid(-a) * (1 - exp(a - b)), and each factor has a stable logarithm.
        """
        inverse_scale = torch.exp(-log_scale)
        below = (x - self.half_width - location) * inverse_scale
        above = (x + self.half_width - location) * inverse_scale
        is_first, is_last = x < -1.0 + self.half_width, x > 1.0 - self.half_width
        from_above = torch.where(is_last, torch.zeros_like(above), F.logsigmoid(above))
        from_below = torch.where(is_first, torch.zeros_like(below), F.logsigmoid(-below))
        width = torch.log(-torch.expm1(-2.0 * self.half_width * inverse_scale))
        return from_above + from_below + torch.where(is_first | is_last, torch.zeros_like(width), width)

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Return nats `(B, ...)` per pixel, channels summed, of levels `x` `(B, C, ...)`."""
        logits, means, log_scales, coefficients = self.split(parameters)
        scaled = scale_levels(x, self.levels).unsqueeze(2)  # (B, C, 1, ...)
        values, shared = scaled.unbind(1), coefficients.unbind(1)
        locations = [
            self.location(mean, shared, values[:channel]) for channel, mean in enumerate(means.unbind(1))
        ]
        # One image may be scored under the parameters of many, or the reverse.
        stacked = torch.stack(torch.broadcast_tensors(*locations), dim=1)
        total = F.log_softmax(logits, dim=1)
        for mass in self.log_mass(scaled, stacked, log_scales).unbind(1):
            total = total + mass
        return torch.logsumexp(total, dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected levels `(B, C, ...)`; in RGB, later channels are approximate.

        A later channel is conditioned on the component means of the earlier ones, not on their levels. This
        is close if the logistics are at least about a level wide and the linear dependence stays within the
        range.
        """
        logits, means, log_scales, coefficients = self.split(parameters)
        weights = torch.softmax(logits, dim=1)
        values = torch.arange(self.levels, dtype=parameters.dtype, device=parameters.device)
        grid = scale_levels(values, self.levels)
        shared = coefficients.unbind(1)
        expected: list[Tensor] = []
        for mean, log_scale in zip(means.unbind(1), log_scales.unbind(1), strict=True):
            location = self.location(mean, shared, expected)
            each = torch.zeros_like(location)
            for value in grid:
                mass = self.log_mass(value.expand_as(location), location, log_scale).exp()
                each = each + mass * value
            expected.append(each)
        scaled = torch.stack([(weights * each).sum(1) for each in expected], dim=1)
        return (scaled + 1.0) * (0.5 * (self.levels - 1))

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the levels `(B, C, ...)` sampled with `uniforms` `(B, self.uniforms, ...)` in [0, 1).

        The components' logits are divided by `temperature`, and their scales are multiplied by it.
        """
        k = self.mixtures
        bounds = torch.softmax(_tempered(parameters[:, :k], temperature), dim=1).cumsum(1)[:, :-1]
        chosen = (uniforms[:, :1] >= bounds).sum(1, keepdim=True)  # (B, 1, ...), component index
        tables = parameters[:, k:].unflatten(1, (-1, k))  # (B, 2 * C + coefficients, K, ...)
        index = chosen.unsqueeze(1).expand(-1, tables.shape[1], *[-1] * (chosen.dim() - 1))
        means, log_scales, coefficients = self._components(tables.gather(2, index).squeeze(2))
        points = torch.add(means, log_scales.exp() * torch.logit(uniforms[:, 1:]), alpha=temperature)
        # In units of levels: the coefficients multiply distances from the middle of the range.
        half = 0.5 * (self.levels - 1)
        points = points * half + (half + 0.5)
        shared = coefficients.unbind(1)
        found: list[Tensor] = []
        centred: list[Tensor] = []
        for mean in points.unbind(1):
            if found:
                centred.append(found[-1] - half)
            point = self.location(mean, shared, centred)
            found.append(torch.floor(point).clamp(0, self.levels - 1))
        return torch.stack(found, dim=1)

    def initial_bias(self) -> Tensor:
        """Return the initial parameters `(self.parameters,)` of an untrained decoder."""
        bias, k, c = torch.zeros(self.parameters), self.mixtures, self.channels
        bias[k : k + c * k] = torch.linspace(-1.0, 1.0, k + 2)[1:-1].repeat(c)
        bias[k + c * k : k + 2 * c * k] = -1.5
        return bias


Likelihood = Bernoulli | LogisticMixture


def make_likelihood(config: ModelConfig) -> Likelihood:
    """Return the likelihood that `config` names."""
    if config.likelihood == "bernoulli":
        return Bernoulli(config.channels)
    return LogisticMixture(config.channels, config.levels, config.mixtures)


@dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian over latents of a stochastic layer.

    Args:
        mean: Means, `(B, ...)`.
        scale: Standard deviations, same shape.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def from_head(cls, raw: Tensor, *, bounded: bool = False) -> "Gaussian":
        """Return the Gaussian whose means and raw scales are the two halves of dimension 1.

        Scales are the softplus of shifted raw scales, plus `SMALLEST_SCALE`. With `bounded`, raw scales are
        log-scales, and means and log-scales are bounded by tanh: with huge means and tiny scales, rounding
        would lose all digits of the difference of two means. The result is float32 or wider: in bfloat16,
        the KL divergence of close Gaussians would be noise.
        """
        mean, scale = to_float32_or_wider(raw).chunk(2, dim=1)
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
        """Return `mean + scale * noise * temperature` for standard normal `noise`."""
        return self.mean + self.scale * noise * temperature

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of `z` in nats, summed over latents: `(B,)`."""
        standardised = (z - self.mean) / self.scale
        each = -0.5 * standardised.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def log_ratio(self, other: "Gaussian", noise: Tensor) -> Tensor:
        """Return `log other(z) - log self(z)` of every entry, nats `(B, ...)`, for `z = self.sample(noise)`.

        Both densities are computed from `noise` and the difference of the means, not from `z`: in float32,
        latents near 16,000 are rounded to steps of about 0.001, and densities of the rounded `z` would differ
        from those of the drawn one.
        """
        ratio = self.scale / other.scale
        standardised = (self.mean - other.mean) / other.scale + ratio * noise
        return 0.5 * (noise.square() - standardised.square()) + ratio.log()

    def kl(self, other: "Gaussian") -> Tensor:
        """Return KL(self || other) in nats, summed over latents: `(B,)`."""
        return self.kl_each(other).flatten(1).sum(1)

    def kl_each(self, other: "Gaussian") -> Tensor:
        """Return KL(self || other) of each latent, in nats: `(B, ...)`."""
        ratio = self.scale / other.scale
        shift = (self.mean - other.mean) / other.scale
        return 0.5 * (ratio.square() + shift.square() - 1.0) - ratio.log()
