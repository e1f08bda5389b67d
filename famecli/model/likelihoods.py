"""Probability mass functions of pixels: log_prob, mean and sample of one and the same function.

Dimension 1 holds channels or parameters, dimensions after it are positions, none or many. Images are integer
levels 0 to levels - 1 held in floats; networks see them through `scale_levels`.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from famecli.config.schema import ModelConfig

SMALLEST_LOG_SCALE = -7.0
# From about 86 on, gradients and then masses are no longer finite in single precision.
LARGEST_LOG_SCALE = 40.0


def scale_levels(x: Tensor, levels: int) -> Tensor:
    """Return levels 0 to `levels - 1` mapped to [-1, 1]."""
    return x * (2.0 / (levels - 1)) - 1.0


class Likelihood(Protocol):
    """What a decoder's outputs mean.

    Attributes:
        parameters: Feature maps of parameters per pixel.
        uniforms: Uniform random numbers that sampling a pixel takes.
    """

    parameters: int
    uniforms: int

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Return nats `(B, ...)` per pixel, channels summed, of levels `x` `(B, C, ...)`."""
        ...

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected levels `(B, C, ...)`."""
        ...

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the levels `(B, C, ...)` that `uniforms` `(B, self.uniforms, ...)` in [0, 1) stand for."""
        ...

    def initial_bias(self) -> Tensor:
        """Return the parameters `(self.parameters,)` that an untrained decoder should start at."""
        ...


class Bernoulli:
    """Independent bits given one logit each.

    Args:
        channels: Channels per pixel.
    """

    def __init__(self, channels: int) -> None:
        self.parameters = channels
        self.uniforms = channels

    def log_prob(self, x: Tensor, parameters: Tensor) -> Tensor:
        return F.logsigmoid(parameters * (2.0 * x - 1.0)).sum(1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters)

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        return (uniforms < torch.sigmoid(parameters / temperature)).to(parameters.dtype)

    def initial_bias(self) -> Tensor:
        return torch.zeros(self.parameters)


class LogisticMixture:
    """Discretized mixture of logistics; later channels depend linearly on earlier ones within a component.

    A level holds the mass of the logistic between the midpoints to its neighbours; the first and the last
    reach to infinity, so the masses of all levels sum to 1 exactly.

    Args:
        channels: Channels per pixel, 1 or 3.
        levels: Values of a channel.
        mixtures: Components.

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
        k, c = self.mixtures, self.channels
        logits, means, log_scales, coefficients = parameters.split(
            [k, c * k, c * k, self.coefficients * k], dim=1
        )
        log_scales = log_scales.unflatten(1, (c, k)).clamp(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)
        # Not unflatten: it refuses the zero coefficients of a grey image.
        table = coefficients.reshape(parameters.shape[0], self.coefficients, k, *parameters.shape[2:])
        return logits, means.unflatten(1, (c, k)), log_scales, torch.tanh(table)

    def location(self, means: Tensor, coefficients: Tensor, channel: int, earlier: list[Tensor]) -> Tensor:
        """Return the components' locations `(B, K, ...)` of `channel` given the scaled earlier channels."""
        location = means[:, channel]
        first = channel * (channel - 1) // 2
        for index, value in enumerate(earlier):
            location = location + coefficients[:, first + index] * value
        return location

    def log_mass(self, x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """Return the log-mass in nats of the level at scaled `x` under each logistic; all broadcast.

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
        logits, means, log_scales, coefficients = self.split(parameters)
        scaled = scale_levels(x, self.levels).unsqueeze(2)  # (B, C, 1, ...)
        total = F.log_softmax(logits, dim=1)
        for channel in range(self.channels):
            earlier = [scaled[:, index] for index in range(channel)]
            location = self.location(means, coefficients, channel, earlier)
            total = total + self.log_mass(scaled[:, channel], location, log_scales[:, channel])
        return torch.logsumexp(total, dim=1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the expected levels; for RGB, later channels take the component means of earlier ones.

        That is exact for the first channel. For the others it is close if logistics are about as wide as a
        level or wider, and the linear dependence does not meet the ends of the range.
        """
        logits, means, log_scales, coefficients = self.split(parameters)
        weights = torch.softmax(logits, dim=1)
        values = torch.arange(self.levels, dtype=parameters.dtype, device=parameters.device)
        grid = scale_levels(values, self.levels)
        expected: list[Tensor] = []
        for channel in range(self.channels):
            location = self.location(means, coefficients, channel, expected)
            each = torch.zeros_like(location)
            for value in grid:
                mass = self.log_mass(value.expand_as(location), location, log_scales[:, channel]).exp()
                each = each + mass * value
            expected.append(each)
        scaled = torch.stack([(weights * each).sum(1) for each in expected], dim=1)
        return (scaled + 1.0) * (0.5 * (self.levels - 1))

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        logits, means, log_scales, coefficients = self.split(parameters)
        bounds = torch.softmax(logits / temperature, dim=1).cumsum(1)[:, :-1]
        chosen = (uniforms[:, :1] >= bounds).sum(1, keepdim=True)  # (B, 1, ...), component index

        def pick(table: Tensor) -> Tensor:
            index = chosen.unsqueeze(1).expand(-1, table.shape[1], *[-1] * (chosen.dim() - 1))
            return table.gather(2, index)

        means, log_scales, coefficients = pick(means), pick(log_scales), pick(coefficients)
        scaled: list[Tensor] = []
        for channel in range(self.channels):
            location = self.location(means, coefficients, channel, scaled)[:, 0]
            u = uniforms[:, 1 + channel]
            point = location + log_scales[:, channel, 0].exp() * temperature * (u.log() - torch.log1p(-u))
            level = torch.floor((point + 1.0) * (0.5 * (self.levels - 1)) + 0.5).clamp(0, self.levels - 1)
            scaled.append(scale_levels(level, self.levels).unsqueeze(1))
        stacked = torch.cat(scaled, dim=1)
        return torch.round((stacked + 1.0) * (0.5 * (self.levels - 1)))

    def initial_bias(self) -> Tensor:
        bias = torch.zeros(self.parameters)
        spread = torch.linspace(-1.0, 1.0, self.mixtures + 2)[1:-1]
        k, c = self.mixtures, self.channels
        bias[k : k + c * k] = spread.repeat(c)
        bias[k + c * k : k + 2 * c * k] = -1.5
        return bias


def make_likelihood(config: ModelConfig) -> Likelihood:
    """Return the likelihood that `config` names."""
    if config.likelihood == "bernoulli":
        return Bernoulli(config.channels)
    return LogisticMixture(config.channels, config.levels, config.mixtures)
