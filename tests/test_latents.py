import math

import pytest
import torch
from torch import Tensor

from famecli.model.distributions import SMALLEST_SCALE, Gaussian

GRID = torch.linspace(-40.0, 40.0, 400_001, dtype=torch.float64)
STEP = float(GRID[1] - GRID[0])
# Mean and scale of two Gaussians each: equal, apart, narrow in wide, wide over narrow, far.
PAIRS = [
    ((0.0, 1.0), (0.0, 1.0)),
    ((0.7, 0.3), (-0.4, 1.9)),
    ((-2.0, 0.02), (1.0, 3.0)),
    ((1.0, 2.5), (0.5, 0.5)),
    ((5.0, 0.5), (-1.0, 0.6)),
]


def gaussian(mean: float, scale: float) -> Gaussian:
    return Gaussian(*(torch.full((1, 1), value, dtype=torch.float64) for value in (mean, scale)))


def random_gaussian(seed: int, shape: tuple[int, ...] = (3, 4, 2, 5)) -> Gaussian:
    generator = torch.Generator().manual_seed(seed)
    mean, raw = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return Gaussian(mean, torch.exp(0.5 * raw))


def log_density(which: Gaussian) -> Tensor:
    """Log-density of a one-dimensional Gaussian on the grid, by its textbook formula."""
    mean, scale = float(which.mean), float(which.scale)
    return -((GRID - mean) ** 2) / (2 * scale**2) - math.log(scale * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("pair", PAIRS)
def test_log_prob_is_the_textbook_density_and_integrates_to_one(
    pair: tuple[tuple[float, float], tuple[float, float]],
) -> None:
    for which in (gaussian(*pair[0]), gaussian(*pair[1])):
        log_prob = which.log_prob(GRID[:, None])
        torch.testing.assert_close(log_prob, log_density(which), rtol=1e-12, atol=1e-10)
        assert float(log_prob.exp().sum()) * STEP == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_kl_equals_the_integral(left: tuple[float, float], right: tuple[float, float]) -> None:
    q, p = gaussian(*left), gaussian(*right)
    difference = log_density(q) - log_density(p)
    integral = float((log_density(q).exp() * difference).sum()) * STEP
    assert float(q.kl(p)) == pytest.approx(integral, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_kl_equals_the_mean_log_ratio_of_draws(seed: int) -> None:
    draws, shape = 40_000, (2, 3)
    q, p = random_gaussian(seed, (1, *shape)), random_gaussian(seed + 100, (1, *shape))
    generator = torch.Generator().manual_seed(seed)
    z = q.sample(torch.randn(draws, *shape, generator=generator, dtype=torch.float64))
    ratios = q.log_prob(z) - p.log_prob(z)
    error = float(ratios.std()) / math.sqrt(draws)
    assert error < 0.05
    assert abs(float(ratios.mean()) - float(q.kl(p))) < 4 * error


@pytest.mark.parametrize("seed", range(4))
def test_kl_is_zero_for_equals_and_positive_otherwise(seed: int) -> None:
    q, p = random_gaussian(seed), random_gaussian(seed + 100)
    torch.testing.assert_close(q.kl(q), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (q.kl(p) > 0.1).all()
    assert not torch.allclose(q.kl(p), p.kl(q), rtol=0.01)


def test_sums_run_over_all_latents_of_one_image_and_no_other() -> None:
    q, p = random_gaussian(0), random_gaussian(1)
    z = random_gaussian(2).mean
    each_kl, each_log_prob = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for image, channel, row, column in torch.cartesian_prod(*map(torch.arange, z.shape)).tolist():
        at = (image, channel, row, column)
        alone_q, alone_p = gaussian(q.mean[at], q.scale[at]), gaussian(p.mean[at], p.scale[at])
        each_kl[image] += float(alone_q.kl(alone_p))
        each_log_prob[image] += float(alone_q.log_prob(z[at].view(1, 1)))
    torch.testing.assert_close(q.kl(p), each_kl, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q.log_prob(z), each_log_prob, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_merge_is_the_normalised_product_of_the_densities(
    left: tuple[float, float], right: tuple[float, float]
) -> None:
    q, p = gaussian(*left), gaussian(*right)
    product = log_density(q) + log_density(p)
    log_normaliser = torch.logsumexp(product, dim=0) + math.log(STEP)
    merged = q.merge(p).log_prob(GRID[:, None])
    torch.testing.assert_close(merged, product - log_normaliser, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_merge_is_narrower_than_both_commutes_and_lies_between(seed: int) -> None:
    q, p = random_gaussian(seed), random_gaussian(seed + 100)
    merged, other = q.merge(p), p.merge(q)
    assert (merged.scale > 0).all()
    assert (merged.scale < torch.minimum(q.scale, p.scale)).all()
    assert (merged.mean >= torch.minimum(q.mean, p.mean)).all()
    assert (merged.mean <= torch.maximum(q.mean, p.mean)).all()
    torch.testing.assert_close((merged.mean, merged.scale), (other.mean, other.scale), rtol=1e-12, atol=1e-12)


def test_merge_with_a_very_wide_one_changes_nothing() -> None:
    q = random_gaussian(0)
    wide = Gaussian(torch.zeros_like(q.mean), torch.full_like(q.scale, 1e7))
    merged = q.merge(wide)
    torch.testing.assert_close((merged.mean, merged.scale), (q.mean, q.scale), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_of_a_head_are_positive_finite_and_growing_at_extremes(dtype: torch.dtype) -> None:
    raw = torch.tensor([-1e4, -100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0, 1e4], dtype=dtype)
    means = torch.linspace(-3.0, 3.0, 9, dtype=dtype)
    head = torch.cat([means, raw])[None].requires_grad_()
    made = Gaussian.from_head(head)
    assert torch.equal(made.mean[0], means)
    assert float(made.scale.detach().min()) == pytest.approx(SMALLEST_SCALE, rel=1e-6)
    assert (made.scale.diff() >= 0).all()
    assert (made.scale.diff()[0, 2:] > 0).all()
    standard = Gaussian.standard(made.mean)
    cost = made.kl(standard) + standard.kl(made) + made.merge(standard).kl(standard)
    (gradient,) = torch.autograd.grad(cost.sum(), head)
    assert torch.isfinite(cost).all()
    assert torch.isfinite(gradient).all()


def test_a_zero_head_is_a_standard_normal() -> None:
    made = Gaussian.from_head(torch.zeros(2, 6, 3, 3, dtype=torch.float64))
    standard = Gaussian.standard(made.mean)
    assert made.mean.shape == (2, 3, 3, 3)
    torch.testing.assert_close((made.mean, made.scale), (standard.mean, standard.scale), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_samples_have_the_density_of_log_prob(seed: int) -> None:
    # Change of variables: the density of a sample is that of its noise, divided by the scales.
    q = random_gaussian(seed)
    noise = random_gaussian(seed + 100).mean
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(noise)
    expected = (normal - q.scale.log()).flatten(1).sum(1)
    torch.testing.assert_close(q.log_prob(q.sample(noise)), expected, rtol=1e-12, atol=1e-12)


def test_temperature_scales_the_distance_from_the_mean() -> None:
    q, noise = random_gaussian(0), random_gaussian(1).mean
    assert torch.equal(q.sample(noise, 0.0), q.mean)
    cooled = q.sample(noise, 0.25) - q.mean
    torch.testing.assert_close(cooled, 0.25 * (q.sample(noise) - q.mean), rtol=1e-12, atol=1e-12)


def test_heads_in_bfloat16_make_gaussians_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(3)
    heads = [torch.randn(5, 6, generator=generator).mul(0.05).bfloat16() for _ in range(2)]
    rough, exact = (
        [Gaussian.from_head(head.to(to)) for head in heads] for to in (torch.bfloat16, torch.float64)
    )
    assert rough[0].mean.dtype == torch.float32
    # Of Gaussians so close that eight bits would leave nothing of it.
    divergence = exact[0].merge(exact[1]).kl(exact[1])
    assert divergence.max() < 1.0
    found = rough[0].merge(rough[1]).kl(rough[1]).double()
    torch.testing.assert_close(found, divergence, rtol=1e-4, atol=0)
