"""A sampler's memory for one batch size: what every decoder needs, and what a blind one does in its step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.model.decoder import Decoder
from famecli.model.pointwise import at_least_single
from famecli.sampling.plan import Plan, Step


@dataclass(frozen=True)
class StepViews:
    """Memory that one step reads and writes; a matrix has a column per pixel and image.

    Args:
        step: Pixels.
        uniforms: Random numbers, `(uniforms, columns)`.
        known: Levels of pixels that are given, `(C, columns)`.
        given: Whether pixels are given, `(1, columns)`.
        levels: Levels that were drawn, `(C, pixels)`, without the columns that are computed for nothing.
        pixels: Columns of the step's pixels among those that are computed.
    """

    step: Step
    uniforms: Tensor
    known: Tensor
    given: Tensor
    levels: Tensor
    pixels: slice


class Workspace:
    """Memory for one batch size, and the views of it that each step takes, made once.

    Args:
        plan: Order of the pixels.
        channels: Channels of the image.
        uniforms: Random numbers per pixel.
        batch: Images, padding included.
        rows: What the number of patches that a wave computes is a multiple of.
        like: Gives dtype and device.

    Attributes:
        work: Multiplications in the largest product of an average step.
    """

    work: int

    def __init__(self, plan: Plan, channels: int, uniforms: int, batch: int, rows: int, like: Tensor) -> None:
        self.plan, self.batch, self.rows = plan, batch, rows
        # Wave by wave: the pixels of a step are adjacent, (channels, pixels, batch).
        places, precise = (len(plan.cells) + rows - 1, batch), uniforms_type(like.dtype)
        self.uniforms = like.new_zeros(uniforms, *places, dtype=precise)
        self.known = like.new_zeros(channels, *places, dtype=precise)
        self.given = like.new_zeros(1, *places, dtype=torch.bool)
        self.levels = like.new_zeros(channels, len(plan.cells), batch)
        cells = torch.tensor(plan.cells, device=like.device)
        # What is read for pixels beyond the image does not matter.
        self.raster = cells.clamp(min=0)
        self.places = torch.tensor(plan.places, device=like.device)
        self.steps: Sequence[StepViews] = tuple(self._views(step) for step in plan.steps)

    def _views(self, step: Step) -> StepViews:
        start = self.plan.first_cell(step.wave, step.pixel)
        computed = slice(start, start + -(-step.wave.count // self.rows) * self.rows)
        drawn = slice(start + step.first, start + step.first + step.count)
        return StepViews(
            step=step,
            uniforms=self.uniforms[:, computed].flatten(1),
            known=self.known[:, computed].flatten(1),
            given=self.given[:, computed].flatten(1),
            levels=self.levels[:, drawn].flatten(1),
            pixels=slice(step.first * self.batch, (step.first + step.count) * self.batch),
        )

    def fill(self, buffer: Tensor, images: Tensor) -> None:
        """Copy `(B, channels, H, W)` into one of the buffers that the steps read."""
        raster = buffer.new_zeros(buffer.shape[0] * len(self.places), self.batch)
        raster[:, : len(images)] = images.flatten(1).t()
        ordered = raster.view(buffer.shape[0], -1, self.batch).index_select(1, self.raster)
        buffer[:, : len(self.raster)].copy_(ordered)

    def drawn(self, batch: int) -> Tensor:
        """Return the levels `(batch, C, H, W)` of all pixels."""
        raster = self.levels.index_select(1, self.places)
        levels = raster[:, :, :batch].permute(2, 0, 1)
        return levels.reshape(batch, -1, self.plan.height, self.plan.width)

    def condition_on(self, condition: Tensor | None) -> None:
        """Take the latents' features `(B, condition, rows, columns)`; None for a decoder without."""
        raise NotImplementedError

    def clear(self) -> None:
        """Forget all pixels."""
        raise NotImplementedError

    def compute(self, views: StepViews) -> Tensor:
        """Return the parameters of a step's pixels, `(parameters, columns)`, once all before are placed."""
        raise NotImplementedError

    def place(self, views: StepViews, levels: Tensor) -> None:
        """Set a step's pixels to `levels`, `(C, pixels)`."""
        raise NotImplementedError


class ParallelWorkspace(Workspace):
    """Memory of a decoder that does not see the image: its one step is a pass over all pixels.

    Args:
        decoder: A factorized decoder.
        plan: One step.
        uniforms: Random numbers per pixel.
        batch: Images, padding included.
    """

    # As large as products of a whole pass are.
    work = 2**30

    def __init__(self, decoder: Decoder, plan: Plan, uniforms: int, batch: int) -> None:
        like = decoder.head2.weight
        super().__init__(plan, decoder.channels, uniforms, batch, 1, like)
        self.decoder = decoder
        self.condition = like.new_zeros(batch, decoder.config.condition, *decoder.grid)
        self.blank = like.new_zeros(batch, decoder.channels, plan.height, plan.width)

    def condition_on(self, condition: Tensor | None) -> None:
        assert condition is not None
        self.condition[: len(condition)] = condition

    def clear(self) -> None:
        """Nothing is kept of other images."""

    def compute(self, views: StepViews) -> Tensor:
        parameters = at_least_single(self.decoder(self.blank, self.condition))
        return parameters.flatten(2).permute(1, 2, 0).flatten(1)

    def place(self, views: StepViews, levels: Tensor) -> None:
        views.levels.copy_(levels)


def uniforms_type(weights: torch.dtype) -> torch.dtype:
    """Return the type of uniforms and likelihoods beside weights of a type: single precision at least."""
    return weights if weights.itemsize >= 4 else torch.float32
