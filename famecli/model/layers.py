"""Layers of the ladder and of the decoder, and pointwise functions of features.

Some pointwise functions are faster on CPUs than torch's own. They give the same bits with and without
gradients, and have first derivatives only. Compiled steps use the plain formulas, which the compiler fuses.
Times: `python -m benchmarks.pointwise`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALLEST_SQUARE = 1e-6
# Divisors of stored embeddings: AdamW changes all weights by steps of the same size, and features are larger
# than weights by about these factors.
LABEL_SCALE, POSITION_SCALE = 10.0, 30.0


def to_float32_or_wider(x: Tensor) -> Tensor:
    """Return `x` in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalise(h: Tensor, dim: int = 1) -> Tensor:
    """Return `h` divided by its root mean square over `dim`.

    Source: arXiv:1910.07467, equation 4, without gains.
    """
    if torch.compiler.is_compiling() or not (h.requires_grad and torch.is_grad_enabled()):
        return _normalised(h, dim)[0]
    result: Tensor = _Normalised.apply(h, dim)
    return result


class _Normalised(torch.autograd.Function):
    """`normalise` with its gradient; saves `h` and a number per position."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, dim: int) -> Tensor:  # noqa: ANN401
        y, scale = _normalised(h, dim)
        ctx.save_for_backward(h, scale)
        ctx.dim = dim
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        h, scale = ctx.saved_tensors
        return _normalised_backward(to_float32_or_wider(gradient), h, scale, ctx.dim), None


def _normalised(h: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the result and its factors, in float32 or wider."""
    square = to_float32_or_wider(h).square().mean(dim, keepdim=True)
    scale = torch.rsqrt(square + SMALLEST_SQUARE)
    return h * scale.to(h.dtype), scale


def _normalised_backward(g: Tensor, h: Tensor, scale: Tensor, dim: int) -> Tensor:
    """Return the gradient for `h`, `scale * (g - n * mean(g * n))`, where `g` is that for `n = scale * h`."""
    wide = to_float32_or_wider(h)
    along = (g * wide).sum(dim, keepdim=True).mul_(scale).mul_(scale).mul_(scale).div_(-h.shape[dim])
    return (g * scale).addcmul_(wide, along).to(h.dtype)


def activate(h: Tensor, *, normalised: bool) -> Tensor:
    """Return the ELU of `h`, or of `h` divided by its root mean square over channels."""
    return normalised_elu(h) if normalised else F.elu(h)


def gate(both: Tensor) -> Tensor:
    """Return `F.glu(both, 1)`, which is `a * sigmoid(b)`.

    Args:
        both: Maps `a` followed by maps `b`, `(B, 2 * width, ...)`.

    Returns:
        `(B, width, ...)`; the two operations round bfloat16 results twice.

    Differs: two operations on CPUs, since the gradient of `F.glu` is slow in channels-last layout.
    """
    if torch.compiler.is_compiling() or both.device.type != "cpu":
        return F.glu(both, 1)
    a, b = both.chunk(2, 1)
    return a * torch.sigmoid(b)


def normalised_elu(h: Tensor) -> Tensor:
    """Return the ELU of `h` divided at each position by its root mean square over channels.

    Args:
        h: Maps `(B, width, ...)`; bfloat16 is computed in float32, and the result is rounded once.
    """
    if torch.compiler.is_compiling():
        return F.elu(_normalised(to_float32_or_wider(h), 1)[0]).to(h.dtype)
    if not (h.requires_grad and torch.is_grad_enabled()):
        return _normalised_elu(h)[0]
    result: Tensor = _NormalisedElu.apply(h)
    return result


class _NormalisedElu(torch.autograd.Function):
    """`normalised_elu` with its gradient; saves `h`, the result, and a number per position."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # noqa: ANN401
        y, scale = _normalised_elu(h)
        ctx.save_for_backward(h, y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        h, y, scale = ctx.saved_tensors
        g = to_float32_or_wider(torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, y))
        return _normalised_backward(g, h, scale, 1)


def _normalised_elu(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result and each position's scale, in float32 or wider."""
    wide = to_float32_or_wider(h)
    norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    scale = norm.square_().div_(h.shape[1]).add_(SMALLEST_SQUARE).rsqrt_()
    return F.elu_(wide * scale).to(h.dtype), scale


def zero_init(layer: nn.Module) -> None:
    """Set the initial weights and biases of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def scale_init(layer: nn.Linear | nn.Conv2d) -> None:
    """Multiply the initial weights of a layer by 0.1, for outputs near zero."""
    # Meta weights have no values, and the first operation on them spends seconds on imports.
    if not layer.weight.is_meta:
        with torch.no_grad():
            layer.weight.mul_(0.1)


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
        zero_init(self.conv2)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.conv2(F.elu(self.conv1(activate(h, normalised=self.normalised))))
        return h + change


class LabelEmbedding(nn.Module):
    """A vector for each class, added to the features at every place; starts at zero.

    Vectors are stored divided by `LABEL_SCALE`.

    Args:
        classes: Number of classes.
        width: Feature maps.

    Shape: `(B, width, H, W)` and labels `(B,)`, int64, to `(B, width, H, W)`.

    Source: arXiv:1606.05328, section 2.3, conditioning that is equal at every location.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        # The leading 1 keeps optimizers from treating it as a large matrix.
        self.vectors = nn.Parameter(torch.zeros(1, classes, width))

    def forward(self, h: Tensor, labels: Tensor) -> Tensor:
        chosen = F.embedding(labels, LABEL_SCALE * self.vectors[0])
        return h + chosen[:, :, None, None].to(h.dtype)


class Upsample(nn.Module):
    """ELU, nearest-neighbour upsampling to `size`, 3x3 convolution.

    Args:
        in_channels: Feature maps of the input.
        out_channels: Feature maps of the output.
        size: Height and width of the output.
        normalised: Whether the input is divided by its root mean square before the ELU.

    Shape: `(B, in_channels, h, w)` to `(B, out_channels, *size)`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, size: tuple[int, int], *, normalised: bool = False
    ) -> None:
        super().__init__()
        self.normalised, self.size = normalised, size
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        h = activate(h, normalised=self.normalised)
        if h.shape[2:] != self.size:
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")[:, :, : self.size[0], : self.size[1]]
        up: Tensor = self.conv(h)
        return up


class ToLatents(nn.Module):
    """Means and raw scales of a stochastic layer from features; initially near a standard normal.

    Args:
        width: Feature maps of the input.
        latents: Number of latent maps, or of entries of a dense latent.
        size: Height and width of the feature maps.
        dense: Whether the latent is one vector.
        normalised: Whether the input is divided by its root mean square before the ELU.

    Shape: `(B, width, H, W)` to `(B, 2 * latents, H, W)`, or with `dense` to `(B, 2 * latents)`.
    """

    def __init__(
        self, width: int, latents: int, size: tuple[int, int], *, dense: bool, normalised: bool = False
    ) -> None:
        super().__init__()
        self.normalised, self.dense = normalised, dense
        self.layer = (
            nn.Linear(width * math.prod(size), 2 * latents)
            if dense
            else nn.Conv2d(width, 2 * latents, 3, padding=1)
        )
        scale_init(self.layer)
        assert self.layer.bias is not None
        nn.init.zeros_(self.layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        h = activate(h, normalised=self.normalised)
        raw: Tensor = self.layer(h.flatten(1) if self.dense else h)
        return raw


class FromLatents(nn.Module):
    """Features from the latents of a stochastic layer.

    Args:
        width: Feature maps of the output.
        latents: Number of latent maps, or of entries of a dense latent.
        size: Height and width of the feature maps.
        dense: Whether the latent is one vector.

    Shape: `(B, latents, H, W)`, or with `dense` `(B, latents)`, to `(B, width, H, W)`.
    """

    def __init__(self, width: int, latents: int, size: tuple[int, int], *, dense: bool) -> None:
        super().__init__()
        self.shape = (width, *size)
        self.layer = (
            nn.Linear(latents, math.prod(self.shape)) if dense else nn.Conv2d(latents, width, 3, padding=1)
        )

    def forward(self, z: Tensor) -> Tensor:
        h: Tensor = self.layer(z)
        return h.view(-1, *self.shape)


class CausalConv2d(nn.Module):
    """Convolution over pixels of earlier wavefronts, optionally including the pixel's own wavefront.

    A tap `(dy, dx)` with `dy <= 0` is kept if `dx + lag * dy < 0`, or `<= 0` with `sees_centre`. So the
    output at a pixel needs only pixels of lower (or equal) `t = column + lag * row`, and all pixels of one
    `t` can be sampled at once. With a lag of 2 and `kernel_size=5`, `c` is the centre and `e` the other tap
    of equal `t`; both are kept only with `sees_centre`:

        1 1 1 1 1
        1 1 1 1 e
        1 1 c . .

    Args:
        in_channels: Feature maps of the input.
        out_channels: Feature maps of the output.
        kernel_size: Window side in pixels; odd. Rows below the centre are not stored.
        sees_centre: Whether taps of the pixel's own wavefront are kept.
        lag: Columns by which a row trails the row above it; `kernel_size // 2 + 1` or more gives the mask of
            raster order.

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
        self.reach, self.sees_centre, self.lag = kernel_size // 2, sees_centre, lag
        full = nn.Conv2d(in_channels, out_channels, (self.reach + 1, kernel_size))
        assert full.bias is not None
        self.weight, self.bias = full.weight, full.bias
        # Built from a list: the first tensor operation on the meta device spends seconds on imports.
        columns = range(-self.reach, self.reach + 1)
        keep = [[float(dx + lag * dy < int(sees_centre)) for dx in columns] for dy in range(-self.reach, 1)]
        self.register_buffer("mask", torch.tensor(keep, dtype=self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Masked in the forward pass, never in place, for correct gradients, averages and graphs.
        weight = self.weight * self.mask
        # The window ends at its own row, so only the top is padded.
        return F.conv2d(F.pad(x, (0, 0, self.reach, 0)), weight, self.bias, padding=(0, self.reach))


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """Return scaled dot-product attention of `(B, heads, N, features)` tensors, masked by `seen` `(N, N)`.

    Source: arXiv:1706.03762, equation 1.
    Differs: plain products for bfloat16 on CPUs, where the gradient of torch's own attention is slow.
    """
    if query.dtype != torch.bfloat16 or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    query, key, flat = (each.flatten(0, 1) for each in (query, key, value))
    return attend_by_products(query, key, flat, torch.where(seen, 0.0, -torch.inf).to(flat)).view_as(value)


def attend_by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Return `attend` of tensors `(B * heads, places, features)`, with an additive mask."""
    logits = torch.baddbmm(mask, query, key.mT, alpha=1.0 / math.sqrt(query.shape[2]))
    return torch.bmm(torch.softmax(logits, dim=2), value)


def sees(row: Tensor, column: Tensor, lag: int) -> Tensor:
    """Return the attention mask: a place sees its own and earlier wavefronts, but no row below its own.

    Rows below are hidden even where they belong to earlier wavefronts. So an image can be completed from its
    first rows, and the model can be sampled with any larger lag.

    Args:
        row: Rows of places, `(N,)`.
        column: Columns of places, `(N,)`.
        lag: Columns by which a row trails the row above it.

    Shape: `(N, N)`, True at `(i, j)` where place i sees place j.
    """
    time = column + lag * row
    return (time[None, :] <= time[:, None]) & (row[None, :] <= row[:, None])


class CausalAttention(nn.Module):
    """Residual self-attention over places, masked by `sees`.

    Queries and keys are divided by their root mean square, so a logit is at most `sqrt(features of a head)`.

    Args:
        width: Feature maps of the input.
        inner: Number of features of the queries, summed over heads; the same for keys and for values.
        heads: Number of heads; divides `inner`.
        grid: Rows and columns of places.

    Shape: `(B, width, rows, columns)` and a mask `(rows * columns, rows * columns)`, True where a query
    (row of the mask) sees a key, to `(B, width, rows, columns)`.

    Source: arXiv:1706.03762, section 3.2; attention in a PixelCNN: arXiv:1712.09763, section 2.2.
    Differs: one block without a feed-forward part; learned positions are added to the normalised input;
    queries and keys are normalised (arXiv:2010.04245, section 2).
    """

    def __init__(self, width: int, inner: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.matrices = {"project.weight": 3}
        self.heads = heads
        # The leading 1 keeps optimizers from treating it as a large matrix.
        self.position = nn.Parameter(torch.empty(1, width, *grid))
        nn.init.normal_(self.position, std=0.02)
        self.project = nn.Conv2d(width, 3 * inner, 1)
        self.out = nn.Conv2d(inner, width, 1)
        zero_init(self.out)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        rows, columns = h.shape[2:]
        projected: Tensor = self.project(normalise(h) + self.position.to(h.dtype))
        # (B, rows * columns, 3, heads, features), then one tensor (B, heads, rows * columns, features) each.
        places = projected.flatten(2).transpose(1, 2).unflatten(2, (3, self.heads, -1))
        query, key = normalise(places[:, :, :2], dim=-1).permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, places[:, :, 2].transpose(1, 2), seen)
        mixed = mixed.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (rows, columns))
        change: Tensor = self.out(mixed)
        return h + change
