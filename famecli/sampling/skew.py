"""The skewed layout: patches of one wavefront lie in one slot, so a tap is a constant distance in memory."""

from torch import Tensor

from famecli.sampling.packing import Run
from famecli.sampling.plan import Wave

# Any number from 4 to the whole image is equally fast on a CPU; few slots are little memory.
SLOTS = 12


class SkewedMaps:
    """Feature maps of layers of one shape, of which the latest slots are kept.

    Patch (row, column) lies in slot `t = column + lag * row`. Cells outside the image are zero, like the
    borders of the convolutions. The slots are a ring; before it lie copies of its last `history` slots, so
    that the taps of a run never wrap around.

    A wave computes its rows and some below, up to a multiple of `rows`. Those lie left of the image or below
    it, no row above looks at them, and `close_slot` makes them zero again.

    Args:
        layers: Maps, 0 or more.
        channels: Features per pixel.
        height: Rows of patches.
        batch: Images.
        rows: What the number of rows that a wave computes is a multiple of.
        reach: Rows that a window reaches up, and columns to the left.
        lag: Slots by which a row is behind the row above it.
        like: Gives dtype and device.

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
        all_rows = reach + height + rows - 1
        self.buffer = like.new_zeros(layers, self.history + self.period, channels, all_rows, batch)

    def clear(self) -> None:
        """Forget all patches."""
        self.buffer.zero_()

    def open_slot(self, wave: Wave) -> None:
        """Make the slot of `wave` ready to be written."""
        place = wave.t % self.period
        if place == 0 and wave.t and self.history:
            self.buffer[:, : self.history].copy_(self.buffer[:, self.period :])
        if wave.row and self.reach:
            # Finished rows have no patch in this slot, but the rows below still look for one.
            self.buffer[:, self.history + place, :, wave.row : wave.row + self.reach].zero_()

    def clear_slot(self, wave: Wave) -> None:
        """Make the slot of `wave` zero: its pixels beyond the image are never written."""
        self.buffer[:, self.history + wave.t % self.period].zero_()

    def close_slot(self, wave: Wave) -> None:
        """Forget the rows that were computed below those of `wave`, once all is."""
        if self.columns(wave) > wave.count * self.batch:
            slot, first = self.history + wave.t % self.period, self.reach + wave.row
            below = slice(first + wave.count, first + self.columns(wave) // self.batch)
            self.buffer[:, slot, :, below].zero_()

    def columns(self, wave: Wave) -> int:
        """Return the columns of a matrix that `wave` computes: its rows and those below, of all images."""
        return -(-wave.count // self.rows) * self.rows * self.batch

    def own(self, layer: int, wave: Wave) -> Tensor:
        """Return the view `(channels, columns)` of what `wave` computes."""
        return self._view(layer, wave, 0, 0, 1)

    def taps(self, layer: int, wave: Wave, run: Run) -> Tensor:
        """Return the view `(taps * channels, columns)` that `run` reads for what `wave` computes."""
        return self._view(layer, wave, run.up, run.back, run.weight.shape[-1] // self.channels)

    def all_taps(self, wave: Wave, run: Run) -> Tensor:
        """Return the views that `run` reads in all layers, `(layers, taps * channels, columns)`."""
        one = self.taps(0, wave, run)
        by_layer = self.buffer.stride(0)
        size, stride = (len(self.buffer), *one.shape), (by_layer, *one.stride())
        return self.buffer.as_strided(size, stride, one.storage_offset())

    def _view(self, layer: int, wave: Wave, up: int, back: int, slots: int) -> Tensor:
        by_layer, by_slot, by_channel, by_row, _ = self.buffer.stride()
        slot = self.history + wave.t % self.period - back
        start = layer * by_layer + slot * by_slot + (wave.row + self.reach - up) * by_row
        size = (slots * self.channels, self.columns(wave))
        return self.buffer.as_strided(size, (by_channel, 1), start)
