"""Memory layout of the wavefront sampler: weights as matrices, and activations in skewed maps.

In the skewed layout, patches of one wavefront lie in one slot, so a tap is a constant offset in memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from famecli.model.decoder import Decoder, GatedLayer
from famecli.model.layers import POSITION_SCALE, CausalAttention, CausalConv2d
from famecli.runtime.forks import wiped_on_fork
from famecli.sampling.plan import Wave

# Any number from 4 to the whole image is equally fast on a CPU; fewer slots take less memory.
SLOTS = 12


@dataclass(frozen=True)
class TapRun:
    """The kept taps in one row of a causal window; they are adjacent slots of a skewed map.

    Args:
        up: Rows from the pixel up to the taps.
        back: Slots between the leftmost tap and the pixel.
        weight: `(out_channels, taps * in_channels)`, taps from left to right; `(layers, out_channels,
            taps * in_channels)` for runs stacked over layers.
    """

    up: int
    back: int
    weight: Tensor


class PackedAttention:
    """Weights of an attention block.

    Args:
        block: Attention block.

    Attributes:
        heads: Number of heads.
        position: Learned positions, `(width, rows, columns)`.
        project: Projection to the query, key and value of each head, `(width + 1, heads * 3 * features)`.
        out: Output 1x1 convolution, `(width, inner + 1)`.
    """

    def __init__(self, block: CausalAttention) -> None:
        self.heads, self.position = block.heads, block.position[0].clone()
        by_head = _matrix(block.project).unflatten(0, (3, block.heads, -1)).transpose(0, 1)
        self.project, self.out = by_head.flatten(0, 2).t().contiguous(), _matrix(block.out)


class PackedLayer:
    """Weights of a gated layer.

    Args:
        layer: Gated layer with a causal window.
        lag: Lag of the sampling order.

    Attributes:
        present: Taps of the pixel's own wavefront.
        out: 1x1 convolution with bias.
        attention: Attention block after the layer, or None.
    """

    def __init__(self, layer: GatedLayer, lag: int) -> None:
        assert isinstance(layer.conv, CausalConv2d)
        self.present, self.out = _present(layer.conv, lag), _matrix(layer.out)
        self.attention = None if layer.attention is None else PackedAttention(layer.attention)


class PackedDecoder:
    """Copies of the weights of an autoregressive decoder; a bias is the last column of a matrix.

    Args:
        decoder: Autoregressive decoder.
        lag: Waves by which a row of patches trails the row above it; None for the decoder's own.

    Attributes:
        channels: Channels of the image.
        pixels: Pixels of a patch.
        width: Feature maps.
        normalised: Whether features are divided by their root mean square before each window and the head.
        seen_lag: Lag of the attention mask.
        first_reach: Reach of the first window, in rows (up) and columns (left).
        reach: Reach of the later windows.
        start: Map from the condition to initial sums: the features that the image is added to, then the gates
            of each layer; `(width + layers * 2 * width, condition + 1)`.
        position: Map of positions that is added to the first features, `(width, rows, columns)`; None
            without.
        first: Tap runs of the window that reads the image.
        past: Tap runs over earlier wavefronts, stacked over gated layers,
            `(layers, out_channels, taps * in_channels)`; their inputs are known when a step begins.
        layers: Gated layers.
        head1: First 1x1 convolution of the head, `(pixels * width, width + 1)`.
        earlier: Weights from pixel k of a patch to the sums of later pixels,
            `((pixels - 1 - k) * width, channels)` for each k.
        head2: Second 1x1 convolution, for each pixel, `(pixels, parameters, width + 1)`.

    Raises:
        ValueError: `decoder` is not autoregressive, or its windows see later pixels with this lag.
    """

    @torch.no_grad()
    def __init__(self, decoder: Decoder, lag: int | None = None) -> None:
        config, first = decoder.config, decoder.first
        if not isinstance(first, CausalConv2d):
            raise ValueError("only an autoregressive decoder is sampled in wavefronts")
        # As in `wavefront_plan`: a lag of `most` or more gives raster order, and the taps that only a larger
        # lag keeps lie outside the image.
        most = decoder.grid[1]
        least = min(config.lag, most)
        self.lag = least if lag is None else min(lag, most)
        if self.lag < least:
            raise ValueError(f"this decoder needs a lag of at least {least}, got {lag}")
        self.channels, self.pixels, self.width = decoder.channels, decoder.pixels, config.width
        self.normalised, self.seen_lag = decoder.normalised, config.lag
        self.first_reach, self.reach = first.reach, config.kernel // 2
        self.position = POSITION_SCALE * decoder.position[0] if config.positions else None
        self.first = _runs(first, self.lag)
        blind = first.weight.new_zeros(config.width, config.condition)
        self.start = torch.cat([_beside(blind, first.bias), *map(_start, decoder.layers)])
        self.layers = tuple(PackedLayer(layer, self.lag) for layer in decoder.layers)
        windows = [layer.conv for layer in decoder.layers if isinstance(layer.conv, CausalConv2d)]
        self.past = tuple(map(_stack, zip(*(_runs(each, self.lag) for each in windows), strict=True)))
        self.head1, self.earlier = _matrix(decoder.head1), _earlier(decoder)
        self.head2 = _matrix(decoder.head2).unflatten(0, (decoder.pixels, -1))


def _start(layer: GatedLayer) -> Tensor:
    """Return the map from the condition to the initial sums of a layer's gates."""
    bias = layer.conv.bias
    assert bias is not None
    if layer.condition is None:
        return bias[:, None].clone()
    return _beside(layer.condition.weight.flatten(1), bias)


def _earlier(decoder: Decoder) -> tuple[Tensor, ...]:
    """Return the weights from each pixel of a patch to the sums of later pixels."""
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


def _runs(conv: CausalConv2d, lag: int) -> tuple[TapRun, ...]:
    """Return the window's taps on earlier wavefronts, one run per row with such taps."""
    found = []
    for up in range(conv.reach, -1, -1):
        # Kept taps come first in their row.
        taps = sum(_is_kept(conv, up, dx) and dx < lag * up for dx in _columns(conv))
        if taps:
            weight = conv.weight[:, :, conv.reach - up, :taps]  # (out, in, taps)
            found.append(TapRun(up, conv.reach + lag * up, weight.transpose(1, 2).flatten(1).clone()))
    return tuple(found)


def _present(conv: CausalConv2d, lag: int) -> tuple[TapRun, ...]:
    """Return the taps of the window that lie in the pixel's own wavefront."""
    return tuple(
        TapRun(up, 0, conv.weight[:, :, conv.reach - up, conv.reach + dx].clone())
        for up in range(conv.reach, -1, -1)
        for dx in _columns(conv)
        if _is_kept(conv, up, dx) and dx == lag * up
    )


def _columns(conv: CausalConv2d) -> range:
    return range(-conv.reach, conv.reach + 1)


def _is_kept(conv: CausalConv2d, up: int, dx: int) -> bool:
    # Computed, since reading the mask would wait for the device.
    return dx - conv.lag * up < int(conv.sees_centre)


def _stack(runs: tuple[TapRun, ...]) -> TapRun:
    """Return one run that stacks the weights of the same run in several layers."""
    return TapRun(runs[0].up, runs[0].back, torch.stack([run.weight for run in runs]))


class SkewedMaps:
    """Ring buffer of the latest slots of equally shaped feature maps.

    Patch (row, column) lies in slot `t = column + lag * row`. Cells outside the image are zero, like the
    padding of convolutions. Copies of the last `history` slots lie before the ring, so that the taps of a run
    never wrap around.

    A wave's rows are padded below to a multiple of `rows`. Padding rows lie left of the image or below it, no
    row above reads them, and `close_slot` zeroes them again.

    Args:
        layers: Number of maps, 0 or more.
        channels: Features per patch.
        height: Rows of patches.
        batch: Number of images.
        rows: Multiple that the rows of a wave are padded to.
        reach: Reach of a window, in rows (up) and columns (left).
        lag: Slots by which a row trails the row above it.
        like: Tensor of the same dtype and device.

    Shape: `buffer` is `(layers, history + period, channels, reach + height + rows - 1, batch)`.
    """

    def __init__(
        self,
        layers: int,
        channels: int,
        height: int,
        batch: int,
        rows: int,
        reach: int,
        lag: int,
        like: Tensor,
    ) -> None:
        self.channels, self.batch, self.rows, self.reach = channels, batch, rows, reach
        self.history = (lag + 1) * reach
        self.period = max(self.history, SLOTS)
        slots = self.history + self.period
        self.buffer = wiped_on_fork((layers, slots, channels, reach + height + rows - 1, batch), like)

    def clear(self) -> None:
        """Forget all patches."""
        self.buffer.zero_()

    def open_slot(self, wave: Wave) -> None:
        """Prepare the slot of `wave` for writing."""
        place = wave.t % self.period
        if place == 0 and wave.t and self.history:
            self.buffer[:, : self.history].copy_(self.buffer[:, self.period :])
        if wave.row and self.reach:
            # Finished rows have no patch in this slot, but the rows below still read its cell.
            self.buffer[:, self.history + place, :, wave.row : wave.row + self.reach].zero_()

    def clear_slot(self, wave: Wave) -> None:
        """Zero the slot of `wave`: its pixels beyond the image are never written."""
        self.buffer[:, self.history + wave.t % self.period].zero_()

    def close_slot(self, wave: Wave) -> None:
        """Zero the padding rows of `wave`, after all its layers."""
        if self.columns(wave) > wave.count * self.batch:
            slot, first = self.history + wave.t % self.period, self.reach + wave.row
            below = slice(first + wave.count, first + self.columns(wave) // self.batch)
            self.buffer[:, slot, :, below].zero_()

    def columns(self, wave: Wave) -> int:
        """Return the number of columns of `wave`: its rows, padding included, times the images."""
        return -(-wave.count // self.rows) * self.rows * self.batch

    def own(self, layer: int, wave: Wave) -> Tensor:
        """Return the view `(channels, columns)` that `wave` writes."""
        return self._view(layer, wave, 0, 0, 1)

    def taps(self, layer: int, wave: Wave, run: TapRun) -> Tensor:
        """Return the view `(taps * channels, columns)` that `run` reads when `wave` is computed."""
        return self._view(layer, wave, run.up, run.back, run.weight.shape[-1] // self.channels)

    def all_taps(self, wave: Wave, run: TapRun) -> Tensor:
        """Return the views that `run` reads in all layers, `(layers, taps * channels, columns)`."""
        one = self.taps(0, wave, run)
        size, stride = (len(self.buffer), *one.shape), (self.buffer.stride(0), *one.stride())
        return self.buffer.as_strided(size, stride, one.storage_offset())

    def _view(self, layer: int, wave: Wave, up: int, back: int, slots: int) -> Tensor:
        by_layer, by_slot, by_channel, by_row, _ = self.buffer.stride()
        slot = self.history + wave.t % self.period - back
        start = layer * by_layer + slot * by_slot + (wave.row + self.reach - up) * by_row
        size = (slots * self.channels, self.columns(wave))
        return self.buffer.as_strided(size, (by_channel, 1), start)
