"""Models whose patches or attention are each broken in one way."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from famecli.model import decoder as decoder_module
from famecli.model.decoder import Decoder
from famecli.model.distributions import scale_levels
from famecli.model.fame import Fame
from famecli.sampling import packing, wavefront
from famecli.sampling.packing import SkewedMaps
from famecli.sampling.wavefront import AttentionMemory, WavefrontWorkspace, WaveViews
from famecli.sampling.workspace import StepViews
from support.sabotage import wrap

# Maps times and rows of keys and of queries to visibility.
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def attend_by(patch: pytest.MonkeyPatch, rule: Rule) -> None:
    """Change the attention mask in the model and in its sampler."""

    def sees(row: Tensor, column: Tensor, lag: int) -> Tensor:
        time = column + lag * row
        return rule(time[None, :], row[None, :], time[:, None], row[:, None])

    for module in (decoder_module, wavefront):
        patch.setattr(module, "sees", sees)


def attention_to_the_next_wave(model: Fame, patch: pytest.MonkeyPatch) -> None:
    attend_by(patch, lambda time, row, own_time, own_row: (time <= own_time + 1) & (row <= own_row))


def attention_to_rows_below(model: Fame, patch: pytest.MonkeyPatch) -> None:
    attend_by(patch, lambda time, row, own_time, own_row: time <= own_time)


def attention_to_everything(model: Fame, patch: pytest.MonkeyPatch) -> None:
    attend_by(patch, lambda time, row, own_time, own_row: (time < torch.inf) & (own_time < torch.inf))


def keep_pixels(patch: pytest.MonkeyPatch, keep: Callable[[Decoder], Tensor]) -> None:
    """Apply the mask `keep`, `(to, of)`, to dependences within a patch, in the model and its sampler."""

    def weight(self: Decoder) -> Tensor:
        each = self.earlier.weight.view(self.pixels, -1, self.pixels, self.channels)
        return (each * keep(self).to(each)[:, None, :, None]).view(self.earlier.weight.shape[:2])

    patch.setattr(Decoder, "earlier_weight", weight)


def own_pixel_of_the_patch(model: Fame, patch: pytest.MonkeyPatch) -> None:
    keep_pixels(patch, lambda self: self.pixel[None, :] <= self.pixel[:, None])


def raster_of_columns(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def keep(self: Decoder) -> Tensor:
        side = self.config.patch
        place = self.pixel % side * side + self.pixel // side
        return place[None, :] < place[:, None]

    keep_pixels(patch, keep)


def pad_by(patch: pytest.MonkeyPatch, pad: Callable[[Tensor, int, int], Tensor]) -> None:
    """Let `pad(image, rows, columns)` fill the padding that the decoder reads."""

    def to_patches(original: Callable[..., Tensor], image: Tensor, side: int) -> Tensor:
        height, width = image.shape[2:]
        return original(pad(image, -height % side, -width % side), side)

    wrap(patch, decoder_module, "to_patches", to_patches)


def padding_of_the_last_pixel(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def pad(image: Tensor, rows: int, columns: int) -> Tensor:
        inside = F.pad(torch.ones_like(image), (0, columns, 0, rows))
        return torch.where(inside > 0, F.pad(image, (0, columns, 0, rows)), image[:, :, -1:, -1:])

    pad_by(patch, pad)


def padding_of_the_border(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Pad from the border: no later pixel is read, but the sampler reads other values."""
    pad_by(patch, lambda image, rows, columns: F.pad(image, (0, columns, 0, rows), mode="replicate"))


def scored_padding(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Score padding as level 0."""

    def log_prob(
        original: Callable[..., Tensor], self: Fame, x: Tensor, condition: Tensor | None, *more: None
    ) -> Tensor:
        nats = original(self, x, condition, *more).clone()
        (height, width), (rows, columns), side = (
            self.decoder.size,
            self.decoder.grid,
            self.decoder.config.patch,
        )
        beyond = (0, columns * side - width, 0, rows * side - height)
        levels = F.pad(x.to(self.dtype), beyond)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.decoder, "size", (rows * side, columns * side))
            image = F.pad(scale_levels(x.to(self.dtype), self.config.levels), beyond)
            whole = self.likelihood.log_prob(levels, self.decoder(image, condition))
        nats[:, -1, -1] += whole.sum((1, 2)) - whole[:, :height, :width].sum((1, 2))
        return nats

    wrap(patch, Fame, "log_prob", log_prob)


def change_keys(patch: pytest.MonkeyPatch, change: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Store `change(keys, before)` in place of the keys of a wave."""

    def attend(original: Callable[..., None], self: AttentionMemory, views: WaveViews) -> None:
        own = self.cache[0, :, views.wave.offset : views.wave.offset + views.wave.count]
        assert own.shape[1] == views.wave.count
        before = own.clone()
        original(self, views)
        own.copy_(change(own.clone(), before))

    wrap(patch, AttentionMemory, "attend", attend)


def keys_one_place_later(model: Fame, patch: pytest.MonkeyPatch) -> None:
    change_keys(patch, lambda keys, before: keys.roll(1, dims=1))


def positions_one_patch_later(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Add to the features of a patch the position of the one before it, in the sampler."""

    def ordered(original: Callable[..., Tensor], *args: object) -> Tensor:
        return original(*args).roll(1, dims=1)

    wrap(patch, wavefront, "_in_wave_order", ordered)


def stale_keys(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Keep the old value in place of the first key of a wave."""
    change_keys(patch, lambda keys, before: torch.cat([before[:, :1], keys[:, 1:]], dim=1))


def pixels_beyond_the_image(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Keep computed pixels beyond the image like all others."""

    def place(
        original: Callable[..., None], self: WavefrontWorkspace, views: StepViews, levels: Tensor
    ) -> None:
        original(self, views, levels)
        wave = self.waves[views.step.wave.t]
        own = wave.pixels[views.step.pixel]
        used = wave.wave.count * self.batch
        own[:, : views.pixels.start] = 1.0
        own[:, views.pixels.stop : used] = 1.0

    wrap(patch, WavefrontWorkspace, "place", place)


def slots_of_the_image_before(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Leave an earlier wave's values in ring slots beyond the image."""
    patch.setattr(SkewedMaps, "clear_slot", lambda self, wave: None)


def earlier_pixels_forgotten(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Drop the influence of a patch's first pixel on the others, in the sampler."""

    def earlier(original: Callable[..., tuple[Tensor, ...]], decoder: Decoder) -> tuple[Tensor, ...]:
        first, *others = original(decoder)
        return torch.zeros_like(first), *others

    wrap(patch, packing, "_earlier", earlier)
