"""Every kind of broken model fails the check that is for it, by the figure that is for it."""

import copy
import itertools

import pytest
import torch
from support import sabotage as broken
from support.models import randomise
from support.sabotage import Sabotage, leak_of
from support.verification import BITS, COLOURS, failures, model_of

from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.model.fame import Fame
from famecli.verification.causality import check_causality
from famecli.verification.runner import run_checks
from famecli.verification.subject import Subject

CORNER = (BITS[1] - 1, BITS[2] - 1)


CASES = [
    ("causality", "fame", BITS, broken.centre_tap, "change of a parameter by pixels of the same step"),
    ("causality", "fame", BITS, broken.centre_tap, "derivative of parameters by pixels of the same step"),
    ("causality", "pixelcnn", COLOURS, broken.later_tap, "change of a parameter by pixels of the same step"),
    ("causality", "pixelvae", BITS, leak_of(1e-9, (0, 0), CORNER), "change of a parameter by rows below"),
    ("causality", "pixelvae", BITS, leak_of(1e-9, CORNER, CORNER), "change of a parameter by pixels of the"),
    ("causality", "fame", BITS, leak_of(1e-300, (0, 0), CORNER), "derivative of parameters by rows below"),
    ("causality", "fame", BITS, leak_of(1e-9, (0, 0), CORNER, step=True), "change of a parameter by rows"),
    ("causality", "fame", COLOURS, broken.own_later_channel, "change of a parameter by pixels of the same"),
    ("causality", "lvae", BITS, leak_of(1e-300, CORNER, (0, 0)), "derivative of parameters by any pixel"),
    ("causality", "fame", BITS, broken.mask_by_content, "change of a parameter by rows below"),
    ("normalisation", "pixelcnn", BITS, broken.mask_by_content, "sums over all images"),
    ("causality", "fame", BITS, broken.prior_sees_image, "condition or prior by the image"),
    ("batch", "fame", BITS, broken.batch_norm, "in training mode"),
    ("batch", "fame", BITS, broken.batch_norm_in_training, "NLL in a batch"),
    ("batch", "vae", BITS, broken.mean_of_batch, "in another batch"),
    ("batch", "lvae", BITS, broken.noise_by_place, "by batch size"),
    ("normalisation", "fame", COLOURS, broken.unnormalised_mixture, "sums over levels"),
    ("normalisation", "fame", COLOURS, broken.unnormalised_mixture, "sums over all images"),
    ("normalisation", "fame", COLOURS, broken.wide_bins, "sums over levels"),
    ("normalisation", "pixelcnn", COLOURS, broken.bounded_ends, "sums over levels"),
    ("normalisation", "pixelcnn", COLOURS, broken.red_given_last, "sums over levels"),
    ("normalisation", "lvae", BITS, broken.generous_bits, "sums over levels"),
    ("normalisation", "pixelcnn", BITS, broken.no_mask, "sums over all images"),
    ("normalisation", "pixelcnn", BITS, broken.half_precision_bits, "sums over levels"),
    ("normalisation", "fame", COLOURS, broken.smallest_mass, "sums over levels"),
    ("normalisation", "vae", BITS, broken.forgotten_border, "minus that of the pixels"),
    ("latents", "fame", BITS, broken.divergence_to_standard, "rate minus divergence"),
    ("latents", "lvae", BITS, broken.wide_prior_of_samples, "latents of samples off their prior"),
    ("latents", "vae", BITS, broken.narrow_posterior, "latents of images off their posterior"),
    ("latents", "pixelvae", BITS, broken.density_without_scale, "log-weight minus"),
    ("latents", "vae", BITS, broken.saturated_weights, "log-weight minus"),
    ("latents", "fame", BITS, broken.same_normals, "distance of normals"),
    ("sampler", "fame", BITS, broken.shifted_bits, "float64, off their quantile"),
    ("sampler", "lvae", COLOURS, broken.cold_mixture, "float64, off their quantile"),
    ("sampler", "pixelcnn", COLOURS, broken.floored_levels, "float64, off their quantile"),
    ("sampler", "pixelcnn", BITS, broken.sampler_with_other_weights, "float64, that a pass does not give"),
    ("sampler", "fame", BITS, broken.cold_samples, "of fame sample off their quantile"),
    ("sampler", "vae", BITS, broken.middling_uniforms, "cost of samples minus entropy"),
    ("sampler", "pixelcnn", COLOURS, broken.middling_uniforms, "distance of the uniforms"),
    ("code", "fame", BITS, broken.rate_of_wrong_sign, "code length"),
    ("code", "fame", BITS, broken.prior_sees_image, "decoded wrong"),
    ("code", "pixelcnn", COLOURS, broken.cheap_pixels, "code length"),
]


@pytest.mark.parametrize(
    ("check", "preset", "shape", "break_it", "what"),
    CASES,
    ids=[f"{case[0]}-{getattr(case[3], '__name__', 'leak')}-{case[1]}-{i}" for i, case in enumerate(CASES)],
)
def test_a_broken_model_fails_the_check_that_is_for_it(
    check: str,
    preset: str,
    shape: tuple[int, int, int],
    break_it: Sabotage,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(preset, shape)
    break_it(model, monkeypatch)
    found = failures(check, model)
    assert any(what in each for each in found), found


@pytest.mark.parametrize(
    ("preset", "shape", "break_it", "what"),
    [
        ("fame", BITS, broken.sum_of_weights, "64 images"),
        ("lvae", COLOURS, broken.largest_weight, "61 images"),
        ("pixelvae", BITS, broken.annealed_half_way, "annealed images"),
    ],
)
def test_estimates_that_are_too_good_are_seen_by_the_exact_value_alone(
    preset: str, shape: tuple[int, int, int], break_it: Sabotage, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(preset, shape)
    break_it(model, monkeypatch)
    (found,) = failures("latents", model)
    assert f"{what} of a miniature better than exact" in found
    assert failures("code", model) == failures("batch", model) == []


@pytest.mark.parametrize(("preset", "shape"), [("fame", BITS), ("pixelcnn", COLOURS)])
def test_codes_of_sound_models_are_as_long_as_they_should_be(
    preset: str, shape: tuple[int, int, int]
) -> None:
    assert failures("code", model_of(preset, shape)) == []


@pytest.mark.parametrize("step", [False, True], ids=["seen-by-derivative", "seen-by-change"])
def test_every_pair_of_pixels_and_every_channel_is_seen(step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = DecoderConfig(True, width=4, layers=1, first_kernel=3, condition=0)
    config = ModelConfig("test", "logistic-mixture", 3, 2, 2, 4, mixtures=2, decoder=decoder)
    model = randomise(Fame(config), dtype=torch.float32)
    pixels = list(itertools.product(range(config.height), range(config.width)))
    for to, of, channel in itertools.product(pixels, pixels, range(3)):
        leaking = copy.deepcopy(model)
        leak_of(1e-9 if step else 1e-300, to, of, channel, step=step)(leaking, monkeypatch)
        (result,) = run_checks(Subject(leaking, samples=2), {"causality": check_causality})
        assert result.verdict == ("passed" if of < to else "failed"), (to, of, channel)
