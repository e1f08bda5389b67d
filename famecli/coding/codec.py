"""Images to bits and back, in as many bits as the model's NLL says.

A model without latents codes each pixel with the probabilities that its sampler draws with. With latents,
what a group of images goes through is, from left to right for the encoder and back for the decoder:

    pop z_top .. z_0 with q(z | x)   push x with p(x | z)   push z_0 .. z_top with p(z)

Popping gives back bits that earlier groups left on the stack, so latents cost their KL divergence only. The
first image finds none there but random ones; groups are then as large as they can be without more of those.

Source: bits back with a stack: arXiv:1901.04866; several layers: arXiv:1912.09953.
Differs: layers are popped from the top down, as a ladder infers them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from famecli.coding.latents import Bins
from famecli.coding.pixels import code_pixels
from famecli.coding.precision import choose_bits
from famecli.coding.stack import LEAST_DECISION_BITS, WORD_BITS, Decide, Reader, Stack, Writer
from famecli.errors import IntegrityError
from famecli.model.fame import Fame
from famecli.model.latents import Gaussian
from famecli.model.likelihoods import scale_levels
from famecli.sampling.sampler import CHUNK, Sampler
from famecli.sampling.threads import threads_for

# Products of any size: so many threads as a process has would each round sums of their own.
ANY_WORK = 0
# What the model says is rounded to multiples of this. It costs next to nothing, and is some 10^10 times what
# double precision is uncertain of: that seldom does a value lie so near to the middle that it matters.
GRID = 2.0**-12


@dataclass(frozen=True)
class Coded:
    """Images as bits, and what a decoder has to know of them.

    Args:
        payload: Words of 32 bits, `(n,)`, uint32.
        initial_bits: Random bits in it that a decoder has again when it is done.
        bits: Bits of each map's latents, for each stochastic layer from the image upwards.
        groups: Images in each group, in the order of the images.
    """

    payload: np.ndarray
    initial_bits: int
    bits: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]

    @property
    def images(self) -> int:
        """How many."""
        return sum(self.groups)

    @property
    def payload_bits(self) -> int:
        """With the initial bits."""
        return WORD_BITS * len(self.payload)

    @property
    def net_bits(self) -> int:
        """Without the initial bits: what the images themselves cost."""
        return self.payload_bits - self.initial_bits


class Codec:
    """Encodes and decodes images with a model; its weights are read once, so make a new one when they change.

    Both sides have to compute the very same numbers. All is computed by one thread, however many the process
    has, and in the groups that the encoder chose; and what the model says is rounded before it is used, so
    that in double precision the last digits, which differ between processors, all but never matter.

    Args:
        model: Any, on its device; in double precision for codes that go to other machines.
        group: Most images that are coded at once.
        rounding: Whether what the model says is rounded; without, any difference is the end of a code, which
            shows how exactly a model agrees with itself.
    """

    def __init__(self, model: Fame, group: int = CHUNK, *, rounding: bool = True) -> None:
        self.model, self.config, self.group = model, model.config, group
        self.grid = GRID if rounding else None
        self.sampler = Sampler(model.decoder, model.likelihood, self.config.levels)
        self.order = torch.tensor(self.sampler.plan.order)

    @torch.no_grad()
    def encode(
        self,
        levels: np.ndarray,
        bits: Sequence[Sequence[int]] | None = None,
        advance: Callable[[int], None] = lambda images: None,
    ) -> Coded:
        """Return the code of images.

        Args:
            levels: Integer levels, uint8, `(N, C, H, W)`.
            bits: Of each map's latents, for each stochastic layer from the image upwards; None for those that
                make the code shortest.
            advance: Called with the number of images just done.
        """
        with threads_for(ANY_WORK):
            chosen = choose_bits(self.model, levels) if bits is None else tuple(map(tuple, bits))
            return self._encode(levels, chosen, advance)

    def _encode(
        self, levels: np.ndarray, chosen: tuple[tuple[int, ...], ...], advance: Callable[[int], None]
    ) -> Coded:
        layers, stack = [Bins(each) for each in chosen], Stack()
        groups: list[int] = []
        done, need_bits = 0, 0.0
        # What an image pops is not known yet.
        size = 1 if any(map(any, chosen)) else self.group
        while done < len(levels):
            part = levels[done : done + size]
            need_bits = max(need_bits, self._push(stack, layers, part) / len(part))
            groups.append(len(part))
            done += len(part)
            advance(len(part))
            spare = stack.spare_bits / need_bits if need_bits else self.group
            size = max(1, min(self.group, int(spare)))
        return Coded(stack.payload(), stack.initial_bits, chosen, tuple(groups))

    @torch.no_grad()
    def decode(self, coded: Coded, advance: Callable[[int], None] = lambda images: None) -> np.ndarray:
        """Return the images, `(N, C, H, W)`, uint8.

        Numbers that differ from the encoder's give other images, or an error: compare a hash.

        Args:
            coded: What `encode` returned; from a file it may be anything that has the right types.
            advance: Called with the number of images just done.

        Raises:
            IntegrityError: The payload is damaged, or ends early, or is for another model.
        """
        self._check(coded)
        layers, stack = [Bins(each) for each in coded.bits], Stack(coded.payload)
        parts = [np.zeros((0, *self.config.image_shape), np.uint8)]
        with threads_for(ANY_WORK):
            for size in reversed(coded.groups):
                parts.append(self._pop(stack, layers, size))
                advance(size)
        return np.concatenate(parts[::-1])

    def _check(self, coded: Coded) -> None:
        """Check what costs nothing to check: the latents' maps, and that so many images can be meant."""
        maps = [stage.latents for stage in self.config.stages if stage.latents]
        if [len(each) for each in coded.bits] != maps:
            raise IntegrityError("the code is for a model with other latents")
        # With latents that carry nothing, each image takes bits away.
        if not any(map(any, coded.bits)):
            least_bits = coded.images * self.config.dimensions * LEAST_DECISION_BITS
            if least_bits > coded.payload_bits:
                raise IntegrityError(f"the payload is damaged: it has no room for {coded.images} images")

    def _push(self, stack: Stack, layers: list[Bins], images: np.ndarray) -> int:
        """Push a group of images; return how many bits their latents popped."""
        x = self._tensor(images)
        reader, writer = Reader(stack), Writer()
        drawn: list[Tensor] = []  # from the top down
        popped = 0

        def draw(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            nonlocal popped
            assert posterior is not None
            prior, posterior = self._rounded(prior), self._rounded(posterior)
            bins = layers[layer]
            stack.deepen(bins.decisions(prior.mean.shape))
            before = stack.size_bits
            drawn.append(bins.code(prior, posterior, reader))
            popped += before - stack.size_bits
            return bins.points(drawn[-1], prior)

        condition, _ = self.model.descend(self._features(x), draw, len(x))
        self._code(condition, len(x), writer, torch.from_numpy(images).long())
        writer.flush(stack)
        for bins, symbols in zip(layers, reversed(drawn), strict=True):
            bins.push(stack, symbols)
        return popped

    def _pop(self, stack: Stack, layers: list[Bins], size: int) -> np.ndarray:
        """Undo what `_push` did to the stack, and return the images."""
        reader, writer = Reader(stack), Writer()
        found: dict[int, Tensor] = {}

        def read(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            found[layer] = layers[layer].pop(stack, prior.mean.shape)
            return layers[layer].points(found[layer], self._rounded(prior))

        def give_back(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            assert posterior is not None
            prior, posterior = self._rounded(prior), self._rounded(posterior)
            layers[layer].code(prior, posterior, writer, found[layer])
            return layers[layer].points(found[layer], prior)

        condition, _ = self.model.descend(None, read, size)
        levels = self._code(condition, size, reader, None)
        images: np.ndarray = levels.numpy().astype(np.uint8)
        self.model.descend(self._features(self._tensor(images)), give_back, size)
        writer.flush(stack)
        return images

    def _tensor(self, images: np.ndarray) -> Tensor:
        # Strides too have to be those of the other side: they choose the algorithm.
        return torch.from_numpy(np.ascontiguousarray(images)).to(self.model.device, self.model.dtype)

    def _features(self, x: Tensor) -> list[Tensor]:
        return self.model.bottom_up(scale_levels(x, self.config.levels))

    def _code(self, condition: Tensor | None, batch: int, decide: Decide, known: Tensor | None) -> Tensor:
        """Return the levels of a group, int64, `(B, C, H, W)`, that decisions lead to."""
        sampler = self.sampler
        sampler.begin(condition, batch)
        wave = None if known is None else known.flatten(2)[:, :, self.order]
        for step in sampler.plan.steps:
            pixels = slice(step.offset, step.offset + step.count)
            wanted = None if wave is None else wave[:, :, pixels]
            parameters = self._exact(sampler.params(step))
            levels = code_pixels(self.model.likelihood, parameters, decide, wanted)
            sampler.push(step, levels.to(self.model.device, self.model.dtype))
        return sampler.drawn().cpu().long()

    def _exact(self, parameters: Tensor) -> Tensor:
        """Return rounded parameters as those who compute chances want them."""
        return self._round(parameters.cpu().double()).contiguous()

    def _rounded(self, gaussian: Gaussian) -> Gaussian:
        """Return the distribution with a rounded mean and a rounded logarithm of its scale."""
        if self.grid is None:
            return gaussian
        return Gaussian(self._round(gaussian.mean), torch.exp2(self._round(torch.log2(gaussian.scale))))

    def _round(self, values: Tensor) -> Tensor:
        return values if self.grid is None else torch.round(values / self.grid) * self.grid
