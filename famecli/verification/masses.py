"""Masses of single levels and channels, asked of the likelihood's own `log_prob`.

The mass of a pixel's first c channels is that of a likelihood of c channels with the same parameters. So the
mass of a channel given the earlier ones is a difference of two `log_prob`, and nothing is computed
a second way.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.model.likelihoods import Bernoulli, Likelihood, LogisticMixture, scale_levels

POSITIONS = 512


@dataclass(frozen=True)
class ChannelMasses:
    """Masses of one channel at some positions.

    Args:
        channel: Which.
        positions: Which, in the flattened order of `conditional_masses`.
        log_masses: Of every level given the earlier channels, nats, `(levels, n)`.
    """

    channel: int
    positions: slice
    log_masses: Tensor


def first_channels(likelihood: Likelihood, parameters: Tensor, channels: int) -> tuple[Likelihood, Tensor]:
    """Return the likelihood of a pixel's first `channels` alone, and its part of `(B, P, ...)`."""
    if isinstance(likelihood, Bernoulli):
        bits = copy.copy(likelihood)
        bits.parameters = bits.uniforms = channels
        return bits, parameters[:, :channels]
    assert isinstance(likelihood, LogisticMixture)
    mixture = copy.copy(likelihood)
    k, c = mixture.mixtures, mixture.channels
    mixture.channels, mixture.coefficients = channels, channels * (channels - 1) // 2
    mixture.parameters, mixture.uniforms = k * (1 + 2 * channels + mixture.coefficients), 1 + channels
    logits, means, scales, coefficients = parameters.split(
        [k, c * k, c * k, likelihood.coefficients * k], dim=1
    )
    parts = [logits, means[:, : channels * k], scales[:, : channels * k]]
    return mixture, torch.cat([*parts, coefficients[:, : mixture.coefficients * k]], dim=1)


def flat(images: Tensor) -> Tensor:
    """Return `(1, C, B * H * W)` of `(B, C, H, W)`: all positions of all images in a row."""
    return images.flatten(2).transpose(0, 1).flatten(1).unsqueeze(0)


def conditional_masses(
    likelihood: Likelihood, levels: int, x: Tensor, parameters: Tensor
) -> Iterator[ChannelMasses]:
    """Yield the masses of all levels of every channel given the earlier ones of `x`, at every position.

    Args:
        likelihood: What the parameters mean.
        levels: Values of a channel.
        x: Levels `(B, C, H, W)`.
        parameters: Theirs, `(B, P, H, W)`.
    """
    x, parameters = flat(x), flat(parameters)
    grid = torch.arange(levels, device=x.device).to(x).view(-1, 1)
    for here in _parts(x.shape[2]):
        earlier = torch.zeros_like(x[0, 0, here])
        for channel in range(x.shape[1]):
            part, own = first_channels(likelihood, parameters[:, :, here], channel + 1)
            every = x[:, : channel + 1, here].repeat(levels, 1, 1)
            every[:, channel] = grid
            yield ChannelMasses(channel, here, part.log_prob(every, own) - earlier)
            earlier = part.log_prob(x[:, : channel + 1, here], own)[0]


def off_quantile(
    likelihood: Likelihood, levels: int, x: Tensor, parameters: Tensor, uniforms: Tensor, margin: float
) -> int:
    """Return how many values of `x` are not the quantiles of the masses at `uniforms`.

    An image that is, at every pixel, the inverse distribution function of independent uniforms has the
    distribution with these masses. Where a uniform is within `margin` of a boundary, both sides are right.

    Args:
        likelihood: What the parameters mean.
        levels: Values of a channel.
        x: Levels `(B, C, H, W)`.
        parameters: Theirs, `(B, P, H, W)`, given the earlier pixels of `x`.
        uniforms: That `x` is said to have been drawn with, `(B, likelihood.uniforms, H, W)`.
        margin: In terms of the uniforms.
    """
    u, values = flat(uniforms.to(x)), flat(x)
    if isinstance(likelihood, Bernoulli):
        masses = conditional_masses(likelihood, levels, x, parameters)
        return sum(_wrong_bits(values, u, each, margin) for each in masses)
    assert isinstance(likelihood, LogisticMixture)
    p = flat(parameters)
    return sum(
        _wrong_levels(likelihood, values[:, :, here], p[:, :, here], u[:, :, here], margin)
        for here in _parts(values.shape[2])
    )


def _parts(positions: int) -> Iterator[slice]:
    """Yield parts of so many positions, for which all levels are in memory at once."""
    for first in range(0, positions, POSITIONS):
        yield slice(first, min(first + POSITIONS, positions))


def _wrong_bits(x: Tensor, u: Tensor, masses: ChannelMasses, margin: float) -> int:
    """Count bits that are not 1 just where the uniform is below the mass of 1."""
    here, chance = (0, masses.channel, masses.positions), masses.log_masses[1].exp()
    right = torch.where(x[here] > 0, u[here] - margin < chance, u[here] + margin >= chance)
    return int(right.logical_not().sum())


def _wrong_levels(mixture: LogisticMixture, x: Tensor, parameters: Tensor, u: Tensor, margin: float) -> int:
    """Count levels that are not the quantiles of the component that the first uniform chooses."""
    logits, means, log_scales, coefficients = mixture.split(parameters)
    bounds = torch.softmax(logits, dim=1).cumsum(1)[:, :-1]
    chosen, other = ((u[:, :1] + shift >= bounds).sum(1, keepdim=True) for shift in (-margin, margin))
    known = (chosen == other)[0, 0]  # (n,); with two candidates for the component nothing is said

    def pick(table: Tensor) -> Tensor:
        return table.gather(2, chosen.unsqueeze(1).expand(-1, table.shape[1], -1, -1))

    means, log_scales, coefficients = pick(means), pick(log_scales), pick(coefficients)
    scaled = scale_levels(x, mixture.levels)
    grid = scale_levels(torch.arange(mixture.levels, device=x.device).to(x), mixture.levels)
    wrong = 0
    for channel in range(mixture.channels):
        earlier = [scaled[:, index : index + 1] for index in range(channel)]
        location = mixture.location(means, coefficients, channel, earlier)[0]  # (1, n)
        mass = mixture.log_mass(grid[:, None], location, log_scales[0, channel]).exp()
        reached = mass.cumsum(0)[:-1]
        lowest, highest = ((reached <= u[0, 1 + channel] + shift).sum(0) for shift in (-margin, margin))
        wrong += int((((x[0, channel] < lowest) | (x[0, channel] > highest)) & known).sum())
    return wrong
