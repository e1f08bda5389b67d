import math

import numpy as np
import pytest
import torch
from support.models import LATENT_PRESETS, all_images, preset_model, random_images, two_layer_model

from famecli.config.presets import PRESETS
from famecli.errors import NumericsError
from famecli.model.fame import Fame
from famecli.nll.evaluate import ImageNlls, evaluate, pixel_bits
from famecli.nll.record import bits_per_dim
from famecli.rng import ImageNoise

SHAPE = (1, 10, 8)


def levels_of(count: int, shape: tuple[int, int, int] = SHAPE, levels: int = 2) -> np.ndarray:
    return random_images(count, shape, levels).numpy().astype(np.uint8)


def float32_model(preset: str) -> Fame:
    return preset_model(preset, SHAPE, dtype=torch.float32)


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize(("samples", "images"), [(1, 65), (5, 14)])
@pytest.mark.parametrize("preset", PRESETS)
def test_batch_size_and_threads_change_nothing(preset: str, samples: int, images: int) -> None:
    model, x, found = float32_model(preset), levels_of(images), []
    for threads, batch_size in ((1, 64), (1, 7), (1, 1), (2, 64)):
        torch.set_num_threads(threads)
        assert torch.get_num_threads() == threads
        found.append(evaluate(model, x, importance_samples=samples, batch_size=batch_size))
    assert found[0].nats.std() > 0.5
    for other in found[1:]:
        assert other.nats == pytest.approx(found[0].nats, rel=0, abs=1e-4)
        assert other.distortion == pytest.approx(found[0].distortion, rel=0, abs=1e-4)
        assert other.rate == pytest.approx(found[0].rate, rel=0, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64, 1000])
def test_the_chunks_of_importance_samples_change_nothing(batch_size: int) -> None:
    model, x = preset_model("fame", SHAPE), levels_of(3)
    expected = evaluate(model, x, importance_samples=50, batch_size=150)
    found = evaluate(model, x, importance_samples=50, batch_size=batch_size)
    assert found.nats == pytest.approx(expected.nats, rel=0, abs=1e-9)
    assert found.rate == pytest.approx(expected.rate, rel=0, abs=1e-9)


def test_no_forward_pass_is_larger_than_the_batch_size() -> None:
    model, rows = preset_model("fame", SHAPE), []
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    for samples, batch_size in ((1, 4), (6, 4), (6, 13), (3, 1)):
        rows.clear()
        evaluate(model, levels_of(9), importance_samples=samples, batch_size=batch_size)
        assert max(rows) <= batch_size
        assert sum(rows) == 9 * samples


@pytest.mark.parametrize("samples", [1, 2, 6])
@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_nats_are_the_elbo_or_the_log_of_the_mean_weight(preset: str, samples: int) -> None:
    model, x = preset_model(preset, SHAPE), levels_of(4)
    found = evaluate(model, x, importance_samples=samples, seed=3, batch_size=5)
    noise = ImageNoise([("evaluate", 3, index) for index in range(4)], samples)
    with torch.no_grad():
        terms = model(torch.from_numpy(x).repeat_interleave(samples, dim=0), noise)
    weights = terms.log_weight.view(4, samples).exp().mean(1).log().neg().numpy()
    elbos = terms.negative_elbo.view(4, samples).mean(1).numpy()
    assert found.nats == pytest.approx(elbos if samples == 1 else weights, rel=1e-9)
    assert found.distortion == pytest.approx(terms.distortion.view(4, -1).mean(1).numpy(), rel=1e-9)
    assert found.rate == pytest.approx(terms.rate.view(4, samples, -1).mean(1).numpy(), rel=1e-9)
    assert (found.bound, found.importance_samples) == ("elbo" if samples == 1 else "iwae", samples)
    assert found.nats.dtype == found.distortion.dtype == found.rate.dtype == np.float64


@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_more_importance_samples_tighten_the_bound(preset: str) -> None:
    model, x = float32_model(preset), levels_of(16)
    loose, tighter, tight = (evaluate(model, x, importance_samples=k) for k in (1, 5, 50))
    for upper, lower in ((loose, tighter), (tighter, tight)):
        gaps = upper.nats - lower.nats
        assert gaps.mean() > 2 * gaps.std(ddof=1) / math.sqrt(len(gaps))
        assert lower.mean < upper.mean


@pytest.mark.parametrize(("dense", "autoregressive"), [(False, True), (True, False)])
def test_many_importance_samples_reach_the_probabilities_of_all_images(
    dense: bool, autoregressive: bool
) -> None:
    every = all_images(1, 2, 2).numpy()
    model = two_layer_model(dense=dense, autoregressive=autoregressive)
    found = evaluate(model, every, importance_samples=1000, batch_size=4000)
    assert np.exp(-found.nats).sum() == pytest.approx(1.0, abs=0.05)
    assert np.exp(-evaluate(model, every, importance_samples=1).nats).sum() < 0.8


@pytest.mark.parametrize("samples", [1, 50])
def test_a_model_without_latents_is_exact(samples: int) -> None:
    model, every = preset_model("pixelcnn"), all_images(1, 3, 3).numpy()
    found = evaluate(model, every, importance_samples=samples, seed=samples)
    assert (found.bound, found.importance_samples, found.rate.shape) == ("exact", 1, (512, 0))
    assert np.exp(-found.nats).sum() == pytest.approx(1.0, abs=1e-9)
    assert np.array_equal(found.nats, evaluate(model, every, seed=99).nats)
    assert np.array_equal(found.nats, found.distortion)


def test_each_image_has_latents_of_its_own_that_follow_the_seed() -> None:
    model, x = preset_model("fame", SHAPE), levels_of(6)
    x[3] = x[2]
    found = evaluate(model, x, seed=1)
    assert np.array_equal(evaluate(model, x, seed=1).nats, found.nats)
    assert np.abs(evaluate(model, x, seed=2).nats - found.nats).min() > 1e-6
    assert abs(found.nats[3] - found.nats[2]) > 1e-6
    assert evaluate(model, x[:4], seed=1).nats == pytest.approx(found.nats[:4], rel=0, abs=1e-9)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_an_error(value: float, samples: int) -> None:
    model = float32_model("fame")
    with torch.no_grad():
        model.decoder.head1.weight[0, 0] = value
    with pytest.raises(NumericsError, match=r"the NLL of image 0 is (nan|inf|-inf)"):
        evaluate(model, levels_of(4), importance_samples=samples)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_one_image_that_is_not_finite_is_named(batch_size: int) -> None:
    x = levels_of(7).astype(np.float32)
    x[5, 0, 4, 4] = math.nan
    with pytest.raises(NumericsError, match="the NLL of image 5 is nan"):
        evaluate(float32_model("fame"), x, batch_size=batch_size)


def test_advance_is_told_every_image_once() -> None:
    told: list[int] = []
    evaluate(preset_model("fame", SHAPE), levels_of(10), batch_size=4, advance=told.append)
    assert told == [4, 4, 2]


def test_nothing_of_the_model_changes_and_no_graph_is_kept() -> None:
    model = preset_model("fame", SHAPE)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    x = levels_of(3)
    untouched = x.copy()
    evaluate(model, x, importance_samples=2)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert np.array_equal(x, untouched)


@pytest.mark.parametrize("preset", PRESETS)
def test_pixel_bits_add_up_to_the_distortion(preset: str) -> None:
    model, x = preset_model(preset, SHAPE, 256), levels_of(7, levels=256)
    parts = dict(pixel_bits(model, x, seed=4, batch_size=3))
    assert list(parts) == [0, 3, 6]
    bits = np.concatenate(list(parts.values()))
    assert bits.shape == (7, *SHAPE[1:])
    nats = bits.sum((1, 2)) * math.log(2)
    assert nats == pytest.approx(evaluate(model, x, seed=4).distortion, rel=1e-9)


def test_mean_and_standard_error_are_those_of_the_formula() -> None:
    nats = np.random.default_rng(0).normal(80.0, 9.0, 500)
    nlls = ImageNlls(nats, nats, np.zeros((500, 0)), "exact", 1)
    mean = math.fsum(nats) / 500
    variance = math.fsum((value - mean) ** 2 for value in nats) / 499
    assert nlls.mean == pytest.approx(mean, rel=1e-12)
    assert nlls.stderr == pytest.approx(math.sqrt(variance / 500), rel=1e-12)


def test_one_image_has_no_standard_error() -> None:
    one = np.array([80.0])
    nlls = ImageNlls(one, one, np.zeros((1, 0)), "exact", 1)
    assert nlls.mean == 80.0
    assert math.isnan(nlls.stderr)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 5, 7)])
def test_bits_per_dim_counts_pixels_and_channels(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    # A uniform distribution over bytes costs eight bits each.
    uniform = channels * height * width * math.log(256)
    assert bits_per_dim(uniform, shape) == pytest.approx(8.0, rel=1e-12)
    assert bits_per_dim(0.5 * uniform, shape) == pytest.approx(4.0, rel=1e-12)


def test_bits_per_dim_of_one_wide_logistic_is_what_its_density_says() -> None:
    shape = (3, 4, 5)
    model = preset_model("pixelcnn", shape, 256)
    config = model.config
    with torch.no_grad():
        for weight in (model.decoder.head2.weight, model.decoder.head2.bias):
            weight.zero_()
        # Far wider than the range, so that the density is flat in the middle of it.
        model.decoder.head2.bias[4 * config.mixtures : 7 * config.mixtures] = 6.0
    middle = np.full((2, *shape), 127, dtype=np.uint8)
    nats = evaluate(model, middle).mean
    # The density is 1 / (4 s) with s = exp(6), and a level is 2 / 255 wide.
    expected = (math.log(4) + 6.0 + math.log(255 / 2)) / math.log(2)
    assert bits_per_dim(nats, shape) == pytest.approx(expected, rel=1e-4)
