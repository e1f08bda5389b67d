"""Reconstructions: images decoded from posterior latents of all layers or the top ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from famecli.grids import Layout
from famecli.model.fame import Draw, Fame, labels_on
from famecli.rng import ImageNoise, Noise, StreamName, image_uniforms
from famecli.sampling.generate import DecoderOutput, ImageDecoder, pad, padded
from famecli.sampling.sampler import CHUNK, padded_batch


@dataclass(frozen=True)
class Settings:
    """Settings of reconstructions.

    Args:
        seed: Seed of latents and pixels.
        keep_layers: Number of top stochastic layers drawn from the posterior; None for all. Lower layers are
            drawn from the prior given those.
        samples: Number of reconstructions per image.
        decoder_output: See `ImageDecoder`.
    """

    seed: int = 0
    keep_layers: int | None = None
    samples: int = 1
    decoder_output: DecoderOutput = "sample"


@torch.no_grad()
def reconstruct(
    model: Fame,
    x: np.ndarray,
    settings: Settings,
    advance: Callable[[int], None] = lambda images: None,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """Return reconstructions of each image, `(N, samples, C, H, W)`: levels, or with "mean" expected levels.

    An image's reconstructions depend on the image, its index and the seed alone.

    Args:
        model: Model with latents.
        x: Images, integer levels `(N, C, H, W)`.
        settings: See `Settings`.
        advance: Called with the number of images just done.
        labels: Class of each image; None for a model without classes.

    Raises:
        ArgumentError: The model has no latents, or fewer than `settings.keep_layers` layers.
        NumericsError: A reconstruction is not finite; see `ImageDecoder`.
    """
    model.config.check_layers(settings.keep_layers)
    decoder = ImageDecoder(model, decoder_output=settings.decoder_output)
    found = []
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        samples = []
        for sample in range(settings.samples):
            names, condition, _ = _infer(model, part, labels, start, settings, sample)
            uniforms = image_uniforms(names, model.uniforms_shape)
            samples.append(decoder(condition, uniforms).cpu().numpy())
        found.append(np.stack(samples, axis=1))
        advance(len(part))
    return np.concatenate(found)


@torch.no_grad()
def interpolate(
    model: Fame, ends: np.ndarray, steps: int, settings: Settings, labels: np.ndarray | None = None
) -> np.ndarray:
    """Return an interpolation between two images in latent space, `(samples, steps, C, H, W)`.

    Each layer's noise, its latents standardised by their prior given the layers above, is interpolated with
    weights that keep it a standard normal. The pixels of all steps use the same random numbers. Each step has
    the class of the nearer end.

    Args:
        model: Model with latents.
        ends: Levels of the two images, `(2, C, H, W)`.
        steps: Number of images, both ends included; at least 2.
        settings: See `Settings`.
        labels: Classes of the two images; None for a model without classes.

    Raises:
        ArgumentError: The model has no latents, or fewer than `settings.keep_layers` layers.
        NumericsError: An image is not finite; see `ImageDecoder`.
    """
    model.config.check_layers(settings.keep_layers)
    decoder = ImageDecoder(model, decoder_output=settings.decoder_output)
    of_steps = None if labels is None else labels[(2 * np.arange(steps) >= steps).astype(int)]
    batch_size, classes = padded_batch(steps), padded(labels_on(model, of_steps))
    rows = []
    for sample in range(settings.samples):
        names, _, draws = _infer(model, ends, labels, 0, settings, sample)
        condition = model.prior_condition(batch_size, _between(draws, steps, batch_size), labels=classes)
        uniforms = image_uniforms(names[:1], model.uniforms_shape)
        rows.append(decoder(condition, uniforms.expand(steps, -1, -1, -1)).cpu().numpy())
    return np.stack(rows)


def _between(draws: list[Draw], steps: int, batch: int) -> Noise:
    """Return noise interpolated between two draws in `steps` steps, padded to `batch` images."""
    noise = [(draw.z - draw.prior.mean) / draw.prior.scale for draw in draws]
    weights = pad(torch.linspace(0.0, 1.0, steps), batch)

    def normal(layer: int, shape: torch.Size) -> Tensor:
        first, second = noise[layer][:2]
        weight = weights.to(first).view(-1, *[1] * first.dim())
        spread = ((1.0 - weight).square() + weight.square()).sqrt()
        between: Tensor = ((1.0 - weight) * first + weight * second) / spread
        assert between.shape == shape
        return between

    return normal


@torch.no_grad()
def posteriors(
    model: Fame, x: np.ndarray, seed: int = 0, labels: np.ndarray | None = None
) -> dict[str, Tensor]:
    """Return posterior means as `layerN.mean` and standard deviations as `layerN.scale`.

    Layer 0 is nearest to the image. Below the top, posteriors depend on the latents above, here those of the
    first sample of `reconstruct`.

    Shape: each `(N, maps, h, w)`, or `(N, entries)` for a dense layer.
    """
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        _, _, draws = _infer(model, part, labels, start, Settings(seed))
        for layer, draw in enumerate(draws):
            assert draw.posterior is not None
            for name, value in (("mean", draw.posterior.mean), ("scale", draw.posterior.scale)):
                found.setdefault(f"layer{layer}.{name}", []).append(value[: len(part)].cpu())
    return {name: torch.cat(values) for name, values in found.items()}


def arranged(
    results: np.ndarray, originals: np.ndarray | None, *, interpolated: bool
) -> tuple[np.ndarray, Layout]:
    """Return images in grid order, `(M, H, W, C)`, and the layout of the grid.

    Args:
        results: Reconstructions `(N, samples, H, W, C)`, or steps `(samples, steps, H, W, C)`.
        originals: Images `(N, H, W, C)` to show first, or the two ends of an interpolation; None for none.
        interpolated: Whether `results` are steps of an interpolation.
    """
    rows, columns, group = results, None, 1
    if interpolated:
        if originals is not None:
            ends = np.broadcast_to(originals, (len(results), *originals.shape))
            rows = np.concatenate([ends[:, :1], results, ends[:, 1:]], axis=1)
        columns = rows.shape[1]
    elif originals is not None:
        rows = np.concatenate([originals[:, None], results], axis=1)
        group = rows.shape[1]
        columns = group * max(1, round(math.sqrt(len(rows) / group)))
    return rows.reshape(-1, *rows.shape[2:]), Layout(columns, group=group)


def _infer(
    model: Fame, part: np.ndarray, labels: np.ndarray | None, start: int, settings: Settings, sample: int = 0
) -> tuple[list[StreamName], Tensor | None, list[Draw]]:
    """Return the streams of images, their condition and their latents, padded for networks.

    Args:
        model: Model with latents.
        part: Levels of the images, `(n, C, H, W)`.
        labels: Class of each image of the whole set; None for a model without classes.
        start: Index of the first image in the whole set.
        settings: See `Settings`.
        sample: Index of the reconstruction.
    """
    batch = pad(torch.from_numpy(part), padded_batch(len(part)))
    names: list[StreamName] = [("reconstruct", settings.seed, sample, start + k) for k in range(len(batch))]
    noise = ImageNoise(names, device=model.device)
    classes = padded(labels_on(model, labels, slice(start, start + len(part))))
    condition, draws = model.infer(batch.to(model.device), noise, settings.keep_layers, classes)
    return names[: len(part)], condition, draws
