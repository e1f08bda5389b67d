"""The exact fast sampler: all pixels of equal `t = column + lag * row` at once, earlier activations kept.

Activations lie in the skewed layout of `famecli.sampling.skew`, where the windows of a wavefront are a matrix
that needs no gathering: features are its rows, pixels of all images its columns. Taps of earlier wavefronts
are multiplied for all layers at once when a step begins; a layer is then one product for the tap of its own
wavefront, one for its 1x1 convolution, and two pointwise operations. Why that is exact: docs/wavefront.md.
"""

import torch
from torch import Tensor

from famecli.model.decoder import Decoder
from famecli.model.likelihoods import Likelihood, scale_levels
from famecli.sampling.graph import GraphMode, GraphRunner
from famecli.sampling.packing import pack
from famecli.sampling.plan import Step, WavefrontPlan
from famecli.sampling.threads import ThreadTrial, threads_for
from famecli.sampling.workspace import StepViews, Workspace, uniforms_type

# Matrices have a multiple of so many columns, two vectors of the widest registers: those left over at the end
# are computed by other instructions and rounded otherwise, and an image shall be the same in any batch.
LANES = 32
CHUNK = 64

# The functional forms cannot write into a given view.
elu = torch.ops.aten.elu.out
glu = torch.ops.aten.glu.out


class WavefrontSampler:
    """Exact samples of an autoregressive decoder in `width + lag * (height - 1)` steps, lag 2 by default.

    The decoder's weights are copied: make a new sampler when they change. Memory is kept from call to call,
    so calls must not overlap. Besides whole images, steps can be taken one by one, as an entropy coder does:
    `begin`, then for each step in order `params` and `push`, then `drawn`.

    Args:
        decoder: An autoregressive one; its weights give dtype and device.
        likelihood: What its outputs mean.
        levels: Values that a channel of a pixel can take.
        height: Pixel rows.
        width: Pixel columns.
        chunk: Images that `sample` computes at once, a multiple of `LANES`; the result does not depend on it.
        graph: Whether the steps of an image are replayed as one CUDA graph; see `GraphRunner`.
        lag: Steps by which a row is behind the row above it. None for the decoder's own, which is the
            fastest; the width is raster order. The images are the same.

    Raises:
        ValueError: `decoder` is not autoregressive, or `chunk` is no such multiple.
    """

    def __init__(
        self,
        decoder: Decoder,
        likelihood: Likelihood,
        levels: int,
        height: int,
        width: int,
        chunk: int = CHUNK,
        graph: GraphMode = "auto",
        lag: int | None = None,
    ) -> None:
        if chunk < 1 or chunk % LANES:
            raise ValueError(f"chunk must be a multiple of {LANES}, got {chunk}")
        self.decoder, self.likelihood, self.levels, self.chunk = decoder, likelihood, levels, chunk
        self.weights = pack(decoder, lag)
        self.plan = WavefrontPlan(height, width, self.weights.lag)
        device = self.weights.start.device
        self.order = torch.tensor(self.plan.order, device=device)
        self.inverse = torch.tensor(self.plan.inverse, device=device)
        self.workspaces: dict[int, Workspace] = {}
        self.graphs = GraphRunner(graph)
        self.space: Workspace
        self.batch: int

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor | None,
        uniforms: Tensor,
        temperature: float = 1.0,
        *,
        known: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the levels `(B, C, H, W)` that `uniforms` stand for.

        Args:
            condition: The latents' features `(B, condition, H, W)`; None for a decoder without.
            uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
            temperature: Spread of each pixel's distribution; 1 is the model's own.
            known: Levels of pixels that are given, `(B, C, H, W)`; the others follow given the earlier ones.
            mask: True where a pixel is known, `(B, 1, H, W)`.
        """
        like, size = self.weights.start, (self.weights.channels, self.plan.height, self.plan.width)
        found = [like.new_zeros(0, *size)]
        for first in range(0, len(uniforms), self.chunk):
            part = slice(first, first + self.chunk)
            self._start(None if condition is None else condition[part], len(uniforms[part]))
            self._fill(self.space.uniforms, uniforms[part])
            if known is not None and mask is not None:
                self._fill(self.space.known, known[part])
                self._fill(self.space.given, mask[part])
            self._walk(temperature, completing=mask is not None)
            found.append(self.drawn())
        return torch.cat(found)

    def _walk(self, temperature: float, *, completing: bool) -> None:
        """Set all pixels of the workspace by its uniforms, except those that are given."""
        space = self.space

        def loop() -> None:
            space.clear()
            trial = ThreadTrial()
            for views in space.steps:
                pixels = views.step.count
                with trial.step(pixels, typical=4 * pixels >= self.plan.largest):
                    self._compute(views)
                    # The likelihood is always computed in single precision or better.
                    parameters = views.parameters.to(views.uniforms.dtype)
                    drawn = self.likelihood.sample(parameters[None], views.uniforms[None], temperature)[0]
                    if completing:
                        drawn = torch.where(views.given, views.known, drawn)
                    self._place(views, drawn[:, : views.levels.shape[1]])

        with threads_for(space.work):
            self.graphs.run((space.batch, temperature, completing), loop, space.levels)

    @torch.no_grad()
    def begin(self, condition: Tensor | None, batch: int) -> None:
        """Start on `batch` images, whose steps are then taken one by one.

        Args:
            condition: The latents' features `(B, condition, H, W)`; None for a decoder without.
            batch: Images.

        Raises:
            ValueError: The condition does not go with the decoder.
        """
        self._start(condition, batch)
        self.space.clear()

    def _start(self, condition: Tensor | None, batch: int) -> None:
        """Choose the workspace for `batch` images and fill in the condition."""
        expected = self.weights.start.shape[1] - 1
        given = 0 if condition is None else condition.shape[1]
        if given != expected:
            raise ValueError(f"expected a condition of {expected} feature maps, got {given}")
        padded = padded_batch(batch) if batch > LANES // 2 else 1 << (batch - 1).bit_length()
        if padded not in self.workspaces:
            rows = -(-LANES // padded)
            self.workspaces[padded] = Workspace(
                self.weights, self.plan, self.likelihood.uniforms, padded, rows
            )
        self.space, self.batch = self.workspaces[padded], batch
        if condition is not None:
            self._fill(self.space.condition[:-1], condition)

    @torch.no_grad()
    def params(self, t: int) -> Tensor:
        """Return the parameters `(B, P, n)` of the `n` pixels of step `t`, once all before are pushed."""
        views = self.space.steps[t]
        with threads_for(self.space.work):
            self._compute(views)
        return self._images(views.parameters, views.step)

    @torch.no_grad()
    def push(self, t: int, levels: Tensor) -> None:
        """Set the pixels of step `t`, after its `params`, to `levels` `(B, C, n)`."""
        views = self.space.steps[t]
        padded = views.levels.new_zeros(self.weights.channels, views.step.count, self.space.batch)
        padded[:, :, : self.batch] = levels.permute(1, 2, 0)
        self._place(views, padded.flatten(1))

    def drawn(self) -> Tensor:
        """Return the levels `(B, C, H, W)` of all pixels that were set since `begin`."""
        raster = self.space.levels.index_select(1, self.inverse)
        levels = raster[:, :, : self.batch].permute(2, 0, 1)
        return levels.reshape(self.batch, -1, self.plan.height, self.plan.width)

    @torch.no_grad()
    def verify(
        self,
        levels: Tensor,
        uniforms: Tensor,
        condition: Tensor | None,
        temperature: float = 1.0,
        mask: Tensor | None = None,
    ) -> int:
        """Return how many pixels of `levels` are not the ones that `uniforms` stand for, by parallel passes.

        An image is the exact sample if and only if each pixel is what its uniforms make of the parameters
        given the image's own earlier pixels, and a parallel pass finds those of all pixels. In float32 a
        uniform within rounding of a boundary may count as well; in float64 that is next to impossible.

        Args:
            levels: Images `(B, C, H, W)`.
            uniforms: What they were drawn with, `(B, likelihood.uniforms, H, W)`.
            condition: The latents' features, or None.
            temperature: What they were drawn with.
            mask: True where a pixel was given, which needs no proof, `(B, 1, H, W)`.
        """
        odd = torch.zeros((), dtype=torch.int64, device=self.weights.start.device)
        for first in range(0, len(levels), self.chunk):
            part = slice(first, first + self.chunk)
            like = self.weights.start
            x, u = levels[part].to(like), uniforms[part].to(like.device, uniforms_type(like.dtype))
            seen = None if condition is None else condition[part].to(like)
            parameters = self.decoder(scale_levels(x, self.levels), seen).to(u.dtype)
            differs = (self.likelihood.sample(parameters, u, temperature).to(x.dtype) != x).any(1)
            odd += (differs if mask is None else differs & ~mask[part, 0]).sum()
        return int(odd)

    def _fill(self, buffer: Tensor, images: Tensor) -> None:
        """Copy `(B, channels, H, W)` into a wavefront-major buffer `(channels, H * W or more, batch)`."""
        channels, batch = buffer.shape[0], buffer.shape[2]
        raster = buffer.new_zeros(channels * len(self.order), batch)
        raster[:, : len(images)] = images.flatten(1).t()
        ordered = raster.view(channels, -1, batch).index_select(1, self.order)
        buffer[:, : len(self.order)].copy_(ordered)

    def _images(self, columns: Tensor, step: Step) -> Tensor:
        """Return `(B, channels, n)` of a matrix that a step computed."""
        grid = columns.view(len(columns), -1, self.space.batch)
        return grid[:, : step.count, : self.batch].permute(2, 0, 1)

    def _compute(self, views: StepViews) -> None:
        """Compute the parameters of a step's pixels; every layer first adds its input to its map."""
        weights, space, h = self.weights, self.space, views.h
        space.image.open_slot(views.step)
        space.maps.open_slot(views.step)
        torch.mm(weights.start, views.condition, out=views.start)
        for run, taps in zip(weights.first, views.taps, strict=True):
            h.addmm_(run.weight, taps)
        for run, taps in zip(weights.past, views.past, strict=True):
            views.gates.baddbmm_(run.weight, taps)
        for layer, memory in zip(weights.layers, views.layers, strict=True):
            elu(h, out=memory.own)
            for run, taps in zip(layer.present, memory.taps, strict=True):
                memory.gates.addmm_(run.weight, taps)
            glu(memory.gates, 0, out=views.activations)
            h.addmm_(layer.out, views.ones)
        elu(h, out=views.activations)
        torch.mm(weights.head1, views.ones, out=h)
        elu(h, out=views.activations)
        torch.mm(weights.head2, views.ones, out=views.parameters)
        space.maps.close_slot(views.step)

    def _place(self, views: StepViews, levels: Tensor) -> None:
        views.levels.copy_(levels)
        views.image.copy_(scale_levels(levels, self.levels))


def padded_batch(batch: int) -> int:
    """Return the next multiple of `LANES`: the number of images that networks compute `batch` of them as."""
    return -(-batch // LANES) * LANES
