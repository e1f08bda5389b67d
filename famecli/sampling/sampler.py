"""The exact sampler, one loop over the steps of a plan for every decoder, and its slow reference."""

import torch
from torch import Tensor

from famecli.model.decoder import Decoder
from famecli.model.distributions import Likelihood, scale_levels
from famecli.sampling.execution import GraphMode, GraphRunner, ThreadTrial, threads_for
from famecli.sampling.packing import PackedDecoder
from famecli.sampling.plan import Step, parallel_plan, wavefront_plan
from famecli.sampling.wavefront import WavefrontWorkspace
from famecli.sampling.workspace import ParallelWorkspace, Workspace

# Columns of every matrix are padded to a multiple of this, the width of two of the widest vector registers.
# Other instructions would compute a remainder and round differently, so images would depend on their batch.
LANES = 32
CHUNK = 64
# On a GPU the time of a step hardly depends on the number of columns until they fill it.
GPU_CHUNK = 1024


class Sampler:
    """Exact sampler of a decoder, step by step of a plan.

    An autoregressive decoder takes a wave for each `t = column + lag * row` of patches, and in each wave a
    step for each pixel of a patch; a factorized one takes one step.

    The decoder's weights are copied: make a new sampler when they change. Calls share memory and must not
    overlap, and a forked process must begin its images anew. An entropy coder takes the steps one by one:
    `begin`, then for each step in order `params` and `push`, then `drawn`.

    Args:
        decoder: Decoder; its weights give dtype and device.
        likelihood: Likelihood of the decoder's outputs.
        levels: Number of values that a channel of a pixel can take.
        chunk: Number of images that `sample` computes at once, a multiple of `LANES`; None for `chunk_on`
            the decoder's device. The result does not depend on it.
        graph: Whether the steps of an image are replayed as one CUDA graph; see `GraphRunner`.
        lag: Waves by which a row of patches trails the row above it; None for the decoder's own, the fastest.
            The number of columns of patches as lag gives raster order. Images do not depend on the lag.

    Raises:
        ValueError: The lag is below the decoder's own and gives no raster order, or `chunk` is not a multiple
            of `LANES`.
    """

    def __init__(
        self,
        decoder: Decoder,
        likelihood: Likelihood,
        levels: int,
        chunk: int | None = None,
        graph: GraphMode = "auto",
        lag: int | None = None,
    ) -> None:
        chunk = chunk_on(decoder.device) if chunk is None else chunk
        if chunk < 1 or chunk % LANES:
            raise ValueError(f"chunk must be a multiple of {LANES}, got {chunk}")
        self.decoder, self.likelihood, self.levels, self.chunk = decoder, likelihood, levels, chunk
        self.weights: PackedDecoder | None = None
        self.plan = parallel_plan(*decoder.size)
        if decoder.config.autoregressive:
            self.weights = PackedDecoder(decoder, lag)
            self.plan = wavefront_plan(*decoder.size, self.weights.lag, decoder.config.patch)
        # Small operations are faster in inference mode. A factorized decoder takes a few large ones, and CUDA
        # graphs are captured without it.
        quick = self.weights is not None and decoder.device.type == "cpu"
        self.without_gradients = torch.inference_mode if quick else torch.no_grad
        self.workspaces: dict[int, Workspace] = {}
        # A factorized decoder takes one forward pass, which no graph makes faster.
        self.graphs = GraphRunner(graph if self.weights else "off")
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
        """Return the levels `(B, C, H, W)` sampled with `uniforms`.

        Args:
            condition: The latents' features `(B, condition, rows, columns)`; None without latents.
            uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
            temperature: Temperature of each pixel's distribution; 1 is the model's own.
            known: Levels of given pixels, `(B, C, H, W)`; the others are drawn given the earlier ones.
            mask: True where a pixel is given, `(B, 1, H, W)`; required with `known`.

        Raises:
            ValueError: There is a mask without known pixels, or the reverse, or the condition has the wrong
                number of feature maps.
        """
        _check_pair(known, mask)
        size = self.decoder.channels, *self.decoder.size
        found = [torch.zeros(0, *size, dtype=self.decoder.dtype, device=self.decoder.device)]
        for first in range(0, len(uniforms), self.chunk):
            part = slice(first, first + self.chunk)
            self._start(None if condition is None else condition[part], len(uniforms[part]))
            self.space.fill(self.space.uniforms, uniforms[part])
            if known is not None and mask is not None:
                self.space.fill(self.space.known, known[part])
                self.space.fill(self.space.given, mask[part])
            self._walk(temperature, completing=mask is not None)
            found.append(self.drawn())
        return torch.cat(found)

    def _walk(self, temperature: float, *, completing: bool) -> None:
        """Draw all pixels of the workspace from its uniforms; with `completing`, except given ones."""
        space = self.space

        def loop() -> None:
            space.clear()
            trial = ThreadTrial(len(space.steps))
            for views in space.steps:
                patches = views.step.wave.count
                with trial.step(patches, typical=4 * patches >= self.plan.largest):
                    # The likelihood is computed in float32 or wider.
                    parameters = space.compute(views).to(views.uniforms.dtype)
                    drawn = self.likelihood.sample(parameters[None], views.uniforms[None], temperature)[0]
                    if completing:
                        drawn = torch.where(views.given, views.known, drawn)
                    space.place(views, drawn[:, views.pixels])

        with threads_for(space.work), self.without_gradients():
            self.graphs.run((space.batch, temperature, completing), loop, space.levels)

    @torch.no_grad()
    def begin(self, condition: Tensor | None, batch: int) -> None:
        """Start `batch` images, whose steps are then taken one by one.

        Args:
            condition: The latents' features `(B, condition, rows, columns)`; None without latents.
            batch: Number of images.

        Raises:
            ValueError: The condition has the wrong number of feature maps.
        """
        self._start(condition, batch)
        self.space.clear()

    def _start(self, condition: Tensor | None, batch: int) -> None:
        """Choose the workspace for `batch` images and copy the condition into it."""
        expected = self.decoder.config.condition
        given = 0 if condition is None else condition.shape[1]
        if given != expected:
            raise ValueError(f"expected a condition of {expected} feature maps, got {given}")
        padded = padded_batch(batch)
        if self.weights and batch <= LANES // 2:
            padded = 1 << (batch - 1).bit_length()
        if padded not in self.workspaces:
            self.workspaces[padded] = self._workspace(padded)
        self.space, self.batch = self.workspaces[padded], batch
        self.space.condition_on(condition)

    def _workspace(self, batch: int) -> Workspace:
        uniforms = self.likelihood.uniforms
        if self.weights is None:
            return ParallelWorkspace(self.decoder, self.plan, uniforms, batch)
        rows = -(-LANES // batch)
        return WavefrontWorkspace(self.weights, self.plan, uniforms, self.levels, batch, rows)

    @torch.no_grad()
    def params(self, step: Step) -> Tensor:
        """Return the parameters `(B, P, n)` of the `n` pixels of a step, after all earlier steps."""
        views = self.space.steps[step.index]
        with threads_for(self.space.work), self.without_gradients():
            parameters = self.space.compute(views)
        columns = parameters[:, views.pixels].view(len(parameters), step.count, self.space.batch)
        return columns[:, :, : self.batch].permute(2, 0, 1)

    @torch.no_grad()
    def push(self, step: Step, levels: Tensor) -> None:
        """Set the pixels of a step to `levels` `(B, C, n)`, after its `params`."""
        views = self.space.steps[step.index]
        padded = self.space.levels.new_zeros(levels.shape[1], step.count, self.space.batch)
        padded[:, :, : self.batch] = levels.permute(1, 2, 0)
        with threads_for(self.space.work), self.without_gradients():
            self.space.place(views, padded.flatten(1))

    def drawn(self) -> Tensor:
        """Return the levels `(B, C, H, W)` of all pixels that were set since `begin`."""
        return self.space.drawn(self.batch)

    @torch.no_grad()
    def verify(
        self,
        levels: Tensor,
        uniforms: Tensor,
        condition: Tensor | None,
        temperature: float = 1.0,
        mask: Tensor | None = None,
    ) -> int:
        """Return the number of pixels that differ from exact samples with `uniforms`, by parallel passes.

        An image is the exact sample if and only if each pixel is the one sampled with its uniforms given the
        image's own earlier pixels; one parallel pass computes the parameters of all pixels. In float32, a
        pixel with a uniform close to a boundary may be miscounted; in float64, hardly ever.

        Args:
            levels: Images `(B, C, H, W)`.
            uniforms: Numbers that the images were drawn with, `(B, likelihood.uniforms, H, W)`.
            condition: The latents' features, or None.
            temperature: Temperature that the images were drawn with.
            mask: True where a pixel was given and is not counted, `(B, 1, H, W)`.
        """
        like = self.decoder.head2.weight
        wide = torch.promote_types(like.dtype, torch.float32)
        odd = torch.zeros((), dtype=torch.int64, device=like.device)
        for first in range(0, len(levels), self.chunk):
            part = slice(first, first + self.chunk)
            x, u = levels[part].to(like), uniforms[part].to(like.device, wide)
            seen = None if condition is None else condition[part].to(like)
            parameters = self.decoder(scale_levels(x, self.levels), seen).to(u.dtype)
            differs = (self.likelihood.sample(parameters, u, temperature).to(x.dtype) != x).any(1)
            odd += (differs if mask is None else differs & ~mask[part, 0]).sum()
        return int(odd)


def chunk_on(device: torch.device) -> int:
    """Return the default number of images computed at once on a device."""
    return GPU_CHUNK if device.type == "cuda" else CHUNK


def _check_pair(known: Tensor | None, mask: Tensor | None) -> None:
    if (known is None) != (mask is None):
        raise ValueError(f"`known` and `mask` go together: {'known' if known is None else 'mask'} is missing")


def padded_batch(batch: int) -> int:
    """Return the number of images that networks compute for `batch` of them: a multiple of `LANES`."""
    return -(-batch // LANES) * LANES


@torch.no_grad()
def sample_naive(
    decoder: Decoder,
    likelihood: Likelihood,
    levels: int,
    condition: Tensor | None,
    uniforms: Tensor,
    temperature: float = 1.0,
    *,
    known: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the levels `(B, C, H, W)` sampled with `uniforms`, one forward pass per pixel.

    Patches are drawn in raster order, and so are the pixels of a patch.

    Args:
        decoder: Autoregressive decoder.
        likelihood: Likelihood of the decoder's outputs.
        levels: Number of values that a channel of a pixel can take.
        condition: The latents' features `(B, condition, rows, columns)`; None without latents.
        uniforms: Numbers in [0, 1), `(B, likelihood.uniforms, H, W)`.
        temperature: Temperature of each pixel's distribution; 1 is the model's own.
        known: Levels of given pixels, `(B, C, H, W)`.
        mask: True where a pixel is given, `(B, 1, H, W)`; required with `known`.

    Raises:
        ValueError: There is a mask without known pixels, or the reverse.
    """
    assert decoder.config.autoregressive
    _check_pair(known, mask)
    height, width = decoder.size
    x = torch.zeros(
        len(uniforms), decoder.channels, height, width, dtype=decoder.dtype, device=decoder.device
    )
    for raster in wavefront_plan(height, width, decoder.grid[1], decoder.config.patch).order:
        here = slice(None), slice(None), raster // width, raster % width
        parameters = decoder(scale_levels(x, levels), condition)[here].to(uniforms.dtype)
        drawn = likelihood.sample(parameters, uniforms[here], temperature)
        if known is not None and mask is not None:
            drawn = torch.where(mask[here], known[here].to(drawn), drawn)
        x[here] = drawn.to(x.dtype)
    return x
