"""The decoder: gated residual layers at full resolution, causal over the image (PixelCNN) or blind to it."""

from torch import Tensor, nn
from torch.nn import functional as F

from famecli.config import DecoderConfig
from famecli.model.causal import CausalConv2d


class GatedLayer(nn.Module):
    """Gated residual layer, `h + W (a * sigmoid(b))`, conditioned through a 1x1 convolution.

    Args:
        conv: From `width` to `2 * width` feature maps, causal or not.
        width: Feature maps of `h`.
        condition: Feature maps of the condition; 0 for none.

    Shape: `(B, width, H, W)` and `(B, condition, H, W)` to `(B, width, H, W)`.

    Source: arXiv:1606.05328, section 2.2 (conditional gate).
    Differs: one stack instead of two, ELU before the convolution, sigmoid gate without tanh.
    """

    def __init__(self, conv: nn.Module, width: int, condition: int) -> None:
        super().__init__()
        self.conv = conv
        self.condition = nn.Conv2d(condition, 2 * width, 1, bias=False) if condition else None
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        both = self.conv(F.elu(h))
        if self.condition is not None:
            assert condition is not None
            both = both + self.condition(condition)
        change: Tensor = self.out(F.glu(both, dim=1))
        return h + change


class Decoder(nn.Module):
    """Parameters of the likelihood at each pixel, given the latents' features and, if causal, earlier pixels.

        image --first--+--gated--+--gated-- ... --head1--head2--> parameters
        condition -----'---------'

    Without `autoregressive` the first layer reads the condition in place of the image, and every
    window is a whole one: the pixels are independent given the latents ("No Concatenation").

    Args:
        config: Sizes.
        channels: Colour channels of the image.
        outputs: Parameters per pixel, as the likelihood names them.

    Shape: image `(B, channels, H, W)` in [-1, 1], condition `(B, condition, H, W)`, to `(B, outputs, H, W)`.
    """

    def __init__(self, config: DecoderConfig, channels: int, outputs: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.first: nn.Module
        if config.autoregressive:
            first = config.first_kernel
            self.first = CausalConv2d(channels, width, first, sees_centre=False, lag=config.lag)
        else:
            self.first = nn.Conv2d(config.condition, width, 1)
        self.layers = nn.ModuleList(
            GatedLayer(self._window(), width, config.condition) for _ in range(config.layers)
        )
        self.head1 = nn.Conv2d(width, width, 1)
        self.head2 = nn.Conv2d(width, outputs, 1)

    def _window(self) -> nn.Module:
        width, kernel = self.config.width, self.config.kernel
        if self.config.autoregressive:
            return CausalConv2d(width, 2 * width, kernel, sees_centre=True, lag=self.config.lag)
        return nn.Conv2d(width, 2 * width, kernel, padding=kernel // 2)

    def forward(self, image: Tensor, condition: Tensor | None) -> Tensor:
        h = self.first(image if self.config.autoregressive else condition)
        for layer in self.layers:
            h = layer(h, condition)
        parameters: Tensor = self.head2(F.elu(self.head1(F.elu(h))))
        return parameters
