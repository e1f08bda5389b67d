"""A pixel's distribution depends neither on that pixel nor on pixels that are drawn after it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.model.distributions import Gaussian
from famecli.model.fame import Fame
from famecli.rng import stream, uniforms
from famecli.sampling.plan import wavefront_plan
from famecli.verification.findings import Finding, Measurement
from famecli.verification.subject import Subject

COPIES = 16
IMAGES = 2
CAUSAL = "The parameters of a pixel are a function of the latents and of pixels that are drawn before it."
BLIND = "The parameters of a pixel are a function of the latents alone."


@dataclass(frozen=True)
class Order:
    """An order of pixels that parameters have to respect.

    Args:
        what: Description of the pixels that parameters must not depend on.
        time: Time of each pixel, `(H, W)`.
        own: Whether parameters must also not depend on pixels of the same time.
    """

    what: str
    time: Tensor
    own: bool

    def cuts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield two masks `(n, 1, H, W)`: pixels up to some times, and pixels they must not depend on.

        Together the masks contain every pair of a pixel and another that it must not depend on.
        """
        for times in torch.unique(self.time).split(COPIES):
            at = times.view(-1, 1, 1, 1)
            yield self.time <= at, self.time >= at if self.own else self.time > at


def check_causality(subject: Subject) -> Finding:
    """Change every later pixel, for every step of the sampler and every row, and compare all parameters.

    For each time `t` of an order, a copy of an image has other levels in all channels of the hidden pixels:
    from `t` on in the order of steps, after `t` in the order of rows. Parameters of pixels up to `t` must not
    change, and their derivatives with respect to hidden pixels must be zero. So each parameter is compared
    under a change of each pixel that it must not depend on. The change finds dependences without a slope,
    such as rounding; the derivative finds dependences too small for float64.

    One image is the model's own, the other has random levels.
    """
    model = subject.exact
    images = subject.images(max(IMAGES, subject.least_images))
    others = _other_levels(images, subject)
    condition = subject.prior_conditions(model, 1)
    measured = []
    for order in _orders(model):
        change = [_change(model, *pair, condition, order) for pair in zip(images, others, strict=True)]
        slope = [_slope(model, image, condition, order, subject) for image in images]
        measured += [
            _largest(f"largest change of a parameter by {order.what}", change),
            _largest(f"largest derivative of parameters by {order.what}", slope),
        ]
    if model.config.stochastic_layers:
        measured.append(_latents_alone(subject))
    return Finding.of(CAUSAL if model.config.decoder.autoregressive else BLIND, *measured)


def _largest(what: str, values: list[Tensor]) -> Measurement:
    # Not Python's max, which ignores NaN.
    return Measurement(what, float(torch.stack(values).amax()), 0.0)


def _other_levels(images: Tensor, subject: Subject) -> Tensor:
    """Return images that differ from the given ones in every value."""
    levels = subject.model.config.levels
    generator = stream("verify", subject.seed, "other levels")
    shift = torch.from_numpy(generator.integers(1, levels, tuple(images.shape))).to(images)
    return (images + shift) % levels


def _orders(model: Fame) -> list[Order]:
    """Return the sampler's order and the order of rows; in a factorized decoder all times are equal."""
    config, device = model.config, model.device
    size = config.height, config.width
    if not config.decoder.autoregressive:
        all_at_once = torch.zeros(size, dtype=torch.int64, device=device)
        return [Order("any pixel, latents given", all_at_once, own=True)]
    plan = wavefront_plan(*size, config.decoder.lag, config.decoder.patch)
    times = [step.index for step in plan.steps for _ in range(step.count)]
    t = torch.empty(config.height * config.width, dtype=torch.int64)
    t[torch.tensor(plan.order)] = torch.tensor(times)
    # Pixels of a patch follow each other row by row: only rows of patches come one after the other.
    row = torch.arange(config.height)[:, None].expand(size) // config.decoder.patch
    return [
        Order("pixels of the same step or later", t.view(size).to(device), own=True),
        Order("rows below", row.to(device), own=False),
    ]


def _change(model: Fame, image: Tensor, other: Tensor, condition: Tensor | None, order: Order) -> Tensor:
    """Return the largest change of a parameter by pixels that it must not depend on.

    Args:
        model: Model in float64.
        image: Levels `(C, H, W)`.
        other: Levels that differ from `image` everywhere.
        condition: Condition of the decoder for one image, or None.
        order: Order of the pixels.
    """
    largest = image.new_zeros(())
    for seen, hidden in order.cuts():
        # The unchanged copies go through a pass of the same shape, so that the same instructions compute each
        # pair of numbers.
        batch = image.expand(len(seen), *image.shape)
        repeated = _repeat(condition, len(batch))
        same = model.pixel_parameters(batch, repeated)
        change = (model.pixel_parameters(torch.where(hidden, other, batch), repeated) - same).abs()
        largest = torch.maximum(largest, torch.where(seen, change, 0.0).amax())
    return largest


def _slope(model: Fame, image: Tensor, condition: Tensor | None, order: Order, subject: Subject) -> Tensor:
    """Return the largest derivative of a weighted sum of parameters by pixels they must not depend on.

    Weights are random, so that dependences do not cancel; arguments are those of `_change`.
    """
    largest = image.new_zeros(())
    generator = stream("verify", subject.seed, "weights of outputs")
    for seen, hidden in order.cuts():
        batch = image.expand(len(seen), *image.shape).clone()
        with torch.enable_grad():
            parameters = model.pixel_parameters(batch.requires_grad_(), _repeat(condition, len(batch)))
            weights = uniforms(generator, parameters.shape, torch.float64).to(parameters) + 0.5
            # Pixels that the decoder does not read get a derivative of zero from the second term.
            total = torch.where(seen, parameters * weights, 0.0).sum() + 0.0 * batch.sum()
            (slope,) = torch.autograd.grad(total, batch)
        largest = torch.maximum(largest, torch.where(hidden, slope, 0.0).abs().amax())
    return largest


def _repeat(condition: Tensor | None, batch: int) -> Tensor | None:
    return None if condition is None else condition.expand(batch, -1, -1, -1)


def _latents_alone(subject: Subject) -> Measurement:
    """Compare condition and priors of images with those computed from their latents alone."""
    model = subject.exact
    images = subject.images(IMAGES)
    labels = subject.labels(model, IMAGES)
    condition, draws = model.infer(images, subject.posterior_noise(IMAGES), labels=labels)

    def same(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
        return draws[layer].z

    blind, again = model.descend(None, same, IMAGES, labels=labels)
    assert condition is not None
    assert blind is not None
    pairs = [(condition, blind)]
    for seen, unseen in zip(draws, again, strict=True):
        pairs += [(seen.prior.mean, unseen.prior.mean), (seen.prior.scale, unseen.prior.scale)]
    return _largest(
        "largest change of condition or prior by the image, latents given",
        [(one - two).abs().amax() for one, two in pairs],
    )
