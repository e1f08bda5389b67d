"""Memory of a sampler for one batch size: the base class, and that of factorized decoders."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.model.decoder import Decoder
from famecli.model.layers import to_float32_or_wider
from famecli.sampling.plan import Plan, Step


@dataclass(frozen=True)
class StepViews:
    """Memory that one step reads and writes; a matrix has a column per pixel and image.

    Args:
        step: Step of the plan.
        uniforms: Random numbers, `(uniforms, columns)`.
        known: Levels of given pixels, `(C, columns)`.
        given: Whether pixels are given, `(1, columns)`.
        levels: Levels that were drawn, `(C, pixels)`, without the padding columns.
        pixels: Columns of the step's pixels among all computed columns.
    """

    step: Step
    uniforms: Tensor
    known: Tensor
    given: Tensor
    levels: Tensor
    pixels: slice


class Workspace(ABC):
    """Memory for one batch size, and the views of it that each step uses, made once.

    Args:
        plan: Order of the pixels.
        channels: Channels of the image.
        uniforms: Random numbers per pixel.
        batch: Number of images, padding included.
        rows: Multiple that the patches of a wave are padded to.
        like: Tensor of the same dtype and device.

    Attributes:
        work: Multiplications in the largest product of an average step.
    """

    work: int

    def __init__(self, plan: Plan, channels: int, uniforms: int, batch: int, rows: int, like: Tensor) -> None:
        self.plan, self.batch, self.rows = plan, batch, rows
        # (channels, pixels, batch), wave by wave: the pixels of a step are adjacent.
        places, precise = (len(plan.cells) + rows - 1, batch), torch.promote_types(like.dtype, torch.float32)
        self.uniforms = like.new_zeros(uniforms, *places, dtype=precise)
        self.known = like.new_zeros(channels, *places, dtype=precise)
        self.given = like.new_zeros(1, *places, dtype=torch.bool)
        self.levels = like.new_zeros(channels, len(plan.cells), batch)
        cells = torch.tensor(plan.cells, device=like.device)
        # Pixels beyond the image read any pixel: their results are dropped.
        self.raster = cells.clamp(min=0)
        self.places = torch.tensor(plan.places, device=like.device)
        self.steps = tuple(self._views(step) for step in plan.steps)

    def _views(self, step: Step) -> StepViews:
        """Return the views of one step, which computes a pixel of each patch and draws those in the image."""
        start = self.plan.first_cell(step.wave, step.pixel)
        padded_count = -(-step.wave.count // self.rows) * self.rows
        computed = slice(start, start + padded_count)
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
        """Copy images `(B, channels, H, W)` into a buffer in the order of the steps."""
        raster = buffer.new_zeros(buffer.shape[0] * len(self.places), self.batch)
        raster[:, : len(images)] = images.flatten(1).t()
        ordered = raster.view(buffer.shape[0], -1, self.batch).index_select(1, self.raster)
        buffer[:, : len(self.raster)].copy_(ordered)

    def drawn(self, batch: int) -> Tensor:
        """Return the levels `(batch, C, H, W)` of all pixels."""
        raster = self.levels.index_select(1, self.places)[:, :, :batch]
        return raster.permute(2, 0, 1).reshape(batch, -1, self.plan.height, self.plan.width)

    @abstractmethod
    def condition_on(self, condition: Tensor | None) -> None:
        """Copy the latents' features `(B, condition, rows, columns)`; None without latents."""

    @abstractmethod
    def clear(self) -> None:
        """Forget all pixels."""

    @abstractmethod
    def compute(self, views: StepViews) -> Tensor:
        """Return the parameters `(parameters, columns)` of a step, after all earlier steps were placed."""

    @abstractmethod
    def place(self, views: StepViews, levels: Tensor) -> None:
        """Set a step's pixels to `levels`, `(C, pixels)`."""


class ParallelWorkspace(Workspace):
    """Memory of a decoder that does not see the image: its only step is a pass over all pixels.

    Args:
        decoder: Factorized decoder.
        plan: Plan of one step.
        uniforms: Random numbers per pixel.
        batch: Number of images, padding included.
    """

    # Enough for threads: products of a whole pass are large.
    work = 2**30

    def __init__(self, decoder: Decoder, plan: Plan, uniforms: int, batch: int) -> None:
        like = decoder.head2.weight
        super().__init__(plan, decoder.channels, uniforms, batch, 1, like)
        self.decoder = decoder
        self.condition = like.new_zeros(batch, decoder.config.condition, *decoder.grid)

    def condition_on(self, condition: Tensor | None) -> None:
        assert condition is not None
        self.condition[: len(condition)] = condition

    def clear(self) -> None:
        """Do nothing: no pixel depends on others."""

    def compute(self, views: StepViews) -> Tensor:
        parameters = to_float32_or_wider(self.decoder(None, self.condition))
        return parameters.flatten(2).permute(1, 2, 0).flatten(1)

    def place(self, views: StepViews, levels: Tensor) -> None:
        views.levels.copy_(levels)
