"""Checks of the NLL: independent of the batch, with a KL divergence as its rate, equal to a code length."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from famecli.coding.codec import Codec
from famecli.coding.stack import STATE_WORDS, WORD_BITS
from famecli.config.costs import images_at_once
from famecli.evaluation.score import EstimatorSettings
from famecli.model.distributions import Gaussian
from famecli.model.fame import Draw, Fame, NllTerms, labels_on
from famecli.nll.evaluate import LOWEST_SUM_NATS, evaluate
from famecli.nll.record import NATS_PER_BIT, Annealing
from famecli.rng import ImageNoise
from famecli.verification.findings import Finding, Measurement
from famecli.verification.normalisation import every_image, tiny_model
from famecli.verification.sampling import MOST_DISTANCE, distance
from famecli.verification.subject import Subject

IMAGES = 4
# Limit relative to the NLL, for sums of a thousand float64 terms with relative rounding errors of 1e-16.
BATCH_LIMIT = 1e-10
# Limits in float32; on devices other than CPUs, convolutions may round to 10 bits.
SINGLE_BATCH_LIMIT = 1e-5
DEVICE_BATCH_LIMIT = 1e-3
DENSITY_LIMIT = 1e-9
EXACT_LIMIT = 0.01
LATENTS_LIMIT = 0.02
# Bits per latent, enough for a negligible cost of discretization; initial bits do not count here.
LATENT_BITS = 10
# Size of a coder's state, which the NLL does not include.
STATE_BITS = WORD_BITS * STATE_WORDS
STANDARD_ERRORS = 4.0
DRAWS = 4
# Draws of the latents per image whose weights are measured.
WEIGHTS = 64
WEIGHT_LIMIT = 0.01
MOST_STANDARD_ERRORS = 5.0
# Images and draws per image of the estimates that are compared with exact values.
ESTIMATED, ESTIMATE_DRAWS = 16, 16
TINY_ESTIMATED, TINY_DRAWS = 64, 64
ANNEALED, ANNEALING = 16, Annealing(steps=8, chains=2, leapfrog=2)
BATCH, CODE_BATCH = 512, 64
# Memory of the images that are computed at once in float32; float64 takes twice as much.
ROOM_BYTES = 1 << 28
BATCHES = (
    "The NLL of an image does not depend on the other images of its batch, nor on the mode of the model."
)
RATE = "The rate is KL(posterior || prior) of the latents, with the prior that samples are drawn from."
CODE_LENGTH = "Images can be coded in as many bits as their NLL says, and decoded again."


def check_batches(subject: Subject) -> Finding:
    """Compare the NLL of images alone, in a batch, in another batch and order, and in training mode.

    The latents of an image come from the same noise each time. In float64 the NLLs differ by rounding alone.
    The same is then tested for the NLLs of `evaluate` in the model's own precision.
    """
    model, count = subject.exact, max(IMAGES, subject.least_images)
    images = subject.images(2 * count)
    noise = _draw_noise(model, images, subject)
    rows, strangers = list(range(count)), list(range(count, 2 * count))
    labels = subject.labels(model, len(images))

    def nll(model: Fame, rows: list[int]) -> Tensor:
        """Return the NLL of some images in nats, computed in one batch with their own noise."""
        classes = None if labels is None else labels[rows]
        terms: NllTerms = model(images[rows], lambda layer, shape: noise[layer][rows], classes)
        return terms.negative_elbo

    alone = torch.cat([nll(model, [row]) for row in rows])
    elsewhere = nll(model, [*strangers[1:], *reversed(rows), strangers[0]])
    training = nll(copy.deepcopy(model).train(), rows)
    cases = {
        "in a batch": nll(model, rows),
        "in another batch, other order": elsewhere[count - 1 : -1].flip(0),
        "in training mode": training,
    }
    size = max(1.0, float(alone.abs().max()))
    return Finding.of(
        BATCHES,
        *(
            Measurement(
                f"largest change of the NLL {where}, nats",
                float((nats - alone).abs().amax()),
                BATCH_LIMIT * size,
            )
            for where, nats in cases.items()
        ),
        Measurement(
            "largest change of the NLL by batch size, nats",
            _by_batch_size(subject, images),
            size * (SINGLE_BATCH_LIMIT if model.device.type == "cpu" else DEVICE_BATCH_LIMIT),
        ),
    )


def _by_batch_size(subject: Subject, images: Tensor) -> float:
    """Return the largest difference of NLLs in nats, evaluated one by one, in pairs and all at once."""
    levels = images.cpu().numpy().astype(np.uint8)
    sizes = (1, 2, len(levels))
    labels = _numpy(subject.labels(subject.model, len(levels)))
    nats = np.stack([evaluate(subject.model, levels, labels=labels, batch_size=size).nats for size in sizes])
    return float(np.ptp(nats, axis=0).max())


def _numpy(labels: Tensor | None) -> np.ndarray | None:
    return None if labels is None else labels.cpu().numpy()


def _draw_noise(model: Fame, images: Tensor, subject: Subject) -> list[Tensor]:
    """Return the noise of the latents of all images, for each stochastic layer."""
    labels = subject.labels(model, len(images))
    _, draws = model.infer(images, subject.posterior_noise(len(images)), labels=labels)
    noise = subject.posterior_noise(len(images))
    return [noise(layer, draw.z.shape).to(draw.z) for layer, draw in enumerate(draws)]


class _RecordedNoise:
    """Noise that stores the normals it returned, by layer."""

    def __init__(self, noise: ImageNoise) -> None:
        self.noise, self.given = noise, dict[int, Tensor]()

    def __call__(self, layer: int, shape: torch.Size) -> Tensor:
        self.given[layer] = self.noise(layer, shape)
        return self.given[layer]


def check_latents(subject: Subject) -> Finding:
    """Compare rate, latents and log-weight with independently computed densities.

    Latents are draws from a Gaussian if `(z - mean) / scale` are the standard normals of the noise. The
    log-ratio of two Gaussians is quadratic: its mean under the first is the mean of its values at
    `mean + scale` and `mean - scale`. So the divergence is known without its formula.
    """
    model, count = subject.exact, max(IMAGES, subject.least_images)
    if not model.config.stochastic_layers:
        return Finding.skipped("the model has no latents")
    images = subject.images(count)
    drawn = _RecordedNoise(ImageNoise(subject.names(count)))
    inferred = _RecordedNoise(subject.posterior_noise(count))
    labels = subject.labels(model, count)
    _, priors = model.top_down(None, drawn, count, labels=labels)
    _, draws = model.infer(images, inferred, labels=labels)
    terms = model(images, subject.posterior_noise(count), labels)
    rates = torch.stack([_divergence(draw) for draw in draws], dim=1)
    weight = -terms.distortion + sum(_log_ratio(draw) for draw in draws)
    return Finding.of(
        RATE,
        _largest("latents of samples off their prior", _residues(priors, drawn)),
        _largest("latents of images off their posterior", _residues(draws, inferred)),
        _largest("rate minus divergence, relative", [_relative(terms.rate, rates)]),
        _largest("log-weight minus that of the densities, relative", [_relative(terms.log_weight, weight)]),
        *_weights_as_evaluated(subject, images),
        *_estimates(subject),
        Measurement(
            f"Kolmogorov-Smirnov distance of normals of {subject.samples} images, times root of n",
            distance(_quantiles(priors, subject)),
            MOST_DISTANCE,
        ),
    )


def _weights_as_evaluated(subject: Subject, images: Tensor) -> Iterator[Measurement]:
    """Measure the log-weights of latents in the precision and by the code of `fame evaluate-nll`.

    The log-weight of a draw, pixels left out, is `log p(z) - log q(z | x)`. Its mean is `-KL(q || p)`.
    """
    names = [("verify", subject.seed, "weights", index) for index in range(len(images))]
    found = []
    most = max(1, images_at_once(subject.model.config, BATCH, ROOM_BYTES) // len(images))
    for model in (subject.model, subject.exact):
        noise, labels = ImageNoise(names, device=model.device), subject.labels(model, len(images))
        parts = []
        for draws in torch.arange(WEIGHTS).split(most):
            noise.samples = len(draws)
            repeated = None if labels is None else labels.repeat_interleave(len(draws))
            x = images.to(model.device, model.dtype).repeat_interleave(len(draws), 0)
            terms = model(x, noise, repeated)
            parts.append(torch.stack([terms.log_weight + terms.distortion, terms.rate.sum(1)]).cpu().double())
        found.append(torch.cat(parts, dim=1))
    (single, _), (exact, rate) = found
    excess = single + rate
    stderr = excess.std() / math.sqrt(len(excess))
    yield Measurement(
        "weight of latents, as evaluated minus in float64, nats",
        float((single - exact).abs().amax()),
        WEIGHT_LIMIT,
    )
    yield Measurement(
        f"mean of {len(excess)} log-weights of latents plus KL divergence, standard errors",
        float(excess.mean().abs() / stderr.clamp(min=1e-12)),
        MOST_STANDARD_ERRORS,
    )


def _estimates(subject: Subject) -> Iterator[Measurement]:
    """Measure by how much estimates of several draws, or by annealing, are better than exact values.

    A decoder that is given zeros in place of the features of latents has an exact likelihood, which the
    estimates do not know. Each is unbiased: by Markov's inequality, the sum over images of
    `log(estimate / exact)` exceeds `log(1 / d)` with a chance of at most `d`.
    """
    tiny = tiny_model(subject.model, subject.seed)
    every, own = every_image(tiny.config), subject.images(max(ESTIMATED, subject.least_images))
    few, fewer = (every[:: -(-len(every) // count)] for count in (TINY_ESTIMATED, ANNEALED))
    cases = (
        ("images", subject.model, own, EstimatorSettings(ESTIMATE_DRAWS)),
        ("images of a miniature", tiny, few, EstimatorSettings(TINY_DRAWS)),
        ("annealed images of a miniature", tiny, fewer, EstimatorSettings(annealing=ANNEALING)),
    )
    for what, model, images, estimator in cases:
        blind = copy.deepcopy(model)
        blind.decoder.register_forward_pre_hook(lambda decoder, given: (given[0], torch.zeros_like(given[1])))
        levels = images.cpu().numpy().astype(np.uint8)
        labels = _numpy(subject.labels(model, len(levels)))
        at_once = images_at_once(model.config, CODE_BATCH, ROOM_BYTES)
        nlls = dataclasses.replace(estimator, batch_size=at_once).nlls(blind, levels, labels=labels)
        yield Measurement(
            f"estimates of {len(images)} {what} better than exact, nats",
            # Not Python's max, which ignores NaN.
            float(np.maximum(0.0, (nlls.distortion - nlls.nats).sum())),
            -LOWEST_SUM_NATS,
        )


def _largest(what: str, values: list[Tensor]) -> Measurement:
    return Measurement(what, float(torch.stack([each.abs().amax() for each in values]).amax()), DENSITY_LIMIT)


def _relative(one: Tensor, other: Tensor) -> Tensor:
    return (one - other) / other.abs().clamp(min=1.0)


def _residues(draws: Sequence[Draw], noise: _RecordedNoise) -> list[Tensor]:
    """Return, for each layer, the differences between standardised latents and the normals of the noise."""
    sources = [(draw.z, draw.posterior or draw.prior) for draw in draws]
    return [
        _relative((z - source.mean) / source.scale, noise.given[layer].to(z))
        for layer, (z, source) in enumerate(sources)
    ]


def _density(gaussian: Gaussian) -> Normal:
    return Normal(gaussian.mean, gaussian.scale, validate_args=False)


def _divergence(draw: Draw) -> Tensor:
    """Return KL(posterior || prior) of each image in nats, `(B,)`, from densities alone."""
    assert draw.posterior is not None
    posterior, prior = _density(draw.posterior), _density(draw.prior)
    total = torch.zeros_like(draw.z)
    for z in (posterior.mean + posterior.stddev, posterior.mean - posterior.stddev):
        total = total + 0.5 * (posterior.log_prob(z) - prior.log_prob(z))
    return total.flatten(1).sum(1)


def _log_ratio(draw: Draw) -> Tensor:
    """Return log p(z) - log q(z | x) of each image in nats, `(B,)`."""
    assert draw.posterior is not None
    each: Tensor = _density(draw.prior).log_prob(draw.z) - _density(draw.posterior).log_prob(draw.z)
    return each.flatten(1).sum(1)


def _quantiles(draws: Sequence[Draw], subject: Subject) -> Tensor:
    """Return the quantiles of the normals that the latents of all samples are drawn with."""
    noise = ImageNoise(subject.names(subject.samples))
    shapes = [torch.Size((subject.samples, *draw.z.shape[1:])) for draw in draws]
    normals = [noise(layer, shape).double().flatten() for layer, shape in enumerate(shapes)]
    quantiles: Tensor = torch.special.ndtr(torch.cat(normals))
    return quantiles


def check_code(model: Fame, levels: np.ndarray, source: str, labels: np.ndarray | None = None) -> Finding:
    """Code images and decode them, and compare the length with the bound of an evaluation.

    The decoder has only the bits and the model. If it recovers the images, probabilities depend only on what
    was decoded before, and the code length proves their values. With latents, the coder draws its own, so the
    bound holds on average; the limit allows for that.

    Args:
        model: Model in its own precision.
        levels: Images, uint8, `(N, C, H, W)`.
        source: Description of the images.
        labels: Class of each image, `(N,)`; None for a model without classes.
    """
    at_once = images_at_once(model.config, CODE_BATCH, ROOM_BYTES)
    # Rounding would hide differences between encoder and decoder.
    codec = Codec(model, at_once, rounding=False)
    latents = [stage.latents for stage in model.config.stages if stage.latents]
    coded = codec.encode(levels, [[LATENT_BITS] * maps for maps in latents], labels=labels)
    again = codec.decode(coded, labels=labels)
    wrong = int((again != levels).sum()) if again.shape == levels.shape else levels.size
    nlls = evaluate(model, levels, labels=labels, importance_samples=DRAWS, batch_size=at_once)
    bound = float(nlls.distortion.sum() + nlls.rate.sum()) / NATS_PER_BIT
    allowed = STATE_BITS + STANDARD_ERRORS * _chance_bits(model, levels, labels, max(1, at_once // 2))
    # A model that is certain has a bound of 0.
    size = max(bound, 1.0)
    return Finding.of(
        CODE_LENGTH,
        Measurement(f"values of {len(levels)} {source} that are decoded wrong", wrong, 0),
        Measurement(
            f"code length of {len(levels)} {source} minus the bound, relative",
            abs(coded.net_bits - bound) / size,
            (LATENTS_LIMIT if latents else EXACT_LIMIT) + allowed / size,
        ),
    )


def _chance_bits(model: Fame, levels: np.ndarray, labels: np.ndarray | None, images: int) -> float:
    """Return the standard deviation of code length minus bound due to the draws of latents, in bits.

    The coder uses one draw, the bound the mean of `DRAWS` draws. The variance of one draw is estimated from
    two draws per image, computed for `images` images at a time.
    """
    variance = 0.0
    for first in range(0, len(levels), images):
        part = torch.from_numpy(levels[first : first + images]).to(model.device)
        names = [("verify", "code", first + index) for index in range(len(part))]
        classes = None if labels is None else labels[first : first + images].repeat(2)
        noise = ImageNoise(names, 2, model.device)
        terms = model(part.repeat_interleave(2, dim=0), noise, labels_on(model, classes))
        one, two = terms.log_weight.double().view(-1, 2).unbind(1)
        variance += float((one - two).square().sum()) / 2
    return math.sqrt(variance * (1 + 1 / DRAWS)) / NATS_PER_BIT
