"""A decoder's weights as the matrices that a wavefront's features are multiplied by."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from famecli.model.causal import CausalConv2d
from famecli.model.decoder import Decoder, GatedLayer


@dataclass(frozen=True)
class Run:
    """The kept taps of one row of a causal window, which are adjacent slots of a skewed map.

    Args:
        up: Rows between the window's row and the pixel's.
        back: Slots between the leftmost tap and the pixel.
        weight: `(out_channels, taps * in_channels)`, taps from left to right.
    """

    up: int
    back: int
    weight: Tensor


@dataclass(frozen=True)
class PackedAttention:
    """A block of attention.

    Args:
        heads: Number of heads.
        position: Learned positions, `(width, rows, columns)`.
        project: Queries, keys and values, `(3 * inner, width + 1)`.
        out: Last 1x1 convolution, `(width, inner + 1)`.
    """

    heads: int
    position: Tensor
    project: Tensor
    out: Tensor


@dataclass(frozen=True)
class PackedLayer:
    """A gated layer: the taps of its own wavefront, its 1x1 convolution with bias, the attention after it."""

    present: tuple[Run, ...]
    out: Tensor
    attention: PackedAttention | None


@dataclass(frozen=True)
class PackedDecoder:
    """An autoregressive decoder; a bias is the last column of a matrix and meets a row of ones.

    Args:
        channels: Channels of the image.
        pixels: Pixels of a patch.
        width: Feature maps.
        normalised: Whether features are divided by their root mean square before each window and the head.
        seen_lag: Lag by which attention sees.
        lag: Waves by which the sampling of a row of patches is behind that of the row above it.
        first_reach: Rows that the first window reaches up, and columns to the left.
        reach: The same of the later windows.
        start: What sums start from, by the condition: first the features that the image is added to, then the
            gates of each layer; `(width + layers * 2 * width, condition + 1)`.
        first: Runs of the window that reads the image.
        past: Runs of all gated layers at once, `(layers, out_channels, taps * in_channels)`: taps of earlier
            wavefronts, which every layer knows when a step begins.
        layers: Gated layers.
        head1: First 1x1 convolution of the head, `(pixels * width, width + 1)`.
        earlier: What the channels of a pixel add to the sums of the pixels after it in its patch,
            `((pixels - 1 - k) * width, channels)` for pixel k.
        head2: Second 1x1 convolution, for each pixel, `(pixels, parameters, width + 1)`.
    """

    channels: int
    pixels: int
    width: int
    normalised: bool
    seen_lag: int
    lag: int
    first_reach: int
    reach: int
    start: Tensor
    first: tuple[Run, ...]
    past: tuple[Run, ...]
    layers: tuple[PackedLayer, ...]
    head1: Tensor
    earlier: tuple[Tensor, ...]
    head2: Tensor


@torch.no_grad()
def pack(decoder: Decoder, lag: int | None = None) -> PackedDecoder:
    """Return copies of the weights of `decoder`, for an order of pixels with that lag; None for its own.

    Raises:
        ValueError: `decoder` is not autoregressive, or looks at pixels that come later with this lag.
    """
    config, first = decoder.config, decoder.first
    if not isinstance(first, CausalConv2d):
        raise ValueError("only an autoregressive decoder is sampled in wavefronts")
    lag = config.lag if lag is None else lag
    if lag < config.lag:
        raise ValueError(f"this decoder needs a lag of {config.lag} at least, got {lag}")
    blind = first.weight.new_zeros(config.width, config.condition)
    start, layers, past = [_beside(blind, first.bias)], [], []
    for layer in decoder.layers:
        assert isinstance(layer, GatedLayer)
        assert isinstance(layer.conv, CausalConv2d)
        blind = first.weight.new_zeros(2 * config.width, 0)
        seen = blind if layer.condition is None else layer.condition.weight.flatten(1)
        start.append(_beside(seen, layer.conv.bias))
        past.append(_runs(layer.conv, lag))
        layers.append(PackedLayer(_present(layer.conv, lag), _matrix(layer.out), _attention(layer)))
    return PackedDecoder(
        channels=decoder.channels,
        pixels=decoder.pixels,
        width=config.width,
        normalised=decoder.normalised,
        seen_lag=config.lag,
        lag=lag,
        first_reach=first.reach,
        reach=config.kernel // 2,
        start=torch.cat(start),
        first=_runs(first, lag),
        past=tuple(_stack(runs) for runs in zip(*past, strict=True)),
        layers=tuple(layers),
        head1=_matrix(decoder.head1),
        earlier=_earlier(decoder),
        head2=_matrix(decoder.head2).unflatten(0, (decoder.pixels, -1)),
    )


def _attention(layer: GatedLayer) -> PackedAttention | None:
    block = layer.attention
    if block is None:
        return None
    return PackedAttention(block.heads, block.position[0].clone(), _matrix(block.project), _matrix(block.out))


def _earlier(decoder: Decoder) -> tuple[Tensor, ...]:
    """Return what each pixel of a patch but the last one adds to the sums of those after it."""
    if decoder.pixels == 1:
        return ()
    weight, width, channels = decoder.earlier_weight(), decoder.config.width, decoder.channels
    return tuple(
        weight[(k + 1) * width :, k * channels : (k + 1) * channels].clone()
        for k in range(decoder.pixels - 1)
    )


def _beside(weight: Tensor, bias: Tensor) -> Tensor:
    return torch.cat([weight, bias[:, None]], dim=1)


def _matrix(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return _beside(conv.weight.flatten(1), conv.bias)


def _runs(conv: CausalConv2d, lag: int) -> tuple[Run, ...]:
    """Return the window's taps of earlier wavefronts row by row, without rows that have none."""
    found = []
    for up in range(conv.reach, -1, -1):
        # What is kept lies left.
        taps = sum(_is_kept(conv, up, dx) and dx < lag * up for dx in _columns(conv))
        if taps:
            weight = conv.weight[:, :, conv.reach - up, :taps]  # (out, in, taps)
            found.append(Run(up, conv.reach + lag * up, weight.transpose(1, 2).flatten(1).clone()))
    return tuple(found)


def _present(conv: CausalConv2d, lag: int) -> tuple[Run, ...]:
    """Return the taps of the window that lie in the pixel's own wavefront."""
    return tuple(
        Run(up, 0, conv.weight[:, :, conv.reach - up, conv.reach + dx].clone())
        for up in range(conv.reach, -1, -1)
        for dx in _columns(conv)
        if _is_kept(conv, up, dx) and dx == lag * up
    )


def _columns(conv: CausalConv2d) -> range:
    return range(-conv.reach, conv.reach + 1)


def _is_kept(conv: CausalConv2d, up: int, dx: int) -> bool:
    # Counted, not read off the mask, so that nothing waits for a device.
    return dx - conv.lag * up < int(conv.sees_centre)


def _stack(runs: tuple[Run, ...]) -> Run:
    """Return the same run of several layers as one."""
    return Run(runs[0].up, runs[0].back, torch.stack([run.weight for run in runs]))
