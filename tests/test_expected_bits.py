"""Random bits scored by their expectation: the same mean, a smaller variance, only where bits are random."""

import dataclasses

import numpy as np
import pytest
import torch
from support.models import all_images, preset_model, randomise
from support.trainers import PLAIN, SHAPE, split_of, trainer_of
from torch import Tensor

from famecli.config.presets import model_config
from famecli.config.schema import TrainConfig
from famecli.data.dataset import bit_probabilities
from famecli.data.registry import dataset_info
from famecli.model.distributions import Bernoulli
from famecli.model.fame import Fame

IMAGES = all_images(1, 2, 3).double()


def chances(count: int = 1) -> Tensor:
    """Probabilities of the bits of images, some certain."""
    found = torch.rand((count, *IMAGES.shape[1:]), generator=torch.Generator().manual_seed(1)).double()
    found[..., 0, 1], found[..., 1, 2] = 0.0, 1.0
    return found


@pytest.fixture(params=[1, 2])
def pixelcnn(request: pytest.FixtureRequest) -> Fame:
    config = model_config("pixelcnn", "tiny", (1, 2, 3), 2)
    patched = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, patch=request.param))
    return randomise(Fame(patched))


def gradients(model: Fame, probabilities: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return log p and its gradient for each of `IMAGES`, `(64,)` and `(64, weights)`."""
    given = None if probabilities is None else probabilities.expand_as(IMAGES)
    log_px = model.log_prob(IMAGES, None, given).flatten(1).sum(1)
    weights = list(model.parameters())
    rows = [torch.autograd.grad(each, weights, retain_graph=True) for each in log_px]
    return log_px.detach(), torch.stack([torch.cat([each.flatten() for each in row]) for row in rows])


def test_the_expected_log_probability_is_the_mean_over_the_bit() -> None:
    generator, bits = torch.Generator().manual_seed(0), Bernoulli(1)
    logits = 3 * torch.randn(5, 1, 7, generator=generator, dtype=torch.float64)
    p = torch.rand(5, 1, 7, generator=generator, dtype=torch.float64)
    mean = p[:, 0] * bits.log_prob(torch.ones_like(p), logits)
    mean = mean + (1 - p[:, 0]) * bits.log_prob(torch.zeros_like(p), logits)
    torch.testing.assert_close(bits.expected_log_prob(p, logits), mean)


def test_value_and_gradient_have_the_means_of_drawn_bits_and_a_smaller_variance(pixelcnn: Fame) -> None:
    p = chances()
    weights = torch.where(IMAGES > 0, p, 1 - p).flatten(1).prod(1)
    spread = []
    means = []
    for values, rows in (gradients(pixelcnn, None), gradients(pixelcnn, p)):
        means.append((weights @ values, weights @ rows))
        spread.append(float(weights @ (rows - means[-1][1]).square().sum(1)))
    for one, other in zip(*means, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert spread[1] < 0.9 * spread[0]


def test_with_certain_bits_nothing_changes(pixelcnn: Fame) -> None:
    found = pixelcnn.log_prob(IMAGES, None, IMAGES)
    torch.testing.assert_close(found, pixelcnn.log_prob(IMAGES, None), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("preset", ["fame", "vae"])
def test_only_the_distortion_has_expectations(preset: str) -> None:
    model = preset_model(preset, SHAPE)
    split = split_of(4)
    p = torch.from_numpy(split.pixels / 255)
    x = (p > 0.5).double()
    noise = lambda layer, shape: torch.zeros(shape, dtype=torch.float64)  # noqa: E731
    drawn, expected = model(x, noise), model(x, noise, None, p)
    assert torch.equal(drawn.rate, expected.rate)
    condition, _ = model.infer(x, noise)
    torch.testing.assert_close(expected.distortion, -model.log_prob(x, condition, p).flatten(1).sum(1))
    assert not torch.allclose(drawn.distortion, expected.distortion)


def stepped(preset: str, config: TrainConfig, dataset: str) -> list[Tensor]:
    split = dataclasses.replace(split_of(), info=dataclasses.replace(dataset_info(dataset), shape=SHAPE))
    if dataset != "mnist":
        split = dataclasses.replace(split, pixels=split.pixels // 128)
    trainer = trainer_of(preset, config)
    trainer.split = split
    trainer.step()
    return [weight.detach().clone() for weight in trainer.model.parameters()]


def test_training_uses_expectations_where_bits_are_random_and_nowhere_else() -> None:
    off, always = (dataclasses.replace(PLAIN, expected_bits=kind) for kind in ("never", "always"))
    cases = [("pixelcnn", "mnist", PLAIN, True), ("pixelcnn", "mnist-static", PLAIN, False)]
    cases += [("fame", "mnist", PLAIN, False), ("fame", "mnist", always, True)]
    for preset, dataset, config, expected in cases:
        pairs = zip(stepped(preset, config, dataset), stepped(preset, off, dataset), strict=True)
        assert any(not torch.equal(*pair) for pair in pairs) == expected, (preset, dataset)


def test_probabilities_are_those_of_the_training_bits() -> None:
    split = split_of(3)
    np.testing.assert_array_equal(
        bit_probabilities(split, np.array([2, 0])), np.float32(split.pixels[[2, 0]] / 255)
    )
    fixed = dataclasses.replace(split, info=dataset_info("mnist-static"))
    assert bit_probabilities(fixed, np.array([0])) is None


def test_trainings_begun_before_keep_their_defaults() -> None:
    new, old = TrainConfig(), TrainConfig.from_dict({"batch_size": 8})
    assert (new.expected_bits, new.decay, new.decay_start, new.final_lr) == ("auto", "linear", 0.3, 0.0)
    assert (old.expected_bits, old.decay, old.decay_start) == ("never", "cosine", 0.0)
    assert TrainConfig.from_dict({"expected_bits": "always"}).expected_bits == "always"
