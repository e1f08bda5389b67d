"""Completions: the unknown pixels of an image, given the known ones."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.rng import ImageNoise, image_uniforms
from famecli.runtime.distributed import ALONE, Group
from famecli.sampling.generate import ImageDecoder, pad
from famecli.sampling.plan import wavefront_plan
from famecli.sampling.sampler import CHUNK, padded_batch

SWEEPS = 20


def looks_ahead(model: Fame, mask: np.ndarray) -> bool:
    """Return whether a known pixel may depend on an unknown one, the latents apart.

    None does where the first rows of patches are known, or the whole image. A mask that cuts through a patch
    makes known pixels depend on unknown ones, unless the known ones of the patch come first.

    Args:
        model: Any.
        mask: True where a pixel is known, `(H, W)`.
    """
    decoder = model.config.decoder
    if not decoder.autoregressive:
        return False
    plan = wavefront_plan(model.config.height, model.config.width, decoder.lag, decoder.patch)
    return plan.looks_ahead(mask.ravel().tolist())


def is_exact(model: Fame, mask: np.ndarray) -> bool:
    """Return whether completions are exact draws: there are no latents, and no known pixel looks ahead."""
    return not model.config.stochastic_layers and not looks_ahead(model, mask)


def complete_batches(
    model: Fame,
    known: np.ndarray,
    mask: np.ndarray,
    seeds: Sequence[int],
    *,
    sweeps: int = SWEEPS,
    temperature: float = 1.0,
    cached: bool = True,
    group: Group = ALONE,
) -> Iterator[np.ndarray]:
    """Yield one completion of the image per seed in batches, `(n, C, H, W)`, uint8 levels.

    Without latents a completion is an exact draw where `is_exact` says so; other known pixels are kept but
    not looked ahead at. With latents, latents given the image and unknown pixels given the latents are drawn
    in turn, from a start by the prior: a Markov chain that takes the approximate posterior for the exact one.

    Args:
        model: Any.
        known: Levels of the image `(C, H, W)`, or of one per seed `(n, C, H, W)`; unknown pixels may hold
            anything.
        mask: True where a pixel is known, `(H, W)`.
        seeds: One per completion.
        sweeps: Steps of the chain.
        temperature: Spread of each pixel's distribution.
        cached: See `ImageDecoder`.
        group: Processes that share the batches; each gets all completions.

    Source: the chain: arXiv:1401.4082, section 6.4 and appendix F.
    """
    decoder = ImageDecoder(model, temperature=temperature, cached=cached)
    images = torch.from_numpy(known).expand(len(seeds), *known.shape[-3:])

    def draw(first: int) -> np.ndarray:
        chosen = list(seeds[first : first + CHUNK])
        image = images[first : first + CHUNK].to(model.device).float()
        given = torch.from_numpy(mask).to(model.device).expand(len(chosen), 1, -1, -1)
        x = _chain(model, decoder, image, given, chosen, sweeps)
        return x.float().cpu().numpy().astype(np.uint8)

    yield from group.in_turn(range(0, len(seeds), CHUNK), draw)


@torch.no_grad()
def _chain(
    model: Fame, decoder: ImageDecoder, image: Tensor, given: Tensor, seeds: list[int], sweeps: int
) -> Tensor:
    """Return the last state of the chain `(B, C, H, W)`."""
    count, batch = len(seeds), padded_batch(len(seeds))
    # Networks round by the batch size.
    repeated = seeds + seeds[-1:] * (batch - count)
    x = image
    for sweep in range(sweeps + 1 if model.config.stochastic_layers else 1):
        names = [("complete", seed, sweep) for seed in repeated]
        noise = ImageNoise(names, device=model.device)
        condition = model.infer(pad(x, batch), noise)[0] if sweep else model.prior_condition(batch, noise)
        x = decoder(condition, image_uniforms(names[:count], model.uniforms_shape), image, given)
    return x
