"""Nothing that a pixel's distribution is made of depends on that pixel or on what is drawn after it."""

import torch
from torch import Tensor

from famecli.model.fame import Fame
from famecli.model.latents import Gaussian
from famecli.rng import stream
from famecli.sampling.plan import WavefrontPlan
from famecli.verification.findings import Finding, Measurement
from famecli.verification.subject import Subject

COPIES = 16
IMAGES = 2
CAUSAL = "The parameters of a pixel are a function of the latents and of pixels that are drawn before it."
BLIND = "The parameters of a pixel are a function of the latents alone."


def check_causality(subject: Subject) -> Finding:
    """Replace every later pixel, for every step of the sampler and every row, and compare all parameters.

    For each time `t` of the sampling order there is a copy of an image in which every pixel from `t` on has
    another level. Parameters of pixels up to `t` have to be the same numbers: so each parameter is compared
    under a change of each pixel that it may not depend on, its own included, and of all channels. That is the
    whole definition for this image and this change; in float64, where the zero is exact, a dependence that
    cancels out would need numbers made for it. The same for each row and all rows below it: raster order.
    """
    model = subject.exact
    image = subject.images(IMAGES)[:1]
    other = _other_levels(image, subject)
    condition = subject.prior_conditions(model, 1)
    measured = []
    if model.config.decoder.autoregressive:
        t, row = _order(model)
        measured = [
            _largest_change("by pixels of the same step or later", model, image, other, condition, t),
            _largest_change("by rows below", model, image, other, condition, row, later_only=True),
        ]
    else:
        never = torch.zeros(image.shape[2:], dtype=torch.int64, device=image.device)
        measured = [_largest_change("by any pixel, latents given", model, image, other, condition, never)]
    if model.config.stochastic_layers:
        measured.append(_latents_alone(subject))
    return Finding.of(CAUSAL if model.config.decoder.autoregressive else BLIND, *measured)


def _other_levels(image: Tensor, subject: Subject) -> Tensor:
    """Return an image whose every value is another level."""
    levels = subject.model.config.levels
    generator = stream("verify", subject.seed, "other levels")
    shift = torch.from_numpy(generator.integers(1, levels, tuple(image.shape))).to(image)
    return (image + shift) % levels


def _order(model: Fame) -> tuple[Tensor, Tensor]:
    """Return the time `t` of each pixel in the sampling order, and its row, both `(H, W)`."""
    config = model.config
    plan = WavefrontPlan(config.height, config.width, config.decoder.lag)
    times = [step.t for step in plan.steps for _ in range(step.count)]
    t = torch.empty(config.height * config.width, dtype=torch.int64)
    t[torch.tensor(plan.order)] = torch.tensor(times)
    row = torch.arange(config.height)[:, None].expand(config.height, config.width)
    return t.view_as(row).to(model.device), row.to(model.device)


def _largest_change(
    what: str,
    model: Fame,
    image: Tensor,
    other: Tensor,
    condition: Tensor | None,
    time: Tensor,
    *,
    later_only: bool = False,
) -> Measurement:
    """Return the largest change of a parameter at a pixel of a time up to t by pixels from t on, for all t.

    Args:
        what: The change, in words.
        model: In float64.
        image: Levels `(1, C, H, W)`.
        other: Other levels.
        condition: Of the decoder, or None.
        time: Of each pixel, `(H, W)`.
        later_only: Whether pixels of time t itself keep their levels.
    """
    largest = image.new_zeros(())
    for times in torch.unique(time).split(COPIES):
        at = times.view(-1, 1, 1, 1)
        changed = time > at if later_only else time >= at
        # The image itself goes through the same pass: sums of another batch might be rounded otherwise.
        batch = torch.cat([image, torch.where(changed, other, image)])
        seen = None if condition is None else condition.expand(len(batch), -1, -1, -1)
        parameters = model.pixel_parameters(batch, seen)
        change = (parameters[1:] - parameters[:1]).abs()
        # Not max of two numbers, which forgets NaN.
        largest = torch.maximum(largest, torch.where(time <= at, change, 0.0).amax())
    return Measurement(f"largest change of a parameter {what}", float(largest), 0.0)


def _latents_alone(subject: Subject) -> Measurement:
    """Compare condition and priors of images with those computed from their latents, without the images."""
    model = subject.exact
    images = subject.images(IMAGES)
    condition, draws = model.infer(images, subject.posterior_noise(IMAGES))

    def same(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
        return draws[layer].z

    blind, again = model.descend(None, same, IMAGES)
    assert condition is not None
    assert blind is not None
    pairs = [(condition, blind)]
    for seen, unseen in zip(draws, again, strict=True):
        pairs += [(seen.prior.mean, unseen.prior.mean), (seen.prior.scale, unseen.prior.scale)]
    largest = torch.stack([(one - two).abs().amax() for one, two in pairs]).amax()
    return Measurement(
        "largest change of condition or prior by the image, latents given", float(largest), 0.0
    )
