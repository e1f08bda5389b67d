"""The model under test, in both precisions, and images of its own."""

import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.rng import ImageNoise, StreamName, stream, uniforms
from famecli.sampling.generate import generate

# Fewer images for mixtures, whose entropies are sums over all levels.
SAMPLES = {"bernoulli": 256, "logistic-mixture": 64}


class Subject:
    """A model under verification, never changed: checks that change its mode work on a copy.

    Args:
        model: Model in evaluation mode, on its device.
        seed: Seed of its samples and of all random numbers of the checks.
        samples: Number of images that the sampler's check draws; None for `SAMPLES`.
        images: Least number of images of every other check; None for the check's own number.
    """

    def __init__(
        self, model: Fame, seed: int = 0, samples: int | None = None, images: int | None = None
    ) -> None:
        self.model, self.seed = model, seed
        self.samples = samples or SAMPLES[model.config.likelihood]
        self.least_images = images or 1

    @cached_property
    def exact(self) -> Fame:
        """A copy in float64, where rounding is 1e-16; on the CPU if the device has no float64."""
        twin = copy.deepcopy(self.model)
        return (twin.cpu() if self.model.device.type == "mps" else twin).double()

    @cached_property
    def drawn(self) -> np.ndarray:
        """The model's own images, as `fame sample --seed` draws them: levels `(samples, C, H, W)`, uint8."""
        return generate(self.model, range(self.seed, self.seed + self.samples), self.drawn_labels)

    @property
    def drawn_labels(self) -> np.ndarray | None:
        """Classes of `drawn`, `(samples,)`; None for a model without classes."""
        labels = self.labels(self.model, self.samples)
        return None if labels is None else labels.cpu().numpy()

    def labels(self, model: Fame, count: int, first: int = 0) -> Tensor | None:
        """Return the classes of images of `drawn`, from index `first` on: all classes of `model` in turn."""
        if not model.config.classes:
            return None
        return torch.arange(first, first + count, device=model.device) % len(model.config.classes)

    def names(self, count: int, first: int = 0) -> list[StreamName]:
        """Return the names of the streams that images of `drawn`, from index `first` on, came from."""
        return [("sample", self.seed + first + index) for index in range(count)]

    def images(self, count: int) -> Tensor:
        """Return `count` images, float64: the model's own, and random levels if those are too few.

        The last image always has random levels, which a trained model hardly ever draws.
        """
        own = torch.from_numpy(self.drawn[: count - 1]).double()
        config = self.model.config
        random = uniforms(
            stream("verify", self.seed, "levels"), (count - len(own), *config.image_shape), torch.float64
        )
        return torch.cat([own, (random * config.levels).floor()]).to(self.exact.device)

    def prior_conditions(self, model: Fame, count: int, first: int = 0) -> Tensor | None:
        """Return the condition of `model`'s decoder for images of `drawn`, from index `first` on."""
        noise = ImageNoise(self.names(count, first), device=model.device)
        return model.prior_condition(count, noise, labels=self.labels(model, count, first))

    def posterior_noise(self, count: int) -> ImageNoise:
        """Return noise for the latents of `count` images by their index, the same for each call."""
        names: list[StreamName] = [("verify", self.seed, index) for index in range(count)]
        return ImageNoise(names, device=self.exact.device)
