"""The decoder: gated residual layers over patches, causal over the image (PixelCNN) or blind to it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.config.schema import ModelConfig
from famecli.model.attention import CausalAttention, sees
from famecli.model.causal import CausalConv2d
from famecli.model.patches import from_patches, to_patches
from famecli.model.pointwise import activate, gate


class GatedLayer(nn.Module):
    """Gated residual layer, `h + W (a * sigmoid(b))`, conditioned through a 1x1 convolution.

    Args:
        conv: Convolution from `width` to `2 * width` feature maps, causal or not.
        width: Feature maps of `h`.
        condition: Feature maps of the condition; 0 for none.
        normalised: Whether `h` is divided by its root mean square before the convolution.
        attention: Block that follows; None for none.

    Shape: `(B, width, H, W)`, `(B, condition, H, W)` and the mask of `attention` to `(B, width, H, W)`.

    Source: arXiv:1606.05328, section 2.2 (conditional gate).
    Differs: one stack instead of two, ELU before the convolution, sigmoid gate without tanh.
    """

    def __init__(
        self,
        conv: nn.Module,
        width: int,
        condition: int,
        *,
        normalised: bool = False,
        attention: CausalAttention | None = None,
    ) -> None:
        super().__init__()
        self.normalised = normalised
        self.conv = conv
        self.condition = nn.Conv2d(condition, 2 * width, 1, bias=False) if condition else None
        self.out = nn.Conv2d(width, width, 1)
        self.attention = attention

    def forward(self, h: Tensor, condition: Tensor | None, seen: Tensor | None = None) -> Tensor:
        both = self.conv(activate(h, normalised=self.normalised))
        if self.condition is not None:
            assert condition is not None
            both = both + self.condition(condition)
        change: Tensor = self.out(gate(both))
        h = h + change
        return h if self.attention is None else self.attention(h, seen)


class Decoder(nn.Module):
    """Parameters of the likelihood at each pixel, given the latents' features and, if causal, earlier pixels.

        image --first--+--gated--+--gated-- ... --head1--+--head2--> parameters of the pixels of a patch
        condition -----'---------'                       |
        earlier pixels of the patch ---------------------'

    All layers work on the grid of patches. Patches follow each other in the order of the wavefronts, pixels
    of a patch in raster order. With patches of one pixel, nothing is earlier in a patch.

    Without `autoregressive` the first layer reads the condition in place of the image, every window is a
    whole one, and the head sees no pixels: they are independent given the latents ("No Concatenation").

    Args:
        config: Configuration of the whole model.
        outputs: Parameters per pixel, as the likelihood names them.

    Shape: image `(B, channels, height, width)` in [-1, 1], condition `(B, condition, rows, columns)` on the
    grid of patches, to `(B, outputs, height, width)`.

    Source: pixels of a patch by masks: arXiv:1502.03509; as the local model of patches: arXiv:2305.07185.
    """

    pixel: Tensor  # (patch * patch,), index of each pixel of a patch
    places: Tensor  # (2, rows * columns), row and column of each patch

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        sizes = config.decoder
        self.config, self.size, self.channels = sizes, (config.height, config.width), config.channels
        self.normalised, self.grid = config.normalised, config.grid
        self.pixels = sizes.patch**2
        width, values = sizes.width, config.channels * self.pixels
        self.first: nn.Module
        if sizes.autoregressive:
            first = sizes.first_kernel
            self.first = CausalConv2d(values, width, first, sees_centre=False, lag=sizes.lag)
        else:
            self.first = nn.Conv2d(sizes.condition, width, 1)
        self.layers = nn.ModuleList(self._layer(index + 1) for index in range(sizes.layers))
        self.head1 = nn.Conv2d(width, self.pixels * width, 1)
        self.head2 = nn.Conv2d(self.pixels * width, self.pixels * outputs, 1, groups=self.pixels)
        self.matrices = {"head1.weight": self.pixels, "head2.weight": self.pixels}
        if sizes.autoregressive and self.pixels > 1:
            self.earlier = nn.Conv2d(values, self.pixels * width, 1, bias=False)
            self.matrices["earlier.weight"] = self.pixels
        self.register_buffer("pixel", torch.tensor(range(self.pixels)), persistent=False)
        if sizes.attention:
            rows, columns = map(range, config.grid)
            # From lists, since tensor operations on the meta device import seconds of code.
            places = [[row for row in rows for _ in columns], [column for _ in rows for column in columns]]
            self.register_buffer("places", torch.tensor(places), persistent=False)

    def _layer(self, number: int) -> GatedLayer:
        sizes, attention = self.config, None
        width, kernel = sizes.width, sizes.kernel
        if number in sizes.attention:
            attention = CausalAttention(width, sizes.attention_features, sizes.heads, self.grid)
        window: nn.Module
        if sizes.autoregressive:
            window = CausalConv2d(width, 2 * width, kernel, sees_centre=True, lag=sizes.lag)
        else:
            window = nn.Conv2d(width, 2 * width, kernel, padding=kernel // 2)
        return GatedLayer(window, width, sizes.condition, normalised=self.normalised, attention=attention)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.head2.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head2.weight.device

    def earlier_weight(self) -> Tensor:
        """Return the weights by which pixels of a patch enter the sums of later ones.

        Shape: `(pixels * width, pixels * channels)`; those of the same and of later pixels are zero.
        """
        keep = (self.pixel[None, :] < self.pixel[:, None]).to(self.dtype)  # (pixels, pixels)
        weight = self.earlier.weight.view(self.pixels, -1, self.pixels, self.channels)
        return (weight * keep[:, None, :, None]).view(self.earlier.weight.shape[:2])

    def forward(self, image: Tensor, condition: Tensor | None) -> Tensor:
        patches = to_patches(image, self.config.patch) if self.config.autoregressive else None
        h = self.first(condition if patches is None else patches)
        seen = sees(self.places[0], self.places[1], self.config.lag) if self.config.attention else None
        for layer in self.layers:
            h = layer(h, condition, seen)
        sums = self._head1(activate(h, normalised=self.normalised), patches)
        return from_patches(self.head2(F.elu(sums)), self.config.patch, *self.size)

    def _head1(self, activations: Tensor, patches: Tensor | None) -> Tensor:
        if patches is None or self.pixels == 1:
            sums: Tensor = self.head1(activations)
            return sums
        # One product for both sums.
        both = torch.cat([activations, patches.to(activations.dtype)], dim=1)
        weight = torch.cat([self.head1.weight, self.earlier_weight()[:, :, None, None]], dim=1)
        return F.conv2d(both, weight, self.head1.bias)
