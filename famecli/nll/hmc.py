"""Hamiltonian Monte Carlo in the latents of images, for many chains at once.

The latents z of an image are represented by a vector e of standard normals. An invertible map, layer by layer
from the top down, turns e into a draw z(e) from the start, q(z | x) or p(z). In terms of e, the path from the
start to the posterior, start(z) * weight(z)^power with weight = p(x, z) / start(z), is

    N(e; 0, 1) * weight(z(e))^power

So no density of z and no Jacobian is needed, and the start is a standard normal for every model.

Source: Neal, MCMC using Hamiltonian dynamics, arXiv:1206.1901, section 3.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from famecli.model.distributions import Gaussian, scale_levels
from famecli.model.fame import Fame
from famecli.nll.record import Start
from famecli.rng import ImageNoise, Noise, StreamName, stream

# Target of the acceptance probability.
AIM = 0.65
# Change of the log step size per unit of acceptance above the target.
ADAPTATION = 0.3


def given_noise(normals: Tensor, shapes: Sequence[Sequence[int]]) -> Noise:
    """Return noise that consists of given standard normals.

    Args:
        normals: Normals of all stochastic layers, from the image upwards, each flattened: `(B, latents)`.
        shapes: Shape of each layer's latents, without the batch.
    """
    parts = normals.split([math.prod(shape) for shape in shapes], dim=1)

    def normal(layer: int, shape: torch.Size) -> Tensor:
        given: Tensor = parts[layer].unflatten(1, list(shapes[layer]))
        assert given.shape == shape
        return given

    return normal


class LatentSpace:
    """Latents of images, represented by standard normals.

    Args:
        model: Model with latents.
        x: Levels of the images, `(B, C, H, W)`, on the model's device.
        start: Distribution at the start of the path.
        labels: Classes of the images, `(B,)`; None for a model without classes.
    """

    def __init__(self, model: Fame, x: Tensor, start: Start, labels: Tensor | None = None) -> None:
        self.model, self.x, self.labels = model, x.to(model.device, model.dtype), labels
        self.shapes = model.config.latent_shapes()
        self.size = sum(math.prod(shape) for shape in self.shapes)
        self.features: list[Tensor] | None = None
        if start == "posterior":
            with torch.no_grad():
                self.features = model.bottom_up(scale_levels(self.x, model.config.levels), labels)

    def log_weight(self, normals: Tensor) -> Tensor:
        """Return `log p(x, z) - log start(z)` in nats, `(B,)`, at the latents of `normals`, `(B, size)`."""
        noise = given_noise(normals, self.shapes)
        if self.features is not None:
            return self.model.terms(self.x, self.features, noise, self.labels).log_weight
        condition = self.model.prior_condition(len(self.x), noise, labels=self.labels)
        return self.model.log_prob(self.x, condition).flatten(1).sum(1)

    def slope(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log_weight` and its gradient, `(B,)` and `(B, size)`."""
        with torch.enable_grad():
            at = normals.detach().requires_grad_()
            log_weight = self.log_weight(at)
            [gradient] = torch.autograd.grad(log_weight.sum(), at)
        return log_weight.detach(), gradient

    @torch.no_grad()
    def normals_of(self, priors: Sequence[Tensor]) -> Tensor:
        """Return the standard normals `(B, size)` that represent latents drawn from the priors.

        Args:
            priors: Standard normals from which the priors drew, a tensor per layer from the image upwards.
        """

        def drawn(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            return prior.sample(priors[layer].to(prior.mean))

        found = []
        _, draws = self.model.descend(self.features, drawn, len(self.x), labels=self.labels)
        for draw, normals in zip(draws, priors, strict=True):
            start = draw.posterior or draw.prior
            # Not computed from `z`, which lacks digits: see `Gaussian.log_ratio`.
            shift = (draw.prior.mean - start.mean) / start.scale
            found.append((shift + draw.prior.scale / start.scale * normals.to(shift)).flatten(1))
        return torch.cat(found, dim=1)


class ChainNoise:
    """Random numbers of chains; each chain has its own stream, so they do not depend on the batch.

    Args:
        names: One stream name per chain.
        size: Number of latents of a chain.
        like: Tensor with the dtype and device of the latents.
    """

    def __init__(self, names: Sequence[StreamName], size: int, like: Tensor) -> None:
        self.normals = ImageNoise([(*name, "normals") for name in names], device=like.device)
        self.accepts = [stream(*name, "accept") for name in names]
        self.shape, self.like = torch.Size((len(names), size)), like

    def normal(self) -> Tensor:
        """Return the next standard normals, `(chains, size)`."""
        return self.normals(0, self.shape).to(self.like)

    def log_uniform(self) -> Tensor:
        """Return the logarithms of the next uniforms, `(chains,)`, float64, on the CPU."""
        return torch.from_numpy(np.log1p([-generator.random() for generator in self.accepts]))


class Chains:
    """States of Markov chains.

    Args:
        space: Latents, one row per chain.
        at: Positions of the chains in standard normals, `(chains, size)`.
        noise: Random numbers of the chains.
    """

    def __init__(self, space: LatentSpace, at: Tensor, noise: ChainNoise) -> None:
        self.space, self.at, self.noise = space, at, noise
        self.log_weight, self.gradient = space.slope(at)

    def move(self, power: float, step: Tensor, leapfrog: int) -> Tensor:
        """Make one transition, under which N(e; 0, 1) * weight^power is invariant.

        Args:
            power: Inverse temperature.
            step: Leapfrog step size of each chain, `(chains,)`; must not depend on its state.
            leapfrog: Number of leapfrog steps.

        Returns:
            Acceptance probabilities, `(chains,)`, float64, on the CPU.
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
        """Move the chains where `chosen`, `(chains,)`, is True to their new states."""
        chosen = chosen.to(at.device)
        self.log_weight = torch.where(chosen, log_weight, self.log_weight)
        self.at = torch.where(chosen.unsqueeze(1), at, self.at)
        self.gradient = torch.where(chosen.unsqueeze(1), gradient, self.gradient)


def accepted(log_ratio: Tensor, log_uniform: Tensor) -> Tensor:
    """Return which proposals the Metropolis rule accepts; never one with a density of NaN."""
    return log_uniform < log_ratio


def _log_density(at: Tensor, log_weight: Tensor, momentum: Tensor, power: float) -> Tensor:
    return power * log_weight - 0.5 * (at.square().sum(1) + momentum.square().sum(1))


def longest_step(leapfrog: int) -> float:
    """Return the largest leapfrog step size, with which a transition rotates a standard normal by 90 degrees.

    A new state is then independent of the old one; a longer transition would turn back towards it.
    """
    return 0.5 * math.pi / leapfrog


def find_steps(
    space: LatentSpace, names: Sequence[StreamName], powers: Sequence[float], leapfrog: int
) -> Tensor:
    """Return the leapfrog step size at each inverse temperature, tuned on separate chains.

    Args:
        space: Latents, one row per image.
        names: Stream names of the tuning chains, used by no other chains: else step sizes would depend on
            their states.
        powers: Inverse temperatures, rising.
        leapfrog: Number of leapfrog steps of a transition.

    Returns:
        Step sizes `(images, len(powers))`, float64, on the CPU, at most `longest_step`.
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
