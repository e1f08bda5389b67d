"""Larger models that start as smaller ones."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.classes import conditional
from support.commands import error_of, result_of, use_small_mnist
from support.models import preset_model, randomise

from famecli.config.presets import PRESETS
from famecli.config.schema import ModelConfig
from famecli.errors import InputError
from famecli.model.fame import Fame
from famecli.rng import BatchNoise, ImageNoise, stream
from famecli.training.grow import first_weights

SHAPES = [((1, 6, 5), 2), ((3, 4, 4), 256)]


def with_decoder(config: ModelConfig, **values: Any) -> ModelConfig:
    """Return `config` with other values of its decoder."""
    return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **values))


def changed(model: Fame, *, normalised: bool, **values: Any) -> Fame:
    """Return a model of random weights as `model`, with other values of its decoder."""
    config = dataclasses.replace(with_decoder(model.config, **values), normalised=normalised)
    return randomise(Fame(config))


def larger(config: ModelConfig) -> ModelConfig:
    """Return `config` with every size that may grow larger: widths do not where they are normalised over."""
    more = 0 if config.normalised else 5
    stages = tuple(dataclasses.replace(s, width=s.width + more, blocks=s.blocks + 1) for s in config.stages)
    decoder = dataclasses.replace(
        config.decoder,
        width=config.decoder.width + (0 if config.normalised or config.decoder.attention else 7),
        layers=config.decoder.layers + 2,
        first_kernel=config.decoder.first_kernel + 4,
        condition=config.decoder.condition + (3 if config.decoder.condition else 0),
        lag=config.decoder.lag + (0 if config.decoder.attention else 1),
    )
    return dataclasses.replace(config, decoder=decoder, stages=stages)


def like_fresh(model: Fame) -> Fame:
    """Return a model with the zeros of fresh ones in its residual blocks and positions."""
    for block in [b for s in model.stages for b in (*s.up_blocks, *s.down_blocks)]:
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    if model.config.decoder.positions:
        torch.nn.init.zeros_(model.decoder.position)
    return model


def assert_grows(source: Fame, config: ModelConfig) -> Fame:
    """Check that every image costs the same under a larger model with the first weights of `source`."""
    target = like_fresh(randomise(Fame(config), 1))
    images = images_of(source.config)
    before = costs(source, images)
    assert not torch.allclose(costs(target, images), before, rtol=1e-3)
    target.load_state_dict(first_weights(source, target))
    assert costs(target, images).detach().numpy() == pytest.approx(before.detach().numpy(), rel=1e-10)
    return target


def costs(model: Fame, images: torch.Tensor) -> torch.Tensor:
    noise = ImageNoise([("grow", k) for k in range(len(images))])
    labels = torch.arange(len(images)) % len(model.config.classes) if model.config.classes else None
    terms = model(images, noise, labels)
    return torch.cat([terms.distortion[:, None], terms.rate, terms.log_weight[:, None]], dim=1)


def images_of(config: ModelConfig) -> torch.Tensor:
    source = np.random.default_rng(0)
    return torch.from_numpy(source.integers(0, config.levels, (4, *config.image_shape)))


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_grown_model_is_the_same_function(preset: str, shape: tuple[int, int, int], levels: int) -> None:
    source = changed(preset_model(preset, shape, levels), normalised=False)
    target = assert_grows(source, larger(source.config))
    assert target.count_parameters() > 1.5 * source.count_parameters()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_normalised_model_grows_in_all_but_widths(preset: str) -> None:
    source = preset_model(preset, (1, 6, 5), 2)
    assert source.config.normalised
    target = assert_grows(source, larger(source.config))
    assert target.count_parameters() > 1.2 * source.count_parameters()


@pytest.mark.parametrize("patch", [2, 4])
@pytest.mark.parametrize("preset", ["fame", "pixelcnn", "lvae"])
def test_patches_grow_pixel_by_pixel(preset: str, patch: int) -> None:
    source = changed(preset_model(preset, (3, 6, 5), 256), normalised=False, patch=patch)
    target = assert_grows(source, larger(source.config))
    width, old = target.config.decoder.width, source.config.decoder.width
    for name in ("head1", "earlier") if source.config.decoder.autoregressive else ("head1",):
        before, after = (getattr(model.decoder, name).weight for model in (source, target))
        for pixel in range(patch**2):
            kept = after[pixel * width : pixel * width + old, : before.shape[1]]
            assert torch.equal(kept, before[pixel * old : (pixel + 1) * old]), (name, pixel)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("normalised", [False, True])
def test_a_model_with_classes_grows(preset: str, normalised: bool) -> None:
    source = changed(conditional(preset, (1, 6, 5)), normalised=normalised)
    target = assert_grows(source, larger(source.config))
    for name, old in source.named_parameters():
        if name.startswith("label"):
            new = target.get_parameter(name)
            assert torch.equal(new[:, :, : old.shape[2]], old)
            assert not new[:, :, old.shape[2] :].any()


ATTENTION = {"attention": (2,), "heads": 2, "attention_width": 8}
PLACED = ATTENTION | {"positions": True}


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("more", [(2,), (1, 2), (2, 3, 4)])
def test_attention_grows_as_the_identity(
    preset: str, patch: int, normalised: bool, more: tuple[int, ...]
) -> None:
    source = changed(preset_model(preset, (1, 6, 5), 2), normalised=normalised, patch=patch, **ATTENTION)
    target = assert_grows(source, with_decoder(larger(source.config), attention=more))
    for number in more:
        block = target.decoder.layers[number - 1].attention
        assert bool((block.out.weight == 0).all()) == (number != 2)


@pytest.mark.parametrize("preset", ["fame", "fame-no-concat", "pixelcnn"])
@pytest.mark.parametrize("before", [False, True])
def test_positions_grow_as_zeros_or_stay(preset: str, before: bool) -> None:
    source = changed(preset_model(preset, (1, 6, 5), 2), normalised=False, patch=2, positions=before)
    target = assert_grows(source, with_decoder(larger(source.config), positions=True))
    own = source.decoder.position if before else torch.zeros(())
    width = source.config.decoder.width
    assert torch.equal(target.decoder.position[:, :width], own.expand_as(target.decoder.position[:, :width]))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_a_model_without_attention_grows_one(preset: str, normalised: bool) -> None:
    source = changed(preset_model(preset, (1, 6, 5), 2), normalised=normalised, heads=4, patch=2)
    config = larger(source.config)
    assert config.decoder.lag > source.config.decoder.lag
    assert (config.decoder.width > source.config.decoder.width) is not normalised
    assert_grows(source, with_decoder(config, attention=(1, 4), heads=2, attention_width=6))


def take_steps(model: Fame, steps: int) -> None:
    """Take steps of plain gradient descent; the gradients of the last one stay."""
    images = images_of(model.config)
    for _ in range(steps):
        model.zero_grad()
        model(images, BatchNoise(stream("grow"))).negative_elbo.sum().backward()
        with torch.no_grad():
            for weight in model.parameters():
                assert weight.grad is not None
                weight -= 1e-3 * weight.grad


@pytest.mark.parametrize("preset", ["fame", "pixelcnn", "lvae"])
def test_training_reaches_all_that_is_new(preset: str) -> None:
    """One step makes the new maps matter: after it, every tap that may be seen has a gradient."""
    source = changed(preset_model(preset, (1, 8, 8), 2), normalised=False)
    target = Fame(larger(source.config)).double()
    target.load_state_dict(first_weights(source, target))
    take_steps(target, 2)
    width, old = target.config.decoder.width, source.config.decoder.width
    for name, weight in target.named_parameters():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0, name
    layer = target.decoder.layers[0].conv.weight.grad
    rows, columns = layer[:old, old:], layer[old:width, :old]
    assert (rows.flatten(1).abs().max(1).values > 0).all()
    assert (columns.flatten(1).abs().max(1).values > 0).all()


def under_ladder(preset: str, alone: Fame) -> ModelConfig:
    """Return the configuration of `preset`, whose decoder has the sizes of the PixelCNN `alone`."""
    config = preset_model(preset, alone.config.image_shape, alone.config.levels).config
    decoder = dataclasses.replace(alone.config.decoder, condition=config.decoder.condition)
    return dataclasses.replace(config, decoder=decoder, normalised=alone.config.normalised)


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
@pytest.mark.parametrize("preset", ["fame", "fame-dense", "pixelvae"])
@pytest.mark.parametrize("normalised", [False, True])
def test_a_pixelcnn_becomes_the_decoder_of_a_model_with_latents(
    preset: str, normalised: bool, shape: tuple[int, int, int], levels: int
) -> None:
    """Given any latents an image costs what it did; after two steps all that is new has a gradient."""
    source = changed(preset_model("pixelcnn", shape, levels), normalised=normalised, patch=2, **PLACED)
    target = Fame(larger(under_ladder(preset, source))).double()
    target.load_state_dict(first_weights(source, target))
    images = images_of(source.config)
    before, after = (costs(model, images).detach().numpy() for model in (source, target))
    assert after[:, 0] == pytest.approx(before[:, 0], rel=1e-10)
    assert (after[:, 1:-1] > 0).all()
    take_steps(target, 3)
    for name, weight in target.named_parameters():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("preset", ["fame-no-concat", "lvae"])
def test_a_pixelcnn_is_no_factorized_decoder(preset: str) -> None:
    source = changed(preset_model("pixelcnn"), normalised=False)
    with pytest.raises(InputError, match="differ in more than sizes"):
        first_weights(source, preset_model(preset))


def test_equal_models_get_the_weights_as_they_are() -> None:
    source, target = preset_model("fame"), randomise(preset_model("fame"), 1)
    found = first_weights(source, target)
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_training_reaches_new_attention(preset: str) -> None:
    """Its output is zero at first: one step later all of it has a gradient."""
    source = changed(preset_model(preset, (1, 8, 8), 2), normalised=True, patch=2)
    config = with_decoder(larger(source.config), attention=(1, 3), heads=2, attention_width=6)
    target = Fame(config).double()
    target.load_state_dict(first_weights(source, target))
    take_steps(target, 3)
    for number in (1, 3):
        for name, weight in target.decoder.layers[number - 1].attention.named_parameters():
            assert weight.grad is not None
            assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: with_decoder(c, width=c.decoder.width - 1), "decoder.width would shrink"),
        (
            lambda c: with_decoder(c, layers=0, first_kernel=5),
            "decoder.layers, decoder.first_kernel would shrink",
        ),
        (lambda c: with_decoder(c, kernel=5), "differ in more than sizes"),
        (lambda c: with_decoder(c, lag=1), "decoder.lag would shrink"),
        (lambda c: dataclasses.replace(c, normalised=True), "differ in more than sizes"),
        (lambda c: dataclasses.replace(c, bounded_latents=False), "differ in more than sizes"),
        (lambda c: dataclasses.replace(c, stages=c.stages[:1] + c.stages[2:]), "differ in more than sizes"),
        (lambda c: dataclasses.replace(c, height=4), "differ in more than sizes"),
        (lambda c: dataclasses.replace(c, preset="other"), "differ in more than sizes"),
    ],
)
def test_what_cannot_grow_is_refused(change: Callable[[ModelConfig], ModelConfig], message: str) -> None:
    source = changed(preset_model("fame"), normalised=False)
    with pytest.raises(InputError, match=message):
        first_weights(source, Fame(change(source.config)))


def wider_stage(config: ModelConfig) -> ModelConfig:
    stages = (*config.stages[:1], dataclasses.replace(config.stages[1], width=30), *config.stages[2:])
    return dataclasses.replace(config, stages=stages)


OTHERS: dict[str, tuple[bool, Callable[[ModelConfig], ModelConfig], str]] = {
    "patch": (False, lambda c: with_decoder(c, patch=4), "decoder.patch is 2 in the first weights and 4"),
    "no patch": (False, lambda c: with_decoder(c, patch=1), "decoder.patch is 2 in the first weights and 1"),
    "less": (False, lambda c: with_decoder(c, attention=()), r"decoder.attention lacks layers of \[2\]"),
    "other": (False, lambda c: with_decoder(c, attention=(1,)), r"decoder.attention lacks layers of \[2\]"),
    "positions": (False, lambda c: with_decoder(c, positions=False), "decoder.positions is on in the first"),
    "lag": (False, lambda c: with_decoder(c, lag=3), "decoder.lag is 2 in the first weights"),
    "heads": (False, lambda c: with_decoder(c, heads=4), "decoder.heads is 2 in the first weights and 4"),
    "features": (
        False,
        lambda c: with_decoder(c, attention_width=16),
        "decoder.attention has 8 features .* and 16 here; decoder.attention_width sets them",
    ),
    "features of the width": (
        False,
        lambda c: with_decoder(c, attention_width=0),
        "8 features .* and 12 here",
    ),
    "width under attention": (
        False,
        lambda c: with_decoder(c, width=14),
        "decoder.width is 12 in the first weights and 14 here, which decoder.attention forbids",
    ),
    "width": (True, lambda c: with_decoder(c, width=14), "decoder.width is 12 .* normalised = true forbids"),
    "width of a stage": (True, wider_stage, "stages.1.width is 24 .* and 30 here, which normalised = true"),
}


@pytest.mark.parametrize(("normalised", "change", "message"), OTHERS.values(), ids=OTHERS)
def test_what_would_be_another_function_is_refused_by_its_key(
    normalised: bool, change: Callable[[ModelConfig], ModelConfig], message: str
) -> None:
    source = changed(preset_model("fame"), normalised=normalised, patch=2, **PLACED)
    with pytest.raises(InputError, match=message):
        first_weights(source, Fame(change(source.config)))


def test_a_stage_may_be_wider_under_attention_if_nothing_is_normalised() -> None:
    source = changed(preset_model("fame", (1, 6, 5)), normalised=False, patch=2, **ATTENTION)
    assert_grows(source, wider_stage(source.config))


def test_train_starts_from_a_smaller_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    common = ("--dataset", "mnist", "--images", "6", "--batch-size", "6", "--eval-every", "6")
    patches = ("--set", "decoder.patch=2", "--set", "decoder.heads=2")
    result_of("train", "pixelcnn", "--size", "tiny", *common, *patches, "-o", "small")
    sizes = ("--set", "decoder.layers=3", "--set", "decoder.first_kernel=9", "--set", "train.lr=0")
    grown = ("--init", "small", *patches, *sizes, "--set", "train.muon_lr=0")
    attends = ("--set", "decoder.attention=[1, 3]")
    result_of("train", "pixelcnn", "--size", "tiny", *common, *grown, *attends, "-o", "large")
    nats = [
        result_of("evaluate-nll", run, "--dataset", "mnist")["nats_per_image"] for run in ("small", "large")
    ]
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)
    again = ("train", "pixelcnn", "--size", "tiny", *common, *patches, "--init", "large", "-o", "again")
    assert "decoder.attention lacks layers of [1, 3]" in error_of(3, *again)
    shrunk = error_of(3, *again, *attends, "--set", "decoder.layers=3")
    assert "decoder.first_kernel would shrink" in shrunk
    wider = (*attends, *sizes, "--set", "decoder.width=14", "--set", "decoder.attention_width=12")
    assert "decoder.width is 12 in the first weights and 14 here" in error_of(3, *again, *wider)
    assert not Path("again").exists()
    latents = ("--init", "large", "--set", "train.lr=0", "--set", "train.muon_lr=0", "-o", "latents")
    result_of("train", "fame", "--size", "tiny", *common, *patches, *attends, *sizes[:4], *latents)
    terms = result_of("evaluate-nll", "latents", "--dataset", "mnist")["terms_nats_per_image"]
    assert terms["decoder"] == pytest.approx(nats[0], rel=1e-5)
    assert min(terms["kl"]) > 0
    result_of("train", "fame", *common, "--init", "large", "-o", "whole")
    whole = result_of("info", "whole")["model"]
    assert whole["decoder"]["attention"] == [1, 3]
    assert [stage["latents"] for stage in whole["stages"]] == [8, 16]
