"""Images from seeds, and completions of images; an image depends on its seed alone, not on its batch."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from famecli.errors import ArgumentError, NumericsError
from famecli.model.fame import Fame, labels_on
from famecli.rng import ImageNoise, image_uniforms
from famecli.runtime.distributed import ALONE, Group
from famecli.runtime.forks import fill, processes_on, shared
from famecli.runtime.memory import AdaptiveBatches
from famecli.sampling.execution import FEW_IMAGES, threads
from famecli.sampling.plan import wavefront_plan
from famecli.sampling.sampler import LANES, Sampler, chunk_on, padded_batch, sample_naive

DecoderOutput = Literal["sample", "mean"]
SWEEPS = 20


class ImageDecoder:
    """Decodes conditions to images; it reads the weights once, so make a new one when they change.

    Args:
        model: Model; without an autoregressive decoder an image takes one forward pass.
        temperature: Temperature of each pixel's distribution; 1 is the model's own.
        decoder_output: "sample" for sampled levels, "mean" for expected levels given the latents and, in an
            autoregressive decoder, the earlier pixels of a sample.
        cached: Whether an autoregressive decoder uses the wavefront sampler, not the slow reference.
        chunk: Number of images computed at once, a multiple of `LANES`; None for `chunk_on` the model's
            device. The result does not depend on it.
    """

    def __init__(
        self,
        model: Fame,
        *,
        temperature: float = 1.0,
        decoder_output: DecoderOutput = "sample",
        cached: bool = True,
        chunk: int | None = None,
    ) -> None:
        self.chunk = chunk_on(model.device) if chunk is None else chunk
        self.model, self.temperature, self.decoder_output = model, temperature, decoder_output
        self.sampler: Sampler | None = None
        if cached or not model.config.decoder.autoregressive:
            self.sampler = Sampler(model.decoder, model.likelihood, model.config.levels, self.chunk)

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
            condition: The latents' features `(B, condition, rows, columns)`; images beyond the first B are
                ignored. None for a model without latents.
            uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
            known: Levels of given pixels, `(B, C, H, W)`.
            mask: True where a pixel is given, `(B, 1, H, W)`; required with `known`.

        Raises:
            ValueError: There is a mask without known pixels, or the reverse.
            NumericsError: A condition or an image is not finite, or the parameters of its pixels are not.
                With sampled levels, parameters are checked for the first image of the last part only, or of
                every part where one process computes all parts.
        """
        model, shape = self.model, self.model.config.image_shape
        wide = torch.promote_types(model.dtype, torch.float32)
        inputs, images = (condition, uniforms.to(model.device, wide), known, mask), len(uniforms)
        processes = processes_on(model.device) if model.config.decoder.autoregressive else 1
        share = min(self.chunk, padded_batch(-(-images // processes)))
        parts = [slice(first, min(first + share, images)) for first in range(0, images, share)]

        def decode(rows: slice) -> Tensor:
            own = [None if each is None else each[rows] for each in inputs]
            return self._decode(*own, look=processes == 1 or rows == parts[-1])  # type: ignore[arg-type]

        if processes == 1 or len(parts) == 1:
            empty = torch.zeros(0, *shape, dtype=model.dtype, device=model.device)
            return torch.cat([empty, *map(decode, parts)])
        found = shared((images, *shape), wide if self.decoder_output == "mean" else model.dtype)
        for first in range(0, len(parts), processes):
            fill(found, parts[first : first + processes], decode)
        return found

    def _decode(
        self,
        condition: Tensor | None,
        uniforms: Tensor,
        known: Tensor | None,
        mask: Tensor | None,
        *,
        look: bool,
    ) -> Tensor:
        model = self.model
        condition = None if condition is None else condition.to(model.device, model.dtype)
        x = self._sample(condition, uniforms, known, mask)
        if self.decoder_output == "sample":
            _check_finite(condition, x)
            if look:
                # Parameters that are not finite can give levels that are.
                _check_finite(model.pixel_parameters(x[:1], None if condition is None else condition[:1]))
            return x
        whole = pad(x, padded_batch(len(x)))
        parameters = model.pixel_parameters(whole, padded(condition)).to(uniforms.dtype)
        found = model.likelihood.mean(parameters)[: len(uniforms)]
        _check_finite(condition, parameters, found)
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
            pad(uniforms, padded_batch(len(uniforms))),
            self.temperature,
            known=padded(known),
            mask=padded(mask),
        )
        return found[: len(uniforms)]


def _check_finite(*values: Tensor | None) -> None:
    """Raise a NumericsError unless an image and the values that it was computed from are finite."""
    if not all(bool(torch.isfinite(each).all()) for each in values if each is not None):
        raise NumericsError("images of the model are not finite: its weights are too large")


def generate_batches(
    model: Fame,
    seeds: Sequence[int],
    labels: np.ndarray | None = None,
    *,
    batch_size: int | None = None,
    temperature: float = 1.0,
    latent_temperature: float = 1.0,
    decoder_output: DecoderOutput = "sample",
    cached: bool = True,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> Iterator[np.ndarray]:
    """Yield one image per seed in batches, `(n, C, H, W)`: levels as uint8, or expected levels as floats.

    Args:
        model: Model on its device.
        seeds: One seed per image.
        labels: Class of each image, `(n,)`; None for a model without classes.
        batch_size: Number of images computed at once, rounded up to a multiple of `LANES`; None for
            `chunk_on` the model's device, times the processes on it. The result does not depend on it. If
            memory runs out, batches are computed in smaller pieces.
        temperature: Temperature of each pixel's distribution.
        latent_temperature: Factor on the standard deviations of the priors; 1 for a model without latents.
        decoder_output: See `ImageDecoder`.
        cached: See `ImageDecoder`.
        group: Processes that share the batches; each gets all images.
        report: Called with one line of text when memory runs out.

    Raises:
        ArgumentError: The model has classes and there are no labels, or the reverse.
        NumericsError: An image is not finite; see `ImageDecoder`.
    """
    if latent_temperature != 1.0 and not model.config.stochastic_layers:
        what = f"`latent_temperature={latent_temperature}`: the model has no latents"
        raise ArgumentError(what, "leave `latent_temperature` out")

    def draw(decoder: ImageDecoder, rows: slice) -> np.ndarray:
        return _draw(decoder, seeds[rows], latent_temperature, None if labels is None else labels[rows])

    return _map_batches(
        model,
        len(seeds),
        draw,
        partial(ImageDecoder, model, temperature=temperature, decoder_output=decoder_output, cached=cached),
        batch_size,
        group,
        report,
    )


def _map_batches(
    model: Fame,
    images: int,
    draw: Callable[[ImageDecoder, slice], np.ndarray],
    make_decoder: Callable[..., ImageDecoder],
    batch_size: int | None,
    group: Group,
    report: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """Yield images in batches.

    Args:
        model: Model on its device.
        images: Number of images.
        draw: Function from a decoder and a slice of images to the images.
        make_decoder: Function from `chunk` to a decoder.
        batch_size: See `generate_batches`.
        group: Processes that share the batches; each gets all images.
        report: Called with one line of text when memory runs out.
    """
    size = padded_batch(batch_size or chunk_on(model.device) * processes_on(model.device))
    pieces = AdaptiveBatches(size, LANES, report)
    decoders: list[ImageDecoder] = []

    def draw_piece(rows: slice) -> np.ndarray:
        # Free the decoder that ran out of memory before making a smaller one.
        if not decoders or decoders[0].chunk != pieces.size:
            decoders.clear()
            decoders.append(make_decoder(chunk=pieces.size))
        return draw(decoders[0], rows)

    return group.map_batches(images, size, draw_piece, pieces)


@torch.no_grad()
def _draw(
    decoder: ImageDecoder, seeds: Sequence[int], latent_temperature: float, labels: np.ndarray | None
) -> np.ndarray:
    """Return the images of some seeds, computed at once."""
    model, batch = decoder.model, padded_batch(len(seeds))
    # Padded, since networks round differently by batch size.
    names = [("sample", seed) for seed in [*seeds, *[seeds[-1]] * (batch - len(seeds))]]
    noise = ImageNoise(names, device=model.device)
    with threads(one=batch <= FEW_IMAGES):
        classes = padded(labels_on(model, labels))
        condition = model.prior_condition(batch, noise, latent_temperature, classes)
    images = decoder(condition, image_uniforms(names[: len(seeds)], model.uniforms_shape))
    return images.float().cpu().numpy().astype(np.uint8 if decoder.decoder_output == "sample" else np.float32)


def generate(
    model: Fame,
    seeds: Sequence[int],
    labels: np.ndarray | None = None,
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
        labels,
        temperature=temperature,
        latent_temperature=latent_temperature,
        decoder_output=decoder_output,
        cached=cached,
    )
    dtype = np.uint8 if decoder_output == "sample" else np.float32
    return np.concatenate([np.zeros((0, *model.config.image_shape), dtype), *batches])


def padded(images: Tensor | None) -> Tensor | None:
    """Return `images`, if any, padded to the batch size that networks compute."""
    return None if images is None else pad(images, padded_batch(len(images)))


def pad(images: Tensor, batch: int) -> Tensor:
    """Return `images` followed by copies of the last one, `batch` in total."""
    return torch.cat([images, images[-1:].expand(batch - len(images), *images.shape[1:])])


def looks_ahead(model: Fame, mask: np.ndarray) -> bool:
    """Return whether a known pixel may depend on an unknown one, other than through the latents.

    No known pixel does if the known ones are the first rows of patches, or the whole image. If a mask cuts
    through a patch, known pixels depend on unknown ones unless the patch's known pixels come first.

    Args:
        model: Model.
        mask: True where a pixel is known, `(H, W)`.
    """
    decoder = model.config.decoder
    if not decoder.autoregressive:
        return False
    plan = wavefront_plan(model.config.height, model.config.width, decoder.lag, decoder.patch)
    return plan.looks_ahead(mask.ravel().tolist())


def is_exact(model: Fame, mask: np.ndarray) -> bool:
    """Return whether completions are exact draws: no latents, and no known pixel looks ahead."""
    return not model.config.stochastic_layers and not looks_ahead(model, mask)


def complete_batches(
    model: Fame,
    known: np.ndarray,
    mask: np.ndarray,
    seeds: Sequence[int],
    labels: np.ndarray | None = None,
    *,
    sweeps: int = SWEEPS,
    batch_size: int | None = None,
    temperature: float = 1.0,
    cached: bool = True,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> Iterator[np.ndarray]:
    """Yield one completion of the image per seed in batches, `(n, C, H, W)`, uint8 levels.

    Without latents, a completion is an exact draw if `is_exact`; otherwise known pixels are kept, but earlier
    unknown pixels are drawn without regard to them. With latents, a Markov chain from the prior alternates
    between the latents given the image and the unknown pixels given the latents; the approximate posterior
    replaces the exact one.

    Args:
        model: Model on its device.
        known: Levels of the image `(C, H, W)`, or of one image per seed `(n, C, H, W)`; values of unknown
            pixels are ignored.
        mask: True where a pixel is known, `(H, W)`.
        seeds: One seed per completion.
        labels: Class of each completion, `(n,)`; None for a model without classes.
        sweeps: Number of steps of the chain.
        batch_size: See `generate_batches`.
        temperature: Temperature of each pixel's distribution.
        cached: See `ImageDecoder`.
        group: Processes that share the batches; each gets all completions.
        report: Called with one line of text when memory runs out.

    Raises:
        ArgumentError: The model has classes and there are no labels, or the reverse.
        NumericsError: A completion is not finite; see `ImageDecoder`.

    Source: the chain: arXiv:1401.4082, section 6.4 and appendix F.
    """
    images = torch.from_numpy(known).expand(len(seeds), *known.shape[-3:])

    def draw(decoder: ImageDecoder, rows: slice) -> np.ndarray:
        chosen, image = list(seeds[rows]), images[rows].to(model.device).float()
        given = torch.from_numpy(mask).to(model.device).expand(len(chosen), 1, -1, -1)
        x = _chain(model, decoder, image, given, chosen, sweeps, labels_on(model, labels, rows))
        return x.float().cpu().numpy().astype(np.uint8)

    make_decoder = partial(ImageDecoder, model, temperature=temperature, cached=cached)
    return _map_batches(model, len(seeds), draw, make_decoder, batch_size, group, report)


@torch.no_grad()
def _chain(
    model: Fame,
    decoder: ImageDecoder,
    image: Tensor,
    given: Tensor,
    seeds: list[int],
    sweeps: int,
    labels: Tensor | None,
) -> Tensor:
    """Return the last state of the chain `(B, C, H, W)`."""
    count, batch = len(seeds), padded_batch(len(seeds))
    # Padded, since networks round differently by batch size.
    repeated, x, labels = seeds + seeds[-1:] * (batch - count), image, padded(labels)
    for sweep in range(sweeps + 1 if model.config.stochastic_layers else 1):
        names = [("complete", seed, sweep) for seed in repeated]
        noise = ImageNoise(names, device=model.device)
        if sweep:
            condition, _ = model.infer(pad(x, batch), noise, labels=labels)
        else:
            condition = model.prior_condition(batch, noise, labels=labels)
        x = decoder(condition, image_uniforms(names[:count], model.uniforms_shape), image, given)
    return x
