"""The rate is the divergence between the densities that latents are drawn from, those of samples included."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from famecli.model.fame import Draw
from famecli.model.latents import Gaussian
from famecli.rng import ImageNoise, Noise
from famecli.verification.findings import Finding, Measurement
from famecli.verification.subject import Subject
from famecli.verification.uniformity import MOST_DISTANCE, distance

IMAGES = 4
# Sums of a thousand terms in float64, each rounded by 1e-16 of itself.
RELATIVE = 1e-9
SENTENCE = "The rate is the divergence of the posterior that latents are drawn from to the prior of samples."


class _Kept:
    """Noise that keeps what it gave."""

    def __init__(self, noise: Noise) -> None:
        self.noise, self.given = noise, dict[int, Tensor]()

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        self.given[layer] = self.noise.normal(layer, shape)
        return self.given[layer]


def check_latents(subject: Subject) -> Finding:
    """Compare rate, latents and log-weight with a density that is computed apart from the model's.

    Latents are draws from a Gaussian if `(z - mean) / scale` are the standard normals that went in. The log
    of the ratio of two Gaussians is a quadratic, whose mean under the first is that of its values at
    `mean + scale` and `mean - scale`: so the divergence is known without its formula.
    """
    model, count = subject.exact, max(IMAGES, subject.least_images)
    if not model.config.stochastic_layers:
        return Finding.skipped("the model has no latents")
    images = subject.images(count)
    drawn, inferred = _Kept(ImageNoise(subject.names(count))), _Kept(subject.posterior_noise(count))
    _, priors = model.top_down(None, drawn, count)
    _, draws = model.infer(images, inferred)
    terms = model(images, subject.posterior_noise(count))
    rates = torch.stack([_divergence(draw) for draw in draws], dim=1)
    weight = -terms.distortion + sum(_log_ratio(draw) for draw in draws)
    return Finding.of(
        SENTENCE,
        _largest("latents of samples off their prior", _residues(priors, drawn)),
        _largest("latents of images off their posterior", _residues(draws, inferred)),
        _largest("rate minus divergence, relative", [_relative(terms.rate, rates)]),
        _largest("log-weight minus that of the densities, relative", [_relative(terms.log_weight, weight)]),
        Measurement(
            f"distance of normals of {subject.samples} images from their distribution, times root of n",
            distance(_quantiles(priors, subject)),
            MOST_DISTANCE,
        ),
    )


def _largest(what: str, values: list[Tensor]) -> Measurement:
    return Measurement(what, float(torch.stack([each.abs().amax() for each in values]).amax()), RELATIVE)


def _relative(one: Tensor, other: Tensor) -> Tensor:
    return (one - other) / other.abs().clamp(min=1.0)


def _residues(draws: Sequence[Draw], noise: _Kept) -> list[Tensor]:
    """Return, for each layer, how far standardised latents are from the normals that were given."""
    found = []
    for layer, draw in enumerate(draws):
        source = draw.posterior or draw.prior
        given = noise.given[layer].to(draw.z)
        found.append(_relative((draw.z - source.mean) / source.scale, given))
    return found


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
    """Return the normals that the latents of all samples are made of, as quantiles."""
    noise = ImageNoise(subject.names(subject.samples))
    shapes = [torch.Size((subject.samples, *draw.z.shape[1:])) for draw in draws]
    normals = [noise.normal(layer, shape).double().flatten() for layer, shape in enumerate(shapes)]
    quantiles: Tensor = torch.special.ndtr(torch.cat(normals))
    return quantiles
