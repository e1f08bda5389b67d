"""One step of an autoregressive decoder: all patches of a wavefront, with cached earlier activations.

In the skewed layout of `famecli.sampling.packing`, the windows of a wavefront form a matrix without a copy:
rows are features, columns are patches of all images. When a wave begins, taps of earlier wavefronts are
multiplied for all layers at once. A layer then takes one product for the tap of its own wavefront, one for
its 1x1 convolution, and pointwise operations. Attention stores keys and values in wave order, so that a wave
sees a prefix of them. Proof of exactness: docs/wavefront.md.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.model.distributions import scale_levels
from famecli.model.layers import SMALLEST_SQUARE, attend_by_products, sees, to_float32_or_wider
from famecli.runtime.forks import wiped_on_fork
from famecli.runtime.processor import product_routine
from famecli.sampling.execution import Products
from famecli.sampling.packing import PackedAttention, PackedDecoder, SkewedMaps
from famecli.sampling.plan import Plan, Wave
from famecli.sampling.workspace import StepViews, Workspace

# The functional forms cannot write into an existing view.
elu = torch.ops.aten.elu.out
glu = torch.ops.aten.glu.out


@dataclass(frozen=True)
class LayerViews:
    """Memory of a gated layer in one wave.

    Args:
        own: Activated input of the layer, in its map.
        gates: Sums of the layer's window, part of `WaveViews.start`.
        taps: Taps of the wave's own wavefront.
    """

    own: Tensor
    gates: Tensor
    taps: tuple[Tensor, ...]


@dataclass(frozen=True)
class WaveViews:
    """Memory that the features of one wave read and write; a matrix has a column per patch and image.

    Matrices include the padding rows of `SkewedMaps`; results do not.

    Args:
        wave: Wave of the plan.
        condition: Condition and a row of ones.
        taps: Windows of the first layer.
        start: Initial sums.
        h: Residual path, part of `start`.
        ones: Activations above a row of ones.
        activations: Activations, without the ones.
        square_ones: Squares of features above a row of ones, in float32 or wider.
        squares: Squares of features, without the ones.
        mean: Mean square of features, then the factors that normalise.
        sums: Sums of the head, for all pixels of a patch.
        pixel_sums: Sums of each pixel.
        later_sums: Sums of the pixels after each pixel.
        pixels: Each pixel in [-1, 1], in the map that the first layer reads.
        parameters: Parameters of the likelihood.
        gates: Gates of all gated layers, `(layers, 2 * width, columns)`.
        past: Windows of all gated layers, `(layers, taps * width, columns)`.
        layers: Views of each gated layer.
        mixed: Attention output, `(columns, inner)`, beside a column of ones.
    """

    wave: Wave
    condition: Tensor
    taps: tuple[Tensor, ...]
    start: Tensor
    h: Tensor
    ones: Tensor
    activations: Tensor
    square_ones: Tensor
    squares: Tensor
    mean: Tensor
    sums: Tensor
    pixel_sums: tuple[Tensor, ...]
    later_sums: tuple[Tensor, ...]
    pixels: tuple[Tensor, ...]
    parameters: Tensor
    gates: Tensor
    past: tuple[Tensor, ...]
    layers: tuple[LayerViews, ...]
    mixed: Tensor


@dataclass(frozen=True)
class AttentionViews:
    """Memory of an attention block in one wave of `n` patches; `m` is the number of images times heads.

    Args:
        projected: Queries, keys and values, `(columns, heads * 3 * features)`.
        queries_keys: Queries and keys, `(n * m, 2, features)`.
        squares: Squares of `queries_keys`, in float32 or wider.
        mean: Mean squares, then the factors that normalise, `(n * m, 2, 1)`.
        query: Queries, `(m, n, features)`.
        fresh: Keys and values, `(2, m, n, features)`.
        stored: Place of `fresh` in the cache.
        seen_keys: Cached keys up to this wave, `(m, patches, features)`.
        seen_values: Cached values up to this wave, `(m, patches, features)`.
        mask: Additive mask, `(n, patches)`: 0, or minus infinity for hidden keys.
    """

    projected: Tensor
    queries_keys: Tensor
    squares: Tensor
    mean: Tensor
    query: Tensor
    fresh: Tensor
    stored: Tensor
    seen_keys: Tensor
    seen_values: Tensor
    mask: Tensor


class AttentionScratch:
    """Memory that the attention blocks of a decoder use one after the other.

    Args:
        block: Weights of any of the blocks.
        plan: Order of the patches.
        batch: Number of images, padding included.
        rows: Multiple that the patches of a wave are padded to.
        lag: Lag of the attention mask.

    Attributes:
        mask: Additive attention mask, `(patches, patches)`, in wave order.
    """

    def __init__(self, block: PackedAttention, plan: Plan, batch: int, rows: int, lag: int) -> None:
        like, places = block.position, (plan.largest + rows - 1) * batch
        self.features = block.project.shape[1] // (3 * block.heads)
        self.projected = like.new_zeros(places, block.project.shape[1])
        self.squares = to_float32_or_wider(like.new_zeros(places * block.heads, 2, self.features))
        self.mean = self.squares.new_zeros(places * block.heads, 2, 1)
        self.smallest = self.squares.new_full((), SMALLEST_SQUARE)
        self.mask = _mask(plan, lag, like)


class AttentionMemory:
    """Keys and values of an attention block, in wave order.

    Args:
        block: Weights of the block.
        plan: Order of the patches.
        batch: Number of images, padding included.
        rows: Multiple that the patches of a wave are padded to.
        scratch: Memory for intermediate results.
    """

    def __init__(
        self, block: PackedAttention, plan: Plan, batch: int, rows: int, scratch: AttentionScratch
    ) -> None:
        self.block, self.batch, self.scratch = block, batch, scratch
        self.position = _in_wave_order(block.position, plan, rows - 1)
        self.cache = wiped_on_fork(
            (2, batch * block.heads, len(plan.patches), scratch.features), block.position
        )
        self.waves = tuple(self._wave(wave, rows) for wave in plan.waves)

    def attend(self, views: WaveViews) -> None:
        """Store the keys and values of a wave's patches, and add attention's output to their features."""
        block, wave, own = self.block, views.wave, self.waves[views.wave.t]
        _add_positions(views.activations, self.position, wave, self.batch)
        torch.mm(views.ones.t(), block.project, out=own.projected)
        wide = to_float32_or_wider(own.queries_keys)
        torch.mean(torch.mul(wide, wide, out=own.squares), dim=2, keepdim=True, out=own.mean)
        own.queries_keys.mul_(own.mean.add_(self.scratch.smallest).rsqrt_().to(own.queries_keys.dtype))
        own.stored.copy_(own.fresh)
        mixed = attend_by_products(own.query, own.seen_keys, own.seen_values, own.mask)
        by_patch = mixed.view(self.batch, block.heads, wave.count, -1).permute(2, 0, 1, 3)
        views.mixed[: wave.count * self.batch, :-1].view(by_patch.shape).copy_(by_patch)
        views.h.addmm_(block.out, views.mixed.t())

    def _wave(self, wave: Wave, rows: int) -> AttentionViews:
        heads, scratch, end = self.block.heads, self.scratch, wave.offset + wave.count
        projected = scratch.projected[: -(-wave.count // rows) * rows * self.batch]
        # With the features of a head last, each is copied in one piece.
        by_head = projected[: wave.count * self.batch].view(wave.count, self.batch * heads, 3, -1)
        pairs = wave.count * self.batch * heads
        return AttentionViews(
            projected=projected,
            queries_keys=by_head[:, :, :2].flatten(0, 1),
            squares=scratch.squares[:pairs],
            mean=scratch.mean[:pairs],
            query=by_head[:, :, 0].transpose(0, 1),
            fresh=by_head[:, :, 1:].permute(2, 1, 0, 3),
            stored=self.cache[:, :, wave.offset : end],
            seen_keys=self.cache[0, :, :end],
            seen_values=self.cache[1, :, :end],
            mask=scratch.mask[wave.offset : end, :end],
        )


class WavefrontWorkspace(Workspace):
    """Memory of an autoregressive decoder.

    Args:
        weights: Weights of the decoder.
        plan: Order of the pixels.
        uniforms: Random numbers per pixel.
        num_levels: Number of values that a channel of a pixel can take.
        batch: Number of images, padding included.
        rows: Multiple that the rows of a wave are padded to.
    """

    def __init__(
        self, weights: PackedDecoder, plan: Plan, uniforms: int, num_levels: int, batch: int, rows: int
    ) -> None:
        like, width = weights.start, weights.width
        super().__init__(plan, weights.channels, uniforms, batch, rows, like)
        self.weights, self.num_levels = weights, num_levels
        self.products = Products(product_routine())
        size = (plan.patches[-1][0] + 1, batch, rows)
        values = weights.channels * weights.pixels
        self.image = SkewedMaps(1, values, *size, weights.first_reach, weights.lag, like)
        self.maps = SkewedMaps(len(weights.layers), width, *size, weights.reach, weights.lag, like)
        widest = max(self.maps.columns(wave) for wave in plan.waves)
        largest = max((run.weight.numel() for run in (*weights.first, *weights.past)), default=0)
        self.work = largest * len(plan.patches) * batch // len(plan.waves)
        self.condition = like.new_ones(like.shape[1], len(plan.patches) + rows - 1, batch)
        self.start = wiped_on_fork((like.shape[0] * widest,), like)
        self.position = None if weights.position is None else _in_wave_order(weights.position, plan, rows - 1)
        self.sums = like.new_zeros(len(weights.head1) * widest)
        self.parameters = like.new_zeros(weights.head2.shape[1] * widest)
        self.ones = like.new_ones(width + 1, widest)
        self.square_ones = to_float32_or_wider(torch.ones_like(self.ones))
        # Their product with the squares and a one is the mean square plus the smallest square.
        self.mean_weights = self.square_ones.new_full((1, width + 1), 1.0 / width)
        self.mean_weights[:, -1] = SMALLEST_SQUARE
        self.attention = _attention(weights, plan, batch, rows)
        inner = max((memory.block.out.shape[1] for memory in self.attention.values()), default=1)
        self.mixed = like.new_ones(widest, inner)
        self.waves = tuple(self._wave(wave) for wave in plan.waves)

    def condition_on(self, condition: Tensor | None) -> None:
        if condition is None:
            return
        order = self.plan.patch_order(condition.shape[3])
        index = torch.tensor(order, device=condition.device)
        ordered = condition.flatten(2).index_select(2, index).permute(1, 2, 0)
        self.condition[:-1, : len(order), : len(condition)].copy_(ordered)
        self.condition[:-1, :, len(condition) :] = 0

    def clear(self) -> None:
        self.image.clear()
        self.maps.clear()

    def compute(self, views: StepViews) -> Tensor:
        wave, pixel = self.waves[views.step.wave.t], views.step.pixel
        if pixel == 0:
            self._features(wave)
        elu(wave.pixel_sums[pixel], out=wave.activations)
        self.products.write(self.weights.head2[pixel], wave.ones, wave.parameters)
        return wave.parameters

    def place(self, views: StepViews, levels: Tensor) -> None:
        wave, pixel = self.waves[views.step.wave.t], views.step.pixel
        own = wave.pixels[pixel]
        views.levels.copy_(levels)
        own[:, views.pixels].copy_(scale_levels(levels, self.num_levels))
        if pixel + 1 < self.weights.pixels:
            self.products.add(self.weights.earlier[pixel], own, wave.later_sums[pixel])

    def _features(self, views: WaveViews) -> None:
        """Compute the sums of the head; every layer first writes its input into its map."""
        weights, wave, h, multiply = self.weights, views.wave, views.h, self.products
        self.image.open_slot(wave)
        self.maps.open_slot(wave)
        if weights.pixels > 1:
            self.image.clear_slot(wave)
        multiply.write(weights.start, views.condition, views.start)
        if self.position is not None:
            _add_positions(h, self.position, wave, self.batch)
        for run, taps in zip(weights.first, views.taps, strict=True):
            multiply.add(run.weight, taps, h)
        for run, taps in zip(weights.past, views.past, strict=True):
            multiply.add_each(run.weight, taps, views.gates)
        for index, (layer, memory) in enumerate(zip(weights.layers, views.layers, strict=True)):
            self._activate(views, memory.own)
            for run, taps in zip(layer.present, memory.taps, strict=True):
                multiply.add(run.weight, taps, memory.gates)
            glu(memory.gates, 0, out=views.activations)
            multiply.add(layer.out, views.ones, h)
            if index in self.attention:
                self._normalise(views, views.activations)
                self.attention[index].attend(views)
        self._activate(views, views.activations)
        multiply.write(weights.head1, views.ones, views.sums)
        self.maps.close_slot(wave)

    def _activate(self, views: WaveViews, out: Tensor) -> None:
        if not self.weights.normalised:
            elu(views.h, out=out)
            return
        self._normalise(views, out)
        elu(out, out=out)

    def _normalise(self, views: WaveViews, out: Tensor) -> None:
        """Write the features divided by their root mean square."""
        wide = to_float32_or_wider(views.h)
        torch.mul(wide, wide, out=views.squares)
        # A matrix product rounds independently of the number of columns.
        torch.mm(self.mean_weights, views.square_ones, out=views.mean)
        torch.mul(views.h, views.mean.rsqrt_().to(out.dtype), out=out)

    def _wave(self, wave: Wave) -> WaveViews:
        weights, columns, width = self.weights, self.maps.columns(wave), self.weights.width

        def of(memory: Tensor, features: int) -> Tensor:
            return memory[: features * columns].view(features, columns)

        start, sums = of(self.start, len(weights.start)), of(self.sums, len(weights.head1))
        image = self.image.own(0, wave)
        layers = tuple(
            LayerViews(
                own=self.maps.own(index, wave),
                gates=start[(1 + 2 * index) * width : (3 + 2 * index) * width],
                taps=tuple(self.maps.taps(index, wave, run) for run in layer.present),
            )
            for index, layer in enumerate(weights.layers)
        )
        return WaveViews(
            wave=wave,
            condition=self.condition[:, wave.offset : wave.offset + columns // self.batch].flatten(1),
            taps=tuple(self.image.taps(0, wave, run) for run in weights.first),
            start=start,
            h=start[:width],
            ones=self.ones[:, :columns],
            activations=self.ones[:-1, :columns],
            square_ones=self.square_ones[:, :columns],
            squares=self.square_ones[:-1, :columns],
            mean=self.mean_weights.new_empty(1, columns),
            sums=sums,
            pixel_sums=sums.split(width),
            later_sums=tuple(sums[pixel * width :] for pixel in range(1, weights.pixels)),
            pixels=image.split(weights.channels),
            parameters=of(self.parameters, weights.head2.shape[1]),
            gates=start[width:].view(len(layers), 2 * width, columns),
            past=tuple(self.maps.all_taps(wave, run) for run in weights.past),
            layers=layers,
            mixed=self.mixed[:columns],
        )


def _attention(weights: PackedDecoder, plan: Plan, batch: int, rows: int) -> dict[int, AttentionMemory]:
    """Return the memory of each attention block, by the index of its gated layer."""
    blocks = {i: each.attention for i, each in enumerate(weights.layers) if each.attention is not None}
    if not blocks:
        return {}
    scratch = AttentionScratch(next(iter(blocks.values())), plan, batch, rows, weights.seen_lag)
    return {i: AttentionMemory(block, plan, batch, rows, scratch) for i, block in blocks.items()}


def _in_wave_order(position: Tensor, plan: Plan, extra: int) -> Tensor:
    """Return a map of positions `(width, rows, columns)` in wave order, `(width, patches + extra, 1)`."""
    index = torch.tensor(plan.patch_order(position.shape[2]), device=position.device)
    ordered = position.flatten(1).index_select(1, index)
    return torch.cat([ordered, ordered.new_zeros(len(ordered), extra)], dim=1).unsqueeze(2)


def _add_positions(features: Tensor, position: Tensor, wave: Wave, batch: int) -> None:
    """Add positions, from `_in_wave_order`, to the features of a wave, `(width, patches * batch)`."""
    patches = slice(wave.offset, wave.offset + features.shape[1] // batch)
    features.unflatten(1, (-1, batch)).add_(position[:, patches])


def _mask(plan: Plan, lag: int, like: Tensor) -> Tensor:
    """Return the additive attention mask `(patches, patches)` in wave order; see `sees`."""
    row, column = torch.tensor(plan.patches, device=like.device).unbind(1)
    return torch.where(sees(row, column, lag), 0.0, -torch.inf).to(like.dtype)
