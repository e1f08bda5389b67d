"""Larger models that start as smaller ones."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, result_of, use_small_mnist
from models import preset_model, randomise

from famecli.config import ModelConfig
from famecli.errors import InputError
from famecli.model.fame import Fame
from famecli.preset_table import PRESETS
from famecli.rng import BatchNoise, ImageNoise, stream
from famecli.training.grow import first_weights

SHAPES = [((1, 6, 5), 2), ((3, 4, 4), 256)]


def larger(config: ModelConfig, **sizes: int) -> ModelConfig:
    """Return `config` with every size that may grow larger, or those of the decoder that are named."""
    if sizes:
        return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **sizes))
    stages = tuple(dataclasses.replace(s, width=s.width + 5, blocks=s.blocks + 1) for s in config.stages)
    decoder = dataclasses.replace(
        config.decoder,
        width=config.decoder.width + 7,
        layers=config.decoder.layers + 2,
        first_kernel=config.decoder.first_kernel + 4,
        condition=config.decoder.condition + 3 if config.stages else 0,
        lag=config.decoder.lag + 1,
    )
    return dataclasses.replace(config, decoder=decoder, stages=stages)


def costs(model: Fame, images: torch.Tensor) -> torch.Tensor:
    noise = ImageNoise([("grow", k) for k in range(len(images))])
    terms = model(images, noise)
    return torch.cat([terms.distortion[:, None], terms.rate, terms.log_weight[:, None]], dim=1)


def images_of(config: ModelConfig) -> torch.Tensor:
    source = np.random.default_rng(0)
    return torch.from_numpy(source.integers(0, config.levels, (4, *config.image_shape)))


@pytest.mark.parametrize(("shape", "levels"), SHAPES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_grown_model_is_the_same_function(preset: str, shape: tuple[int, int, int], levels: int) -> None:
    source = preset_model(preset, shape, levels)
    target = randomise(Fame(larger(source.config)), 1)
    for block in [b for s in target.stages for b in (*s.up_blocks, *s.down_blocks)]:
        # As fresh models have it.
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    images = images_of(source.config)
    before = costs(source, images)
    assert not torch.allclose(costs(target, images), before, rtol=1e-3)
    target.load_state_dict(first_weights(source, target))
    assert costs(target, images).detach().numpy() == pytest.approx(before.detach().numpy(), rel=1e-10)
    assert target.count_parameters() > 1.5 * source.count_parameters()


@pytest.mark.parametrize("preset", ["fame", "pixelcnn", "lvae"])
def test_training_reaches_all_that_is_new(preset: str) -> None:
    """One step makes the new maps matter: after it, every tap that may be seen has a gradient."""
    source = preset_model(preset, (1, 8, 8), 2)
    target = Fame(larger(source.config)).double()
    target.load_state_dict(first_weights(source, target))
    images = images_of(source.config)
    for _ in range(2):
        target.zero_grad()
        target(images, BatchNoise(stream("grow"))).negative_elbo.sum().backward()
        with torch.no_grad():
            for weight in target.parameters():
                assert weight.grad is not None
                weight -= 1e-3 * weight.grad
    width, old = target.config.decoder.width, source.config.decoder.width
    for name, weight in target.named_parameters():
        assert weight.grad is not None
        assert weight.grad.abs().max() > 0, name
    layer = target.decoder.layers[0].conv.weight.grad
    rows, columns = layer[:old, old:], layer[old:width, :old]
    assert (rows.flatten(1).abs().max(1).values > 0).all()
    assert (columns.flatten(1).abs().max(1).values > 0).all()


def test_equal_models_get_the_weights_as_they_are() -> None:
    source, target = preset_model("fame"), randomise(preset_model("fame"), 1)
    found = first_weights(source, target)
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: larger(c, width=c.decoder.width - 1), "decoder.width would shrink"),
        (lambda c: larger(c, layers=0, first_kernel=5), "decoder.layers, decoder.first_kernel would shrink"),
        (lambda c: larger(c, kernel=5), "differ in more than sizes"),
        (lambda c: larger(c, lag=1), "decoder.lag would shrink"),
        (lambda c: dataclasses.replace(c, stages=c.stages[:1] + c.stages[2:]), "differ in more than sizes"),
        (lambda c: dataclasses.replace(c, height=4), "differ in more than sizes"),
        (lambda c: dataclasses.replace(c, preset="other"), "differ in more than sizes"),
    ],
)
def test_what_cannot_grow_is_refused(change: Callable[[ModelConfig], ModelConfig], message: str) -> None:
    source = preset_model("fame")
    with pytest.raises(InputError, match=message):
        first_weights(source, Fame(change(source.config)))


def test_train_starts_from_a_smaller_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    common = ("--dataset", "mnist", "--images", "6", "--batch-size", "6", "--eval-every", "6")
    result_of("train", "pixelcnn", *common, "-o", "small")
    sizes = ("--set", "decoder.width=14", "--set", "decoder.first_kernel=9", "--set", "train.lr=0")
    grown = ("--init", "small", *sizes, "--set", "train.muon_lr=0")
    result_of("train", "pixelcnn", *common, *grown, "-o", "large")
    nats = [
        result_of("evaluate-nll", run, "--dataset", "mnist")["nats_per_image"] for run in ("small", "large")
    ]
    assert nats[0] == pytest.approx(nats[1], rel=1e-5)
    refused = error_of(3, "train", "pixelcnn", *common, "--init", "large", "-o", "again")
    assert "decoder.width, decoder.first_kernel would shrink" in refused
