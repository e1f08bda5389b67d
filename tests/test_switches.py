"""Normalised activations, bounded latents, and what configurations say of patches and attention."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from support.models import batch_noise, config_of, image_noise, preset_model, random_images, randomise
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, SIZES, Size, model_config
from famecli.config.schema import MOST_PLACES, ModelConfig, to_dict
from famecli.errors import ConfigError
from famecli.model.distributions import Gaussian, make_likelihood
from famecli.model.fame import Fame
from famecli.model.layers import normalise

NEW_KEYS = {"normalised", "bounded_latents"}
NEW_DECODER_KEYS = {"patch", "attention", "heads", "attention_width", "positions"}
RAW = [sign * value for value in (0.0, 1e-30, 1e-3, 0.5, 4.0, 30.0, 1e4, 1e30) for sign in (1, -1)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bounded_latents_are_bounded_whatever_the_network_says(dtype: torch.dtype) -> None:
    pairs = torch.cartesian_prod(torch.tensor(RAW, dtype=dtype), torch.tensor(RAW, dtype=dtype))
    raw = pairs.clone().requires_grad_()
    gaussian = Gaussian.from_head(raw, bounded=True)
    rounding = 4 * torch.finfo(dtype).eps
    assert (gaussian.mean.abs() <= 5.0).all()
    assert (gaussian.scale >= math.exp(-4.0) * (1 - rounding)).all()
    assert (gaussian.scale <= math.exp(1.5) * (1 + rounding)).all()
    # Reached, and in the order of the raw values.
    assert float(gaussian.mean.detach().abs().max()) == 5.0
    assert gaussian.scale.log().detach().aminmax() == pytest.approx((-4.0, 1.5), rel=1e-6)
    (slope,) = torch.autograd.grad(gaussian.mean.sum() + gaussian.scale.sum(), raw)
    assert torch.isfinite(slope).all()
    assert (slope >= 0).all()
    # Beside them all that is computed of latents is a number.
    other = Gaussian.from_head(pairs.flip(0), bounded=True)
    merged = gaussian.merge(other)
    for each in (
        merged.mean,
        merged.scale,
        merged.kl(other),
        other.kl(gaussian),
        gaussian.log_prob(other.mean),
    ):
        assert torch.isfinite(each).all()
    assert (merged.scale > 0).all()


@pytest.mark.parametrize("bounded", [False, True])
def test_zero_is_a_standard_normal_and_small_values_are_themselves(bounded: bool) -> None:
    raw = torch.zeros(3, 4, dtype=torch.float64)
    start = Gaussian.from_head(raw, bounded=bounded)
    assert torch.equal(start.mean, torch.zeros(3, 2).double())
    torch.testing.assert_close(start.scale, torch.ones(3, 2).double(), rtol=0, atol=1e-12)
    small = Gaussian.from_head(raw + 1e-4, bounded=bounded)
    torch.testing.assert_close(small.mean, raw[:, :2] + 1e-4, rtol=1e-6, atol=0)
    if bounded:
        torch.testing.assert_close(small.scale.log(), raw[:, 2:] + 1e-4, rtol=1e-6, atol=0)


def test_unbounded_latents_are_not_bounded() -> None:
    gaussian = Gaussian.from_head(torch.tensor([[1e4, 1e4]]))
    assert float(gaussian.mean) == 1e4
    assert float(gaussian.scale) > 5e3


@pytest.mark.parametrize("dim", [1, 3])
def test_normalised_features_have_a_mean_square_of_one(dim: int) -> None:
    h = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        normalise(1e6 * h, dim).square().mean(dim), torch.ones_like(h.mean(dim)), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(normalise(h, dim), normalise(1e8 * h, dim), rtol=1e-4, atol=0)
    assert torch.equal(normalise(0 * h, dim), 0 * h)


LADDER = {"patch": 2, "attention": (1, 2), "layers": 4, "condition": 4}


@torch.no_grad()
@pytest.mark.parametrize("scale", [1e4, 1e6])
def test_huge_weights_leave_normalised_models_finite(scale: float) -> None:
    x = random_images(3, (1, 5, 7))
    costs = []
    for switches in (True, False):
        model = randomise(Fame(config_of((1, 5, 7), switches=switches, **LADDER)), dtype=torch.float32)
        for weight in model.parameters():
            weight *= scale
        costs.append(model(x, image_noise(3)))
        assert torch.isfinite(costs[-1].log_weight).all() == switches
    for each in (costs[0].distortion, costs[0].rate):
        assert torch.isfinite(each).all()
    # No logarithm of a scale is beyond its bound, so no latent costs more than this.
    latents = 2 * 3 * 4
    assert float(costs[0].rate.max()) < latents * 0.5 * (math.exp(3.0) + 25.0 + 2 * 4.0)


@torch.no_grad()
def test_normalised_windows_do_not_see_the_size_of_their_input() -> None:
    model = randomise(Fame(config_of((1, 5, 7), switches=True, patch=2, attention=(1,), layers=3)))
    x = random_images(2, (1, 5, 7)).double()
    before = model.pixel_parameters(x, None)
    # All of the residual path is made ten times as large.
    scaled = [model.decoder.first.weight, model.decoder.first.bias]
    for layer in model.decoder.layers:
        scaled += [layer.out.weight, layer.out.bias]
        if layer.attention is not None:
            scaled += [layer.attention.out.weight, layer.attention.out.bias]
    for weight in scaled:
        weight *= 1e3
    after = model.pixel_parameters(x, None)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    model.decoder.normalised = False
    assert not torch.allclose(model.pixel_parameters(x, None), before, rtol=0.1)


@pytest.mark.parametrize("switches", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"patch": 2},
        {"patch": 4, "attention": (1,)},
        {"patch": 2, "attention": (1, 2), "attention_width": 6, "condition": 3},
        {"patch": 2, "attention": (2,), "heads": 3, "attention_width": 9, "lag": 1},
        {"patch": 4, "autoregressive": False, "condition": 3},
        {"attention": (2,), "layers": 3, "kernel": 5},
        {"layers": 0, "patch": 2},
        {"patch": 2, "positions": True},
        {"patch": 4, "autoregressive": False, "condition": 3, "positions": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(("shape", "levels"), [((1, 5, 7), 2), ((3, 6, 4), 8)])
def test_parameters_are_counted_by_arithmetic(
    shape: tuple[int, int, int], levels: int, layout: dict[str, object], switches: bool
) -> None:
    config = config_of(shape, levels, switches=switches, **layout)
    model = Fame(config)
    assert count_parameters(config) == model.count_parameters()
    assert model.count_parameters() == sum(weight.numel() for weight in model.state_dict().values())


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_of_presets_in_patches_are_counted_by_arithmetic(
    preset: str, size: Size, patch: int
) -> None:
    config = model_config(preset, size, (3, 32, 30), 256)
    layers = config.decoder.layers
    attention = (1, layers) if config.decoder.autoregressive and layers > 1 else ()
    decoder = dataclasses.replace(
        config.decoder, patch=patch, attention=attention, heads=2, attention_width=8
    )
    changed = dataclasses.replace(config, decoder=decoder)
    with torch.device("meta"):
        model = Fame(changed)
    assert count_parameters(changed) == model.count_parameters()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 3}, r"decoder\.patch = 3"),
        ({"patch": 5}, r"decoder\.patch = 5"),
        ({"patch": 0}, r"decoder\.patch = 0"),
        ({"patch": 0, "attention": [1]}, r"decoder\.patch = 0"),
        ({"patch": -1, "attention": [1]}, r"decoder\.patch = -1"),
        ({"attention": [3]}, r"decoder\.attention = \[3\]"),
        ({"attention": [0]}, r"decoder\.attention = \[0\]"),
        ({"attention": [-1]}, r"decoder\.attention = \[-1\]"),
        ({"attention": [2, 1]}, r"decoder\.attention = \[2, 1\]"),
        ({"attention": [1, 1]}, r"decoder\.attention = \[1, 1\]"),
        ({"attention": [1, 3]}, r"decoder\.attention = \[1, 3\]"),
        ({"attention": [1.0]}, r"attention\[0\]: expected int"),
        ({"attention": 1}, r"attention: expected a list"),
        ({"attention": [1], "heads": 3}, r"decoder\.heads = 3 does not divide 4"),
        ({"attention": [1], "heads": 4, "attention_width": 6}, r"decoder\.heads = 4 does not divide 6"),
        ({"attention": [1], "heads": 0}, r"decoder\.heads = 0"),
        ({"attention": [1], "heads": 65}, r"decoder\.heads = 65"),
        ({"attention": [1], "attention_width": 4097}, r"decoder\.attention_width = 4097"),
        ({"attention": [1], "autoregressive": False}, r"decoder\.attention needs decoder\.autoregressive"),
        ({"patch": True}, r"patch: expected int"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(change: dict[str, object], message: str) -> None:
    table: dict[str, Any] = to_dict(config_of((1, 6, 6), condition=2))
    assert ModelConfig.from_dict(table).decoder.layers == 2
    table["decoder"] |= change
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(table)


@pytest.mark.parametrize("key", sorted(NEW_KEYS))
def test_a_switch_is_on_or_off(key: str) -> None:
    table = to_dict(config_of((1, 6, 6), condition=2))
    with pytest.raises(ConfigError, match=f"{key}: expected bool"):
        ModelConfig.from_dict(table | {key: 1})


def test_attention_over_too_many_patches_is_refused() -> None:
    side = math.isqrt(MOST_PLACES)
    assert side**2 == MOST_PLACES == 4096
    for patch in (1, 2):
        most = config_of((1, side * patch, side * patch), patch=patch, attention=(1,))
        assert math.prod(most.grid) == MOST_PLACES
        for more in ({"height": most.height + 1}, {"width": most.width + 1}):
            with pytest.raises(ConfigError, match=r"decoder\.attention over 4160 patches, at most 4096"):
                dataclasses.replace(most, **more)  # type: ignore[arg-type]
        plain = dataclasses.replace(most.decoder, attention=())
        dataclasses.replace(most, decoder=plain, height=most.height + 1)


def without_new_keys(config: ModelConfig) -> dict[str, Any]:
    table = to_dict(config)
    table["decoder"] = {key: value for key, value in table["decoder"].items() if key not in NEW_DECODER_KEYS}
    return {key: value for key, value in table.items() if key not in NEW_KEYS}


@pytest.mark.parametrize("autoregressive", [False, True])
def test_a_table_without_the_new_keys_has_all_of_them_off(autoregressive: bool) -> None:
    config = config_of((3, 5, 7), 8, autoregressive=autoregressive, condition=3, heads=4)
    read = ModelConfig.from_dict(without_new_keys(config))
    assert read == config
    assert (read.normalised, read.bounded_latents) == (False, False)
    assert (read.decoder.patch, read.decoder.attention, read.decoder.attention_width) == (1, (), 0)
    names = {name for name, _ in Fame(read).decoder.named_parameters()}
    expected = {f"{part}.{kind}" for part in ("first", "head1", "head2") for kind in ("weight", "bias")}
    for layer in range(2):
        expected |= {
            f"layers.{layer}.{part}.{kind}" for part in ("conv", "out") for kind in ("weight", "bias")
        }
        expected.add(f"layers.{layer}.condition.weight")
    assert names == expected


def window(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution as it was stored before there were patches: with zeros for the rows below, and a mask."""
    weight, reach = conv.weight * conv.mask, conv.reach  # type: ignore[operator]
    full = torch.cat([weight, torch.zeros_like(weight[:, :, :reach])], dim=2)
    return F.conv2d(x, full, conv.bias, padding=reach)  # type: ignore[arg-type]


@torch.no_grad()
def test_a_table_without_the_new_keys_is_the_decoder_of_before() -> None:
    config = ModelConfig.from_dict(without_new_keys(config_of((1, 5, 7), condition=3, heads=4)))
    decoder = randomise(Fame(config)).decoder
    image, condition = (torch.randn(2, maps, 5, 7, dtype=torch.float64) for maps in (1, 3))
    h = window(decoder.first, image)
    for layer in decoder.layers:
        both = window(layer.conv, F.elu(h)) + layer.condition(condition)
        h = h + layer.out(both[:, :4] * torch.sigmoid(both[:, 4:]))
    expected = decoder.head2(F.elu(decoder.head1(F.elu(h))))
    torch.testing.assert_close(decoder(image, condition), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("preset", ["fame", "vae"])
def test_the_switches_change_what_a_model_says(preset: str) -> None:
    x = random_images(3, (1, 5, 7))
    plain = preset_model(preset, (1, 5, 7))
    plain_config = dataclasses.replace(plain.config, normalised=False, bounded_latents=False)
    costs = []
    for change in ({}, {"normalised": True}, {"bounded_latents": True}):
        model = randomise(Fame(dataclasses.replace(plain_config, **change)))  # type: ignore[arg-type]
        assert make_likelihood(model.config).parameters == 1
        costs.append(model(x, batch_noise()).negative_elbo)
    assert not torch.allclose(costs[0], costs[1], rtol=1e-3)
    assert not torch.allclose(costs[0], costs[2], rtol=1e-6)
