"""Samples have the distribution that is scored."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.rng import image_uniforms
from famecli.sampling.generate import ImageDecoder
from famecli.verification.findings import Finding, Measurement
from famecli.verification.normalisation import conditional_masses, flat, off_quantile
from famecli.verification.subject import Subject

EXACT_IMAGES = 32
BATCH = 64
# Largest shift of a boundary of the uniforms by rounding: in float64, in float32, and on devices other than
# CPUs, where convolutions may round to 10 bits.
MARGIN = 1e-9
SINGLE_MARGIN = 1e-4
DEVICE_MARGIN = 1e-2
STANDARD_ERRORS = 4.0
# Number of masses in the sums of entropies; more masses are subsampled at evenly spread pixels.
MASSES = 2**22
# Exceeded by chance in one of 130,000 cases: 2 exp(-2 * 2.5**2).
MOST_DISTANCE = 2.5
SENTENCE = "Samples are drawn from the density that is scored, pixel by pixel."


def check_sampling(subject: Subject) -> Finding:
    """Check samples by forward passes, in float64 and in their own precision, and compare cost with entropy.

    A sample is exact if each pixel is the quantile, at its uniform, of its masses given the earlier pixels.
    One pass computes the masses of all pixels. The cost of a pixel, -log p, minus the entropy of its masses
    has mean 0 given the earlier pixels: the sum over pixels and images is a martingale, with known variance.
    """
    exact = _exact_samples(subject)
    wrong, gap, spread, uniforms = 0, 0.0, 0.0, []
    config = subject.model.config
    margin = SINGLE_MARGIN if subject.model.device.type == "cpu" else DEVICE_MARGIN
    least = subject.samples * config.dimensions * config.levels // MASSES
    # Without a common factor with the width, so that all columns are included.
    stride = next(each for each in itertools.count(max(1, least)) if math.gcd(each, config.width) == 1)
    for batch in _native_samples(subject):
        wrong += batch.off_quantile(margin)
        surprise, variance = batch.surprise(stride)
        gap, spread = gap + surprise, spread + variance
        uniforms.append(batch.uniforms.flatten())
    return Finding.of(
        SENTENCE,
        *exact,
        Measurement(f"values of {subject.samples} images of fame sample off their quantile", wrong, 0),
        Measurement(
            "cost of samples minus entropy, standard errors",
            # A model that is certain of everything has a variance of 0.
            abs(gap / math.sqrt(spread or 1.0)),
            STANDARD_ERRORS,
        ),
        Measurement(
            "Kolmogorov-Smirnov distance of the uniforms from their distribution, times root of n",
            distance(torch.cat(uniforms)),
            MOST_DISTANCE,
        ),
    )


class _Samples:
    """Images with their parameters, and the uniforms that they were allegedly drawn with."""

    def __init__(self, model: Fame, x: Tensor, condition: Tensor | None, uniforms: Tensor) -> None:
        self.likelihood, self.levels, self.uniforms = model.likelihood, model.config.levels, uniforms
        self.parameters = model.pixel_parameters(x, condition)
        self.x = x.to(self.parameters)
        self.log_prob = self.likelihood.log_prob(self.x, self.parameters)

    def off_quantile(self, margin: float) -> int:
        return off_quantile(self.likelihood, self.levels, self.x, self.parameters, self.uniforms, margin)

    def surprise(self, stride: int) -> tuple[float, float]:
        """Return cost minus entropy in nats, summed over every `stride`-th pixel, and its variance."""
        x, parameters = (flat(each)[:, :, None, ::stride] for each in (self.x, self.parameters))
        entropy, variance = 0.0, 0.0
        for each in conditional_masses(self.likelihood, self.levels, x, parameters):
            mass = each.log_masses.double().exp()
            # Levels without mass are never drawn.
            cost = torch.where(mass > 0, -each.log_masses.double(), 0.0)
            mean = (mass * cost).sum(0)
            entropy += float(mean.sum())
            variance += float((mass * (cost - mean).square()).sum())
        return -float(self.log_prob.flatten()[::stride].double().sum()) - entropy, variance


def _exact_samples(subject: Subject) -> list[Measurement]:
    """Return measurements of images that are drawn and checked in float64."""
    model, count = subject.exact, min(EXACT_IMAGES, subject.samples)
    condition = subject.prior_conditions(model, count)
    uniforms = image_uniforms(subject.names(count), model.uniforms_shape, torch.float64).to(model.device)
    decoder = ImageDecoder(model)
    x = decoder(condition, uniforms)
    measured = []
    if decoder.sampler is not None:
        wrong = decoder.sampler.verify(x, uniforms, condition)
        measured.append(
            Measurement(f"pixels of {count} images, float64, that a pass does not give", wrong, 0)
        )
    off = _Samples(model, x, condition, uniforms).off_quantile(MARGIN)
    return [*measured, Measurement(f"values of {count} images, float64, off their quantile", off, 0)]


def _native_samples(subject: Subject) -> Iterator[_Samples]:
    """Yield the model's own samples, all in the precision of the model."""
    model = subject.model
    for first in range(0, subject.samples, BATCH):
        x = torch.from_numpy(subject.drawn[first : first + BATCH]).to(model.device)
        uniforms = image_uniforms(subject.names(len(x), first), model.uniforms_shape).to(model.device)
        yield _Samples(model, x, subject.prior_conditions(model, len(x), first), uniforms)


def distance(uniforms: Tensor) -> float:
    """Return the Kolmogorov distance of numbers in [0, 1] to the uniform distribution, times root of n.

    It is the largest difference between a point and the share of numbers below it. Repeated numbers, such as
    the same for each image, increase it as well.
    """
    ordered = uniforms.double().flatten().sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64, device=ordered.device) / len(ordered)
    largest = torch.maximum((steps[1:] - ordered).amax(), (ordered - steps[:-1]).amax())
    return float(largest) * math.sqrt(len(ordered))
