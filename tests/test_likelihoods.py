import math

import numpy as np
import pytest
import torch
from support.models import all_images
from torch import Tensor

from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.model.distributions import (
    SMALLEST_LOG_SCALE,
    Bernoulli,
    Likelihood,
    LogisticMixture,
    make_likelihood,
    scale_levels,
)

LOCATIONS = [0.0, 0.37, -1.0, 1.0, 60.0, -60.0, 1e4, -1e4]
LOG_SCALES = [-1e4, -50.0, -7.0, -3.0, 0.0, 5.0, 20.0, 90.0, 1e4]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_parameters(likelihood: Likelihood, seed: int = 0) -> Tensor:
    """Parameters `(1, ...)` of one pixel; a mixture's scales span narrow and wide logistics."""
    return 1.2 * normal(1, likelihood.parameters, seed=seed) - 0.5


def extreme_parameters(likelihood: LogisticMixture, dtype: torch.dtype = torch.float64) -> Tensor:
    """Every location with every scale, `(B, ...)`; logits and coefficients are large too."""
    pairs = torch.cartesian_prod(torch.tensor(LOCATIONS), torch.tensor(LOG_SCALES)).to(dtype)
    k, c = likelihood.mixtures, likelihood.channels
    logits = 30.0 * normal(len(pairs), k)
    means = pairs[:, :1].expand(-1, c * k) + 0.01 * normal(len(pairs), c * k, seed=1)
    coefficients = 20.0 * normal(len(pairs), likelihood.coefficients * k, seed=2)
    scales = pairs[:, 1:].expand(-1, c * k)
    return torch.cat([logits, means, scales, coefficients], dim=1).to(dtype)


def masses(likelihood: Likelihood, parameters: Tensor, channels: int, levels: int) -> Tensor:
    """The mass of every colour under each of the parameters, `(colours, B)`."""
    colours = all_images(channels, 1, 1, levels).flatten(1).to(parameters)  # (colours, C)
    each = [likelihood.log_prob(colours, row.expand(len(colours), -1)) for row in parameters]
    return torch.stack(each, dim=1).exp()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mixtures", [1, 4])
@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 3), (1, 5), (1, 256), (3, 2), (3, 4)])
def test_masses_of_a_mixture_sum_to_one(channels: int, levels: int, mixtures: int, seed: int) -> None:
    likelihood = LogisticMixture(channels, levels, mixtures)
    total = masses(likelihood, random_parameters(likelihood, seed), channels, levels).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "levels"), [(1, 4), (1, 256), (3, 4)])
def test_masses_sum_to_one_at_extremes(channels: int, levels: int) -> None:
    likelihood = LogisticMixture(channels, levels, 2)
    total = masses(likelihood, extreme_parameters(likelihood), channels, levels).sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_masses_of_bits_sum_to_one(channels: int) -> None:
    likelihood = Bernoulli(channels)
    extremes = torch.tensor([-800.0, -30.0, 0.3, 30.0, 800.0], dtype=torch.float64)
    for parameters in (random_parameters(likelihood), extremes[:, None].expand(-1, channels)):
        total = masses(likelihood, parameters, channels, 2).sum(0)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def reference_log_prob(x: list[int], likelihood: LogisticMixture, parameters: np.ndarray) -> float:
    """The formula of arXiv:1701.05517, one number after the other, by differences of sigmoids."""
    k, c, levels = likelihood.mixtures, likelihood.channels, likelihood.levels
    logits, means = parameters[:k], parameters[k : k + c * k].reshape(c, k)
    log_scales = parameters[k + c * k : k + 2 * c * k].reshape(c, k)
    coefficients = np.tanh(parameters[k + 2 * c * k :].reshape(-1, k))
    scaled = [2 * level / (levels - 1) - 1 for level in x]
    total = 0.0
    for component in range(k):
        mass = math.exp(logits[component]) / np.exp(logits).sum()
        for channel in range(c):
            row = channel * (channel - 1) // 2
            location = means[channel, component] + sum(
                coefficients[row + index, component] * scaled[index] for index in range(channel)
            )
            scale = math.exp(max(log_scales[channel, component], SMALLEST_LOG_SCALE))
            ends = [scaled[channel] + side / (levels - 1) - location for side in (-1, 1)]
            low, high = (1 / (1 + math.exp(-end / scale)) for end in ends)
            mass *= (1.0 if x[channel] == levels - 1 else high) - (0.0 if x[channel] == 0 else low)
        total += mass
    return math.log(total)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("channels", "levels"), [(1, 5), (1, 256), (3, 5), (3, 256)])
def test_log_prob_equals_the_formula_by_differences(channels: int, levels: int, seed: int) -> None:
    likelihood = LogisticMixture(channels, levels, 3)
    parameters = random_parameters(likelihood, seed)
    generator = torch.Generator().manual_seed(seed)
    for x in [*torch.randint(levels, (20, channels), generator=generator).tolist(), [0] * channels]:
        expected = reference_log_prob(x, likelihood, parameters[0].numpy())
        found = likelihood.log_prob(torch.tensor([x]).double(), parameters)
        assert float(found) == pytest.approx(expected, rel=1e-7)


def test_far_tails_keep_their_slope_instead_of_becoming_nothing() -> None:
    # One logistic of scale 1e-3 at -1: each further level of distance costs 1000 nats per unit.
    likelihood = LogisticMixture(1, 256, 1)
    parameters = torch.tensor([[0.0, -1.0, math.log(1e-3)]], dtype=torch.float64)
    far = likelihood.log_prob(torch.arange(100.0, 200.0).double()[:, None], parameters.expand(100, -1))
    slope = torch.full((99,), -1000.0 * 2 / 255, dtype=torch.float64)
    torch.testing.assert_close(far.diff(), slope, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "levels"), [(1, 4), (1, 256), (3, 4), (3, 256)])
def test_values_and_gradients_are_finite_at_extremes(channels: int, levels: int, dtype: torch.dtype) -> None:
    likelihood = LogisticMixture(channels, levels, 2)
    parameters = extreme_parameters(likelihood, dtype).requires_grad_()
    for level in (0, 1, levels // 2, levels - 2, levels - 1):
        x = torch.full((len(parameters), channels), float(level), dtype=dtype)
        log_prob = likelihood.log_prob(x, parameters)
        (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
        assert torch.isfinite(log_prob).all()
        assert (log_prob <= 1e-5).all()
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_bits_are_finite_at_extremes(dtype: torch.dtype) -> None:
    logits = torch.tensor([[-1e4], [-90.0], [0.0], [90.0], [1e4]], dtype=dtype, requires_grad=True)
    log_prob = Bernoulli(1).log_prob(torch.ones(5, 1, dtype=dtype), logits)
    (gradient,) = torch.autograd.grad(log_prob.sum(), logits)
    expected = torch.tensor([[1.0], [1.0], [0.5], [0.0], [0.0]], dtype=dtype)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)
    assert float(log_prob.detach()[0]) == -1e4


@pytest.mark.parametrize("levels", [2, 7, 256])
@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_the_sum_of_levels_times_masses(levels: int, seed: int) -> None:
    likelihood = LogisticMixture(1, levels, 3)
    parameters = random_parameters(likelihood, seed)
    each = masses(likelihood, parameters, 1, levels)[:, 0]
    expected = float((torch.arange(levels).double() * each).sum())
    assert float(likelihood.mean(parameters)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_colours_is_exact_in_the_first_channel_and_close_where_no_end_is_met(seed: int) -> None:
    likelihood = LogisticMixture(3, 16, 2)
    # Logistics as wide as a level, in the middle of the range.
    narrow = torch.tensor([1.0] * 2 + [0.3] * 6 + [0.0] * 6 + [0.5] * 6, dtype=torch.float64)
    parameters = random_parameters(likelihood, seed) * narrow
    parameters[:, 8:14] -= 2.7
    colours = all_images(3, 1, 1, 16).flatten(1)
    each = masses(likelihood, parameters, 3, 16)
    expected, found = (each * colours).sum(0), likelihood.mean(parameters)[0]
    assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-10)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)
    parameters[:, 14:] = 0.0
    assert ((likelihood.mean(parameters)[0] - expected).abs()[1:] > 0.03).any()


def test_the_mean_of_bits_is_the_mass_of_ones() -> None:
    likelihood = Bernoulli(3)
    parameters = random_parameters(likelihood)
    colours = all_images(3, 1, 1).flatten(1)
    expected = (masses(likelihood, parameters, 3, 2) * colours).sum(0, keepdim=True)
    torch.testing.assert_close(likelihood.mean(parameters), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [2, 5, 256])
def test_a_fine_grid_of_uniforms_reproduces_the_masses(levels: int, seed: int) -> None:
    mixtures, side = 2, 600
    likelihood = LogisticMixture(1, levels, mixtures)
    parameters = random_parameters(likelihood, seed)
    # So narrow that levels have masses far above the grid's error.
    parameters[:, 2 * mixtures :] -= 0.7 * math.log(levels)
    at = (torch.arange(side).double() + 0.5) / side
    uniforms = torch.cartesian_prod(at, at)
    sampled = likelihood.sample(parameters.expand(len(uniforms), -1), uniforms)
    frequencies = torch.bincount(sampled[:, 0].long(), minlength=levels) / len(uniforms)
    each = masses(likelihood, parameters, 1, levels)[:, 0]
    # A component's share is off by one column of the grid at most, a level's within it by one row.
    error = (mixtures + 1) / side
    assert float(each.max()) > 10 * error
    torch.testing.assert_close(frequencies.double().cumsum(0), each.cumsum(0), rtol=0, atol=error)


def test_a_fine_grid_of_uniforms_reproduces_the_masses_of_bits() -> None:
    parameters = random_parameters(Bernoulli(1))
    at = (torch.arange(10_000).double() + 0.5)[:, None] / 10_000
    ones = Bernoulli(1).sample(parameters.expand(10_000, -1), at)
    assert float(ones.mean()) == pytest.approx(float(torch.sigmoid(parameters)), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_colours_follow_their_masses(seed: int) -> None:
    draws, levels = 60_000, 3
    likelihood = LogisticMixture(3, levels, 2)
    parameters = random_parameters(likelihood, seed)
    sampled = likelihood.sample(parameters.expand(draws, -1), uniform(draws, 4, seed=seed))
    codes = (sampled.long() * torch.tensor([9, 3, 1])).sum(1)
    expected = masses(likelihood, parameters, 3, levels)[:, 0] * draws
    found = torch.bincount(codes, minlength=27).double()
    likely = expected > 8
    assert int(likely.sum()) > 10
    rest = torch.stack([expected[~likely].sum(), found[~likely].sum()])
    chi_squared = ((found - expected)[likely] ** 2 / expected[likely]).sum()
    chi_squared += (rest[1] - rest[0]) ** 2 / rest[0].clamp(min=8)
    # Exceeded less than once in ten thousand by chance, at 26 degrees of freedom or fewer.
    assert float(chi_squared) < 62.0


@pytest.mark.parametrize("temperature", [0.3, 0.8, 2.0])
def test_temperature_divides_logits_and_multiplies_scales(temperature: float) -> None:
    draws, k = 5_000, 3
    likelihood = LogisticMixture(3, 256, k)
    parameters = random_parameters(likelihood).expand(draws, -1)
    cooled = parameters.clone()
    cooled[:, :k] /= temperature
    cooled[:, k + 3 * k : k + 6 * k] += math.log(temperature)
    uniforms = uniform(draws, likelihood.uniforms)
    found = likelihood.sample(parameters, uniforms, temperature)
    assert (found == likelihood.sample(cooled, uniforms)).double().mean() > 0.9999
    assert not torch.equal(found, likelihood.sample(parameters, uniforms))
    bits, at = random_parameters(Bernoulli(1)).expand(draws, -1), uniform(draws, 1)
    found = Bernoulli(1).sample(bits, at, temperature)
    assert torch.equal(found, Bernoulli(1).sample(bits / temperature, at))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_levels_even_at_the_ends_of_the_uniforms(channels: int, dtype: torch.dtype) -> None:
    likelihood = LogisticMixture(channels, 256, 2)
    parameters = extreme_parameters(likelihood, dtype)
    last = 1.0 - (2.0**-24 if dtype == torch.float32 else 2.0**-53)
    for end in (0.0, last):
        uniforms = torch.full((len(parameters), likelihood.uniforms), end, dtype=dtype)
        sampled = likelihood.sample(parameters, uniforms)
        assert sampled.dtype == dtype
        assert torch.equal(sampled, sampled.round().clamp(0, 255))
        assert torch.isfinite(likelihood.log_prob(sampled, parameters)).all()
    middle = likelihood.sample(random_parameters(likelihood), torch.zeros(1, channels + 1).double())
    assert (middle[:, 0] == 0).all()


@pytest.mark.parametrize("likelihood", [Bernoulli(3), LogisticMixture(3, 16, 2), LogisticMixture(1, 9, 2)])
def test_positions_are_independent_and_may_be_none_or_many(likelihood: Likelihood) -> None:
    channels = 1 if isinstance(likelihood, LogisticMixture) and likelihood.channels == 1 else 3
    parameters, shape = normal(2, likelihood.parameters, 3, 4), (2, channels, 3, 4)
    x = likelihood.sample(parameters, uniform(2, likelihood.uniforms, 3, 4))
    log_prob, mean = likelihood.log_prob(x, parameters), likelihood.mean(parameters)
    assert (x.shape, log_prob.shape, mean.shape) == (shape, (2, 3, 4), shape)
    uniforms = uniform(2, likelihood.uniforms, 3, 4)
    for image, row, column in torch.cartesian_prod(*map(torch.arange, (2, 3, 4))).tolist():
        at = (slice(image, image + 1), slice(None), row, column)
        alone = parameters[at]
        assert torch.equal(likelihood.sample(alone, uniforms[at]), x[at])
        torch.testing.assert_close(likelihood.log_prob(x[at], alone)[0], log_prob[image, row, column])
        torch.testing.assert_close(likelihood.mean(alone), mean[at])


@pytest.mark.parametrize("levels", [2, 3, 256])
def test_scaled_levels_span_minus_one_to_one_evenly(levels: int) -> None:
    scaled = scale_levels(torch.arange(levels).double(), levels)
    expected = torch.linspace(-1.0, 1.0, levels, dtype=torch.float64)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (1, 256), (3, 256)])
def test_an_untrained_decoder_starts_near_the_uniform_distribution(channels: int, levels: int) -> None:
    kind = "bernoulli" if levels == 2 else "logistic-mixture"
    decoder = DecoderConfig(autoregressive=True, width=1, layers=0)
    likelihood = make_likelihood(ModelConfig("test", kind, channels, 1, 1, levels, decoder=decoder))
    assert isinstance(likelihood, Bernoulli if levels == 2 else LogisticMixture)
    bias = likelihood.initial_bias().double()[None]
    assert bias.shape == (1, likelihood.parameters)
    grey = torch.arange(levels).double()[:, None].expand(-1, channels)
    nats = -likelihood.log_prob(grey, bias.expand(levels, -1)) / channels
    assert float(nats.max()) < math.log(levels) + 1.0
