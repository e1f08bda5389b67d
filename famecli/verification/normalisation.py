"""Masses sum to one: over the levels of each value, and over all images of a miniature model.

Masses of single levels and channels come from the likelihood's own `log_prob`. The mass of a pixel's first c
channels is that of a likelihood of c channels with the same parameters. So the mass of a channel given the
earlier ones is a difference of two `log_prob`, and no mass is implemented twice.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.config.schema import ModelConfig, StageConfig
from famecli.model.distributions import Bernoulli, Likelihood, LogisticMixture, scale_levels
from famecli.model.fame import Fame
from famecli.rng import Seeded, stream, uniforms
from famecli.verification.findings import Finding, Measurement
from famecli.verification.subject import Subject

IMAGES = 2
CONDITIONS = 4
LIMIT = 1e-9
SENTENCE = "The masses of all levels sum to 1 at every pixel and channel, and so do those of all images."
POSITIONS = 512
# Sizes of the miniature model.
WIDTH = 4
LATENTS = 2
LAYERS = 2
MIXTURES = 3
CLASSES = 2
PATCH = 2
HEADS = 2


def check_normalisation(subject: Subject) -> Finding:
    """Sum masses over all levels, given earlier channels and pixels; in miniature, over all images.

    With causality, sums of 1 at every pixel and channel make the sum over all images 1. The miniature model
    has the same code and random weights; the sum over all its images is computed directly.
    """
    model = subject.exact
    count = max(IMAGES, subject.least_images)
    images, labels = subject.images(count), subject.labels(model, count)
    distortion = model(images, subject.posterior_noise(count), labels).distortion
    condition, _ = model.infer(images, subject.posterior_noise(count), labels=labels)
    parameters = model.pixel_parameters(images, condition)
    masses = conditional_masses(model.likelihood, model.config.levels, images, parameters)
    sums = torch.cat([each.log_masses.exp().sum(0) for each in masses])
    log_px = model.likelihood.log_prob(images, parameters).flatten(1).sum(1)
    return Finding.of(
        SENTENCE,
        _from_one(f"{len(sums):,} sums over levels: farthest from 1", sums),
        _from_one("miniature, sums over all images: farthest from 1", _tiny_sums(subject)),
        Measurement(
            "evaluated -log p(x|z) minus that of the pixels, relative",
            float(((distortion + log_px) / log_px.abs().clamp(min=1.0)).abs().amax()),
            LIMIT,
        ),
    )


def _from_one(what: str, sums: Tensor) -> Measurement:
    return Measurement(what, float((sums - 1.0).abs().amax()), LIMIT)


def _tiny_sums(subject: Subject) -> Tensor:
    """Return the sum of p(x | z) over all images x of the miniature model, for several z."""
    tiny = tiny_model(subject.model, subject.seed)
    images = every_image(tiny.config)
    conditions = subject.prior_conditions(tiny, CONDITIONS)
    if conditions is None:
        return tiny.log_prob(images, None).flatten(1).sum(1).exp().sum(0, keepdim=True)
    return torch.stack(
        [
            tiny.log_prob(images, each.expand(len(images), -1, -1, -1)).flatten(1).sum(1).exp().sum()
            for each in conditions
        ]
    )


@dataclass(frozen=True)
class ChannelMasses:
    """Masses of one channel at some positions.

    Args:
        channel: Channel index.
        positions: Indices of the positions, in the flattened order of `conditional_masses`.
        log_masses: Log-masses of every level given the earlier channels, nats, `(levels, n)`.
    """

    channel: int
    positions: slice
    log_masses: Tensor


def first_channels(likelihood: Likelihood, parameters: Tensor, channels: int) -> tuple[Likelihood, Tensor]:
    """Return the likelihood of a pixel's first `channels` alone, and its part of the parameters."""
    if isinstance(likelihood, Bernoulli):
        bits = copy.copy(likelihood)
        bits.parameters = bits.uniforms = channels
        return bits, parameters[:, :channels]
    mixture = copy.copy(likelihood)
    k, c = mixture.mixtures, mixture.channels
    mixture.channels, mixture.coefficients = channels, channels * (channels - 1) // 2
    mixture.parameters, mixture.uniforms = k * (1 + 2 * channels + mixture.coefficients), 1 + channels
    logits, means, scales, coefficients = parameters.split(
        [k, c * k, c * k, likelihood.coefficients * k], dim=1
    )
    parts = [logits, means[:, : channels * k], scales[:, : channels * k]]
    return mixture, torch.cat([*parts, coefficients[:, : mixture.coefficients * k]], dim=1)


def flat(images: Tensor) -> Tensor:
    """Return `(1, C, B * H * W)` of `(B, C, H, W)`: all positions of all images in a row."""
    return images.flatten(2).transpose(0, 1).flatten(1).unsqueeze(0)


def conditional_masses(
    likelihood: Likelihood, levels: int, x: Tensor, parameters: Tensor
) -> Iterator[ChannelMasses]:
    """Yield the masses of all levels of every channel given the earlier channels of `x`, at every position.

    Args:
        likelihood: Likelihood of the pixels.
        levels: Number of values of a channel.
        x: Levels `(B, C, H, W)`.
        parameters: Parameters of the likelihood, `(B, P, H, W)`.
    """
    x, parameters = flat(x), flat(parameters)
    grid = torch.arange(levels, device=x.device).to(x).view(-1, 1)
    for here in _parts(x.shape[2]):
        earlier = torch.zeros_like(x[0, 0, here])
        for channel in range(x.shape[1]):
            part, own = first_channels(likelihood, parameters[:, :, here], channel + 1)
            every = x[:, : channel + 1, here].repeat(levels, 1, 1)
            every[:, channel] = grid
            yield ChannelMasses(channel, here, part.log_prob(every, own) - earlier)
            earlier = part.log_prob(x[:, : channel + 1, here], own)[0]


def off_quantile(
    likelihood: Likelihood, levels: int, x: Tensor, parameters: Tensor, uniforms: Tensor, margin: float
) -> int:
    """Return the number of values of `x` that are not the quantiles of the masses at `uniforms`.

    An image has the distribution of these masses if each pixel is the inverse distribution function of an
    independent uniform. Within `margin` of a boundary of the uniforms, both sides count as right.

    Args:
        likelihood: Likelihood of the pixels.
        levels: Number of values of a channel.
        x: Levels `(B, C, H, W)`.
        parameters: Parameters given the earlier pixels of `x`, `(B, P, H, W)`.
        uniforms: Numbers that `x` was allegedly drawn with, `(B, likelihood.uniforms, H, W)`.
        margin: Tolerance of the uniforms.
    """
    u, values = flat(uniforms.to(x)), flat(x)
    if isinstance(likelihood, Bernoulli):
        masses = conditional_masses(likelihood, levels, x, parameters)
        return sum(_wrong_bits(values, u, each, margin) for each in masses)
    p = flat(parameters)
    return sum(
        _wrong_levels(likelihood, values[:, :, here], p[:, :, here], u[:, :, here], margin)
        for here in _parts(values.shape[2])
    )


def _parts(positions: int) -> Iterator[slice]:
    """Yield slices of positions, small enough to have the masses of all levels in memory."""
    for first in range(0, positions, POSITIONS):
        yield slice(first, min(first + POSITIONS, positions))


def _wrong_bits(x: Tensor, u: Tensor, masses: ChannelMasses, margin: float) -> int:
    """Return the number of bits that are not 1 exactly where the uniform is below the mass of 1."""
    here, chance = (0, masses.channel, masses.positions), masses.log_masses[1].exp()
    right = torch.where(x[here] > 0, u[here] - margin < chance, u[here] + margin >= chance)
    return int(right.logical_not().sum())


def _wrong_levels(mixture: LogisticMixture, x: Tensor, parameters: Tensor, u: Tensor, margin: float) -> int:
    """Return the number of levels that are not quantiles of the component that the first uniform selects."""
    logits, means, log_scales, coefficients = mixture.split(parameters)
    bounds = torch.softmax(logits, dim=1).cumsum(1)[:, :-1]
    chosen, other = ((u[:, :1] + shift >= bounds).sum(1, keepdim=True) for shift in (-margin, margin))
    known = (chosen == other)[0, 0]  # (n,); False with two candidates for the component

    def pick(table: Tensor) -> Tensor:
        return table.gather(2, chosen.unsqueeze(1).expand(-1, table.shape[1], -1, -1))

    means, log_scales, coefficients = pick(means), pick(log_scales), pick(coefficients)
    scaled = scale_levels(x, mixture.levels)
    grid = scale_levels(torch.arange(mixture.levels, device=x.device).to(x), mixture.levels)
    wrong, shared = 0, coefficients.unbind(1)
    for channel in range(mixture.channels):
        earlier = [scaled[:, index : index + 1] for index in range(channel)]
        location = mixture.location(means[:, channel], shared, earlier)[0]  # (1, n)
        mass = mixture.log_mass(grid[:, None], location, log_scales[0, channel]).exp()
        reached = mass.cumsum(0)[:-1]
        lowest, highest = ((reached <= u[0, 1 + channel] + shift).sum(0) for shift in (-margin, margin))
        wrong += int((((x[0, channel] < lowest) | (x[0, channel] > highest)) & known).sum())
    return wrong


def tiny_config(config: ModelConfig) -> ModelConfig:
    """Return `config` with the same switches and windows, but few features, pixels and levels.

    Without patches, there are 256 to 4,096 images: binary 3x3 or RGB 2x2; with more levels, 2x2 of 4 levels
    or RGB 1x2 of 3. With patches of 2x2, an image holds several, and there are 512 to 19,683 images: binary
    3x3 or RGB 1x3; with more levels, 2x3 of 3 levels or RGB 1x3 of 3.
    """
    grey, bits, patches = config.channels == 1, config.likelihood == "bernoulli", config.decoder.patch > 1
    if patches:
        height, width = (3, 3) if grey and bits else (2, 3) if grey else (1, 3)
    else:
        height, width = (3, 3) if grey and bits else (2, 2) if grey or bits else (1, 2)
    return dataclasses.replace(
        config,
        height=height,
        width=width,
        levels=min(config.levels, 4 if grey and not patches else 3),
        mixtures=min(config.mixtures, MIXTURES),
        classes=config.classes[:CLASSES],
        stages=tuple(_tiny_stage(stage) for stage in config.stages),
        decoder=dataclasses.replace(
            config.decoder,
            width=WIDTH,
            layers=LAYERS if config.decoder.attention else min(config.decoder.layers, LAYERS),
            condition=min(config.decoder.condition, WIDTH),
            patch=min(config.decoder.patch, PATCH),
            attention=tuple(range(1, LAYERS + 1)) if config.decoder.attention else (),
            heads=HEADS,
            attention_width=0,
        ),
    )


def _tiny_stage(stage: StageConfig) -> StageConfig:
    return dataclasses.replace(
        stage, width=WIDTH, blocks=min(stage.blocks, 1), latents=min(stage.latents, LATENTS)
    )


def tiny_model(model: Fame, seed: int) -> Fame:
    """Return a miniature of `model` in float64 on the CPU, with random weights.

    The weights are larger than initial ones, many of which are zero and make distributions nearly uniform.
    """
    with Seeded(0):
        tiny = type(model)(tiny_config(model.config))
    tiny.double().eval()
    generator = stream("verify", seed, "tiny weights")
    with torch.no_grad():
        for weight in tiny.parameters():
            spread = 1.5 / math.sqrt(weight[0].numel()) if weight.dim() > 1 else 0.5
            normal = torch.special.ndtri(uniforms(generator, weight.shape, torch.float64).add(2**-54))
            weight.copy_(spread * normal)
    return tiny


def every_image(config: ModelConfig) -> Tensor:
    """Return all images, `(levels ** (C * H * W), C, H, W)`, float64."""
    every = itertools.product(range(config.levels), repeat=config.dimensions)
    return torch.tensor(list(every), dtype=torch.float64).view(-1, *config.image_shape)
