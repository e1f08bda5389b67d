"""The reference sampler: pixel by pixel in raster order, a whole forward pass for each."""

import torch
from torch import Tensor

from famecli.model.causal import CausalConv2d
from famecli.model.decoder import Decoder
from famecli.model.likelihoods import Likelihood, scale_levels


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

    Args:
        decoder: An autoregressive one.
        likelihood: What its outputs mean.
        levels: Values that a channel of a pixel can take.
        condition: The latents' features `(B, condition, H, W)`; None for a decoder without.
        uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
        temperature: Spread of each pixel's distribution; 1 is the model's own.
        known: Levels of pixels that are given, `(B, C, H, W)`.
        mask: True where a pixel is given, `(B, 1, H, W)`; both or none.
    """
    assert isinstance(decoder.first, CausalConv2d)
    weight = decoder.first.weight
    batch, _, height, width = uniforms.shape
    x = weight.new_zeros(batch, weight.shape[1], height, width)
    for row in range(height):
        for column in range(width):
            here = slice(None), slice(None), row, column
            parameters = decoder(scale_levels(x, levels), condition)[here].to(uniforms.dtype)
            drawn = likelihood.sample(parameters, uniforms[here], temperature)
            if known is not None and mask is not None:
                drawn = torch.where(mask[here], known[here].to(drawn), drawn)
            x[here] = drawn.to(x.dtype)
    return x
