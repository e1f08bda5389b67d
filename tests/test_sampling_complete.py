import numpy as np
import pytest
import torch
from test_sampling import make_case
from test_sampling_generate import PRESETS, make_model

from famecli.model.likelihoods import Bernoulli, scale_levels
from famecli.rng import image_uniforms
from famecli.sampling.complete import complete_batches
from famecli.sampling.sampler import Sampler


@pytest.mark.parametrize("seed", range(20))
def test_given_pixels_stay_and_the_others_equal_the_naive_loop(seed: int) -> None:
    case = make_case(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = case.naive().shape
    known = torch.randint(case.levels, shape, generator=generator).to(case.uniforms)
    mask = torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.4
    sampler = case.sampler()
    found = sampler.sample(case.condition, case.uniforms, known=known, mask=mask)
    assert torch.equal(torch.where(mask, found, known), known)
    assert torch.equal(found, case.naive(known=known, mask=mask))
    assert sampler.verify(found, case.uniforms, case.condition, mask=mask) == 0
    # What was completed before does not stay behind.
    assert torch.equal(sampler.sample(case.condition, case.uniforms), case.naive())


def test_nothing_known_is_a_sample_and_everything_known_the_image() -> None:
    case = make_case(4)
    known = torch.ones_like(case.naive())
    nothing = torch.zeros(len(known), 1, *known.shape[2:], dtype=torch.bool)
    sampler = case.sampler()
    plain = sampler.sample(case.condition, case.uniforms)
    assert torch.equal(sampler.sample(case.condition, case.uniforms, known=known, mask=nothing), plain)
    assert torch.equal(sampler.sample(case.condition, case.uniforms, known=known, mask=~nothing), known)


def test_completions_of_first_rows_follow_the_exact_conditional() -> None:
    case = next(
        case
        for case in (make_case(seed, batch=1) for seed in range(200))
        if case.condition is None
        and isinstance(case.likelihood, Bernoulli)
        and case.likelihood.parameters == 1
    )
    decoder, draws = case.decoder, 8000
    every = (
        torch.tensor([[code >> bit & 1 for bit in range(4)] for code in range(16)]).double().view(16, 1, 2, 2)
    )
    log_prob = case.likelihood.log_prob(every, decoder(scale_levels(every, 2), None)).flatten(1).sum(1)
    row = torch.tensor([1.0, 0.0], dtype=torch.float64)
    fits = (every[:, 0, 0] == row).all(1)
    conditional = log_prob.exp() * fits / (log_prob.exp() * fits).sum()
    uniforms = image_uniforms([("test", k) for k in range(draws)], (1, 2, 2), torch.float64)
    known = torch.zeros(draws, 1, 2, 2, dtype=torch.float64)
    known[:, 0, 0] = row
    mask = torch.zeros(draws, 1, 2, 2, dtype=torch.bool)
    mask[:, :, 0] = True
    found = Sampler(decoder, case.likelihood, 2).sample(None, uniforms, known=known, mask=mask)
    codes = (found.flatten(1) * torch.tensor([1, 2, 4, 8])).sum(1).long()
    frequency = torch.bincount(codes, minlength=16) / draws
    sigma = (conditional * (1 - conditional) / draws).sqrt()
    assert bool(((frequency - conditional).abs() <= 5 * sigma + 1e-12).all())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_completes_an_image_by_its_seed_alone(preset: str) -> None:
    model = make_model(preset)
    known = np.random.default_rng(0).integers(0, 2, (1, 9, 7)).astype(np.uint8)
    mask = np.zeros((9, 7), bool)
    mask[:4] = True
    (found,) = complete_batches(model, known, mask, range(18), sweeps=3)
    np.testing.assert_array_equal(found[:, :, :4], np.broadcast_to(known[:, :4], (18, 1, 4, 7)))
    assert len({image.tobytes() for image in found}) > 1
    (alone,) = complete_batches(model, known, mask, [5], sweeps=3)
    np.testing.assert_array_equal(alone[0], found[5])


def test_the_chain_looks_at_the_known_pixels() -> None:
    model = make_model("vae")
    mask = np.zeros((9, 7), bool)
    mask[:7] = True
    black, white = np.zeros((1, 9, 7), np.uint8), np.ones((1, 9, 7), np.uint8)
    (after_black,) = complete_batches(model, black, mask, range(64))
    (after_white,) = complete_batches(model, white, mask, range(64))
    assert (after_black[:, :, 7:] != after_white[:, :, 7:]).any()
