"""All latents of an image as the one vector of standard normals that they are drawn with.

With e standard normal, z(e) is a draw from the start, which is q(z | x) or p(z): an invertible map, layer by
layer from the top down. The path from the start to the posterior, start(z) * weight(z)^power with weight =
p(x, z) / start(z), is in terms of e

    N(e; 0, 1) * weight(z(e))^power

so that no density of z and no volume is needed, and the start is a standard normal for every model.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.model.latents import Gaussian
from famecli.model.likelihoods import scale_levels
from famecli.nll.record import Start


class GivenNoise:
    """Standard normals that are given.

    Args:
        normals: Values of all stochastic layers, from the image upwards, each flattened: `(B, latents)`.
        shapes: Shapes of each layer's latents, without the batch.
    """

    def __init__(self, normals: Tensor, shapes: Sequence[Sequence[int]]) -> None:
        parts = normals.split([math.prod(shape) for shape in shapes], dim=1)
        self.layers: list[Tensor] = [
            part.unflatten(1, list(shape)) for part, shape in zip(parts, shapes, strict=True)
        ]

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        given = self.layers[layer]
        assert given.shape == shape
        return given


class LatentSpace:
    """The latents of some images, by their standard normals.

    Args:
        model: Model with latents.
        x: Levels of the images, `(B, C, H, W)`, on the model's device.
        start: Distribution that standard normals are mapped to: posterior or prior.
    """

    def __init__(self, model: Fame, x: Tensor, start: Start) -> None:
        self.model, self.x = model, x.to(model.device, model.dtype)
        self.shapes = latent_shapes(model)
        self.size = sum(math.prod(shape) for shape in self.shapes)
        self.features: list[Tensor] | None = None
        if start == "posterior":
            with torch.no_grad():
                self.features = model.bottom_up(scale_levels(self.x, model.config.levels))

    def log_weight(self, normals: Tensor) -> Tensor:
        """Return `log p(x, z) - log start(z)` in nats, `(B,)`, at the latents of `normals`, `(B, size)`."""
        noise = GivenNoise(normals, self.shapes)
        if self.features is not None:
            return self.model.terms(self.x, self.features, noise).log_weight
        condition = self.model.prior_condition(len(self.x), noise)
        return self.model.log_prob(self.x, condition).flatten(1).sum(1)

    def slope(self, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return `log_weight` and its gradient, `(B,)` and `(B, size)`."""
        with torch.enable_grad():
            at = normals.detach().requires_grad_()
            log_weight = self.log_weight(at)
            [gradient] = torch.autograd.grad(log_weight.sum(), at)
        return log_weight.detach(), gradient

    @torch.no_grad()
    def normals_of(self, latents: Sequence[Tensor]) -> Tensor:
        """Return the standard normals `(B, size)` of given latents, a tensor per layer from the image up."""

        def given(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            return latents[layer].to(prior.mean)

        _, draws = self.model.descend(self.features, given, len(self.x))
        starts = [(each.z, each.posterior or each.prior) for each in draws]
        return torch.cat([((z - start.mean) / start.scale).flatten(1) for z, start in starts], dim=1)


def latent_shapes(model: Fame) -> list[tuple[int, ...]]:
    """Return the shape of each stochastic layer's latents, from the image upwards, without the batch."""
    config = model.config
    return [
        (stage.latents,) if stage.dense else (stage.latents, *size)
        for stage, size in zip(config.stages, config.resolutions(), strict=True)
        if stage.latents
    ]
