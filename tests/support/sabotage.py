"""Models that are each broken in one way."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from famecli.model.distributions import Bernoulli, Gaussian, LogisticMixture
from famecli.model.fame import Fame, Stage
from famecli.model.layers import CausalConv2d
from famecli.nll import evaluate as evaluation
from famecli.nll.hmc import LatentSpace
from famecli.rng import ImageNoise, StreamName
from famecli.sampling import sampler
from famecli.verification import sampling, subject

# A sabotage breaks a model or its classes.
Sabotage = Callable[[Fame, pytest.MonkeyPatch], None]
PriorAndPosterior = tuple[Gaussian, Gaussian | None]


def wrap(patch: pytest.MonkeyPatch, owner: object, name: str, change: Callable[..., object]) -> None:
    """Replace a function or method by `change(original, *args, **kwargs)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **named: change(original, *args, **named))


def leak(model: Fame, add: Callable[[Tensor, Tensor], None]) -> None:
    """Let `add(parameters, image)` write into the decoder's outputs; both float64, the image in [-1, 1]."""

    def hook(module: nn.Module, inputs: tuple[Tensor | None, Tensor | None], parameters: Tensor) -> Tensor:
        changed = parameters.clone()
        if inputs[0] is not None:
            add(changed, inputs[0])
        return changed

    model.decoder.register_forward_hook(hook)


def leak_of(
    size: float, to: tuple[int, int], of: tuple[int, int], channel: int = 0, *, step: bool = False
) -> Sabotage:
    """Return a leak of one pixel's value into another's parameter; `step` makes its slope zero."""

    def sabotage(model: Fame, patch: pytest.MonkeyPatch) -> None:
        def add(parameters: Tensor, image: Tensor) -> None:
            value = image[:, channel, of[0], of[1]]
            parameters[:, 0, to[0], to[1]] += size * ((10 * value).floor() if step else value)

        leak(model, add)

    return sabotage


def own_later_channel(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def add(parameters: Tensor, image: Tensor) -> None:
        parameters[:, :1] += 1e-6 * image[:, 2:]

    leak(model, add)


def centre_tap(model: Fame, patch: pytest.MonkeyPatch) -> None:
    first = model.decoder.first
    assert isinstance(first, CausalConv2d)
    first.mask[-1, first.reach] = 1.0


def later_tap(model: Fame, patch: pytest.MonkeyPatch) -> None:
    layer = model.decoder.layers[-1].conv
    assert isinstance(layer, CausalConv2d)
    layer.mask[-1, -1] = 1.0


def no_mask(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def init(original: Callable[..., None], self: CausalConv2d, *args: object, **named: object) -> None:
        original(self, *args, **named)
        self.mask.fill_(1.0)

    # Patch the class, so that the miniature is broken too.
    wrap(patch, CausalConv2d, "__init__", init)


def prior_sees_image(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def prior_and_posterior(
        original: Callable[..., PriorAndPosterior], self: Stage, h: Tensor | None, d: Tensor | None, n: int
    ) -> PriorAndPosterior:
        prior, posterior = original(self, h, d, n)
        return (prior if d is None else Gaussian(prior.mean + 1e-6 * d.mean(), prior.scale)), posterior

    wrap(patch, Stage, "prior_and_posterior", prior_and_posterior)


def batch_norm(model: Fame, patch: pytest.MonkeyPatch) -> None:
    stage = model.stages[0]
    # A new module starts in training mode; take the model's mode instead.
    stage.up = nn.Sequential(stage.up, nn.BatchNorm2d(stage.config.width))
    model.train(model.training)


def batch_norm_in_training(model: Fame, patch: pytest.MonkeyPatch) -> None:
    batch_norm(model, patch)
    model.train()


def mean_of_batch(model: Fame, patch: pytest.MonkeyPatch) -> None:
    model.stages[0].up.register_forward_hook(lambda module, inputs, h: h + 1e-4 * h.mean(0, keepdim=True))


def noise_by_place(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def noise(names: Sequence[StreamName], device: torch.device) -> ImageNoise:
        return ImageNoise([(*name[:-1], place) for place, name in enumerate(names)], device=device)

    patch.setattr(evaluation, "ImageNoise", noise)


def unnormalised_mixture(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def log_prob(original: Callable[..., Tensor], self: LogisticMixture, x: Tensor, p: Tensor) -> Tensor:
        return original(self, x, p) + self.split(p)[0].logsumexp(1)

    wrap(patch, LogisticMixture, "log_prob", log_prob)


def wide_bins(model: Fame, patch: pytest.MonkeyPatch) -> None:
    assert isinstance(model.likelihood, LogisticMixture)
    model.likelihood.half_width *= 1 + 1e-6


def bounded_ends(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """End the last level at the end of the range, as an implementation that clips samples might."""
    patch.setattr(
        LogisticMixture,
        "log_mass",
        lambda self, x, location, log_scale: torch.log(
            torch.sigmoid((x + self.half_width - location) / log_scale.exp())
            - torch.sigmoid((x - self.half_width - location) / log_scale.exp())
        ),
    )


def red_given_last(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Let the first channel's location depend on the last scored channel."""

    def log_prob(original: Callable[..., Tensor], self: LogisticMixture, x: Tensor, p: Tensor) -> Tensor:
        k = self.mixtures
        red = p[:, k : 2 * k] + 1e-3 * x[:, -1:]
        others = [part.expand(len(x), *part.shape[1:]) for part in (p[:, :k], p[:, 2 * k :])]
        return original(self, x, torch.cat([others[0], red, others[1]], dim=1))

    wrap(patch, LogisticMixture, "log_prob", log_prob)


def generous_bits(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Bernoulli, "log_prob", lambda original, *args: original(*args) + 1e-6)


def forgotten_border(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def log_prob(original: Callable[..., Tensor], *args: object) -> Tensor:
        nats = original(*args).clone()
        nats[:, -1] = 0.0
        return nats

    wrap(patch, Fame, "log_prob", log_prob)


def divergence_to_standard(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Gaussian, "kl", lambda kl, self, prior: kl(self, Gaussian.standard(prior.mean)))


def wide_prior_of_samples(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch,
        Fame,
        "top_down",
        lambda original, self, features, *args, **named: original(
            self, features, *args, **(named | ({"temperature": 1.0001} if features is None else {}))
        ),
    )


def narrow_posterior(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def sample(
        original: Callable[..., Tensor], self: Gaussian, noise: Tensor, temperature: float = 1.0
    ) -> Tensor:
        return original(self, noise, temperature) - 1e-6 * self.scale

    wrap(patch, Gaussian, "sample", sample)


def density_without_scale(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch,
        Gaussian,
        "log_ratio",
        lambda original, self, other, noise: original(self, other, noise) + self.scale.log(),
    )


def same_normals(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def init(
        original: Callable[..., None],
        self: ImageNoise,
        names: list[tuple[str | int, ...]],
        *args: object,
        **named: object,
    ) -> None:
        original(self, [names[0]] * len(names), *args, **named)

    wrap(patch, ImageNoise, "__init__", init)


def sum_of_weights(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Forget the number of draws in their mean."""
    patch.setattr(evaluation, "log_mean", lambda log_weights: log_weights.logsumexp(-1))


def largest_weight(model: Fame, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evaluation, "log_mean", lambda log_weights: log_weights.amax(-1))


def annealed_half_way(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Add up only half of the path of annealed chains."""
    wrap(patch, LatentSpace, "log_weight", lambda original, *args: original(*args) / 2)


def saturated_weights(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Clamp the log-weight of each latent from below, as a guard against overflow might."""
    wrap(patch, Gaussian, "log_ratio", lambda original, *args: original(*args).clamp(min=-1.0))


def ratio_of_rounded_latents(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Divide `z - mean` by the scale again: all digits cancel where means are large and scales small."""

    def log_ratio(original: Callable[..., Tensor], self: Gaussian, other: Gaussian, noise: Tensor) -> Tensor:
        z = self.sample(noise)
        mine, others = ((z - each.mean) / each.scale for each in (self, other))
        return 0.5 * (mine.square() - others.square()) + (self.scale / other.scale).log()

    wrap(patch, Gaussian, "log_ratio", log_ratio)


def half_precision_bits(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Overflow: chances below 6e-8 are 0 in half precision."""
    patch.setattr(
        Bernoulli, "log_prob", lambda self, x, p: (p * (2.0 * x - 1.0)).half().sigmoid().to(p).log().sum(1)
    )


def smallest_mass(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Raise small masses, as a guard against flushing to zero might."""
    wrap(patch, LogisticMixture, "log_mass", lambda original, *args: original(*args).clamp(min=-9.0))


def mask_by_content(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Let the windows of images whose last value is large see everything."""

    def forward(original: Callable[..., Tensor], self: CausalConv2d, x: Tensor) -> Tensor:
        masked, mask = original(self, x), self.mask
        self.mask = torch.ones_like(mask)
        bare = original(self, x)
        self.mask = mask
        return torch.where(x[:, -1:, -1:, -1:] > 0.9, bare, masked)

    wrap(patch, CausalConv2d, "forward", forward)


def shifted_bits(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch,
        Bernoulli,
        "sample",
        lambda original, self, parameters, *args: original(self, parameters + 0.02, *args),
    )


def cold_mixture(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(
        patch,
        LogisticMixture,
        "sample",
        lambda original, self, parameters, uniforms, temperature: original(self, parameters, uniforms, 0.98),
    )


def floored_levels(model: Fame, patch: pytest.MonkeyPatch) -> None:
    """Round samples down after adding 0.4 of a level in place of 0.5."""

    def location(original: Callable[..., Tensor], *args: object) -> Tensor:
        return original(*args) - 0.1

    def sample(original: Callable[..., Tensor], self: LogisticMixture, *args: object) -> Tensor:
        with pytest.MonkeyPatch.context() as inner:
            wrap(inner, LogisticMixture, "location", location)
            return original(self, *args)

    wrap(patch, LogisticMixture, "sample", sample)


def sampler_with_other_weights(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def packed(original: Callable[..., object], *args: object) -> object:
        weights = original(*args)
        weights.head2[0, 0, -1] += 0.05
        return weights

    wrap(patch, sampler, "PackedDecoder", packed)


def cold_samples(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(patch, subject, "generate", lambda original, *args: original(*args, temperature=0.8))


def middling_uniforms(model: Fame, patch: pytest.MonkeyPatch) -> None:
    def squeezed(original: Callable[..., Tensor], *args: object) -> Tensor:
        return 0.5 + 0.7 * (original(*args) - 0.5)

    from famecli.sampling import generate

    for module in (sampling, generate):
        wrap(patch, module, "image_uniforms", squeezed)


def rate_of_wrong_sign(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Gaussian, "kl", lambda kl, self, prior: -kl(self, prior))


def cheap_pixels(model: Fame, patch: pytest.MonkeyPatch) -> None:
    wrap(patch, Fame, "log_prob", lambda original, *args: 0.9 * original(*args))
