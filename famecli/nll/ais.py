"""Annealed importance sampling (AIS) of log p(x), reverse AIS for an upper bound, and simulated images.

Source: Neal, Annealed importance sampling, physics/9803008; decoders: arXiv:1611.04273; both directions on
simulated data: arXiv:1511.02543.
Differs: starts at q(z | x) by default; step sizes are tuned on separate chains and fixed beforehand, so that
bounds hold exactly.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from famecli.model.fame import Fame, labels_on
from famecli.nll.evaluate import ImageNlls, check_nats, evaluate, map_rows
from famecli.nll.hmc import ChainNoise, Chains, LatentSpace, find_steps
from famecli.nll.importance import log_mean, weigh
from famecli.nll.record import Annealing
from famecli.rng import ImageNoise, image_uniforms
from famecli.runtime.distributed import ALONE, Group
from famecli.runtime.memory import AdaptiveBatches
from famecli.sampling.generate import ImageDecoder

BATCH = 64
# Half-range of the argument of the sigmoid schedule.
STEEPNESS = 4.0
# Range of the number of inverse temperatures at which step sizes are tuned.
FEWEST_TRIALS, MOST_TRIALS = 10, 100


@dataclass(frozen=True)
class AnnealedNlls(ImageNlls):
    """NLLs by annealed importance sampling; `distortion` and `rate` are those of the ELBO.

    Args:
        settings: Settings of the estimate.
        acceptance: Mean acceptance probability of each image's transitions, `(N,)`; NaN without transitions.
        step: Mean leapfrog step size of each image, `(N,)`; NaN without transitions.
        elbo: -ELBO of each image, nats, `(N,)`.
        lower: Lower bounds of the NLLs by reverse chains, `(N,)`; None unless images are simulated.
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
    labels: np.ndarray | None = None,
    normals: Sequence[Tensor] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    numbers: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda images: None,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> AnnealedNlls:
    """Return the NLL of each image, an upper bound in expectation; the same for any batch size.

    Args:
        model: Model with latents, on its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        settings: Settings of annealing.
        labels: Class of each image, `(N,)`; None for a model without classes.
        normals: Standard normals from which the priors drew the latents, `(N, ...)` per layer from the image
            upwards; reverse chains start from these latents. None if unknown.
        seed: Seed of the chains; each has a stream of its own.
        batch_size: Number of chains computed at once.
        numbers: Number of each image, which names its streams; None for 0 to N - 1.
        advance: Called with the number of images just done.
        group: Processes that share the batches; each gets the NLLs of all images.
        report: Called with one line of text when memory runs out.

    Raises:
        ArgumentError: The model has classes and there are no labels, or the reverse.
        NumericsError: An NLL is not finite, or implies a probability above one.
    """
    numbers = range(len(levels)) if numbers is None else numbers
    elbo = evaluate(
        model,
        levels,
        labels=labels,
        seed=seed,
        batch_size=batch_size,
        numbers=numbers,
        group=group,
        report=report,
    )
    exact = double(model)
    images = max(1, batch_size // settings.chains)
    pieces = AdaptiveBatches(batch_size, report=report)

    def table_of(rows: slice) -> np.ndarray:
        batch = torch.from_numpy(levels[rows]).to(exact.device)
        known = None if normals is None else [each[rows] for each in normals]
        classes = labels_on(exact, labels, rows)
        annealer = _Annealer(exact, batch, numbers[rows], settings, seed, labels=classes)
        return annealer.run(known, pieces.size)

    table = map_rows(table_of, len(levels), images, pieces, group, advance)
    splits = [1, 2, 2 + settings.chains]
    chances, steps, forward, reverse = np.split(table, splits, axis=1)
    log_weights, pixels = torch.from_numpy(forward), math.prod(levels.shape[2:])
    return AnnealedNlls(
        check_nats(-log_mean(log_weights).numpy(), "ais", pixels, numbers),
        elbo.distortion,
        elbo.rate,
        "ais",
        settings.chains,
        weigh(log_weights) if settings.chains > 1 else None,
        elbo.given,
        settings=settings,
        acceptance=chances[:, 0],
        step=steps[:, 0],
        elbo=elbo.nats,
        # The mean of the reverse chains' inverse weights is an unbiased estimate of 1 / p(x), so its
        # logarithm is at most -log p(x) in expectation.
        lower=check_nats(log_mean(-torch.from_numpy(reverse)).numpy(), None, pixels, numbers)
        if reverse.size
        else None,
    )


def double(model: Fame) -> Fame:
    """Return a copy of a model in double precision, if the device supports it.

    In float32, rounding may accept a proposal in one batch and reject it in another.
    """
    found = copy.deepcopy(model).requires_grad_(False)
    return found if model.device.type == "mps" else found.double()


def inverse_temperatures(steps: int) -> np.ndarray:
    """Return the inverse temperatures along the path, from 0 to 1, `(steps + 1,)`.

    Source: a sigmoid, dense at both ends: arXiv:1511.02543, section 6.
    """
    sigmoid = 1.0 / (1.0 + np.exp(-STEEPNESS * np.linspace(-1.0, 1.0, steps + 1)))
    powers: np.ndarray = (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])
    return powers


class _Annealer:
    """Annealed chains of a few images.

    Args:
        model: Model with latents.
        x: Levels of the images.
        images: Numbers of the images.
        settings: Settings of annealing.
        seed: Seed of the chains.
        space: Type of the space in which the chains move.
        labels: Classes of the images; None for a model without classes.
    """

    def __init__(
        self,
        model: Fame,
        x: Tensor,
        images: Sequence[int],
        settings: Annealing,
        seed: int,
        space: type[LatentSpace] = LatentSpace,
        labels: Tensor | None = None,
    ) -> None:
        self.model, self.x, self.settings, self.seed = model, x, settings, seed
        self.labels = labels
        self.space, self.images = space, images
        self.powers = inverse_temperatures(settings.steps)
        self.steps = self._find_steps()

    def run(self, normals: Sequence[Tensor] | None, rows: int) -> np.ndarray:
        """Run all chains, about `rows` of them at once.

        Args:
            normals: Normals of the latents from which reverse chains start; None for no reverse chains.
            rows: Number of chains that are moved together.

        Returns:
            A row per image: the mean acceptance probability, the mean leapfrog step size, the log-weights of
            all chains, then the log-weights of the reverse chains.
        """
        width = max(1, rows // len(self.x))
        forward: list[Tensor] = []
        reverse: list[Tensor] = []
        chances: list[Tensor] = []
        for first in range(0, self.settings.chains, width):
            chains = range(first, min(first + width, self.settings.chains))
            labels = None if self.labels is None else self._per_chain(self.labels, chains)
            space = self.space(self.model, self._per_chain(self.x, chains), self.settings.start, labels)
            noise = self._noise("forward", chains, space)
            log_weights, accepted = self._anneal(Chains(space, noise.normal(), noise), reverse=False)
            forward.append(log_weights)
            chances.append(accepted)
            if normals is not None:
                at = space.normals_of([self._per_chain(layer, chains) for layer in normals])
                reversed_chains = Chains(space, at, self._noise("reverse", chains, space))
                log_weights, accepted = self._anneal(reversed_chains, reverse=True)
                reverse.append(log_weights)
                chances.append(accepted)
        means = [torch.cat(chances, dim=1).mean(1, keepdim=True), self.steps.mean(1, keepdim=True)]
        return torch.cat([*means, *forward, *reverse], dim=1).numpy()

    def _anneal(self, chains: Chains, *, reverse: bool) -> tuple[Tensor, Tensor]:
        """Move chains along the path, or back.

        Returns:
            Log-weights `(B, chains)`, and acceptance probabilities `(B, transitions * chains)`.
        """
        steps, images = self.settings.steps, len(self.x)
        chances = [torch.zeros(images, 0, dtype=torch.float64)]
        total = torch.zeros(len(chains.at), dtype=torch.float64)
        places = range(steps, -1, -1) if reverse else range(steps + 1)
        for here, there in pairwise(places):
            difference = abs(self.powers[there] - self.powers[here])
            total += difference * chains.log_weight.cpu().double()
            if 0 < there < steps:
                step = self._step(there).repeat_interleave(len(total) // images)
                chance = chains.move(float(self.powers[there]), step, self.settings.leapfrog)
                chances.append(chance.view(images, -1))
        return total.view(images, -1), torch.cat(chances, dim=1)

    def _per_chain(self, values: Tensor, chains: range) -> Tensor:
        return values.repeat_interleave(len(chains), dim=0)

    def _noise(self, direction: str, chains: range, space: LatentSpace) -> ChainNoise:
        names = [("ais", self.seed, image, direction, chain) for image in self.images for chain in chains]
        return ChainNoise(names, space.size, space.x)

    def _find_steps(self) -> Tensor:
        """Return step sizes at a few inverse temperatures, `(B, trials)`; no trials if there is one step."""
        if self.settings.steps == 1:
            return torch.full((len(self.x), 0), math.nan, dtype=torch.float64)
        trials = min(MOST_TRIALS, max(FEWEST_TRIALS, self.settings.steps // 4))
        names = [("ais", self.seed, image, "steps") for image in self.images]
        space = self.space(self.model, self.x, self.settings.start, self.labels)
        powers = inverse_temperatures(trials)[1:]
        return find_steps(space, names, [float(power) for power in powers], self.settings.leapfrog)

    def _step(self, number: int) -> Tensor:
        """Return the leapfrog step size at a step of the path, interpolated from trials, `(B,)`."""
        trials = self.steps.shape[1]
        place = max(0.0, number / self.settings.steps * trials - 1)
        below = int(place)
        above = min(below + 1, trials - 1)
        return torch.lerp(self.steps[:, below], self.steps[:, above], place - below)


@dataclass(frozen=True)
class Simulated:
    """Images drawn from a model with their latents, which are therefore exact posterior samples.

    Args:
        levels: Images `(N, C, H, W)`, uint8.
        normals: Standard normals from which the priors drew the latents, `(N, ...)` per stochastic layer from
            the image upwards.
    """

    levels: np.ndarray
    normals: Sequence[Tensor]


@torch.no_grad()
def simulate(model: Fame, images: int, seed: int = 0, labels: np.ndarray | None = None) -> Simulated:
    """Return images of a model; image i depends on the seed and i alone.

    Args:
        model: Model with latents, in the precision in which the images will be scored.
        images: Number of images.
        seed: Seed of latents and pixels.
        labels: Class of each image; None for a model without classes.
    """
    decoder = ImageDecoder(model)
    levels, normals = [], []
    for start in range(0, images, BATCH):
        names = [("simulate", seed, index) for index in range(start, min(start + BATCH, images))]
        noise = ImageNoise(names, device=model.device)
        classes = labels_on(model, labels, slice(start, start + BATCH))
        condition, draws = model.top_down(None, noise, len(names), labels=classes)
        uniforms = image_uniforms(names, model.uniforms_shape, torch.float64)
        levels.append(decoder(condition, uniforms).cpu().numpy().astype(np.uint8))
        normals.append([draw.normals for draw in draws if draw.normals is not None])
    return Simulated(np.concatenate(levels), [torch.cat(layer) for layer in zip(*normals, strict=True)])
