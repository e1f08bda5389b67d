"""What is sampled has the distribution that is scored."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.model.likelihoods import Likelihood
from famecli.rng import image_uniforms
from famecli.sampling.generate import ImageDecoder
from famecli.verification.findings import Finding, Measurement
from famecli.verification.masses import conditional_masses, flat, off_quantile
from famecli.verification.subject import Subject
from famecli.verification.uniformity import MOST_DISTANCE, distance

EXACT_IMAGES = 32
BATCH = 64
# In terms of the uniforms: what rounding may move a boundary by, in float64 and in single precision. On other
# devices than a CPU convolutions may round to 10 bits.
MARGIN = 1e-9
SINGLE_MARGIN = 1e-4
DEVICE_MARGIN = 1e-2
STANDARD_ERRORS = 4.0
# Masses that entropies are summed from, in all: of some pixels, evenly spread, where all would take longer.
MASSES = 2**22
SENTENCE = "Samples are drawn from the density that is scored, pixel by pixel."


def check_sampling(subject: Subject) -> Finding:
    """Prove samples by forward passes, in float64 and as they are drawn, and compare cost with entropy.

    A sample is exact if each pixel is the quantile, at its uniform, of its masses given the earlier ones, and
    one pass finds the masses of all pixels. The cost of a pixel minus the entropy of its masses has mean 0
    given the earlier pixels: the sum over pixels and images is a martingale, with known variance.
    """
    exact = _exact_samples(subject)
    wrong, gap, spread, uniforms = 0, 0.0, 0.0, []
    config = subject.model.config
    margin = SINGLE_MARGIN if subject.model.device.type == "cpu" else DEVICE_MARGIN
    # Odd, so that all columns of even widths are met.
    stride = subject.samples * config.dimensions * config.levels // MASSES | 1
    for batch in _native_samples(subject):
        wrong += batch.off_quantile(margin)
        surprise, variance = batch.surprise(stride)
        gap, spread = gap + surprise, spread + variance
        uniforms.append(batch.uniforms.flatten())
    return Finding.of(
        SENTENCE,
        *exact,
        Measurement(f"pixels of {subject.samples} images of fame sample off their quantile", wrong, 0),
        Measurement(
            "cost of samples minus entropy, standard errors", abs(_ratio(gap, spread)), STANDARD_ERRORS
        ),
        Measurement(
            "distance of the uniforms from their distribution, times root of n",
            distance(torch.cat(uniforms)),
            MOST_DISTANCE,
        ),
    )


def _ratio(gap: float, variance: float) -> float:
    """Return `gap` in standard deviations; a model that is certain of everything has none."""
    return gap / math.sqrt(variance) if variance else gap


@dataclass(frozen=True)
class _Samples:
    """Images with what they are said to have been drawn from."""

    likelihood: Likelihood
    levels: int
    x: Tensor
    parameters: Tensor
    uniforms: Tensor
    log_prob: Tensor

    @classmethod
    def of(cls, model: Fame, x: Tensor, condition: Tensor | None, uniforms: Tensor) -> "_Samples":
        parameters = model.pixel_parameters(x, condition)
        log_prob = model.likelihood.log_prob(x.to(parameters), parameters)
        return cls(model.likelihood, model.config.levels, x.to(parameters), parameters, uniforms, log_prob)

    def off_quantile(self, margin: float) -> int:
        return off_quantile(self.likelihood, self.levels, self.x, self.parameters, self.uniforms, margin)

    def surprise(self, stride: int) -> tuple[float, float]:
        """Return cost minus entropy, nats, summed over every `stride`-th pixel, and the variance of it."""
        x, parameters = (flat(each)[:, :, None, ::stride] for each in (self.x, self.parameters))
        entropy, variance = 0.0, 0.0
        for each in conditional_masses(self.likelihood, self.levels, x, parameters):
            mass = each.log_masses.double().exp()
            # Of what has no mass, nothing is drawn.
            cost = torch.where(mass > 0, -each.log_masses.double(), 0.0)
            mean = (mass * cost).sum(0)
            entropy += float(mean.sum())
            variance += float((mass * (cost - mean).square()).sum())
        return -float(self.log_prob.flatten()[::stride].double().sum()) - entropy, variance


def _exact_samples(subject: Subject) -> list[Measurement]:
    """Return what passes in float64 say of images that are drawn in float64."""
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
    off = _Samples.of(model, x, condition, uniforms).off_quantile(MARGIN)
    return [*measured, Measurement(f"pixels of {count} images, float64, off their quantile", off, 0)]


def _native_samples(subject: Subject) -> Iterator[_Samples]:
    """Yield the images of `fame sample`, with all in the precision of the model."""
    model = subject.model
    for first in range(0, subject.samples, BATCH):
        x = torch.from_numpy(subject.drawn[first : first + BATCH]).to(model.device)
        uniforms = image_uniforms(subject.names(len(x), first), model.uniforms_shape).to(model.device)
        yield _Samples.of(model, x, subject.prior_conditions(model, len(x), first), uniforms)
