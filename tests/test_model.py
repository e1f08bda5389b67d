import itertools
import math
from dataclasses import replace

import pytest
import torch
from support.models import (
    BLIND_PRESETS,
    CAUSAL_PRESETS,
    LATENT_PRESETS,
    all_images,
    batch_noise,
    image_noise,
    preset_model,
    random_images,
    randomise,
    two_layer_model,
)
from torch import Tensor, nn

from famecli.config.presets import PRESETS, SIZES, Size, model_config
from famecli.model.distributions import LogisticMixture
from famecli.model.fame import Draw, Fame
from famecli.model.layers import CausalConv2d

SHAPE = (1, 16, 12)
TWO_LAYERS = [(dense, autoregressive) for dense in (False, True) for autoregressive in (False, True)]


def infer(model: Fame, x: Tensor, keep_layers: int | None = None) -> tuple[Tensor, list[Draw]]:
    condition, draws = model.infer(x, image_noise(len(x)), keep_layers)
    assert condition is not None
    return condition, draws


def three_layer_model(preset: str) -> Fame:
    """A preset's model over the small ladder of factorized decoders, which has three stochastic layers."""
    config = model_config(preset, "small", SHAPE, 2)
    ladder = "lvae" if config.stages[-1].dense else "fame-no-concat"
    return randomise(Fame(replace(config, stages=model_config(ladder, "small", SHAPE, 2).stages)))


def equal(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("side", [2, 3])
def test_probabilities_of_all_images_sum_to_one_without_latents(side: int) -> None:
    model, every = preset_model("pixelcnn", (1, side, side)), all_images(1, side, side)
    terms = model(every, image_noise(len(every)))
    probabilities = torch.exp(-terms.negative_elbo)
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(probabilities.std()) > 0.1 / len(every)
    assert torch.equal(terms.log_weight, -terms.distortion)
    assert terms.rate.shape == (len(every), 0)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_of_all_grey_and_colour_images_sum_to_one(channels: int) -> None:
    shape, levels = ((1, 2, 3), 4) if channels == 1 else ((3, 1, 2), 4)
    model = preset_model("pixelcnn", shape, levels)
    assert isinstance(model.likelihood, LogisticMixture)
    every = all_images(*shape, levels)
    log_prob = model.log_prob(every, None).flatten(1).sum(1)
    assert float(log_prob.exp().sum()) == pytest.approx(1.0, abs=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_probabilities_of_all_images_sum_to_one_given_the_latents(preset: str) -> None:
    model, every = preset_model(preset), all_images(1, 3, 3)
    conditions, _ = infer(model, random_images(3, (1, 3, 3)))
    each = [model.log_prob(every, row.expand(len(every), -1, -1, -1)).flatten(1).sum(1) for row in conditions]
    probabilities = torch.stack(each).exp()
    sums = probabilities.sum(1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-9)
    assert not torch.allclose(probabilities[0], probabilities[1], rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("dense", "autoregressive"), TWO_LAYERS)
def test_importance_weights_are_unbiased_and_the_elbo_is_a_bound(dense: bool, autoregressive: bool) -> None:
    draws, every = 1000, all_images(1, 2, 2)
    model = two_layer_model(dense=dense, autoregressive=autoregressive)
    terms = model(every.repeat(draws, 1, 1, 1), batch_noise())
    log_weight = terms.log_weight.view(draws, len(every))
    # E of a weight is p(x), so each draw's sum over all images has the expectation 1.
    sums = log_weight.exp().sum(1)
    error = float(sums.std()) / math.sqrt(draws)
    assert error < 0.02
    assert abs(float(sums.mean()) - 1.0) < 4 * error
    # The bounds of log p(x), averaged over draws: the ELBO, importance weighting by 20, all draws together.
    elbo = -terms.negative_elbo.view(draws, len(every)).mean(0)
    weighted = (log_weight.view(20, -1, len(every)).logsumexp(0) - math.log(20)).mean(0)
    assert (elbo < weighted - 0.1).all()
    assert (weighted < log_weight.logsumexp(0) - math.log(draws)).all()
    assert float(elbo.exp().sum()) < float(weighted.exp().sum()) < 1.0 + 4 * error


@torch.no_grad()
@pytest.mark.parametrize(("dense", "autoregressive"), TWO_LAYERS)
def test_the_log_weight_has_the_mean_of_the_elbo(dense: bool, autoregressive: bool) -> None:
    model = two_layer_model(dense=dense, autoregressive=autoregressive)
    terms = model(all_images(1, 2, 2).repeat(700, 1, 1, 1), batch_noise(1))
    gaps = terms.negative_elbo + terms.log_weight
    error = float(gaps.std()) / math.sqrt(len(gaps))
    assert 4 * error < 0.2 < 0.2 * float(terms.rate.sum(1).mean())
    assert abs(float(gaps.mean())) < 4 * error


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_terms_are_those_of_the_draws(preset: str) -> None:
    model, x = preset_model(preset, SHAPE), random_images(3, SHAPE)
    terms = model(x, image_noise(3))
    condition, draws = model.infer(x, image_noise(3))
    assert terms.rate.shape == (3, model.config.stochastic_layers) == (3, len(draws))
    torch.testing.assert_close(terms.negative_elbo, terms.distortion + terms.rate.sum(1))
    torch.testing.assert_close(-terms.distortion, model.log_prob(x, condition).sum((1, 2)))
    weight = -terms.distortion
    for index, draw in enumerate(draws):
        assert draw.posterior is not None
        torch.testing.assert_close(terms.rate[:, index], draw.posterior.kl(draw.prior))
        assert (terms.rate[:, index] > 0).all()
        weight = weight + draw.prior.log_prob(draw.z) - draw.posterior.log_prob(draw.z)
    torch.testing.assert_close(terms.log_weight, weight)


@torch.no_grad()
@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_costs_the_same_alone_and_in_any_batch(preset: str, levels: int) -> None:
    model = preset_model(preset, SHAPE, levels)
    x, strangers = random_images(5, SHAPE, levels), random_images(5, SHAPE, levels, seed=1)
    strangers[2] = x[2]
    together = model(x, image_noise(5)).negative_elbo
    among_strangers = model(strangers, image_noise(5)).negative_elbo
    noise = image_noise(5)
    noise.names = noise.names[2:3]
    alone = model(x[2:3], noise).negative_elbo
    assert float(alone) == pytest.approx(float(together[2]), abs=1e-9)
    assert float(among_strangers[2]) == pytest.approx(float(together[2]), abs=1e-9)
    assert abs(float(among_strangers[3] - together[3])) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_depends_on_batch_statistics_or_on_the_training_mode(preset: str) -> None:
    model, x = preset_model(preset, SHAPE), random_images(4, SHAPE)
    assert not [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    masks = {id(module.mask) for module in model.modules() if isinstance(module, CausalConv2d)}
    assert {id(buffer) for buffer in model.buffers()} == masks | {id(model.decoder.pixel)}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trained = model.train()(x, image_noise(4)).log_weight
    assert torch.equal(model.eval()(x, image_noise(4)).log_weight, trained)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@torch.no_grad()
@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_the_top_layers_that_are_kept_follow_the_posterior_and_the_rest_the_prior(keep: int) -> None:
    model, x = three_layer_model("fame"), random_images(2, SHAPE)
    total = model.config.stochastic_layers
    assert total == 3
    _, whole = infer(model, x)
    condition, draws = infer(model, x, keep)
    for index, draw in enumerate(draws):
        kept = total - index <= keep
        assert (draw.posterior is not None) == kept
        noise = image_noise(2)(index, draw.z.shape)
        source = draw.posterior or draw.prior
        assert equal(draw.z, source.sample(noise.double()))
        # With the same noise, layers from the top down to the last one kept are those of full inference.
        assert equal(draw.z, whole[index].z) == kept
    assert equal(condition, infer(model, x)[0]) == (keep == total)


@torch.no_grad()
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_only_the_recognition_of_kept_layers_reaches_the_condition(keep: int) -> None:
    model, x = three_layer_model("fame"), random_images(2, SHAPE)
    features = model.bottom_up(x.double())
    stochastic = [index for index, stage in enumerate(model.config.stages) if stage.latents]
    condition, _ = model.top_down(features, image_noise(2), 2, keep_layers=keep)
    assert condition is not None
    for layer, index in enumerate(stochastic):
        changed = list(features)
        changed[index] = changed[index] + 1.0
        other, _ = model.top_down(changed, image_noise(2), 2, keep_layers=keep)
        assert other is not None
        assert equal(other, condition) == (len(stochastic) - layer > keep)


@torch.no_grad()
@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_with_no_layer_kept_the_image_is_forgotten_and_generation_is_what_is_left(preset: str) -> None:
    model = preset_model(preset, SHAPE)
    x = random_images(2, SHAPE)
    condition, _ = infer(model, x, keep_layers=0)
    generated = model.prior_condition(2, image_noise(2))
    assert generated is not None
    assert torch.equal(infer(model, 1 - x, keep_layers=0)[0], condition)
    assert torch.equal(generated, condition)
    assert not equal(infer(model, x)[0], infer(model, 1 - x)[0])
    assert not equal(generated[0], generated[1])


@torch.no_grad()
@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_temperature_zero_gives_the_means_of_the_priors(preset: str) -> None:
    model = preset_model(preset, SHAPE)
    coldest, draws = model.top_down(None, image_noise(2), 2, temperature=0.0)
    assert all(torch.equal(draw.z, draw.prior.mean) for draw in draws)
    assert torch.equal(draws[-1].z, torch.zeros_like(draws[-1].z))
    other = model.prior_condition(2, batch_noise(), temperature=0.0)
    assert coldest is not None
    assert other is not None
    assert torch.equal(coldest, other)
    half, _ = model.top_down(None, image_noise(2), 2, temperature=0.5)
    assert half is not None
    assert not equal(half, coldest)


@torch.no_grad()
def test_a_posterior_ignores_the_temperature() -> None:
    model, x = preset_model("fame", SHAPE), random_images(2, SHAPE)
    features = model.bottom_up(x.double())
    warm, _ = model.top_down(features, image_noise(2), 2)
    cold, _ = model.top_down(features, image_noise(2), 2, temperature=0.1)
    assert warm is not None
    assert cold is not None
    assert torch.equal(warm, cold)


@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_generation_uses_every_weight_of_inference_but_the_way_up(preset: str) -> None:
    model, x = preset_model(preset, SHAPE), random_images(2, SHAPE)
    condition = model.prior_condition(2, image_noise(2))
    (-model.log_prob(x, condition).sum()).backward()
    used = {name for name, weight in model.named_parameters() if weight.grad is not None}
    upward = {
        name
        for name, _ in model.named_parameters()
        if name.startswith("stages.") and name.split(".")[2] in ("up", "up_blocks", "recognition")
    }
    assert upward
    assert used == {name for name, _ in model.named_parameters()} - upward


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_weight_gets_a_gradient_from_the_training_loss(preset: str, levels: int) -> None:
    model, x = preset_model(preset, SHAPE, levels), random_images(8, SHAPE, levels)
    model(x, batch_noise()).negative_elbo.mean().backward()
    masks = {id(module.weight): module.mask for module in model.modules() if isinstance(module, CausalConv2d)}
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        # Entry by entry; a grey image's mixture has no coefficients.
        kept = masks.get(id(weight), torch.ones(())).bool().expand_as(weight)
        assert torch.equal(weight.grad != 0, kept), name


@torch.no_grad()
@pytest.mark.parametrize(("shape", "levels"), [((1, 28, 28), 2), ((1, 28, 28), 256), ((3, 32, 32), 256)])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_size_is_built_and_runs(
    preset: str, size: Size, shape: tuple[int, int, int], levels: int
) -> None:
    torch.manual_seed(0)
    model = Fame(model_config(preset, size, shape, levels))
    terms = model(random_images(1, shape, levels), batch_noise())
    assert torch.isfinite(terms.log_weight).all()
    layers = model.config.stochastic_layers
    assert (terms.distortion.shape, terms.rate.shape, terms.log_weight.shape) == ((1,), (1, layers), (1,))
    assert model.count_parameters() == sum(weight.numel() for weight in model.state_dict().values())
    assert (preset in LATENT_PRESETS) == (layers > 0)
    assert model.config.decoder.autoregressive == (preset in CAUSAL_PRESETS) == (preset not in BLIND_PRESETS)


def test_the_small_fame_of_bits_has_at_most_1200000_parameters() -> None:
    with torch.device("meta"):
        model = Fame(model_config("fame", "small", (1, 28, 28), 2))
    assert model.count_parameters() <= 1_200_000


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_an_untrained_model_costs_about_a_bit_per_bit_and_no_rate(preset: str) -> None:
    torch.manual_seed(0)
    model, x = Fame(model_config(preset, "tiny", (1, 28, 28), 2)), random_images(4, (1, 28, 28))
    terms = model(x, image_noise(4))
    assert float(terms.distortion.mean()) == pytest.approx(784 * math.log(2), rel=0.05)
    assert float(terms.rate.sum(1).max()) < 20.0


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 7), (3, 9, 2)])
@pytest.mark.parametrize("preset", PRESETS)
def test_images_may_have_odd_sides(preset: str, shape: tuple[int, int, int]) -> None:
    model = preset_model(preset, shape, 256)
    terms = model(random_images(2, shape, 256), image_noise(2))
    assert terms.distortion.shape == (2,)
    assert torch.isfinite(terms.log_weight).all()


class MovedNoise:
    """Noise of one stochastic layer moved by one, of the others as it was."""

    def __init__(self, moved: int) -> None:
        self.moved = moved

    def __call__(self, layer: int, shape: torch.Size) -> Tensor:
        return image_noise(shape[0])(layer, shape) + (1.0 if layer == self.moved else 0.0)


@torch.no_grad()
@pytest.mark.parametrize("preset", ["fame", "fame-dense", "lvae"])
def test_the_condition_sees_every_layer_directly(preset: str) -> None:
    model = three_layer_model(preset)
    # Priors that depend on nothing: a layer acts through the features alone, not through latents below it.
    for stage in model.stages[:-1]:
        if stage.config.latents:
            for weight in stage.prior.parameters():
                weight.zero_()
    conditions = [model.prior_condition(1, MovedNoise(layer)) for layer in (-1, 0, 1, 2)]
    for condition in conditions[1:]:
        assert condition is not None
        assert not equal(condition, conditions[0])


@torch.no_grad()
def test_a_prior_depends_on_every_layer_above_and_on_none_below() -> None:
    model = three_layer_model("fame")
    _, draws = model.top_down(None, MovedNoise(-1), 1)
    assert len(draws) == 3
    for moved, layer in itertools.product(range(3), range(2)):
        _, others = model.top_down(None, MovedNoise(moved), 1)
        assert equal(others[layer].prior.mean, draws[layer].prior.mean) == (moved <= layer)
        assert equal(others[layer].prior.scale, draws[layer].prior.scale) == (moved <= layer)


def test_one_seed_makes_one_model_whatever_its_name() -> None:
    config = model_config("fame", "tiny", SHAPE, 2)
    x = random_images(2, SHAPE)
    costs = []
    for name in ("fame", "another"):
        model = randomise(Fame(replace(config, preset=name)))
        costs.append(model(x, image_noise(2)).negative_elbo.detach())
    assert torch.equal(*costs)
