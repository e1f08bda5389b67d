"""Hamiltonian Monte Carlo on the path between a standard normal and a posterior, for many chains at once.

Source: Neal, MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 3.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from famecli.nll.latents import LatentSpace
from famecli.rng import ImageNoise, stream

AIM = 0.65
# Factor on the logarithm of a step, for each unit that acceptance is off its aim.
ADAPTATION = 0.3


class ChainNoise:
    """Random numbers of chains, each from a stream of its own, independent of the batch.

    Args:
        names: One stream name per chain.
        size: Number of latents of a chain.
        like: Tensor with the type and device of the latents.
    """

    def __init__(self, names: Sequence[tuple[str | int, ...]], size: int, like: Tensor) -> None:
        self.normals = ImageNoise([(*name, "normals") for name in names], device=like.device)
        self.accepts = [stream(*name, "accept") for name in names]
        self.shape, self.like = torch.Size((len(names), size)), like

    def normal(self) -> Tensor:
        """Return the next standard normals, `(chains, size)`."""
        return self.normals.normal(0, self.shape).to(self.like)

    def log_uniform(self) -> Tensor:
        """Return the logarithms of the next uniforms, `(chains,)`, float64, on the CPU."""
        return torch.from_numpy(np.log1p([-generator.random() for generator in self.accepts]))


class Chains:
    """The states of chains.

    Args:
        space: Latents, one row per chain.
        at: Positions of the chains, in standard normals, `(chains, size)`.
        noise: Random numbers of the chains.
    """

    def __init__(self, space: LatentSpace, at: Tensor, noise: ChainNoise) -> None:
        self.space, self.at, self.noise = space, at, noise
        self.log_weight, self.gradient = space.slope(at)

    def move(self, power: float, step: Tensor, leapfrog: int) -> Tensor:
        """Make one transition, which leaves N(e; 0, 1) * weight^power as it is; return chances of acceptance.

        Args:
            power: Inverse temperature.
            step: Length of a leapfrog step of each chain, `(chains,)`; must not depend on its state.
            leapfrog: Number of leapfrog steps.

        Returns:
            `(chains,)`, float64, on the CPU.
        """
        step = step.to(self.at).unsqueeze(1)
        start = self.noise.normal()
        at, log_weight, gradient = self.at, self.log_weight, self.gradient
        momentum = start + 0.5 * step * (power * gradient - at)
        for number in range(leapfrog):
            at = at + step * momentum
            log_weight, gradient = self.space.slope(at)
            whole = 1.0 if number + 1 < leapfrog else 0.5
            momentum = momentum + whole * step * (power * gradient - at)
        before = _log_density(self.at, self.log_weight, start, power)
        log_ratio = (_log_density(at, log_weight, momentum, power) - before).cpu().double()
        self._take(accepted(log_ratio, self.noise.log_uniform()), at, log_weight, gradient)
        return log_ratio.clamp(max=0.0).exp().nan_to_num(0.0)

    def _take(self, chosen: Tensor, at: Tensor, log_weight: Tensor, gradient: Tensor) -> None:
        """Take the new states of the chains where `chosen`, `(chains,)`, is true."""
        chosen = chosen.to(at.device)
        self.log_weight = torch.where(chosen, log_weight, self.log_weight)
        self.at = torch.where(chosen.unsqueeze(1), at, self.at)
        self.gradient = torch.where(chosen.unsqueeze(1), gradient, self.gradient)


def accepted(log_ratio: Tensor, log_uniform: Tensor) -> Tensor:
    """Return which proposals the rule of Metropolis takes; never one whose density is not a number."""
    return log_uniform < log_ratio


def _log_density(at: Tensor, log_weight: Tensor, momentum: Tensor, power: float) -> Tensor:
    return power * log_weight - 0.5 * (at.square().sum(1) + momentum.square().sum(1))


def longest_step(leapfrog: int) -> float:
    """Return the longest leapfrog step: with it a transition turns a standard normal by a quarter.

    There, a new state owes nothing to the old one, and anything longer goes back towards it.
    """
    return 0.5 * math.pi / leapfrog


def find_steps(
    space: LatentSpace, names: Sequence[tuple[str | int, ...]], powers: Sequence[float], leapfrog: int
) -> Tensor:
    """Return the length of a leapfrog step at each power, by chains that are used for nothing else.

    Args:
        space: The latents, one row per image.
        names: The streams of these chains; with those of other chains, steps would depend on their states.
        powers: Inverse temperatures, rising.
        leapfrog: Steps of a transition.

    Returns:
        `(images, len(powers))`, float64, on the CPU, at most `longest_step`.
    """
    noise = ChainNoise(names, space.size, space.x)
    chains = Chains(space, noise.normal(), noise)
    step = torch.full((len(names),), longest_step(leapfrog), dtype=torch.float64)
    found = []
    for power in powers:
        chance = chains.move(power, step, leapfrog)
        step = (step * torch.exp(ADAPTATION * (chance - AIM))).clamp(max=longest_step(leapfrog))
        found.append(step)
    return torch.stack(found, dim=1)
