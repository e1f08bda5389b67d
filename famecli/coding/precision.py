"""How many bins the latents of each map get: those that make the whole code of some images shortest.

Every bit of a latent has to be popped from the stack, so it is an initial bit of the first image; and a
latent whose posterior is its prior tells nothing at any precision. What a choice costs is measured on some of
the images that are to be coded, with the same noise each time, so that choices differ by little else.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from famecli.coding.latents import MOST_BITS, Bins
from famecli.model.fame import Fame
from famecli.model.latents import Gaussian
from famecli.model.likelihoods import scale_levels
from famecli.nll.units import NATS_PER_BIT
from famecli.rng import ImageNoise

Bits = tuple[tuple[int, ...], ...]
MOST_IMAGES = 32
MOST_VALUES = 1 << 16
FIRST_BITS = 3
# Nats per image of a map that may be worth a bin more than one.
LEAST_RATE = 0.01
MOST_SINGLE_MAPS = 4


class Meter:
    """Adds up what decisions cost that are known.

    Args:
        images: Which decisions' first dimension counts.
    """

    def __init__(self, images: int) -> None:
        self.bits = torch.zeros(images, dtype=torch.float64)

    def __call__(self, chance: Tensor, wanted: Tensor | None) -> Tensor:
        assert wanted is not None
        self.bits -= torch.log2(torch.where(wanted == 1, chance, 1.0 - chance)).flatten(1).sum(1)
        return wanted


@dataclass(frozen=True)
class Cost:
    """What a choice of bits costs, in bits per image.

    Args:
        net: In the long run.
        popped: That have to be there before an image.
    """

    net: float
    popped: float


class Sample:
    """Images on which choices of bits are measured.

    Args:
        model: With latents.
        levels: The images that are to be coded, `(N, C, H, W)`; a few of them are taken.
    """

    def __init__(self, model: Fame, levels: np.ndarray) -> None:
        most = min(MOST_IMAGES, max(4, MOST_VALUES // model.config.dimensions))
        places = np.unique(np.linspace(0, len(levels) - 1, most).astype(int))
        # Nobody has to choose again, so single precision does, which takes a fifth of the time.
        self.model, self.all = copy.deepcopy(model).float(), len(levels)
        chosen = torch.from_numpy(np.ascontiguousarray(levels[places]))
        self.x = chosen.to(self.model.device, self.model.dtype)
        self.features = self.model.bottom_up(scale_levels(self.x, model.config.levels))
        self.noise = ImageNoise([("coding", "precision", int(place)) for place in places])
        self.normals: dict[int, Tensor] = {}

    def rates(self) -> list[Tensor]:
        """Return nats per image of each map, `(maps,)`, for each layer from the image upwards."""

        def draw(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            assert posterior is not None
            self.normals[layer] = self.noise.normal(layer, prior.mean.shape)
            return posterior.sample(self.normals[layer].to(prior.mean))

        _, draws = self.model.descend(self.features, draw, len(self.x))
        found = []
        for each in draws:
            assert each.posterior is not None
            nats = each.posterior.kl_each(each.prior).double().cpu()
            found.append(nats.flatten(2).sum(2).mean(0) if nats.dim() > 2 else nats.mean(0))
        return found

    def cost(self, bits: Bits) -> Cost:
        """Return what the code costs with these bits."""
        popped, pushed = Meter(len(self.x)), 0

        def draw(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            nonlocal pushed
            assert posterior is not None
            bins = Bins(bits[layer])
            symbols = bins.nearest(prior, posterior, self.normals[layer])
            pushed += bins.decisions(symbols.shape[1:])
            bins.code(prior, posterior, popped, symbols)
            return bins.points(symbols, prior)

        condition, _ = self.model.descend(self.features, draw, len(self.x))
        distortion = float(-self.model.log_prob(self.x, condition).double().sum()) / len(self.x)
        drawn = float(popped.bits.mean())
        return Cost(distortion / NATS_PER_BIT + pushed - drawn, drawn)

    def total(self, bits: Bits) -> float:
        """Return the bits of the whole code: all images, and the initial bits of the first."""
        cost = self.cost(bits)
        return self.all * cost.net + cost.popped


@torch.no_grad()
def choose_bits(model: Fame, levels: np.ndarray) -> Bits:
    """Return bits of each map's latents, for each layer from the image upwards.

    First all maps that tell something get equally many, then those that tell least none again, then the ones
    that are left one more or less.

    Args:
        model: Any; without latents there is nothing to choose.
        levels: The images that are to be coded, `(N, C, H, W)`.
    """
    if not model.config.stochastic_layers or not len(levels):
        return tuple((0,) * stage.latents for stage in model.config.stages if stage.latents)
    sample = Sample(model, levels)
    search = _Search(sample, sample.rates())
    search.climb(list(search.bits))
    search.drop()
    if len(kept := search.kept()) <= MOST_SINGLE_MAPS:
        for place in kept:
            search.climb([place])
    return search.table(search.bits)


Place = tuple[int, int]  # layer and map


class _Search:
    """The best choice that was found, and steps to better ones."""

    def __init__(self, sample: Sample, rates: list[Tensor]) -> None:
        self.sample, self.rates = sample, rates
        nats = {
            (layer, index): float(each) for layer, maps in enumerate(rates) for index, each in enumerate(maps)
        }
        live = sorted((place for place in nats if nats[place] >= LEAST_RATE), key=lambda place: -nats[place])
        self.bits: Mapping[Place, int] = dict.fromkeys(live, FIRST_BITS)
        self.least = sample.total(self.table(self.bits))

    def table(self, bits: Mapping[Place, int]) -> Bits:
        """Return bits of all maps, 0 for those that are not told."""
        return tuple(
            tuple(bits.get((layer, index), 0) for index in range(len(maps)))
            for layer, maps in enumerate(self.rates)
        )

    def kept(self) -> list[Place]:
        """Return the maps that have bits, the most telling one first."""
        return [place for place, bits in self.bits.items() if bits]

    def climb(self, places: list[Place]) -> None:
        """Give the maps at `places` more bits or fewer, while that helps."""
        for step in (1, -1):
            moved = False
            while self._better({place: self._step(place, step) for place in places}):
                moved = True
            if moved:
                return

    def drop(self) -> None:
        """Take the bits of the less telling half of the maps away, while that helps."""
        while kept := self.kept():
            if not self._better(dict.fromkeys(kept[len(kept) // 2 :], 0)):
                return

    def _step(self, place: Place, step: int) -> int:
        return min(MOST_BITS, max(0, self.bits[place] + step))

    def _better(self, changes: Mapping[Place, int]) -> bool:
        """Take the changes if the code gets shorter, and say whether it did."""
        bits = {**self.bits, **changes}
        if bits == self.bits or (total := self.sample.total(self.table(bits))) >= self.least:
            return False
        self.bits, self.least = bits, total
        return True
