"""Images from seeds: an image depends on its seed alone, whatever batch it is drawn in."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from famecli.memory import Pieces
from famecli.model.fame import Fame
from famecli.rng import ImageNoise, image_uniforms
from famecli.runtime.distributed import ALONE, Group
from famecli.sampling.naive import sample_naive
from famecli.sampling.sampler import CHUNK, LANES, Sampler, padded_batch
from famecli.sampling.workspace import uniforms_type

DecoderOutput = Literal["sample", "mean"]


class ImageDecoder:
    """Turns conditions into images; weights are read once, so make a new one when they change.

    Args:
        model: Model; without an autoregressive decoder an image takes one forward pass.
        temperature: Spread of each pixel's distribution; 1 is the model's own.
        decoder_output: Levels that are drawn, or for each pixel its expected level: given the latents, and in
            an autoregressive decoder given the earlier pixels of a drawn image.
        cached: Whether an autoregressive decoder is sampled in wavefronts; else by the slow reference.
        chunk: Images computed at once, a multiple of `LANES`; the result does not depend on it.
    """

    def __init__(
        self,
        model: Fame,
        *,
        temperature: float = 1.0,
        decoder_output: DecoderOutput = "sample",
        cached: bool = True,
        chunk: int = CHUNK,
    ) -> None:
        self.chunk = chunk
        self.model, self.temperature, self.decoder_output = model, temperature, decoder_output
        self.sampler: Sampler | None = None
        if cached or not model.config.decoder.autoregressive:
            self.sampler = Sampler(model.decoder, model.likelihood, model.config.levels, chunk)

    @torch.no_grad()
    def __call__(
        self,
        condition: Tensor | None,
        uniforms: Tensor,
        known: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return levels or their means, `(B, C, H, W)`.

        Args:
            condition: The latents' features `(B, condition, rows, columns)`, or of more images, of which
                those beyond the uniforms' are left out; None for a model without latents.
            uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
            known: Levels of pixels that are given, `(B, C, H, W)`.
            mask: True where a pixel is given, `(B, 1, H, W)`; both or none.
        """
        precise = uniforms_type(self.model.dtype)
        inputs = (condition, uniforms.to(self.model.device, precise), known, mask)
        shape, device = self.model.config.image_shape, self.model.device
        parts = [torch.zeros(0, *shape, dtype=self.model.dtype, device=device)]
        for first in range(0, len(uniforms), self.chunk):
            last = min(first + self.chunk, len(uniforms))
            chunk = [None if each is None else each[first:last] for each in inputs]
            parts.append(self._decode(*chunk))  # type: ignore[arg-type]
        return torch.cat(parts)

    def _decode(
        self, condition: Tensor | None, uniforms: Tensor, known: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        model = self.model
        condition = None if condition is None else condition.to(model.device, model.dtype)
        x = self._sample(condition, uniforms, known, mask)
        if self.decoder_output == "sample":
            return x
        parameters = model.pixel_parameters(padded(x), padded(condition)).to(uniforms.dtype)
        found = model.likelihood.mean(parameters)[: len(uniforms)]
        return found if known is None or mask is None else torch.where(mask, known.to(found), found)

    def _sample(
        self, condition: Tensor | None, uniforms: Tensor, known: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        if self.sampler is not None:
            return self.sampler.sample(condition, uniforms, self.temperature, known=known, mask=mask)
        model = self.model
        found = sample_naive(
            model.decoder,
            model.likelihood,
            model.config.levels,
            padded(condition),
            padded(uniforms),
            self.temperature,
            known=padded(known),
            mask=padded(mask),
        )
        return found[: len(uniforms)]


def generate_batches(
    model: Fame,
    seeds: Sequence[int],
    *,
    batch_size: int = CHUNK,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    decoder_output: DecoderOutput = "sample",
    cached: bool = True,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> Iterator[np.ndarray]:
    """Yield one image per seed in batches, `(n, C, H, W)`: levels as uint8, or expected levels as floats.

    Args:
        model: Any.
        seeds: One per image.
        batch_size: Images computed at once, rounded up to a multiple of `LANES`; they do not depend on it.
            Where memory does not suffice, batches are computed in smaller pieces.
        temperature: Spread of each pixel's distribution.
        latent_temperature: Factor on the standard deviations of the priors.
        decoder_output: See `ImageDecoder`.
        cached: See `ImageDecoder`.
        group: Processes that share the batches; each gets all images.
        report: Told in one line that memory ran out.
    """
    chunk = padded_batch(batch_size)
    pieces = Pieces(chunk, LANES, report)
    decoders: list[ImageDecoder] = []

    def draw(chosen: Sequence[int]) -> np.ndarray:
        # One that memory was too small for goes before the next one comes.
        if not decoders or decoders[0].chunk != pieces.size:
            decoders.clear()
            decoders.append(
                ImageDecoder(
                    model,
                    temperature=temperature,
                    decoder_output=decoder_output,
                    cached=cached,
                    chunk=pieces.size,
                )
            )
        return _draw(decoders[0], chosen, latent_temperature)

    def draw_batch(chosen: Sequence[int]) -> np.ndarray:
        return np.concatenate(list(pieces.over(len(chosen), lambda rows: draw(chosen[rows]))))

    batches = [seeds[first : first + chunk] for first in range(0, len(seeds), chunk)]
    return group.in_turn(batches, draw_batch)


@torch.no_grad()
def _draw(decoder: ImageDecoder, seeds: Sequence[int], latent_temperature: float) -> np.ndarray:
    """Return the images of some seeds, computed at once."""
    model, batch = decoder.model, padded_batch(len(seeds))
    # Networks round by the batch size.
    names = [("sample", seed) for seed in [*seeds, *[seeds[-1]] * (batch - len(seeds))]]
    condition = model.prior_condition(batch, ImageNoise(names, device=model.device), latent_temperature)
    images = decoder(condition, image_uniforms(names[: len(seeds)], model.uniforms_shape))
    return images.float().cpu().numpy().astype(np.uint8 if decoder.decoder_output == "sample" else np.float32)


def generate(
    model: Fame,
    seeds: Sequence[int],
    *,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    decoder_output: DecoderOutput = "sample",
    cached: bool = True,
) -> np.ndarray:
    """Return the images of `generate_batches` in one array, `(len(seeds), C, H, W)`."""
    batches = generate_batches(
        model,
        seeds,
        temperature=temperature,
        latent_temperature=latent_temperature,
        decoder_output=decoder_output,
        cached=cached,
    )
    dtype = np.uint8 if decoder_output == "sample" else np.float32
    return np.concatenate([np.zeros((0, *model.config.image_shape), dtype), *batches])


@overload
def padded(images: Tensor) -> Tensor: ...
@overload
def padded(images: None) -> None: ...
def padded(images: Tensor | None) -> Tensor | None:
    """Return `images`, if any, as the batch that networks compute them as."""
    return None if images is None else pad(images, padded_batch(len(images)))


def pad(images: Tensor, batch: int) -> Tensor:
    """Return `images` with copies of the last one after it, `batch` in all."""
    return torch.cat([images, images[-1:].expand(batch - len(images), *images.shape[1:])])
