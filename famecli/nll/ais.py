"""Annealed importance sampling of log p(x), and its reverse, which bounds log p(x) from above.

Source: Neal, Annealed importance sampling, physics/9803008; decoders: arXiv:1611.04273; both directions on
simulated data: arXiv:1511.02543.
Differs: starts at q(z | x) unless the prior is asked for; lengths of steps come from chains of their own and
are fixed before the chains that count start, so that bounds hold exactly.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from famecli.memory import Pieces
from famecli.model.fame import Fame
from famecli.nll.evaluate import ImageNlls, check_nats, evaluate
from famecli.nll.hmc import ChainNoise, Chains, find_steps
from famecli.nll.importance import log_mean, weigh
from famecli.nll.latents import LatentSpace
from famecli.nll.settings import Annealing
from famecli.runtime.distributed import ALONE, Group

# How far the sigmoid of the path is followed to either side.
STEEPNESS = 4.0
# Powers at which lengths of steps are looked for.
FEWEST_TRIALS, MOST_TRIALS = 10, 100


@dataclass(frozen=True)
class AnnealedNlls(ImageNlls):
    """NLLs by annealed importance sampling; `distortion` and `rate` are those of the ELBO.

    Args:
        settings: How it was done.
        acceptance: Of each image, the mean chance that a transition was accepted, `(N,)`; NaN without any.
        step: Of each image, the mean length of a leapfrog step, `(N,)`; likewise.
        elbo: -ELBO of each image, nats, `(N,)`.
        lower: Lower bounds of the NLLs by reverse chains, `(N,)`, of simulated images; else None.
    """

    settings: Annealing = field(kw_only=True)
    acceptance: np.ndarray = field(kw_only=True)
    step: np.ndarray = field(kw_only=True)
    elbo: np.ndarray = field(kw_only=True)
    lower: np.ndarray | None = field(kw_only=True, default=None)


def evaluate_ais(
    model: Fame,
    levels: np.ndarray,
    settings: Annealing,
    *,
    latents: Sequence[Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda images: None,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> AnnealedNlls:
    """Return the NLL of each image, an upper bound in expectation; the same for any batch size.

    Args:
        model: With latents, on its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        settings: How to anneal.
        latents: The very latents that each image was drawn with, `(N, ...)` per layer from the image upwards,
            from which reverse chains start; None where nobody knows.
        seed: Of the chains; each has a stream of its own.
        batch_size: Chains that are worked on at once.
        advance: Called with the number of images just done.
        group: Processes that share the batches; each gets the NLLs of all images.
        report: Told in one line that memory ran out, and that it goes on with less.

    Raises:
        NumericsError: An image's NLL is not finite.
    """
    elbo = evaluate(model, levels, seed=seed, batch_size=batch_size, group=group, report=report)
    exact = double(model)
    images = max(1, batch_size // settings.chains)
    pieces = Pieces(batch_size, report=report)

    def table_from(start: int) -> np.ndarray:
        batch = torch.from_numpy(levels[start : start + images]).to(exact.device)
        known = None if latents is None else [each[start : start + images] for each in latents]

        def table(rows: slice) -> np.ndarray:
            annealer = _Annealer(exact, batch[rows], start + rows.start, settings, seed)
            return annealer.run(None if known is None else [each[rows] for each in known], pieces.size)

        return np.concatenate(list(pieces.over(len(batch), table)))

    tables = []
    for part in group.in_turn(range(0, len(levels), images), table_from):
        tables.append(part)
        advance(len(part))
    return _annealed(np.concatenate(tables), elbo, settings)


def _annealed(table: np.ndarray, elbo: ImageNlls, settings: Annealing) -> AnnealedNlls:
    """Return what the rows of `_Annealer.run` come to, one per image.

    Raises:
        NumericsError: An image's NLL is not finite.
    """
    chances, steps, forward, reverse = np.split(table, [1, 2, 2 + settings.chains], axis=1)
    log_weights = torch.from_numpy(forward)
    return AnnealedNlls(
        check_nats(-log_mean(log_weights).numpy()),
        elbo.distortion,
        elbo.rate,
        "ais",
        settings.chains,
        weigh(log_weights) if settings.chains > 1 else None,
        settings=settings,
        acceptance=chances[:, 0],
        step=steps[:, 0],
        elbo=elbo.nats,
        # The mean of the reverse chains' inverse weights is right on average, so its logarithm is too low.
        lower=check_nats(log_mean(-torch.from_numpy(reverse)).numpy()) if reverse.size else None,
    )


def double(model: Fame) -> Fame:
    """Return a copy of a model that computes in double precision, where the device can.

    In single precision a proposal now and then is accepted in one batch and refused in another.
    """
    found = copy.deepcopy(model).requires_grad_(False)
    return found if model.device.type == "mps" else found.double()


def inverse_temperatures(steps: int) -> np.ndarray:
    """Return the powers of the weight along the path, from 0 to 1, `(steps + 1,)`.

    Source: a sigmoid, dense at both ends: arXiv:1511.02543, section 6.
    """
    sigmoid = 1.0 / (1.0 + np.exp(-STEEPNESS * np.linspace(-1.0, 1.0, steps + 1)))
    powers: np.ndarray = (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])
    return powers


class _Annealer:
    """Chains of a few images.

    Args:
        model: With latents.
        x: The images' levels.
        first: Index of the first of them.
        settings: How to anneal.
        seed: Of the chains.
        space: Type of the space in which the chains move.
    """

    def __init__(
        self,
        model: Fame,
        x: Tensor,
        first: int,
        settings: Annealing,
        seed: int,
        space: type[LatentSpace] = LatentSpace,
    ) -> None:
        self.model, self.x, self.settings, self.seed = model, x, settings, seed
        self.space, self.images = space, range(first, first + len(x))
        self.powers = inverse_temperatures(settings.steps)
        self.steps = self._find_steps()

    def run(self, latents: Sequence[Tensor] | None, rows: int) -> np.ndarray:
        """Return what all chains give, about `rows` of them at once.

        Args:
            latents: Where reverse chains start; None for none.
            rows: How many chains are moved together.

        Returns:
            A row per image: the mean chance of a transition, the mean length of a leapfrog step, and the
            log-weights of all chains, then of reverse ones.
        """
        width = max(1, rows // len(self.x))
        none = torch.zeros(len(self.x), 0, dtype=torch.float64)
        forward: list[Tensor] = []
        reverse: list[Tensor] = []
        chances = [none]
        for first in range(0, self.settings.chains, width):
            chains = range(first, min(first + width, self.settings.chains))
            space = self.space(self.model, self._per_chain(self.x, chains), self.settings.start)
            noise = self._noise("forward", chains, space)
            forward.append(self._anneal(Chains(space, noise.normal(), noise), chances, reverse=False))
            if latents is not None:
                at = space.normals_of([self._per_chain(layer, chains) for layer in latents])
                found = Chains(space, at, self._noise("reverse", chains, space))
                reverse.append(self._anneal(found, chances, reverse=True))
        means = [torch.cat(chances, dim=1).mean(1, keepdim=True), self.steps.mean(1, keepdim=True)]
        return torch.cat([*means, *forward, *reverse], dim=1).numpy()

    def _anneal(self, chains: Chains, chances: list[Tensor], *, reverse: bool) -> Tensor:
        """Return the log-weights `(B, chains)`, along the path or back."""
        steps = self.settings.steps
        total = torch.zeros(len(chains.at), dtype=torch.float64)
        for number in reversed(range(steps)) if reverse else range(steps):
            total += (self.powers[number + 1] - self.powers[number]) * chains.log_weight.cpu().double()
            # Where the next difference is taken, at the power that it shares with this one.
            shared = number if reverse else number + 1
            if 0 < shared < steps:
                step = self._step(shared).repeat_interleave(len(total) // len(self.x))
                chance = chains.move(float(self.powers[shared]), step, self.settings.leapfrog)
                chances.append(chance.view(len(self.x), -1))
        return total.view(len(self.x), -1)

    def _per_chain(self, values: Tensor, chains: range) -> Tensor:
        return values.repeat_interleave(len(chains), dim=0)

    def _noise(self, direction: str, chains: range, space: LatentSpace) -> ChainNoise:
        names = [("ais", self.seed, image, direction, chain) for image in self.images for chain in chains]
        return ChainNoise(names, space.size, space.x)

    def _find_steps(self) -> Tensor:
        """Return the steps of a few powers along the path, `(B, trials)`; none where nothing will move."""
        if self.settings.steps == 1:
            return torch.full((len(self.x), 0), math.nan, dtype=torch.float64)
        trials = min(MOST_TRIALS, max(FEWEST_TRIALS, self.settings.steps // 4))
        names = [("ais", self.seed, image, "steps") for image in self.images]
        space = self.space(self.model, self.x, self.settings.start)
        powers = inverse_temperatures(trials)[1:]
        return find_steps(space, names, [float(power) for power in powers], self.settings.leapfrog)

    def _step(self, number: int) -> Tensor:
        """Return the length of a leapfrog step at a power of the path, between those of trials, `(B,)`."""
        trials = self.steps.shape[1]
        place = max(0.0, number / self.settings.steps * trials - 1)
        below = int(place)
        above = min(below + 1, trials - 1)
        return torch.lerp(self.steps[:, below], self.steps[:, above], place - below)
