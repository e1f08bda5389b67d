"""The reference sampler: pixel by pixel, a whole forward pass for each."""

import torch
from torch import Tensor

from famecli.model.decoder import Decoder
from famecli.model.likelihoods import Likelihood, scale_levels
from famecli.sampling.plan import wavefront_plan


@torch.no_grad()
def sample_naive(
    decoder: Decoder,
    likelihood: Likelihood,
    levels: int,
    condition: Tensor | None,
    uniforms: Tensor,
    temperature: float = 1.0,
    *,
    known: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the levels `(B, C, H, W)` that `uniforms` stand for, one forward pass per pixel.

    Patches follow each other in raster order, and so do the pixels of a patch.

    Args:
        decoder: Autoregressive decoder.
        likelihood: What its outputs mean.
        levels: Values that a channel of a pixel can take.
        condition: The latents' features `(B, condition, rows, columns)`; None for a decoder without.
        uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
        temperature: Spread of each pixel's distribution; 1 is the model's own.
        known: Levels of pixels that are given, `(B, C, H, W)`.
        mask: True where a pixel is given, `(B, 1, H, W)`; both or none.
    """
    assert decoder.config.autoregressive
    height, width = decoder.size
    x = torch.zeros(
        len(uniforms), decoder.channels, height, width, dtype=decoder.dtype, device=decoder.device
    )
    for raster in wavefront_plan(height, width, decoder.grid[1], decoder.config.patch).order:
        here = slice(None), slice(None), raster // width, raster % width
        parameters = decoder(scale_levels(x, levels), condition)[here].to(uniforms.dtype)
        drawn = likelihood.sample(parameters, uniforms[here], temperature)
        if known is not None and mask is not None:
            drawn = torch.where(mask[here], known[here].to(drawn), drawn)
        x[here] = drawn.to(x.dtype)
    return x
