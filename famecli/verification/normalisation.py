"""Masses sum to one: over the levels of each value, and over all images there are."""

import torch
from torch import Tensor

from famecli.verification.findings import Finding, Measurement
from famecli.verification.masses import conditional_masses
from famecli.verification.subject import Subject
from famecli.verification.tiny import every_image, tiny_model

IMAGES = 2
CONDITIONS = 4
LIMIT = 1e-9
SENTENCE = "The masses of all levels sum to 1 at every pixel and channel, those of all images likewise."


def check_normalisation(subject: Subject) -> Finding:
    """Sum masses over all levels, given earlier channels and pixels; in miniature, over all images.

    With causality, sums of 1 at every pixel and channel make the sum over all images 1. The miniature model
    needs no such argument: with the same code and random weights, all its images are summed.
    """
    model = subject.exact
    count = max(IMAGES, subject.least_images)
    images = subject.images(count)
    noise = subject.posterior_noise(count)
    distortion = model(images, noise).distortion
    condition, _ = model.infer(images, subject.posterior_noise(count))
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
