"""Images to bits and back, at the code length of the model's NLL.

A model without latents codes each pixel with the probabilities that its sampler uses. With latents, a group
of images takes these steps, from left to right in the encoder and from right to left in the decoder:

    pop z_top .. z_0 with q(z | x)   push x with p(x | z)   push z_0 .. z_top with p(z)

Popping takes bits that earlier groups left on the stack, so latents cost only their KL divergence. The first
image pops random bits; later groups are as large as possible without popping further random bits.

Source: bits back with a stack: arXiv:1901.04866; several layers: arXiv:1912.09953.
Differs: layers are popped from the top down, the order in which a ladder infers them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from famecli.coding.bits_back import Bins, choose_bits
from famecli.coding.stack import LEAST_DECISION_BITS, WORD_BITS, Decide, Split, Stack, Writer, walk
from famecli.config.costs import image_bytes
from famecli.config.schema import ModelConfig
from famecli.errors import IntegrityError
from famecli.model.distributions import Bernoulli, Gaussian, Likelihood, LogisticMixture, scale_levels
from famecli.model.fame import Fame, labels_on
from famecli.sampling.execution import threads
from famecli.sampling.sampler import CHUNK, Sampler

# Outputs of the model are rounded to multiples of this, about 10^10 times their errors in float64 (1e-14). So
# two processors hardly ever round to different multiples. The cost in bits is negligible.
GRID = 2.0**-12
SPARE_BITS = 64
# Memory of a group of more than `CHUNK` images.
GROUP_BYTES = 1 << 30
DOUBLE_BYTES = 8


def most_at_once(config: ModelConfig) -> int:
    """Return the largest group of images: `CHUNK`, or more that fit into `GROUP_BYTES`."""
    return max(CHUNK, GROUP_BYTES // image_bytes(config, DOUBLE_BYTES))


@dataclass(frozen=True)
class Coded:
    """Images as bits, with the parameters that a decoder needs.

    Args:
        payload: Words of 32 bits, `(n,)`, uint32.
        initial_bits: Number of random bits in the payload, which the decoder recovers in the end.
        bits: Bits of each map's latents, for each stochastic layer from the image upwards.
        groups: Number of images in each group, in the order of the images.
    """

    payload: np.ndarray
    initial_bits: int
    bits: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(self.groups)

    @property
    def payload_bits(self) -> int:
        """Length of the payload in bits, initial bits included."""
        return WORD_BITS * len(self.payload)

    @property
    def net_bits(self) -> int:
        """Length of the payload in bits without the initial bits: the cost of the images themselves."""
        return self.payload_bits - self.initial_bits


class Codec:
    """Encodes and decodes images with a model; its weights are read once, so make a new one when they change.

    Encoder and decoder must compute the same numbers. Both use one thread, and the groups that the encoder
    chose. They round the outputs of the model, so that in double precision differences between processors
    hardly ever matter.

    Args:
        model: Model on its device; in double precision for codes that other machines decode.
        group: Largest number of images that are coded at once; limited to `most_at_once`.
        rounding: Whether outputs of the model are rounded; without rounding, any difference between encoder
            and decoder breaks the code.
    """

    def __init__(self, model: Fame, group: int = CHUNK, *, rounding: bool = True) -> None:
        self.model, self.config, self.group = model, model.config, min(group, most_at_once(model.config))
        self.grid = GRID if rounding else None
        self.sampler = Sampler(model.decoder, model.likelihood, self.config.levels)
        self.order = torch.tensor(self.sampler.plan.order)

    @torch.no_grad()
    def encode(
        self,
        levels: np.ndarray,
        bits: Sequence[Sequence[int]] | None = None,
        advance: Callable[[int], None] = lambda images: None,
        labels: np.ndarray | None = None,
    ) -> Coded:
        """Return the code of images.

        Args:
            levels: Integer levels, uint8, `(N, C, H, W)`.
            bits: Bits of each map's latents, for each stochastic layer from the image upwards; None for those
                that make the code shortest.
            advance: Called with the number of images just done.
            labels: Class of each image, `(N,)`; None for a model without classes.
        """
        # The order of summation depends on the number of threads.
        with threads(one=True):
            chosen = choose_bits(self.model, levels, labels) if bits is None else tuple(map(tuple, bits))
            return self._encode(levels, labels, chosen, advance)

    def _encode(
        self,
        levels: np.ndarray,
        labels: np.ndarray | None,
        chosen: tuple[tuple[int, ...], ...],
        advance: Callable[[int], None],
    ) -> Coded:
        layers, stack = [Bins(each) for each in chosen], Stack()
        groups: list[int] = []
        done, need_bits = 0, 0.0
        # The first image goes alone: the number of bits that an image pops is not known yet.
        size = 1 if any(map(any, chosen)) else self.group
        while done < len(levels):
            part = levels[done : done + size]
            popped = self._push(stack, layers, part, labels_on(self.model, labels, slice(done, done + size)))
            need_bits = max(need_bits, popped / len(part))
            groups.append(len(part))
            done += len(part)
            advance(len(part))
            spare = stack.spare_bits / need_bits if need_bits else self.group
            size = max(1, min(self.group, int(spare)))
        return Coded(stack.payload(), stack.initial_bits, chosen, tuple(groups))

    @torch.no_grad()
    def decode(
        self,
        coded: Coded,
        advance: Callable[[int], None] = lambda images: None,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the images, `(N, C, H, W)`, uint8.

        If outputs of the model differ from the encoder's, images are wrong or an error is raised: compare a
        hash.

        Args:
            coded: Result of `encode`; from a file, untrusted values of the right types.
            advance: Called with the number of images just done.
            labels: Class of each image, as for `encode`.

        Raises:
            IntegrityError: The payload is damaged, ends early, or is for another model.
        """
        self._check(coded)
        layers, stack = [Bins(each) for each in coded.bits], Stack(coded.payload)
        parts, first = [np.zeros((0, *self.config.image_shape), np.uint8)], coded.images
        with threads(one=True):
            for size in reversed(coded.groups):
                first -= size
                classes = labels_on(self.model, labels, slice(first, first + size))
                parts.append(self._pop(stack, layers, size, classes))
                advance(size)
        return np.concatenate(parts[::-1])

    def _check(self, coded: Coded) -> None:
        """Check the latents' maps, and that the payload is long enough for the number of images."""
        maps = [stage.latents for stage in self.config.stages if stage.latents]
        if [len(each) for each in coded.bits] != maps:
            raise IntegrityError("the code is for a model with other latents")
        # A code is SPARE_BITS bits shorter than -log2 p(x) with a probability of at most 2^-SPARE_BITS.
        least_bits = coded.images * self.config.dimensions * LEAST_DECISION_BITS
        if least_bits > coded.payload_bits + SPARE_BITS:
            raise IntegrityError(f"the payload is damaged: it has no room for {coded.images} images")
        if max(coded.groups, default=0) > most_at_once(self.config):
            raise IntegrityError(f"groups of {max(coded.groups)} images take too much memory")

    def _push(self, stack: Stack, layers: list[Bins], images: np.ndarray, labels: Tensor | None) -> int:
        """Push a group of images; return the number of bits that their latents popped."""
        writer, popped = Writer(), 0
        symbols: list[Tensor] = []  # per layer, from the top down

        def pop_latents(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            nonlocal popped
            assert posterior is not None
            prior, bins = self._rounded(prior), layers[layer]
            stack.deepen(bins.decisions(prior.mean.shape))
            before = stack.size_bits
            symbols.append(bins.code(prior, self._rounded(posterior), stack.read))
            popped += before - stack.size_bits
            return bins.points(symbols[-1], prior)

        features = self._features(images, labels)
        condition, _ = self.model.descend(features, pop_latents, len(images), labels=labels)
        self._code(condition, len(images), writer, torch.from_numpy(images).long())
        writer.flush(stack)
        for bins, each in zip(layers, reversed(symbols), strict=True):
            bins.push(stack, each)
        return popped

    def _pop(self, stack: Stack, layers: list[Bins], size: int, labels: Tensor | None) -> np.ndarray:
        """Undo `_push`, step by step in reverse order, and return the images."""
        writer = Writer()
        symbols: dict[int, Tensor] = {}

        def pop_by_prior(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            symbols[layer] = layers[layer].pop(stack, prior.mean.shape)
            return layers[layer].points(symbols[layer], self._rounded(prior))

        def push_by_posterior(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            assert posterior is not None
            prior = self._rounded(prior)
            layers[layer].code(prior, self._rounded(posterior), writer, symbols[layer])
            return layers[layer].points(symbols[layer], prior)

        condition, _ = self.model.descend(None, pop_by_prior, size, labels=labels)
        images: np.ndarray = self._code(condition, size, stack.read, None).numpy().astype(np.uint8)
        self.model.descend(self._features(images, labels), push_by_posterior, size, labels=labels)
        writer.flush(stack)
        return images

    def _features(self, images: np.ndarray, labels: Tensor | None) -> list[Tensor]:
        # Contiguous: strides select the algorithm, which must be the same in encoder and decoder.
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.model.device, self.model.dtype)
        return self.model.bottom_up(scale_levels(x, self.config.levels), labels)

    def _code(self, condition: Tensor | None, batch: int, decide: Decide, known: Tensor | None) -> Tensor:
        """Return the levels of a group, int64, `(B, C, H, W)`, that `decide` encodes or decodes."""
        sampler = self.sampler
        sampler.begin(condition, batch)
        ordered = None if known is None else known.flatten(2)[:, :, self.order]
        for step in sampler.plan.steps:
            wanted = None if ordered is None else ordered[:, :, step.offset : step.offset + step.count]
            parameters = self._round(sampler.params(step).cpu().double()).contiguous()
            x = code_pixels(self.model.likelihood, parameters, decide, wanted)
            sampler.push(step, x.to(self.model.device, self.model.dtype))
        return sampler.drawn().cpu().long()

    def _rounded(self, gaussian: Gaussian) -> Gaussian:
        """Return the distribution with rounded means and rounded logarithms of its scales."""
        if self.grid is None:
            return gaussian
        return Gaussian(self._round(gaussian.mean), torch.exp2(self._round(torch.log2(gaussian.scale))))

    def _round(self, values: Tensor) -> Tensor:
        return values if self.grid is None else torch.round(values / self.grid) * self.grid


def code_pixels(
    likelihood: Likelihood, parameters: Tensor, decide: Decide, known: Tensor | None = None
) -> Tensor:
    """Return the levels `(B, C, n)`, int64, that `decide` encodes or decodes.

    Encoder and decoder must pass tensors of the same shapes to compute the same probabilities.

    Args:
        likelihood: Likelihood of the pixels.
        parameters: Parameters of `n` pixels, `(B, P, n)`, float64, on the CPU, contiguous.
        decide: Encoder or decoder of the decisions.
        known: Levels to encode, `(B, C, n)`, int64; None in a decoder.
    """
    if isinstance(likelihood, Bernoulli):
        return decide(torch.sigmoid(parameters), known)
    return _code_mixture(likelihood, parameters, decide, known)


def _code_mixture(
    mixture: LogisticMixture, parameters: Tensor, decide: Decide, known: Tensor | None
) -> Tensor:
    """Code channel after channel, with component weights conditioned on the earlier channels."""
    logits, means, log_scales, coefficients = mixture.split(parameters)
    log_weights = torch.log_softmax(logits, dim=1)  # (B, K, n)
    shared = coefficients.unbind(1)
    found: list[Tensor] = []
    scaled: list[Tensor] = []
    for channel in range(mixture.channels):
        location = mixture.location(means[:, channel], shared, scaled)
        weights = torch.softmax(log_weights, dim=1)
        split = _mixture_split(weights, location, log_scales[:, channel], mixture.levels)
        wanted = None if known is None else known[:, channel]
        shape = torch.Size((len(location), *location.shape[2:]))
        level = walk(shape, (mixture.levels - 1).bit_length(), split, decide, wanted)
        # Decisions of a damaged file may lead beyond the last level.
        level = level.clamp(max=mixture.levels - 1)
        x = scale_levels(level.double(), mixture.levels).unsqueeze(1)  # (B, 1, n)
        log_weights = log_weights + mixture.log_mass(x, location, log_scales[:, channel])
        found.append(level)
        scaled.append(x)
    return torch.stack(found, dim=1)


def _mixture_split(weights: Tensor, location: Tensor, log_scale: Tensor, levels: int) -> Split:
    """Return the split of intervals of levels by their mass under a mixture of logistics.

    Args:
        weights: Weights of the components, `(B, K, n)`.
        location: Means of the components, `(B, K, n)`.
        log_scale: Log-scales of the components, `(B, K, n)`.
        levels: Number of values that a channel can take.
    """
    inverse_scale = torch.exp(-log_scale)
    # Lower ends of levels, in [-1, 1]; the first level reaches to minus infinity, the last to infinity.
    starts = scale_levels(torch.arange((1 << (levels - 1).bit_length()) + 1).double() - 0.5, levels)
    starts[0], starts[levels:] = -torch.inf, torch.inf

    def split(lowest: Tensor, half: int) -> Tensor:
        edges = [starts[lowest + step * half].unsqueeze(1) for step in range(3)]
        ends = [(edge - location) * inverse_scale for edge in edges]
        lower, upper = (
            # sigmoid(b) - sigmoid(a), stable everywhere: see `LogisticMixture.log_mass`.
            (weights * torch.sigmoid(b) * torch.sigmoid(-a) * -torch.expm1(a - b)).sum(1)
            for a, b in pairwise(ends)
        )
        # Beyond the last level both masses are 0, and their ratio is NaN.
        return torch.where(torch.isinf(starts[lowest + half]), 0.0, upper / (lower + upper))

    return split
