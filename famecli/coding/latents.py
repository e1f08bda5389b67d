"""Latents as symbols: bins of equal prior mass, each latent the middle of its bin.

Source: arXiv:1901.04866, section 2.5.1 (bins of equal mass under the prior).
Differs: the number of bins is chosen for each map of each layer; where a map tells nothing it is 1, and the
latent is the prior's median.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from famecli.coding.stack import Decide, Stack, walk
from famecli.model.latents import Gaussian

MOST_BITS = 16


class Bins:
    """The bins of a stochastic layer.

    Args:
        bits: Of each map, 0 to `MOST_BITS`: a latent of the map has `2**bits` bins.

    Shape: distributions are `(B, maps, ...)`, symbols alike, int64, on the CPU.
    """

    def __init__(self, bits: Sequence[int]) -> None:
        self.maps = len(bits)
        # Maps with as many bins are coded together; those with one bin cost nothing.
        self.groups = [
            (each, [place for place, found in enumerate(bits) if found == each])
            for each in sorted(set(bits))
            if each
        ]

    def decisions(self, shape: Sequence[int]) -> int:
        """Return how many decisions latents of `shape` take."""
        entries = torch.Size(shape).numel() // self.maps
        return sum(bits * len(maps) * entries for bits, maps in self.groups)

    def code(
        self, prior: Gaussian, posterior: Gaussian, decide: Decide, known: Tensor | None = None
    ) -> Tensor:
        """Return the symbols that decisions lead to, under the posterior.

        Args:
            prior: Whose mass the bins share equally.
            posterior: Which a symbol's chance comes from.
            decide: Where decisions go to or come from.
            known: The symbols, if they are.
        """
        symbols = torch.zeros(prior.mean.shape, dtype=torch.int64)
        ratio, shift = relative(prior, posterior)
        for bits, maps in self.groups:
            split = _Mass(ratio[:, maps], shift[:, maps], bits)
            wanted = None if known is None else known[:, maps]
            symbols[:, maps] = walk(split.ratio.shape, bits, split, decide, wanted)
        return symbols

    def nearest(self, prior: Gaussian, posterior: Gaussian, noise: Tensor) -> Tensor:
        """Return the symbols of the bins that draws from the posterior lie in, by their standard normals."""
        symbols = torch.zeros(prior.mean.shape, dtype=torch.int64)
        ratio, shift = relative(prior, posterior)
        mass = torch.special.ndtr((noise.double().cpu() - shift) / ratio)
        for bits, maps in self.groups:
            symbols[:, maps] = (mass[:, maps] * 2**bits).long().clamp(max=2**bits - 1)
        return symbols

    def push(self, stack: Stack, symbols: Tensor) -> None:
        """Push symbols under the prior, which finds them equally likely."""
        for bits, maps in reversed(self.groups):
            stack.push_uniform(symbols[:, maps].flatten().int().numpy(), bits)

    def pop(self, stack: Stack, shape: torch.Size) -> Tensor:
        """Return the symbols that `push` left."""
        symbols = torch.zeros(shape, dtype=torch.int64)
        for bits, maps in self.groups:
            part = symbols[:, maps]
            symbols[:, maps] = torch.from_numpy(stack.pop_uniform(part.numel(), bits)).view(part.shape).long()
        return symbols

    def points(self, symbols: Tensor, prior: Gaussian) -> Tensor:
        """Return the latents that symbols stand for, with the type and device of the prior."""
        standard = torch.zeros(symbols.shape, dtype=torch.float64)
        for bits, maps in self.groups:
            middles: Tensor = torch.special.ndtri((torch.arange(1 << bits).double() + 0.5) / (1 << bits))
            standard[:, maps] = middles[symbols[:, maps]]
        return prior.sample(standard.to(prior.mean))


def relative(prior: Gaussian, posterior: Gaussian) -> tuple[Tensor, Tensor]:
    """Return `r` and `s`, float64, on the CPU: the prior's quantile `q` is the posterior's `r * q + s`."""
    scale = posterior.scale.double()
    shift = (prior.mean.double() - posterior.mean.double()) / scale
    return (prior.scale.double() / scale).cpu(), shift.cpu()


class _Mass:
    """Splits intervals of bins by their mass under the posterior; see `relative` for `ratio` and `shift`."""

    def __init__(self, ratio: Tensor, shift: Tensor, bits: int) -> None:
        self.ratio, self.shift = ratio, shift
        self.edges: Tensor = torch.special.ndtri(torch.arange((1 << bits) + 1).double() / (1 << bits))

    def __call__(self, lowest: Tensor, half: int) -> Tensor:
        ends = [self.edges[lowest + step * half] * self.ratio + self.shift for step in range(3)]
        # In the upper tail the distribution function is 1: look at it from the other side.
        flip = torch.where(ends[1] > 0.0, -1.0, 1.0)
        below, middle, above = (torch.special.ndtr(end * flip) for end in ends)
        lower: Tensor = (middle - below).abs()
        upper: Tensor = (above - middle).abs()
        return upper / (lower + upper)
