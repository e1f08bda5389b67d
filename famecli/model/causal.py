"""Causal convolutions: the output at a pixel depends only on pixels that are sampled before it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConv2d(nn.Module):
    """Convolution that sees pixels of earlier wavefronts, and if asked those of its own.

    A tap `(dy, dx)` with `dy <= 0` is kept if `dx + lag * dy < 0`, or `<= 0` with `sees_centre`. So the
    output at a pixel needs pixels of lower (or equal) `t = column + lag * row` only, and all pixels of one
    `t` can be sampled at once. With a lag of 2 and `kernel_size=5`, `c` being the centre (kept with
    `sees_centre`) and `e` the other tap of equal `t` (likewise):

        1 1 1 1 1
        1 1 1 1 e
        1 1 c . .

    Args:
        in_channels: Feature maps per pixel, read.
        out_channels: Feature maps per pixel, written.
        kernel_size: Window side in pixels; odd. Rows below the centre are not stored.
        sees_centre: Whether taps of the own wavefront are kept.
        lag: Columns by which a row is behind the row above it; from `kernel_size // 2 + 1` on the mask is
            that of raster order.

    Shape: `(B, in_channels, H, W)` to `(B, out_channels, H, W)`; borders are padded with zeros.

    Raises:
        ValueError: `kernel_size` is even.

    Source: masks A and B: arXiv:1601.06759, section 3.4; the wedge: docs/wavefront.md.
    """

    mask: Tensor  # (kernel_size // 2 + 1, kernel_size), 0 or 1

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, sees_centre: bool, lag: int = 2
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__()
        self.reach = kernel_size // 2
        self.sees_centre = sees_centre
        self.lag = lag
        full = nn.Conv2d(in_channels, out_channels, (self.reach + 1, kernel_size))
        assert full.bias is not None
        self.weight, self.bias = full.weight, full.bias
        # From a list, since tensor operations on the meta device import seconds of code.
        columns = range(-self.reach, self.reach + 1)
        keep = [[float(dx + lag * dy < int(sees_centre)) for dx in columns] for dy in range(-self.reach, 1)]
        self.register_buffer("mask", torch.tensor(keep, dtype=self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Multiplied here, never written into the weight: gradients, averages and graphs stay right.
        weight = self.weight * self.mask
        # The window ends at its own row: rows of zeros are needed above the image, not below it.
        return F.conv2d(F.pad(x, (0, 0, self.reach, 0)), weight, self.bias, padding=(0, self.reach))
