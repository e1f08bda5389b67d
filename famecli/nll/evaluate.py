"""The negative log-likelihood of images: exact, by the ELBO, or importance-weighted."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from famecli.errors import ArgumentError, NumericsError
from famecli.model.fame import Fame, labels_on
from famecli.nll.importance import Importance, block_sizes, log_mean, weigh
from famecli.nll.record import NATS_PER_BIT, Bound, Given
from famecli.rng import ImageNoise, StreamName
from famecli.runtime.distributed import ALONE, Group
from famecli.runtime.memory import AdaptiveBatches
from famecli.sampling.execution import FEW_IMAGES, threads

# Lowest valid NLL of an image, below 0 by rounding alone; and lowest valid sum of estimates over images.
LOWEST_NATS, LOWEST_SUM_NATS = -1e-4, -14.0
# Tolerance per pixel: in float32, a mixture gives a pixel a probability of up to 1 + 3e-7.
PIXEL_NATS = 1e-6
LABEL: Given = "label"


@dataclass(frozen=True)
class ImageNlls:
    """NLL of each image and its terms, nats, float64.

    Args:
        nats: Estimates of -log p(x), `(N,)`.
        distortion: -log p(x | z) of the ELBO, `(N,)`.
        rate: KL divergence per stochastic layer, from the image upwards, `(N, layers)`.
        bound: Kind of estimate in `nats`: exact, or an upper bound in expectation.
        importance_samples: Draws of the latents per image; for `ais` the number of chains.
        importance: Statistics of the weights of several draws; None for one draw and for means over classes.
        given: Role of the classes in the likelihood; see `famecli.nll.record.Estimator`.
        most_probable: Most probable class of each image, `(N,)`, for a `marginal` likelihood; else None.
        lead: Log-probability of that class minus that of the second most probable, nats, `(N,)`; else None.

    Raises:
        NumericsError: A term is not finite, even where the NLL of several draws is finite.
    """

    nats: np.ndarray
    distortion: np.ndarray
    rate: np.ndarray
    bound: Bound
    importance_samples: int
    importance: Importance | None = None
    given: Given | None = None
    most_probable: np.ndarray | None = None
    lead: np.ndarray | None = None

    def __post_init__(self) -> None:
        terms = [self.distortion, self.rate, *([] if self.importance is None else [self.importance.curve])]
        if not all(np.isfinite(each).all() for each in terms):
            raise NumericsError("a term of the NLL of an image is not finite: no mean can be given")

    @property
    def mean(self) -> float:
        """Nats per image."""
        return float(self.nats.mean())

    @property
    def stderr(self) -> float:
        """Standard error of `mean` over images, nats."""
        return stderr_over_images(self.nats)


def stderr_over_images(nats: np.ndarray) -> float:
    """Return the standard error of the mean of `nats` `(N,)`; NaN for one image."""
    return float(nats.std(ddof=1) / math.sqrt(len(nats))) if len(nats) > 1 else math.nan


@torch.no_grad()
def evaluate(
    model: Fame,
    levels: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    importance_samples: int = 1,
    closed_form: bool = True,
    seed: int = 0,
    batch_size: int = 128,
    numbers: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda images: None,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> ImageNlls:
    """Return the NLL of each image; the same for any batch size.

    Args:
        model: Model on its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        labels: Class of each image, `(N,)`, for p(x|y); None for a model without classes.
        importance_samples: 1 for the ELBO with the KL divergence in closed form; more for
            -log of the mean importance weight, which is tighter. A model without latents is exact.
        closed_form: Whether one draw uses the KL divergence in closed form, not its importance weight.
        seed: Seed of the latents; each image draws from a stream of its own.
        batch_size: Number of images times samples in one forward pass.
        numbers: Number of each image, which names the streams of its latents; None for 0 to N - 1.
        advance: Called with the number of images just done.
        group: Processes that share the batches; each gets the NLLs of all images.
        report: Called with one line of text when memory runs out.

    Raises:
        ArgumentError: The model has classes and there are no labels, or the reverse.
        NumericsError: An NLL is not finite, or implies a probability above one.

    Source: arXiv:1509.00519, equation 8 (importance weighting).
    """
    samples = importance_samples if model.config.stochastic_layers else 1
    images = max(1, batch_size // samples)
    pieces, names = AdaptiveBatches(batch_size, report=report), _noise_names(seed, len(levels), numbers)

    def table_of(rows: slice) -> np.ndarray:
        batch = torch.from_numpy(levels[rows]).to(model.device)
        classes = labels_on(model, labels, rows)
        return _evaluate_batch(model, batch, classes, names[rows], samples, pieces.size, closed_form)

    with threads(one=len(levels) * samples <= FEW_IMAGES):
        table = map_rows(table_of, len(levels), images, pieces, group, advance)
    layers = model.config.stochastic_layers
    sizes = block_sizes(samples) if samples > 1 else ()
    nats, distortion, rate, curve, stderr, effective = np.split(
        table, np.cumsum([1, 1, layers, len(sizes), len(sizes)]), axis=1
    )
    importance = Importance(sizes, curve, stderr, effective[:, 0]) if sizes else None
    bound: Bound = "exact" if not layers else "elbo" if samples == 1 and closed_form else "iwae"
    checked = check_nats(nats[:, 0], bound, math.prod(levels.shape[2:]), numbers)
    given = None if labels is None else LABEL
    return ImageNlls(checked, distortion[:, 0], rate, bound, samples, importance, given)


def map_rows(
    work: Callable[[slice], np.ndarray],
    total: int,
    images: int,
    pieces: AdaptiveBatches,
    group: Group,
    advance: Callable[[int], None],
) -> np.ndarray:
    """Return an array with a row per image, which processes compute batch by batch.

    Args:
        work: Function from a slice of images to their rows; must not depend on the split.
        total: Number of images.
        images: Number of images in a batch.
        pieces: Splitter of a batch when memory runs out.
        group: Processes that share the batches; each gets all rows.
        advance: Called with the number of images just done.
    """
    parts = []
    for part in group.map_batches(total, images, work, pieces):
        parts.append(part)
        advance(len(part))
    return np.concatenate(parts)


def check_nats(
    nats: np.ndarray, bound: Bound | None, pixels: int, numbers: Sequence[int] | None = None
) -> np.ndarray:
    """Return the NLLs of images unchanged.

    Args:
        nats: NLLs `(N,)`.
        bound: Kind of estimate; None for a lower bound, which may have any sign.
        pixels: Number of pixels of an image.
        numbers: Number of each image, for errors; None for 0 to N - 1.

    Raises:
        NumericsError: An NLL is not finite, or implies a probability above one. Mean importance weights are
            unbiased: if probabilities are valid, by Markov's inequality the product of N means exceeds
            exp(14) with a probability of at most exp(-14), less than one in a million.
    """
    names, room = range(len(nats)) if numbers is None else numbers, pixels * PIXEL_NATS
    if not np.isfinite(nats).all():
        bad = int(np.flatnonzero(~np.isfinite(nats))[0])
        raise NumericsError(f"the NLL of image {names[bad]} is {nats[bad]}: no mean can be given")
    if bound in ("exact", "elbo") and nats.min(initial=0.0) < LOWEST_NATS - room:
        bad = int(nats.argmin())
        raise NumericsError(
            f"the NLL of image {names[bad]} is {nats[bad]:.4f} nats: its probability is above one"
        )
    if bound in ("iwae", "ais") and nats.sum() < LOWEST_SUM_NATS - len(nats) * room:
        raise NumericsError(
            f"the NLLs of {len(nats)} images sum to {nats.sum():.1f} nats: a probability above one"
        )
    return nats


def checked_draws(
    model: Fame, batches: Iterator[np.ndarray], seeds: Sequence[int], labels: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield batches of drawn images unchanged, after a check of the NLL of each batch's first image.

    Args:
        model: Model that they are drawn from.
        batches: Images, levels or expected levels, `(n, C, H, W)`.
        seeds: Seeds of all images, for errors.
        labels: Classes of all images; None for a model without classes.

    Raises:
        NumericsError: An NLL is not finite or implies a probability above one.
    """
    # A decoder in bfloat16 takes no features of stages in float32.
    mixed = next(model.parameters()).dtype != model.dtype
    scored, done = copy.deepcopy(model).float() if mixed else model, 0
    for images in batches:
        classes = None if labels is None else labels[done : done + 1]
        evaluate(scored, images[:1], labels=classes, numbers=seeds[done : done + 1])
        done += len(images)
        yield images


def _evaluate_batch(
    model: Fame,
    batch: Tensor,
    labels: Tensor | None,
    names: Sequence[StreamName],
    samples: int,
    rows: int,
    closed_form: bool,
) -> np.ndarray:
    """Return the table of a batch, computed in pieces of about `rows` images times samples.

    Shape: one row per image; columns are nats, distortion, rate of each layer, and with several samples
    the `curve`, `stderr` and `effective` of its `Importance`.
    """
    noise = ImageNoise(names, device=model.device)
    parts: list[Tensor] = []
    layers = model.config.stochastic_layers
    distortion = torch.zeros(len(batch), dtype=torch.float64)
    rate = torch.zeros(len(batch), layers, dtype=torch.float64)
    done = 0
    while done < samples:
        noise.samples = min(samples - done, max(1, rows // len(batch)))
        repeated = None if labels is None else labels.repeat_interleave(noise.samples)
        terms = model(batch.repeat_interleave(noise.samples, dim=0), noise, repeated)
        parts.append(terms.log_weight.cpu().double().view(len(batch), -1))
        distortion += terms.distortion.cpu().double().view(len(batch), -1).sum(1)
        rate += terms.rate.cpu().double().view(len(batch), noise.samples, layers).sum(1)
        done += noise.samples
    distortion, rate = distortion / samples, rate / samples
    log_weights = torch.cat(parts, dim=1)
    if samples == 1:
        nats = distortion + rate.sum(1) if closed_form else -log_weights[:, 0]
        return np.column_stack([nats, distortion, rate])
    found = weigh(log_weights)
    weights = (found.curve, found.stderr, found.effective)
    return np.column_stack([-log_mean(log_weights), distortion, rate, *weights])


def _noise_names(seed: int, images: int, numbers: Sequence[int] | None) -> list[StreamName]:
    """Return the names of the latents' streams of images; None for images 0 and following."""
    return [("evaluate", seed, number) for number in (range(images) if numbers is None else numbers)]


@torch.no_grad()
def pixel_bits(
    model: Fame,
    levels: np.ndarray,
    seed: int = 0,
    batch_size: int = 128,
    numbers: Sequence[int] | None = None,
    labels: np.ndarray | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of a batch's first image, and `-log2 p(pixel | z, earlier pixels)` as `(B, H, W)`.

    Latents are those of `evaluate` with one sample, the same seed, numbers and labels; channels are summed.
    `report` is called with one line when memory runs out.
    """
    names = _noise_names(seed, len(levels), numbers)

    def bits_of(rows: slice) -> tuple[int, np.ndarray]:
        batch = torch.from_numpy(levels[rows]).to(model.device)
        noise = ImageNoise(names[rows], device=model.device)
        condition, _ = model.infer(batch, noise, labels=labels_on(model, labels, rows))
        return rows.start, (-model.log_prob(batch, condition) / NATS_PER_BIT).cpu().numpy()

    yield from AdaptiveBatches(batch_size, report=report).map(range(len(levels)), bits_of)


def evaluate_marginal(
    model: Fame,
    levels: np.ndarray,
    *,
    numbers: Sequence[int] | None = None,
    **settings: Any,  # noqa: ANN401
) -> ImageNlls:
    """Return the NLL of each image under the mean of p(x|y) over all classes, which are equally likely.

    With latents, p(x|y) is the mean of importance weights, which is unbiased, so that the result is an upper
    bound in expectation. `distortion` and `rate` are means over classes, weighted by p(y|x).

    Args:
        model: Model with classes, on its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        numbers: Number of each image, which names the streams of its latents; None for 0 to N - 1.
        settings: Other arguments of `evaluate`, which is called for each class. All classes use the same
            noise.

    Raises:
        ArgumentError: The model has no classes.
        NumericsError: An NLL is not finite, or implies a probability above one.

    Source: arXiv:1509.00519, section 3, with the class as one more latent, summed out.
    """
    if not model.config.classes:
        raise ArgumentError("the model has no classes, over which a mean could be taken", "call `evaluate`")
    given = []
    for label in range(len(model.config.classes)):
        labels = np.full(len(levels), label, np.int64)
        given.append(evaluate(model, levels, labels=labels, closed_form=False, numbers=numbers, **settings))
    log_joint = torch.from_numpy(np.stack([-each.nats for each in given])) - np.log(len(given))
    posterior, first = log_joint.softmax(0).numpy(), log_joint.topk(2, dim=0)
    return ImageNlls(
        check_nats(-log_joint.logsumexp(0).numpy(), given[0].bound, math.prod(levels.shape[2:]), numbers),
        np.einsum("yn,yn->n", posterior, np.stack([each.distortion for each in given])),
        np.einsum("yn,ynl->nl", posterior, np.stack([each.rate for each in given])),
        given[0].bound,
        given[0].importance_samples,
        given="marginal",
        most_probable=first.indices[0].numpy(),
        lead=(first.values[0] - first.values[1]).numpy(),
    )
