"""Models with a computable likelihood: two latents integrated on a grid, and a linear model."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.nll.hmc import LatentSpace, given_noise
from support.models import all_images, randomise, two_layer_config

EVERY = all_images(1, 2, 2)


def two_latents() -> Fame:
    """Return a float64 ladder of two layers with one latent each, under a PixelCNN of 2x2 bits.

    Images depend on the latents by 0.37 nats. A slightly wide posterior keeps the variance of the weights
    small in both directions of annealing; otherwise a thousand weights could not determine their mean.
    """
    model = randomise(Fame(two_layer_config(1)), seed=7, gain=0.8)
    with torch.no_grad():
        for stage in model.stages:
            stage.recognition.layer.bias[1:] += 0.4  # type: ignore[union-attr]
            stage.expand.layer.weight *= 2.0  # type: ignore[union-attr,operator]
        model.decoder.layers[0].condition.weight *= 6.0  # type: ignore[union-attr,operator]
    return model.requires_grad_(False)


def exact_nats(model: Fame) -> np.ndarray:
    """Return -log p(x) of `EVERY` image, `(16,)`, by the trapezoidal rule over both standard normals."""
    line = torch.linspace(-7.0, 7.0, 71, dtype=torch.float64)
    normals = torch.cartesian_prod(line, line)
    log_mass = -0.5 * normals.square().sum(1) - math.log(2 * math.pi) + 2 * math.log(float(line[1] - line[0]))
    condition = model.prior_condition(len(normals), given_noise(normals, ((1,), (1,))))
    nats = []
    for image in EVERY:
        log_px = model.log_prob(image.expand(len(normals), -1, -1, -1), condition).flatten(1).sum(1)
        nats.append(-(log_px + log_mass).logsumexp(0))
    return torch.stack(nats).numpy()


class LinearSpace(LatentSpace):
    """Stand-in for a model's latents: a pixel y has density N(y; SLOPE * e, NOISE^2) given its own normal e.

    So y has density N(0, SLOPE^2 + NOISE^2), and the posterior of e given y is Gaussian.
    """

    SLOPE, NOISE = 1.5, 1.2

    def __init__(self, model: Fame | None, x: Tensor, start: str, labels: Tensor | None = None) -> None:
        self.x = x
        self.size = x[0].numel()

    def log_weight(self, normals: Tensor) -> Tensor:
        return self._gaussian(self.x.flatten(1) - self.SLOPE * normals, self.NOISE)

    def exact(self) -> Tensor:
        """Return log p(y), `(B,)`."""
        return self._gaussian(self.x.flatten(1), math.hypot(self.SLOPE, self.NOISE))

    def posterior(self, power: float = 1.0) -> tuple[Tensor, float]:
        """Return mean `(B, size)` and standard deviation of N(e; 0, 1) * weight^power."""
        precision = 1.0 + power * (self.SLOPE / self.NOISE) ** 2
        return power * self.SLOPE / self.NOISE**2 / precision * self.x.flatten(1), precision**-0.5

    def normals_of(self, priors: Sequence[Tensor]) -> Tensor:
        return priors[0]

    @staticmethod
    def _gaussian(values: Tensor, scale: float) -> Tensor:
        return (-0.5 * (values / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)).sum(1)
