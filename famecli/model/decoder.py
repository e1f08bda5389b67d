"""The decoder: gated residual layers over patches, autoregressive (PixelCNN) or factorized."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.config.schema import ModelConfig
from famecli.model.layers import POSITION_SCALE, CausalAttention, CausalConv2d, activate, gate, sees


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Return the rows and columns of patches that cover an image; the last ones may extend beyond it."""
    return -(-height // patch), -(-width // patch)


def to_patches(image: Tensor, patch: int) -> Tensor:
    """Return images as grids of square patches, padded with zeros at the bottom and the right.

    Args:
        image: Pixels, `(B, C, H, W)`.
        patch: Side of a patch in pixels.

    Shape: `(B, patch * patch * C, rows, columns)`. Channels are ordered pixel by pixel, in raster order, and
    come last in memory if `patch` is not 1.
    """
    if patch == 1:
        return image
    batch, channels, height, width = image.shape
    rows, columns = grid_of(height, width, patch)
    image = F.pad(image, (0, columns * patch - width, 0, rows * patch - height))
    cells = image.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(batch, rows, columns, patch * patch * channels).permute(0, 3, 1, 2)


def from_patches(maps: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Return the images `(B, C, height, width)` whose `to_patches` are `maps`, without the padding."""
    if patch == 1:
        return maps
    batch, _, rows, columns = maps.shape
    # Channels go last first, so that the gradient of channels-last maps is channels-last.
    cells = maps.permute(0, 2, 3, 1).reshape(batch, rows, columns, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    image = cells.reshape(batch, -1, rows * patch, columns * patch)
    # The gradient of a slice is filled with zeros first.
    return image if image.shape[2:] == (height, width) else image[:, :, :height, :width]


class GatedLayer(nn.Module):
    """Gated residual layer, `h + W (a * sigmoid(b))`, conditioned through a 1x1 convolution.

    Args:
        conv: Convolution from `width` to `2 * width` feature maps, causal or not.
        width: Feature maps of `h`.
        condition: Feature maps of the condition; 0 for none.
        normalised: Whether `h` is divided by its root mean square before the convolution.
        attention: Attention block after this layer; None for none.

    Shape: `(B, width, H, W)`, `(B, condition, H, W)` and the mask of `attention` to `(B, width, H, W)`.

    Source: arXiv:1606.05328, section 2.3 (conditional gate).
    Differs: one stack instead of two, ELU before the convolution, sigmoid gate without tanh.
    """

    def __init__(
        self,
        conv: CausalConv2d | nn.Conv2d,
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
        h = h + self.out(gate(both))
        return h if self.attention is None else self.attention(h, seen)


class Decoder(nn.Module):
    """Likelihood parameters of each pixel, given the latents' features and, if causal, earlier pixels.

        image --first--+--gated--+--gated-- ... --head1--+--head2--> parameters of the pixels of a patch
        condition -----'---------'                       |
        earlier pixels of the patch ---------------------'

    All layers work on the grid of patches. Patches are ordered by wavefront, the pixels of a patch in raster
    order. With patches of one pixel, the last input is absent.

    With `positions` a learned map is added to the first features. It starts at zero, and is stored divided by
    `POSITION_SCALE`.

    Without `autoregressive` the first layer reads the condition in place of the image, no window is masked,
    and the head sees no pixels: pixels are independent given the latents ("No Concatenation").

    Args:
        config: Configuration of the whole model.
        outputs: Parameters per pixel, as many as the likelihood has.

    Shape: image `(B, channels, height, width)` in [-1, 1], which only an autoregressive decoder reads, and
    condition `(B, condition, rows, columns)` on the grid of patches, to `(B, outputs, height, width)`.

    Source: masks over the pixels of a patch: arXiv:1502.03509; a local model of patches: arXiv:2305.07185.
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
        self.first = (
            CausalConv2d(values, width, sizes.first_kernel, sees_centre=False, lag=sizes.lag)
            if sizes.autoregressive
            else nn.Conv2d(sizes.condition, width, 1)
        )
        if sizes.positions:
            # The leading 1 keeps optimizers from treating it as a large matrix.
            self.position = nn.Parameter(torch.zeros(1, width, *config.grid))
        self.layers: Sequence[GatedLayer] = nn.ModuleList(  # type: ignore[assignment]
            self._layer(index + 1) for index in range(sizes.layers)
        )
        self.head1 = nn.Conv2d(width, self.pixels * width, 1)
        self.head2 = nn.Conv2d(self.pixels * width, self.pixels * outputs, 1, groups=self.pixels)
        self.matrices = {"head1.weight": self.pixels, "head2.weight": self.pixels}
        if sizes.autoregressive and self.pixels > 1:
            self.earlier = nn.Conv2d(values, self.pixels * width, 1, bias=False)
            self.matrices["earlier.weight"] = self.pixels
        self.register_buffer("pixel", torch.tensor(range(self.pixels)), persistent=False)
        if sizes.attention:
            rows, columns = map(range, config.grid)
            # Built from lists: the first tensor operation on the meta device spends seconds on imports.
            places = [[row for row in rows for _ in columns], [column for _ in rows for column in columns]]
            self.register_buffer("places", torch.tensor(places), persistent=False)

    def _layer(self, number: int) -> GatedLayer:
        sizes, attention = self.config, None
        width, kernel = sizes.width, sizes.kernel
        if number in sizes.attention:
            attention = CausalAttention(width, sizes.attention_features, sizes.heads, self.grid)
        window = (
            CausalConv2d(width, 2 * width, kernel, sees_centre=True, lag=sizes.lag)
            if sizes.autoregressive
            else nn.Conv2d(width, 2 * width, kernel, padding=kernel // 2)
        )
        return GatedLayer(window, width, sizes.condition, normalised=self.normalised, attention=attention)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.head2.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head2.weight.device

    def earlier_weight(self) -> Tensor:
        """Return the masked weights from pixels of a patch to the pre-activations of later pixels.

        Shape: `(pixels * width, pixels * channels)`; weights from the same and from later pixels are zero.
        """
        keep = (self.pixel[None, :] < self.pixel[:, None]).to(self.dtype)  # (pixels, pixels)
        weight = self.earlier.weight.view(self.pixels, -1, self.pixels, self.channels)
        return (weight * keep[:, None, :, None]).view(self.earlier.weight.shape[:2])

    def no_condition(self, batch: int) -> Tensor:
        """Return a condition of zeros, `(batch, condition, rows, columns)`."""
        return self.head2.weight.new_zeros(batch, self.config.condition, *self.grid)

    def forward(self, image: Tensor | None, condition: Tensor | None) -> Tensor:
        patches = None
        if self.config.autoregressive:
            assert image is not None
            patches = to_patches(image, self.config.patch)
        h = self.first(condition if patches is None else patches)
        if self.config.positions:
            h = h + POSITION_SCALE * self.position.to(h.dtype)
        seen = sees(self.places[0], self.places[1], self.config.lag) if self.config.attention else None
        for layer in self.layers:
            h = layer(h, condition, seen)
        sums = self._head1(activate(h, normalised=self.normalised), patches)
        return from_patches(self.head2(F.elu(sums)), self.config.patch, *self.size)

    def _head1(self, activations: Tensor, patches: Tensor | None) -> Tensor:
        if patches is None or self.pixels == 1:
            sums: Tensor = self.head1(activations)
            return sums
        # One matrix product in place of two.
        both = torch.cat([activations, patches.to(activations.dtype)], dim=1)
        weight = torch.cat([self.head1.weight, self.earlier_weight()[:, :, None, None]], dim=1)
        return F.conv2d(both, weight, self.head1.bias)
