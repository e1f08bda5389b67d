"""Images from seeds: an image depends on its seed alone, whatever batch it is drawn in."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.rng import ImageNoise, image_uniforms
from famecli.sampling.naive import sample_naive
from famecli.sampling.wavefront import CHUNK, LANES, WavefrontSampler

DecoderOutput = Literal["sample", "mean"]


class ImageDecoder:
    """Turns conditions into images; weights are read once, so make a new one when they change.

    Args:
        model: Any; without an autoregressive decoder an image takes one forward pass.
        temperature: Spread of each pixel's distribution; 1 is the model's own.
        decoder_output: Levels that are drawn, or for each pixel its expected level: given the latents, and in
            an autoregressive decoder given the earlier pixels of a drawn image.
        cached: Whether an autoregressive decoder is sampled in wavefronts; else by the slow reference.
    """

    def __init__(
        self,
        model: Fame,
        *,
        temperature: float = 1.0,
        decoder_output: DecoderOutput = "sample",
        cached: bool = True,
    ) -> None:
        self.model, self.temperature, self.decoder_output = model, temperature, decoder_output
        self.sampler: WavefrontSampler | None = None
        config = model.config
        if cached and config.decoder.autoregressive:
            self.sampler = WavefrontSampler(
                model.decoder, model.likelihood, config.levels, config.height, config.width
            )

    @torch.no_grad()
    def __call__(self, condition: Tensor | None, uniforms: Tensor) -> Tensor:
        """Return levels or their means, `(B, C, H, W)`.

        Args:
            condition: The latents' features `(B, condition, H, W)`; None for a model without latents.
            uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
        """
        weight = self.model.decoder.head2.weight
        parts = [weight.new_zeros(0, *self.model.config.image_shape)]
        for first in range(0, len(uniforms), CHUNK):
            part = slice(first, first + CHUNK)
            chunk = uniforms[part].to(weight)
            padded = padded_batch(len(chunk))
            seen = None if condition is None else pad(condition[part], padded)
            parts.append(self._decode(seen, pad(chunk, padded))[: len(chunk)])
        return torch.cat(parts)

    def _decode(self, condition: Tensor | None, uniforms: Tensor) -> Tensor:
        model, likelihood = self.model, self.model.likelihood
        x = uniforms.new_zeros(len(uniforms), *model.config.image_shape)
        if model.config.decoder.autoregressive:
            x = self._sample(condition, uniforms)
            if self.decoder_output == "sample":
                return x
        parameters = model.pixel_parameters(x, condition)
        if self.decoder_output == "mean":
            return likelihood.mean(parameters)
        return likelihood.sample(parameters, uniforms, self.temperature)

    def _sample(self, condition: Tensor | None, uniforms: Tensor) -> Tensor:
        if self.sampler is not None:
            return self.sampler.sample(condition, uniforms, self.temperature)
        model = self.model
        return sample_naive(
            model.decoder, model.likelihood, model.config.levels, condition, uniforms, self.temperature
        )


@torch.no_grad()
def generate(
    model: Fame,
    seeds: Sequence[int],
    *,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    decoder_output: DecoderOutput = "sample",
    cached: bool = True,
) -> np.ndarray:
    """Return one image per seed, `(len(seeds), C, H, W)`: levels as uint8, or expected levels as floats.

    Args:
        model: Any.
        seeds: One per image.
        temperature: Spread of each pixel's distribution.
        latent_temperature: Factor on the standard deviations of the priors.
        decoder_output: See `ImageDecoder`.
        cached: See `ImageDecoder`.
    """
    decoder = ImageDecoder(model, temperature=temperature, decoder_output=decoder_output, cached=cached)
    config = model.config
    dtype = np.uint8 if decoder_output == "sample" else np.float32
    images = np.zeros((len(seeds), *config.image_shape), dtype)
    for first in range(0, len(seeds), CHUNK):
        chunk = list(seeds[first : first + CHUNK])
        padded = padded_batch(len(chunk))
        # The latents' networks round by the batch size as well.
        names = [("sample", seed) for seed in chunk + chunk[-1:] * (padded - len(chunk))]
        condition = model.prior_condition(padded, ImageNoise(names, device=model.device), latent_temperature)
        uniforms = image_uniforms(names, (model.likelihood.uniforms, config.height, config.width))
        found = decoder(condition, uniforms.to(model.device))
        images[first : first + CHUNK] = found[: len(chunk)].cpu().numpy().astype(dtype)
    return images


def padded_batch(batch: int) -> int:
    """Return the number of images that `batch` of them are computed as, see `LANES`."""
    return -(-batch // LANES) * LANES


def pad(images: Tensor, batch: int) -> Tensor:
    """Return `images` with copies of the last one after it, `batch` in all."""
    return torch.cat([images, images[-1:].expand(batch - len(images), *images.shape[1:])])
