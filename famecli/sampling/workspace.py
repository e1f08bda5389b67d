"""The sampler's memory for one batch size, and the views of it that each step takes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.sampling.packing import PackedDecoder
from famecli.sampling.plan import Step, WavefrontPlan
from famecli.sampling.skew import SkewedMaps


@dataclass(frozen=True)
class LayerViews:
    """What a gated layer writes and reads in one step: its input's pixels, its gates, its own wavefront."""

    own: Tensor
    gates: Tensor
    taps: tuple[Tensor, ...]


@dataclass(frozen=True)
class StepViews:
    """All memory that one step touches; matrices have a column per pixel and image.

    What is computed has columns of the rows below too, see `SkewedMaps`; the result has not.

    Args:
        step: Which pixels.
        condition: Condition and a row of ones.
        uniforms: Random numbers.
        known: Levels of pixels that are given.
        given: Which pixels are.
        levels: The result.
        image: The result in [-1, 1], in the map that the first layer reads.
        taps: Windows of the first layer.
        start: What sums start from.
        h: The residual path, part of `start`.
        ones: Activations above a row of ones.
        activations: The same without the ones.
        parameters: Of the likelihood.
        gates: Of all gated layers, `(layers, 2 * width, columns)`.
        past: Windows of all gated layers, `(layers, taps * width, columns)`.
        layers: Of the gated layers.
    """

    step: Step
    condition: Tensor
    uniforms: Tensor
    known: Tensor
    given: Tensor
    levels: Tensor
    image: Tensor
    taps: tuple[Tensor, ...]
    start: Tensor
    h: Tensor
    ones: Tensor
    activations: Tensor
    parameters: Tensor
    gates: Tensor
    past: tuple[Tensor, ...]
    layers: tuple[LayerViews, ...]


class Workspace:
    """Memory for one batch size, and every view of it that the steps take, made once.

    Args:
        weights: The decoder's.
        plan: Order of the pixels.
        uniforms: Random numbers per pixel.
        batch: Images, padding included.
        rows: What the number of rows that a step computes is a multiple of.

    Attributes:
        work: Multiplications in the largest product of a window's row, in an average step.
    """

    def __init__(
        self, weights: PackedDecoder, plan: WavefrontPlan, uniforms: int, batch: int, rows: int
    ) -> None:
        like, width, size = weights.start, weights.width, (plan.height, batch, rows)
        pixels = plan.height * plan.width
        self.image = SkewedMaps(1, weights.channels, *size, weights.first_reach, weights.lag, like)
        self.maps = SkewedMaps(len(weights.layers), width, *size, weights.reach, weights.lag, like)
        widest = max(self.maps.columns(step) for step in plan.steps)
        largest = max((run.weight.numel() for run in (*weights.first, *weights.past)), default=0)
        self.batch = batch
        self.work = largest * pixels * batch // plan.num_steps
        # Wavefront-major: the pixels of a step are adjacent, (channels, pixels, batch).
        places, precise = (pixels + rows - 1, batch), uniforms_type(like.dtype)
        self.condition = like.new_ones(like.shape[1], *places)
        self.uniforms = like.new_zeros(uniforms, *places, dtype=precise)
        self.known = like.new_zeros(weights.channels, *places, dtype=precise)
        self.given = like.new_zeros(1, *places, dtype=torch.bool)
        self.levels = like.new_zeros(weights.channels, pixels, batch)
        self.start = like.new_zeros(like.shape[0] * widest)
        self.parameters = like.new_zeros(weights.head2.shape[0] * widest)
        self.ones = like.new_ones(width + 1, widest)
        self.steps = tuple(self._views(weights, step) for step in plan.steps)

    def clear(self) -> None:
        """Forget all pixels."""
        self.image.clear()
        self.maps.clear()

    def _views(self, weights: PackedDecoder, step: Step) -> StepViews:
        columns, width = self.maps.columns(step), weights.width
        pixels = slice(step.offset, step.offset + step.count)
        computed = slice(step.offset, step.offset + columns // self.batch)
        sums, outputs = weights.start.shape[0], weights.head2.shape[0]
        start = self.start[: sums * columns].view(sums, columns)
        layers = tuple(
            LayerViews(
                own=self.maps.own(index, step),
                gates=start[(1 + 2 * index) * width : (3 + 2 * index) * width],
                taps=tuple(self.maps.taps(index, step, run) for run in layer.present),
            )
            for index, layer in enumerate(weights.layers)
        )
        return StepViews(
            step=step,
            condition=self.condition[:, computed].flatten(1),
            uniforms=self.uniforms[:, computed].flatten(1),
            known=self.known[:, computed].flatten(1),
            given=self.given[:, computed].flatten(1),
            levels=self.levels[:, pixels].flatten(1),
            image=self.image.own(0, step)[:, : step.count * self.batch],
            taps=tuple(self.image.taps(0, step, run) for run in weights.first),
            start=start,
            h=start[:width],
            ones=self.ones[:, :columns],
            activations=self.ones[:-1, :columns],
            parameters=self.parameters[: outputs * columns].view(outputs, columns),
            gates=start[width:].view(len(layers), 2 * width, columns),
            past=tuple(self.maps.all_taps(step, run) for run in weights.past),
            layers=layers,
        )


def uniforms_type(weights: torch.dtype) -> torch.dtype:
    """Return the type of uniforms and likelihoods beside weights of a type: single precision at least."""
    return weights if weights.itemsize >= 4 else torch.float32
