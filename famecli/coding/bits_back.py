"""Latents as symbols: bins of equal prior mass, each represented by its middle, and the choice of bins.

Every bit of a latent is popped from the stack, so it adds to the initial bits of the first image. A latent
whose posterior equals its prior is uninformative at any precision. So the bits of each map are chosen to make
the code of the given images shortest. Costs are measured on some of these images, with the same noise for all
choices.

Source: arXiv:1901.04866, section 2.5.1 (bins of equal mass under the prior).
Differs: the number of bins is chosen for each map of each layer; an uninformative map has one bin, at the
prior's median.
"""

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from famecli.coding.stack import Decide, Split, Stack, walk
from famecli.model.distributions import Gaussian, scale_levels
from famecli.model.fame import Fame, labels_on
from famecli.nll.record import NATS_PER_BIT
from famecli.rng import ImageNoise

MOST_BITS = 16
Bits = tuple[tuple[int, ...], ...]
MOST_IMAGES = 32
MOST_VALUES = 1 << 16
FIRST_BITS = 3
# Least rate of a map with more than one bin, nats per image.
LEAST_RATE = 0.01
MOST_SINGLE_MAPS = 4


class Bins:
    """Bins of a stochastic layer.

    Args:
        bits: Bits of each map, 0 to `MOST_BITS`: a latent of the map has `2**bits` bins.

    Shape: distributions are `(B, maps, ...)`; symbols have the same shape, int64, on the CPU.
    """

    def __init__(self, bits: Sequence[int]) -> None:
        self.maps = len(bits)
        # Maps with equally many bins are coded together; maps with one bin cost nothing.
        self.groups = [
            (each, [place for place, found in enumerate(bits) if found == each])
            for each in sorted(set(bits))
            if each
        ]

    def decisions(self, shape: Sequence[int]) -> int:
        """Return the number of decisions for latents of `shape`."""
        entries = torch.Size(shape).numel() // self.maps
        return sum(bits * len(maps) * entries for bits, maps in self.groups)

    def code(
        self, prior: Gaussian, posterior: Gaussian, decide: Decide, known: Tensor | None = None
    ) -> Tensor:
        """Return the symbols that `decide` encodes or decodes under the posterior.

        Args:
            prior: Distribution whose mass the bins share equally.
            posterior: Distribution of the symbols.
            decide: Encoder or decoder of the decisions.
            known: Symbols to encode; None in a decoder.
        """
        symbols = torch.zeros(prior.mean.shape, dtype=torch.int64)
        ratio, shift = relative(prior, posterior)
        for bits, maps in self.groups:
            split = _posterior_split(ratio[:, maps], shift[:, maps], bits)
            wanted = None if known is None else known[:, maps]
            symbols[:, maps] = walk(symbols[:, maps].shape, bits, split, decide, wanted)
        return symbols

    def nearest(self, prior: Gaussian, posterior: Gaussian, noise: Tensor) -> Tensor:
        """Return the bins that contain the posterior draws with standard normal `noise`."""
        symbols = torch.zeros(prior.mean.shape, dtype=torch.int64)
        ratio, shift = relative(prior, posterior)
        mass = torch.special.ndtr((noise.double().cpu() - shift) / ratio)
        for bits, maps in self.groups:
            symbols[:, maps] = (mass[:, maps] * 2**bits).long().clamp(max=2**bits - 1)
        return symbols

    def push(self, stack: Stack, symbols: Tensor) -> None:
        """Push symbols under the prior, where they are equally likely."""
        for bits, maps in reversed(self.groups):
            stack.push_uniform(symbols[:, maps].flatten().int().numpy(), bits)

    def pop(self, stack: Stack, shape: torch.Size) -> Tensor:
        """Pop and return the symbols that `push` pushed."""
        symbols = torch.zeros(shape, dtype=torch.int64)
        for bits, maps in self.groups:
            part = symbols[:, maps]
            symbols[:, maps] = torch.from_numpy(stack.pop_uniform(part.numel(), bits)).view(part.shape).long()
        return symbols

    def points(self, symbols: Tensor, prior: Gaussian) -> Tensor:
        """Return the latents of symbols, with the dtype and device of the prior."""
        standard = torch.zeros(symbols.shape, dtype=torch.float64)
        for bits, maps in self.groups:
            middles: Tensor = torch.special.ndtri((torch.arange(1 << bits).double() + 0.5) / (1 << bits))
            standard[:, maps] = middles[symbols[:, maps]]
        return prior.sample(standard.to(prior.mean))


def relative(prior: Gaussian, posterior: Gaussian) -> tuple[Tensor, Tensor]:
    """Return `r` and `s`, float64, on the CPU: z-score `q` of the prior is `r * q + s` of the posterior."""
    scale = posterior.scale.double()
    shift = (prior.mean.double() - posterior.mean.double()) / scale
    return (prior.scale.double() / scale).cpu(), shift.cpu()


def _posterior_split(ratio: Tensor, shift: Tensor, bits: int) -> Split:
    """Return the split of intervals of `2**bits` bins by their mass under the posterior.

    Args:
        ratio: See `relative`.
        shift: See `relative`.
        bits: Bits of a symbol.
    """
    edges: Tensor = torch.special.ndtri(torch.arange((1 << bits) + 1).double() / (1 << bits))

    def split(lowest: Tensor, half: int) -> Tensor:
        ends = [edges[lowest + step * half] * ratio + shift for step in range(3)]
        # The distribution function rounds to 1 in the upper tail, so mirror it.
        flip = torch.where(ends[1] > 0.0, -1.0, 1.0)
        below, middle, above = (torch.special.ndtr(end * flip) for end in ends)
        lower: Tensor = (middle - below).abs()
        upper: Tensor = (above - middle).abs()
        return upper / (lower + upper)

    return split


class Meter:
    """A `Decide` that sums the cost of known decisions.

    Args:
        images: Number of images, the first dimension of the decisions.

    Attributes:
        bits: Cost of each image's decisions in bits, `(images,)`, float64.
    """

    def __init__(self, images: int) -> None:
        self.bits = torch.zeros(images, dtype=torch.float64)

    def __call__(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        assert wanted is not None
        self.bits -= torch.log2(torch.where(wanted == 1, chance, 1.0 - chance)).flatten(1).sum(1)
        return wanted


class Sample:
    """Images on which choices of bits are measured.

    Args:
        model: Model with latents.
        levels: All images to be coded, `(N, C, H, W)`; a few of them are measured.
        labels: Class of each image, `(N,)`; None for a model without classes.
    """

    def __init__(self, model: Fame, levels: np.ndarray, labels: np.ndarray | None) -> None:
        most = min(MOST_IMAGES, max(4, MOST_VALUES // model.config.dimensions))
        places = np.unique(np.linspace(0, len(levels) - 1, most).astype(int))
        # The decoder never repeats this search: float32 suffices and is five times faster.
        self.model, self.all = copy.deepcopy(model).float(), len(levels)
        chosen = torch.from_numpy(np.ascontiguousarray(levels[places]))
        self.x = chosen.to(self.model.device, self.model.dtype)
        self.labels = labels_on(self.model, labels, places)
        self.features = self.model.bottom_up(scale_levels(self.x, model.config.levels), self.labels)
        self.noise = ImageNoise([("coding", "precision", int(place)) for place in places])
        self.normals: dict[int, Tensor] = {}

    def rates(self) -> list[Tensor]:
        """Return the rate of each map, nats per image, `(maps,)`, for each layer from the image upwards."""

        def draw(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            assert posterior is not None
            self.normals[layer] = self.noise(layer, prior.mean.shape)
            return posterior.sample(self.normals[layer].to(prior.mean))

        _, draws = self.model.descend(self.features, draw, len(self.x), labels=self.labels)
        found = []
        for each in draws:
            assert each.posterior is not None
            nats = each.posterior.kl_each(each.prior).double().cpu()
            found.append(nats.flatten(2).sum(2).mean(0) if nats.dim() > 2 else nats.mean(0))
        return found

    def total(self, bits: Bits) -> float:
        """Return the length of the whole code in bits: all images, and the initial bits of the first."""
        meter, pushed = Meter(len(self.x)), 0

        def draw(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            nonlocal pushed
            assert posterior is not None
            bins = Bins(bits[layer])
            symbols = bins.nearest(prior, posterior, self.normals[layer])
            pushed += bins.decisions(symbols.shape[1:])
            bins.code(prior, posterior, meter, symbols)
            return bins.points(symbols, prior)

        condition, _ = self.model.descend(self.features, draw, len(self.x), labels=self.labels)
        distortion = float(-self.model.log_prob(self.x, condition).double().sum()) / len(self.x)
        popped = float(meter.bits.mean())
        return self.all * (distortion / NATS_PER_BIT + pushed - popped) + popped


@torch.no_grad()
def choose_bits(model: Fame, levels: np.ndarray, labels: np.ndarray | None = None) -> Bits:
    """Return bits of each map's latents, for each layer from the image upwards.

    At first all maps with a rate of at least `LEAST_RATE` get equally many bits. Then the maps of lowest rate
    lose theirs. If at most `MOST_SINGLE_MAPS` maps are left, their bits are changed one by one.

    Args:
        model: Model on its device.
        levels: The images to be coded, `(N, C, H, W)`.
        labels: Class of each image, `(N,)`; None for a model without classes.
    """
    if not model.config.stochastic_layers or not len(levels):
        return tuple((0,) * stage.latents for stage in model.config.stages if stage.latents)
    sample = Sample(model, levels, labels)
    search = _Search(sample, sample.rates())
    search.climb(list(search.bits))
    search.drop()
    if len(kept := search.kept()) <= MOST_SINGLE_MAPS:
        for place in kept:
            search.climb([place])
    return search.table(search.bits)


Place = tuple[int, int]  # layer and map


class _Search:
    """The best choice found so far, and steps to better ones."""

    def __init__(self, sample: Sample, rates: list[Tensor]) -> None:
        self.sample, self.rates = sample, rates
        nats = {
            (layer, index): float(each) for layer, maps in enumerate(rates) for index, each in enumerate(maps)
        }
        live = sorted((place for place in nats if nats[place] >= LEAST_RATE), key=lambda place: -nats[place])
        self.bits: Mapping[Place, int] = dict.fromkeys(live, FIRST_BITS)
        # Infinite if that length is not a number.
        self.least = min(math.inf, sample.total(self.table(self.bits)))

    def table(self, bits: Mapping[Place, int]) -> Bits:
        """Return bits of all maps, 0 for maps that are not in `bits`."""
        return tuple(
            tuple(bits.get((layer, index), 0) for index in range(len(maps)))
            for layer, maps in enumerate(self.rates)
        )

    def kept(self) -> list[Place]:
        """Return the maps that have bits, by decreasing rate."""
        return [place for place, bits in self.bits.items() if bits]

    def climb(self, places: list[Place]) -> None:
        """Add bits to the maps at `places`, or else remove some, while the code gets shorter."""
        for step in (1, -1):
            moved = False
            while self._better({place: min(MOST_BITS, max(0, self.bits[place] + step)) for place in places}):
                moved = True
            if moved:
                return

    def drop(self) -> None:
        """Remove the bits of the half of the maps with lower rate, while the code gets shorter."""
        while kept := self.kept():
            if not self._better(dict.fromkeys(kept[len(kept) // 2 :], 0)):
                return

    def _better(self, changes: Mapping[Place, int]) -> bool:
        """Make the changes if the code gets shorter, and return whether it did."""
        bits = {**self.bits, **changes}
        # A total that is not a number is not shorter.
        if bits == self.bits or not (total := self.sample.total(self.table(bits))) < self.least:
            return False
        self.bits, self.least = bits, total
        return True
