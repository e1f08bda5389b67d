"""Annealed importance sampling: where the likelihood can be computed, both directions bound it."""

import math

import numpy as np
import pytest
import torch
from support.integrals import EVERY, LinearSpace, exact_nats, two_latents
from support.models import preset_model, random_images
from torch import Tensor, nn

from famecli.errors import NumericsError
from famecli.nll import ais
from famecli.nll.ais import AnnealedNlls, double, evaluate_ais, inverse_temperatures, simulate
from famecli.nll.evaluate import evaluate, stderr_over_images
from famecli.nll.hmc import ChainNoise, Chains, LatentSpace, accepted, find_steps, given_noise, longest_step
from famecli.nll.record import Annealing, Start
from famecli.rng import ImageNoise

# The largest deviation from a mean, in standard errors, that is put down to chance.
SIGMAS = 4.0
SIMULATED = 1000
SETTINGS = Annealing(steps=6, chains=1, leapfrog=2)


def rows_of(found: AnnealedNlls) -> np.ndarray:
    columns = [found.nats, found.acceptance, found.step, found.elbo]
    return np.stack(columns + ([] if found.lower is None else [found.lower]), axis=1)


def noise_of(space: LatentSpace) -> ChainNoise:
    return ChainNoise([("test", index) for index in range(len(space.x))], space.size, space.x)


def is_one(ratios: np.ndarray) -> bool:
    """Whether the mean of `ratios` is 1, as far as they can tell, which must be to a tenth."""
    error = stderr_over_images(ratios)
    assert error < 0.1
    return bool(abs(ratios.mean() - 1.0) < SIGMAS * error)


def test_powers_rise_from_zero_to_one() -> None:
    assert inverse_temperatures(1) == pytest.approx([0.0, 1.0])
    powers = inverse_temperatures(10)
    assert powers[[0, 5, 10]] == pytest.approx([0.0, 0.5, 1.0])
    steps = np.diff(powers)
    assert steps == pytest.approx(steps[::-1])
    assert (np.diff(steps[:5]) > 0).all()


@pytest.mark.parametrize("start", ["posterior", "prior"])
@pytest.mark.parametrize("preset", ["fame", "vae"])
def test_normals_stand_for_latents_and_their_weights(preset: str, start: Start) -> None:
    model = preset_model(preset, (1, 6, 5)).requires_grad_(False)
    x = random_images(3, (1, 6, 5)).double()
    space = LatentSpace(model, x, start)
    normals = torch.randn(3, space.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = given_noise(normals, space.shapes)
    condition, draws = model.infer(x, noise) if start == "posterior" else model.top_down(None, noise, len(x))
    expected = model.log_prob(x, condition).flatten(1).sum(1)
    for draw in draws:
        expected = expected + draw.prior.log_prob(draw.z) - (draw.posterior or draw.prior).log_prob(draw.z)
    assert space.log_weight(normals).numpy() == pytest.approx(expected.numpy(), rel=1e-12)
    priors = [(draw.z - draw.prior.mean) / draw.prior.scale for draw in draws]
    assert space.normals_of(priors).numpy() == pytest.approx(normals.numpy(), abs=1e-9)


def test_slopes_are_those_of_differences() -> None:
    space = LatentSpace(two_latents(), EVERY[:3], "posterior")
    at = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-0.7, 0.1]], dtype=torch.float64)
    log_weight, gradient = space.slope(at)
    assert torch.equal(log_weight, space.log_weight(at))
    for column in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[column] = 1e-5
        slope = (space.log_weight(at + shift) - space.log_weight(at - shift)) / 2e-5
        assert gradient[:, column].numpy() == pytest.approx(slope.numpy(), abs=1e-8)


def chains_at(space: LinearSpace, power: float) -> Chains:
    """Return chains that follow the distribution of a power."""
    mean, deviation = space.posterior(power)
    normals = torch.randn(mean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return Chains(space, mean + deviation * normals, noise_of(space))


@pytest.mark.parametrize(("power", "step"), [(0.2, 0.7), (1.0, 0.4), (1.0, 1.0)])
def test_transitions_leave_a_gaussian_as_it_is(power: float, step: float) -> None:
    y = torch.tensor([0.8, -1.1], dtype=torch.float64).expand(4000, 2)
    space = LinearSpace(None, y, "prior")
    chains = chains_at(space, power)
    before = chains.at
    for _ in range(4):
        chance = chains.move(power, torch.full((4000,), step), leapfrog=3)
    mean, deviation = space.posterior(power)
    found = ((chains.at - mean) / deviation).numpy()
    assert np.abs(found.mean(0)).max() < SIGMAS / math.sqrt(4000)
    assert np.abs(np.square(found).mean(0) - 1.0).max() < SIGMAS * math.sqrt(2 / 4000)
    moved = (chains.at != before).any(1).double().mean()
    # The steps are so long that some are refused, and the rule of Metropolis matters.
    assert 0.3 < chance.mean() < 0.99
    assert moved > 0.9
    weights, gradients = space.slope(chains.at)
    assert torch.equal(chains.log_weight, weights)
    assert torch.equal(chains.gradient, gradients)


def test_proposals_are_taken_as_often_as_their_ratio_says() -> None:
    log_uniform = torch.log(torch.tensor([0.1, 0.1, 0.9, 0.5, 0.5], dtype=torch.float64))
    log_ratio = torch.log(torch.tensor([0.2, 0.05, 2.0, math.nan, 0.0], dtype=torch.float64))
    assert accepted(log_ratio, log_uniform).tolist() == [True, False, True, False, False]


class NarrowSpace(LinearSpace):
    NOISE = 0.1


def test_lengths_of_steps_come_near_their_aim() -> None:
    y = torch.tensor([0.8, -1.1, 0.3], dtype=torch.float64).expand(200, 3)
    space = NarrowSpace(None, y, "prior")
    names = [("steps", index) for index in range(200)]
    powers = [0.001] * 5 + [1.0] * 40
    found = find_steps(space, names, powers, leapfrog=4)
    assert found.shape == (200, 45)
    assert found.max() <= longest_step(4)
    assert found[:, 4].mean() > 1.5 * found[:, -1].mean()
    chains = chains_at(space, 1.0)
    chance = chains.move(1.0, found[:, -1], leapfrog=4)
    assert chance.mean() == pytest.approx(0.65, abs=0.12)


def linear_chains(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return forward and reverse log-weights of chains of the linear model, less the true log p(y)."""
    y = torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y *= math.hypot(LinearSpace.SLOPE, LinearSpace.NOISE)
    space = LinearSpace(None, y, "prior")
    at = chains_at(space, 1.0).at
    annealer = ais._Annealer(two_latents(), y, range(500), Annealing(steps, 2, 3, "prior"), 0, LinearSpace)
    table = annealer.run([at], rows=1000)[:, 2:] - space.exact().numpy()[:, None]
    return table[:, :2], table[:, 2:]


def test_both_directions_are_right_on_average_for_a_linear_model() -> None:
    gaps = []
    for steps in (4, 12):
        forward, reverse = linear_chains(steps)
        assert is_one(np.exp(forward).mean(1))
        assert is_one(np.exp(-reverse).mean(1))
        gaps.append((reverse - forward).mean())
    assert gaps[0] > 2 * gaps[1] > 0.0


@pytest.fixture(scope="module")
def sandwich() -> tuple[AnnealedNlls, np.ndarray]:
    """Simulated images of which all is known: what annealing says, and the true NLLs."""
    model = two_latents()
    drawn = simulate(model, SIMULATED)
    found = evaluate_ais(model, drawn.levels, SETTINGS, normals=drawn.normals, batch_size=SIMULATED)
    index = drawn.levels.reshape(SIMULATED, 4) @ np.array([8, 4, 2, 1])
    assert np.array_equal(EVERY.numpy()[index], drawn.levels)
    return found, exact_nats(model)[index]


def test_a_simulated_image_and_its_latents_follow_its_index_and_the_seed_alone() -> None:
    model = two_latents()
    many, few = simulate(model, 70, seed=3), simulate(model, 3, seed=3)
    assert np.array_equal(many.levels[:3], few.levels)
    noise = ImageNoise([("simulate", 3, index) for index in range(70)])
    _, draws = model.top_down(None, noise, 70)
    for layer, draw in zip(many.normals, draws, strict=True):
        assert torch.allclose(draw.prior.sample(layer.to(draw.z)), draw.z, rtol=0, atol=1e-12)
    assert not torch.equal(simulate(model, 3, seed=4).normals[0], few.normals[0])


def test_simulated_images_are_as_frequent_as_the_model_says(
    sandwich: tuple[AnnealedNlls, np.ndarray],
) -> None:
    expected = np.exp(-exact_nats(two_latents()))
    drawn = np.exp(-sandwich[1])
    counts = np.array([np.isclose(drawn, each).sum() for each in expected])
    assert counts.sum() == SIMULATED
    chi_squared = (np.square(counts - SIMULATED * expected) / (SIMULATED * expected)).sum()
    # 15 degrees of freedom: above it with a chance of 1e-4.
    assert chi_squared < 44.3


def test_the_truth_is_between_both_bounds(sandwich: tuple[AnnealedNlls, np.ndarray]) -> None:
    found, exact = sandwich
    assert found.lower is not None
    for above in (found.nats - exact, exact - found.lower):
        assert above.mean() > 2 * stderr_over_images(above)
        assert above.mean() < 0.2


def test_both_directions_are_right_on_average(sandwich: tuple[AnnealedNlls, np.ndarray]) -> None:
    found, exact = sandwich
    assert found.lower is not None
    assert is_one(np.exp(exact - found.nats))
    assert is_one(np.exp(found.lower - exact))


def test_annealing_is_tighter_than_one_draw(sandwich: tuple[AnnealedNlls, np.ndarray]) -> None:
    found, exact = sandwich
    assert (found.elbo - exact).mean() > 2 * (found.nats - exact).mean()
    assert found.distortion + found.rate.sum(1) == pytest.approx(found.elbo)
    assert (found.acceptance > 0.5).all()
    assert (found.bound, found.importance_samples, found.importance) == ("ais", 1, None)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_one_step_is_plain_importance_sampling(start: Start) -> None:
    model = two_latents()
    found = evaluate_ais(model, EVERY.numpy(), Annealing(1, 3, start=start), seed=4)
    space = LatentSpace(model, EVERY, start)
    weights = []
    for chain in range(3):
        names = [("ais", 4, image, "forward", chain) for image in range(16)]
        weights.append(space.log_weight(ChainNoise(names, space.size, space.x).normal()))
    expected = -torch.stack(weights, dim=1).exp().mean(1).log()
    assert found.nats == pytest.approx(expected.numpy(), rel=1e-9)
    assert np.isnan(found.acceptance).all()
    assert found.importance is not None
    assert found.importance.samples == (1, 2, 3)


def test_many_steps_and_chains_come_to_the_truth() -> None:
    model = two_latents()
    found = evaluate_ais(model, EVERY.numpy(), Annealing(12, 40, 2), batch_size=640)
    assert found.importance is not None
    assert (np.abs(found.nats - exact_nats(model)) < SIGMAS * found.importance.stderr[:, -1]).all()
    assert found.importance.stderr[:, -1].max() < 0.1


@pytest.mark.parametrize("batch_size", [2, 7])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    model = preset_model("fame", (1, 4, 4))
    drawn = simulate(model, 4)
    settings = Annealing(4, 3, 2)
    expected = rows_of(evaluate_ais(model, drawn.levels, settings, normals=drawn.normals, batch_size=64))
    found = evaluate_ais(model, drawn.levels, settings, normals=drawn.normals, batch_size=batch_size)
    assert rows_of(found) == pytest.approx(expected, rel=0, abs=1e-8)
    assert expected[:, 0].std() > 0.1


def test_an_image_follows_its_index_and_the_seed_alone() -> None:
    model, x = two_latents(), EVERY[[3, 3, 9]].numpy()
    found = evaluate_ais(model, x, SETTINGS, seed=1).nats
    assert np.array_equal(found, evaluate_ais(model, x, SETTINGS, seed=1).nats)
    assert evaluate_ais(model, x[:2], SETTINGS, seed=1).nats == pytest.approx(found[:2], abs=1e-9)
    assert abs(found[0] - found[1]) > 1e-6
    assert np.abs(found - evaluate_ais(model, x, SETTINGS, seed=2).nats).min() > 1e-6


def test_no_more_chains_are_moved_at_once_than_the_batch_size() -> None:
    rows: list[int] = []
    model = two_latents()
    model.decoder.register_forward_pre_hook(lambda decoder, inputs: rows.append(len(inputs[0])))
    for chains, batch_size in ((1, 4), (10, 4), (3, 8)):
        rows.clear()
        evaluate_ais(model, EVERY[:6].numpy(), Annealing(2, chains, 1), batch_size=batch_size)
        assert 1 < max(rows) <= batch_size


def test_it_goes_on_with_less_where_memory_runs_out() -> None:
    model, told = two_latents(), []

    def small(decoder: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > 3:
            raise RuntimeError("out of memory")

    x, settings = EVERY[:8].numpy(), Annealing(2, 2, 1)
    expected = evaluate_ais(model, x, settings, batch_size=16).nats
    model.decoder.register_forward_pre_hook(small)
    found = evaluate_ais(model, x, settings, batch_size=16, report=told.append)
    assert found.nats == pytest.approx(expected, abs=1e-9)
    assert "out of memory with 8" in told[0]


def test_a_model_in_single_precision_is_annealed_in_double_and_left_as_it_is() -> None:
    model = preset_model("vae", (1, 4, 4), dtype=torch.float32)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    x, told = random_images(3, (1, 4, 4)).numpy().astype(np.uint8), []
    found = evaluate_ais(model, x, SETTINGS, batch_size=2, advance=told.append)
    assert found.nats == pytest.approx(evaluate_ais(double(model), x, SETTINGS).nats, rel=0, abs=1e-9)
    assert told == [2, 1]
    assert found.elbo == pytest.approx(evaluate(model, x).nats, abs=1e-4)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
        assert weight.dtype == torch.float32
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_a_weight_that_is_not_finite_is_an_error() -> None:
    model = two_latents()
    model.decoder.head1.weight[0, 0] = math.nan
    with pytest.raises(NumericsError, match="the NLL of image 0 is"):
        evaluate_ais(model, EVERY[:2].numpy(), SETTINGS)
