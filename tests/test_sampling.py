from collections import Counter

import pytest
import torch
from support.models import make_decoder, model_around, randomise
from support.sabotage import wrap
from support.sampling import SEEDS, kinds, make_case, pixels

from famecli.config.schema import DecoderConfig
from famecli.model.distributions import Bernoulli, make_likelihood, scale_levels
from famecli.sampling import wavefront
from famecli.sampling.sampler import Sampler
from famecli.sampling.wavefront import WavefrontWorkspace


def poison(space: WavefrontWorkspace) -> None:
    for tensor in (space.start, space.sums, space.parameters, space.uniforms, space.levels):
        tensor.fill_(float("nan"))
    for memory in space.attention.values():
        for tensor in (memory.cache, memory.scratch.projected, memory.scratch.squares, memory.scratch.mean):
            tensor.fill_(float("nan"))
    for tensor in (space.image.buffer, space.maps.buffer, space.condition[:-1], space.ones[:-1]):
        tensor.fill_(float("nan"))
    for tensor in (space.square_ones[:-1], space.mixed[:, :-1]):
        tensor.fill_(float("nan"))


def test_the_cases_drawn_are_of_every_kind() -> None:
    counts = Counter(kind for seed in range(SEEDS) for kind in kinds(make_case(seed)))
    lags = {f"lag {lag}" for lag in range(1, 5)}
    patches = {f"patch {patch}{kind}" for patch in (1, 2, 4) for kind in ("", ", several", ", attention")}
    attention = {"several blocks of attention", "attention after the last layer"}
    others = {
        "RGB",
        "RGB in patches",
        "normalised",
        "padding below",
        "padding right",
        "condition",
        "no layers",
    }
    assert set(counts) == lags | patches | attention | others
    assert min(counts.values()) >= 4, counts


@pytest.mark.parametrize("attention", [(), (1, 2)])
def test_the_attention_mask_is_made_once_and_only_for_attention(
    attention: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows with the square of the number of patches: gigabytes for large images."""
    made: list[tuple[object, ...]] = []
    wrap(monkeypatch, wavefront, "_mask", lambda original, *args: made.append(args) or original(*args))
    sizes = DecoderConfig(True, 4, layers=2, attention=attention, heads=1)
    decoder = make_decoder(model_around(sizes, (4, 4)))
    Sampler(decoder, Bernoulli(1), 2).begin(None, 1)
    assert len(made) == bool(attention)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_wavefront_equals_naive_pixel_by_pixel(seed: int, dtype: torch.dtype) -> None:
    case = make_case(seed, dtype)
    temperature = 0.7 if seed % 2 else 1.0
    sampled = case.sampler().sample(case.condition, case.uniforms, temperature)
    assert sampled.dtype == dtype
    assert torch.equal(sampled, case.naive(temperature))


@pytest.mark.parametrize("more", [1, 3, 9, 1024])
@pytest.mark.parametrize("seed", range(6))
def test_an_image_does_not_depend_on_the_lag(seed: int, more: int) -> None:
    case = make_case(seed)
    lag = case.decoder.config.lag + more
    sampler = Sampler(case.decoder, case.likelihood, case.levels, lag=lag)
    rows, columns = case.decoder.grid
    assert len(sampler.plan.waves) == columns + min(lag, columns) * (rows - 1)
    expected = case.sampler().sample(case.condition, case.uniforms)
    assert torch.equal(sampler.sample(case.condition, case.uniforms), expected)


def test_the_number_of_columns_is_a_lag_of_every_decoder() -> None:
    decoder = make_decoder(model_around(DecoderConfig(True, width=4, layers=1, lag=9), (3, 4)))
    decoder = randomise(decoder).requires_grad_(False)
    sampler, own = Sampler(decoder, Bernoulli(1), 2, lag=4), Sampler(decoder, Bernoulli(1), 2)
    assert sampler.plan == own.plan
    assert sampler.plan.order == tuple(range(12))
    uniforms = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(sampler.sample(None, uniforms), own.sample(None, uniforms))
    with pytest.raises(ValueError, match="lag of at least 4, got 3"):
        Sampler(decoder, Bernoulli(1), 2, lag=3)


def test_a_lag_below_the_decoders_own_is_refused() -> None:
    decoder = make_decoder(model_around(DecoderConfig(True, width=4, layers=1, lag=3), (3, 3)))
    with pytest.raises(ValueError, match="lag of at least 3, got 2"):
        Sampler(decoder, Bernoulli(1), 2, lag=2)


@pytest.mark.parametrize("seed", range(12))
def test_reused_and_poisoned_memory_changes_nothing(seed: int) -> None:
    case, sampler = make_case(seed), make_case(seed).sampler()
    fresh = sampler.sample(case.condition, case.uniforms)
    sampler.sample(case.condition, 1.0 - case.uniforms)
    assert torch.equal(sampler.sample(case.condition, case.uniforms), fresh)
    for space in sampler.workspaces.values():
        assert isinstance(space, WavefrontWorkspace)
        poison(space)
    assert torch.equal(sampler.sample(case.condition, case.uniforms), fresh)


def test_no_images_are_no_images() -> None:
    case = make_case(0)
    condition = None if case.condition is None else case.condition[:0]
    assert case.sampler().sample(condition, case.uniforms[:0]).shape[0] == 0


@pytest.mark.parametrize("seed", range(30))
def test_verify_accepts_samples_and_finds_a_flipped_pixel(seed: int) -> None:
    case = make_case(seed)
    sampler = case.sampler()
    sampled = sampler.sample(case.condition, case.uniforms)
    assert sampler.verify(sampled, case.uniforms, case.condition) == 0
    sampled[0, 0, -1, -1] = (sampled[0, 0, -1, -1] + 1) % case.levels
    assert sampler.verify(sampled, case.uniforms, case.condition) >= 1


def test_verify_counts_pixels_of_every_chunk() -> None:
    case = make_case(3, batch=40)
    sampler = case.sampler(chunk=32)
    sampled = sampler.sample(case.condition, case.uniforms)
    # The last pixel is nobody's context, so that each flip counts once.
    sampled[:, :, -1, -1] = (sampled[:, :, -1, -1] + 1) % case.levels
    assert sampler.verify(sampled, case.uniforms, case.condition) == 40


@pytest.mark.parametrize("seed", range(30))
def test_steps_compute_the_parameters_of_the_parallel_pass(seed: int) -> None:
    case = make_case(seed)
    sampler = case.sampler()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(case.levels, case.naive().shape, generator=generator).to(case.uniforms)
    parallel = case.decoder(scale_levels(x, case.levels), case.condition)
    sampler.begin(case.condition, len(x))
    for step in sampler.plan.steps:
        torch.testing.assert_close(
            sampler.params(step), pixels(parallel, sampler.plan, step), rtol=1e-9, atol=1e-9
        )
        sampler.push(step, pixels(x, sampler.plan, step))
    assert torch.equal(sampler.drawn(), x)


def test_steps_and_whole_images_use_the_very_same_numbers() -> None:
    case = make_case(5, torch.float32)
    sampler = case.sampler()
    sampled = sampler.sample(case.condition, case.uniforms)
    sampler.begin(case.condition, len(sampled))
    for step in sampler.plan.steps:
        drawn = case.likelihood.sample(sampler.params(step), pixels(case.uniforms, sampler.plan, step))
        sampler.push(step, drawn)
    assert torch.equal(sampler.drawn(), sampled)


@pytest.mark.parametrize(("patch", "attention"), [(1, ()), (1, (1, 2)), (2, ())])
def test_draws_follow_the_exact_distribution_of_two_by_two_images(
    patch: int, attention: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = DecoderConfig(True, 6, 2, kernel=3, first_kernel=5, patch=patch, attention=attention, heads=2)
    decoder = make_decoder(model_around(sizes, (2, 2))).double().requires_grad_(False)
    for weight in decoder.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.25)
    likelihood, draws = Bernoulli(1), 10_000
    every = torch.tensor([[code >> bit & 1 for bit in range(4)] for code in range(16)])
    every = every.double().view(16, 1, 2, 2)
    parameters = decoder(scale_levels(every, 2), None)
    probability = likelihood.log_prob(every, parameters).flatten(1).sum(1).exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-12)
    uniforms = torch.rand(draws, 1, 2, 2, generator=generator, dtype=torch.float64)
    sampled = Sampler(decoder, likelihood, 2).sample(None, uniforms)
    codes = (sampled.flatten(1) * torch.tensor([1, 2, 4, 8])).sum(1).long()
    expected = probability * draws
    assert float(expected.min()) > 5
    chi_squared = ((torch.bincount(codes, minlength=16) - expected) ** 2 / expected).sum()
    # Exceeded once in ten thousand by chance, at 15 degrees of freedom.
    assert float(chi_squared) < 44.26


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize(("patch", "attention"), [(1, ()), (2, (1,))])
def test_nothing_in_the_step_loop_waits_for_the_device(
    patch: int, attention: tuple[int, ...], positions: bool
) -> None:
    # Tensors on the meta device have no values to read, as tensors of a captured graph have none yet.
    layout = {"patch": patch, "attention": attention, "positions": positions}
    sizes = DecoderConfig(True, width=8, layers=2, kernel=5, condition=4, **layout)  # type: ignore[arg-type]
    config = model_around(sizes, (6, 5), channels=3, levels=256, mixtures=4)
    with torch.device("meta"):
        decoder = make_decoder(config)
        condition, uniforms = torch.empty(3, 4, *config.grid), torch.empty(3, 4, 6, 5)
    sampled = Sampler(decoder, make_likelihood(config), 256).sample(condition, uniforms)
    assert sampled.shape == (3, 3, 6, 5)
    assert sampled.is_meta


def test_a_condition_that_does_not_fit_is_refused() -> None:
    decoder = make_decoder(model_around(DecoderConfig(True, width=4, layers=1, condition=2), (3, 3)))
    sampler = Sampler(decoder, Bernoulli(1), 2)
    with pytest.raises(ValueError, match="condition of 2 feature maps, got 0"):
        sampler.sample(None, torch.rand(1, 1, 3, 3))


@pytest.mark.parametrize("patch", [1, 2])
def test_a_factorized_decoder_is_sampled_in_one_step_by_the_same_loop(patch: int) -> None:
    sizes = DecoderConfig(False, width=4, layers=1, condition=2, patch=patch)
    decoder = randomise(make_decoder(model_around(sizes, (3, 5)))).requires_grad_(False)
    condition = torch.randn(4, 2, *decoder.grid, generator=torch.Generator().manual_seed(0)).double()
    uniforms = torch.rand(4, 1, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampler = Sampler(decoder, Bernoulli(1), 2)
    assert len(sampler.plan.steps) == 1
    found = sampler.sample(condition, uniforms)
    assert torch.equal(found, (uniforms < decoder(uniforms, condition).sigmoid()).double())
    assert sampler.verify(found, uniforms, condition) == 0


def test_a_chunk_that_leaves_columns_over_is_refused() -> None:
    decoder = make_decoder(model_around(DecoderConfig(True, width=4, layers=1), (3, 3)))
    with pytest.raises(ValueError, match="multiple of 32, got 20"):
        Sampler(decoder, Bernoulli(1), 2, chunk=20)
