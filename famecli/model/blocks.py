"""Building blocks of the ladder's deterministic paths."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.model.pointwise import activate


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after an ELU, added to their input; starts as the identity.

    Args:
        width: Feature maps.
        normalised: Whether the input is divided by its root mean square before the first ELU.

    Shape: `(B, width, H, W)` to the same.
    """

    def __init__(self, width: int, *, normalised: bool = False) -> None:
        super().__init__()
        self.normalised = normalised
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.elu(self.conv1(activate(h, normalised=self.normalised))))
        return h + change


def shrink(layer: nn.Linear | nn.Conv2d) -> None:
    """Scale the first weights of a layer down to a tenth, for outputs near zero."""
    # Weights on the meta device have no values, and operations there import seconds of code.
    if not layer.weight.is_meta:
        with torch.no_grad():
            layer.weight.mul_(0.1)


class Upsample(nn.Module):
    """Convolution after an ELU and nearest-neighbour upsampling to `size`.

    Args:
        in_channels: Feature maps, read.
        out_channels: Feature maps, written.
        size: Height and width of the output.
        normalised: Whether the input is divided by its root mean square before the ELU.

    Shape: `(B, in_channels, h, w)` to `(B, out_channels, *size)`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: tuple[int, int], *, normalised: bool = False
    ) -> None:
        super().__init__()
        self.normalised = normalised
        self.size = size
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        h = activate(h, normalised=self.normalised)
        if h.shape[2:] != self.size:
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")[:, :, : self.size[0], : self.size[1]]
        up: Tensor = self.conv(h)
        return up


class ToLatents(nn.Module):
    """Means and raw scales of a stochastic layer from features; starts at zero, a standard normal.

    Args:
        width: Feature maps, read.
        latents: Latent maps, or entries of a dense latent.
        size: Height and width.
        dense: Whether the latent is one vector.
        normalised: Whether the input is divided by its root mean square before the ELU.

    Shape: `(B, width, H, W)` to `(B, 2 * latents, H, W)`, or with `dense` to `(B, 2 * latents)`.
    """

    def __init__(
        self, width: int, latents: int, size: tuple[int, int], *, dense: bool, normalised: bool = False
    ) -> None:
        super().__init__()
        self.normalised = normalised
        self.layer: nn.Linear | nn.Conv2d
        if dense:
            self.layer = nn.Linear(width * size[0] * size[1], 2 * latents)
        else:
            self.layer = nn.Conv2d(width, 2 * latents, 3, padding=1)
        self.dense = dense
        shrink(self.layer)
        assert self.layer.bias is not None
        nn.init.zeros_(self.layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        h = activate(h, normalised=self.normalised)
        raw: Tensor = self.layer(h.flatten(1) if self.dense else h)
        return raw


class FromLatents(nn.Module):
    """Features from a stochastic layer's latents.

    Shape: `(B, latents, H, W)`, or with `dense` `(B, latents)`, to `(B, width, H, W)`.
    """

    def __init__(self, width: int, latents: int, size: tuple[int, int], *, dense: bool) -> None:
        super().__init__()
        self.shape = (width, *size)
        self.layer: nn.Linear | nn.Conv2d
        if dense:
            self.layer = nn.Linear(latents, width * size[0] * size[1])
        else:
            self.layer = nn.Conv2d(latents, width, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor = self.layer(z)
        return h.view(-1, *self.shape)
