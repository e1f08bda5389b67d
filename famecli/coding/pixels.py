"""Pixels as binary decisions, given the parameters of their likelihood."""

from itertools import pairwise

import torch
from torch import Tensor

from famecli.coding.stack import Decide, walk
from famecli.model.likelihoods import Bernoulli, Likelihood, LogisticMixture, scale_levels


def code_pixels(
    likelihood: Likelihood, parameters: Tensor, decide: Decide, known: Tensor | None = None
) -> Tensor:
    """Return the levels `(B, C, n)`, int64, that decisions lead to.

    Who encodes and who decodes call this with tensors of the same shapes, so that both compute the very same
    chances.

    Args:
        likelihood: What the parameters mean.
        parameters: Of `n` pixels, `(B, P, n)`, float64, on the CPU, contiguous.
        decide: Where decisions go to or come from.
        known: The levels, `(B, C, n)`, int64, if they are.
    """
    if isinstance(likelihood, Bernoulli):
        return decide(torch.sigmoid(parameters), known)
    assert isinstance(likelihood, LogisticMixture)
    return _code_mixture(likelihood, parameters, decide, known)


def _code_mixture(
    mixture: LogisticMixture, parameters: Tensor, decide: Decide, known: Tensor | None
) -> Tensor:
    """Code channel after channel; the weights of the components follow the channels that are known."""
    logits, means, log_scales, coefficients = mixture.split(parameters)
    log_weights = torch.log_softmax(logits, dim=1)  # (B, K, n)
    found: list[Tensor] = []
    scaled: list[Tensor] = []
    for channel in range(mixture.channels):
        location = mixture.location(means, coefficients, channel, scaled)
        split = _Mass(torch.softmax(log_weights, dim=1), location, log_scales[:, channel], mixture.levels)
        wanted = None if known is None else known[:, channel]
        shape = torch.Size((len(location), *location.shape[2:]))
        level = walk(shape, (mixture.levels - 1).bit_length(), split, decide, wanted)
        # A damaged file may lead beyond the levels that there are.
        level = level.clamp(max=mixture.levels - 1)
        x = scale_levels(level.double(), mixture.levels).unsqueeze(1)  # (B, 1, n)
        log_weights = log_weights + mixture.log_mass(x, location, log_scales[:, channel])
        found.append(level)
        scaled.append(x)
    return torch.stack(found, dim=1)


class _Mass:
    """Splits intervals of levels by their mass under a mixture of logistics.

    Args:
        weights: Of the components, `(B, K, n)`.
        location: Theirs, of the same shape.
        log_scale: Theirs, likewise.
        levels: Values that a channel can take.
    """

    def __init__(self, weights: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> None:
        self.weights, self.location, self.inverse_scale = weights, location, torch.exp(-log_scale)
        # Where levels begin, in [-1, 1]; the first reaches to minus infinity, the last to infinity.
        starts = scale_levels(torch.arange((1 << (levels - 1).bit_length()) + 1).double() - 0.5, levels)
        starts[0], starts[levels:] = -torch.inf, torch.inf
        self.starts = starts

    def _standardised(self, level: Tensor) -> Tensor:
        return (self.starts[level].unsqueeze(1) - self.location) * self.inverse_scale

    def __call__(self, lowest: Tensor, half: int) -> Tensor:
        ends = [self._standardised(lowest + step * half) for step in range(3)]
        lower, upper = (
            # sigmoid(b) - sigmoid(a), stable everywhere: see `LogisticMixture.log_mass`.
            (self.weights * torch.sigmoid(b) * torch.sigmoid(-a) * -torch.expm1(a - b)).sum(1)
            for a, b in pairwise(ends)
        )
        # Between infinity and infinity there is nothing, which is no number above.
        return torch.where(torch.isinf(self.starts[lowest + half]), 0.0, upper / (lower + upper))
