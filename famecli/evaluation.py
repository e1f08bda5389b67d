"""The negative log-likelihood of images: exact, by the ELBO, or importance-weighted."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from famecli.errors import NumericsError
from famecli.model.fame import Fame
from famecli.rng import ImageNoise

NATS_PER_BIT = math.log(2.0)
Bound = Literal["exact", "elbo", "iwae"]


@dataclass(frozen=True)
class ImageNlls:
    """Nats of each image, float64.

    Args:
        nats: The estimate of -log p(x), `(N,)`.
        distortion: -log p(x | z) of the ELBO, `(N,)`.
        rate: KL divergence per stochastic layer, from the image upwards, `(N, layers)`.
        bound: What `nats` is: exact, or an upper bound in expectation.
        importance_samples: Draws of the latents per image.
    """

    nats: np.ndarray
    distortion: np.ndarray
    rate: np.ndarray
    bound: Bound
    importance_samples: int

    @property
    def mean(self) -> float:
        """Nats per image."""
        return float(self.nats.mean())

    @property
    def stderr(self) -> float:
        """Standard error of `mean` over images, nats."""
        return float(self.nats.std(ddof=1) / math.sqrt(len(self.nats))) if len(self.nats) > 1 else math.nan


@torch.no_grad()
def evaluate(
    model: Fame,
    levels: np.ndarray,
    *,
    importance_samples: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    advance: Callable[[int], None] = lambda images: None,
) -> ImageNlls:
    """Return the NLL of each image; the same for any batch size.

    Args:
        model: On its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        importance_samples: 1 for the ELBO with the KL divergence in closed form; more for
            -log of the mean importance weight, which is tighter. A model without latents is exact.
        seed: Of the latents; image i draws from a stream of its own.
        batch_size: Images, or images times samples, in one forward pass.
        advance: Called with the number of images just done.

    Raises:
        NumericsError: An image's NLL is not finite.

    Source: arXiv:1509.00519, equation 8 (importance weighting).
    """
    samples = importance_samples if model.config.stochastic_layers else 1
    images = max(1, batch_size // samples)
    parts = []
    for start in range(0, len(levels), images):
        batch = torch.from_numpy(levels[start : start + images]).to(model.device)
        parts.append(_evaluate_batch(model, batch, start, samples, seed, batch_size))
        advance(len(batch))
    nats, distortion, rate = (np.concatenate(each) for each in zip(*parts, strict=True))
    if not np.isfinite(nats).all():
        bad = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise NumericsError(f"the NLL of image {bad} is {nats[bad]}: no mean can be given")
    bound: Bound = "exact" if not model.config.stochastic_layers else "elbo" if samples == 1 else "iwae"
    return ImageNlls(nats, distortion, rate, bound, samples)


def _evaluate_batch(
    model: Fame, batch: Tensor, start: int, samples: int, seed: int, rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return nats, distortion and rate of a batch; at most about `rows` images times samples at once."""
    noise = ImageNoise(_noise_names(seed, start, len(batch)), device=model.device)
    log_weights: list[Tensor] = []
    layers = model.config.stochastic_layers
    distortion = torch.zeros(len(batch), dtype=torch.float64)
    rate = torch.zeros(len(batch), layers, dtype=torch.float64)
    done = 0
    while done < samples:
        noise.samples = min(samples - done, max(1, rows // len(batch)))
        terms = model(batch.repeat_interleave(noise.samples, dim=0), noise)
        log_weights.append(terms.log_weight.cpu().double().view(len(batch), -1))
        distortion += terms.distortion.cpu().double().view(len(batch), -1).sum(1)
        rate += terms.rate.cpu().double().view(len(batch), noise.samples, layers).sum(1)
        done += noise.samples
    distortion, rate = distortion / samples, rate / samples
    if samples == 1:
        nats = distortion + rate.sum(1)
    else:
        nats = math.log(samples) - torch.logsumexp(torch.cat(log_weights, dim=1), dim=1)
    return nats.numpy(), distortion.numpy(), rate.numpy()


def _noise_names(seed: int, start: int, images: int) -> list[tuple[str | int, ...]]:
    """Return the names of the latents' streams of images `start` and following."""
    return [("evaluate", seed, start + offset) for offset in range(images)]


@torch.no_grad()
def pixel_bits(
    model: Fame, levels: np.ndarray, seed: int = 0, batch_size: int = 128
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of a batch's first image, and `-log2 p(pixel | z, earlier pixels)` as `(B, H, W)`.

    Latents are those of `evaluate` with one sample and the same seed; channels are summed.
    """
    for start in range(0, len(levels), batch_size):
        batch = torch.from_numpy(levels[start : start + batch_size]).to(model.device)
        noise = ImageNoise(_noise_names(seed, start, len(batch)), device=model.device)
        condition, _ = model.infer(batch, noise)
        yield start, (-model.log_prob(batch, condition) / NATS_PER_BIT).cpu().numpy()


def bits_per_dim(nats: float, shape: Sequence[int]) -> float:
    """Return nats per image of `shape` (channels, height, width) as bits per pixel and channel."""
    return nats / (NATS_PER_BIT * math.prod(shape))
