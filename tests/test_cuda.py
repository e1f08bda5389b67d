"""On a CUDA device: the same likelihoods, samples and codes as on the CPU, and trainings that learn."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import random_images, randomise
from support.trainers import IN_PARTS, split_of

import famecli
from famecli.api.handle import Model
from famecli.checkpoints.checkpoint import save_checkpoint
from famecli.config.presets import model_config
from famecli.config.schema import Precision
from famecli.model.fame import Fame
from famecli.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
KINDS = {
    "fame": ("fame", (1, 28, 28), 2),
    "pixelcnn": ("pixelcnn", (1, 28, 28), 2),
    "fame-dense": ("fame-dense", (1, 28, 28), 2),
    "fame-no-concat": ("fame-no-concat", (1, 28, 28), 2),
    "rgb": ("fame", (3, 32, 32), 256),
}
kinds = pytest.mark.parametrize("kind", KINDS)
# Nats per image of about 1,000 and 20,000 pixels-bits; float32 sums differ in the seventh digit.
RELATIVE = 2e-6


@functools.cache
def models(kind: str, folder: Path) -> dict[str, Model]:
    """Return one small model on the CPU and on the GPU."""
    preset, shape, levels = KINDS[kind]
    network = randomise(Fame(model_config(preset, "small", shape, levels)), dtype=torch.float32, gain=0.5)
    path = folder / f"{kind}.safetensors"
    save_checkpoint(path, network.config, network.state_dict(), None, {})
    return {device: famecli.load(path, device=device) for device in ("cpu", "cuda")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


def images_for(kind: str, count: int = 8) -> np.ndarray:
    _, shape, levels = KINDS[kind]
    images: np.ndarray = random_images(count, shape, levels).numpy().astype(np.uint8)
    return images


@kinds
def test_likelihoods_are_those_of_the_cpu(kind: str, folder: Path) -> None:
    both, images = models(kind, folder), images_for(kind)
    expected, found = (both[device].elbo(images) for device in ("cpu", "cuda"))
    assert found == pytest.approx(expected, rel=RELATIVE)
    if both["cpu"].config.stochastic_layers:
        expected, found = (both[device].nll(images, importance_samples=5).nats for device in ("cpu", "cuda"))
        assert found == pytest.approx(expected, rel=RELATIVE)


def test_likelihoods_do_not_depend_on_tf32(folder: Path) -> None:
    model, images = models("fame", folder)["cuda"], images_for("fame")
    expected = model.elbo(images)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = not before
    try:
        assert np.array_equal(model.elbo(images), expected)
    finally:
        torch.backends.cudnn.allow_tf32 = before


@kinds
def test_samples_are_those_of_the_cpu(kind: str, folder: Path) -> None:
    both = models(kind, folder)
    expected, found = (np.asarray(both[device].sample(16)) for device in ("cpu", "cuda"))
    # A uniform number near a boundary of a level may fall on its other side, and change all later pixels.
    differing = (expected != found).reshape(16, -1).any(1)
    assert differing.sum() <= 2
    assert np.array_equal(found, np.asarray(both["cuda"].sample(16)))
    assert np.array_equal(found[5:6], np.asarray(both["cuda"].sample(1, seed=5)))


def test_large_batches_have_the_samples_of_small_ones(folder: Path) -> None:
    model = models("fame", folder)["cuda"]
    whole, parts = (np.asarray(model.sample(200, batch_size=size)) for size in (None, 64))
    assert ((whole != parts).reshape(200, -1).any(1)).sum() <= 2


@kinds
def test_codes_come_back(kind: str, folder: Path) -> None:
    model, images = models(kind, folder)["cuda"], images_for(kind)
    assert np.array_equal(np.asarray(model.decompress(model.compress(images))), images)


def trained(
    precision: Precision, *, compiled: bool, accumulate: int = 1, device: str = "cuda"
) -> list[float]:
    """Return the nats of each step of a short training."""
    torch.compiler.reset()
    model = dataclasses.replace(model_config("fame", "tiny", (1, 8, 8), 2), normalised=True)
    decoder = dataclasses.replace(model.decoder, patch=2, attention=(1,), heads=2)
    model = dataclasses.replace(model, decoder=decoder)
    config = dataclasses.replace(IN_PARTS, total_images=160)
    trainer = Trainer(
        model, config, split_of(), torch.device(device), precision, accumulate, compiled=compiled
    )
    return [trainer.step().nats for _ in range(12)]


@pytest.mark.parametrize(("compiled", "accumulate"), [(False, 1), (False, 2), (True, 1), (True, 2)])
@pytest.mark.filterwarnings("ignore")
def test_a_training_is_that_of_the_cpu(compiled: bool, accumulate: int) -> None:
    expected = trained("fp32", compiled=False, device="cpu")
    found = trained("fp32", compiled=compiled, accumulate=accumulate)
    assert found == pytest.approx(expected, rel=2e-3)
    assert found[-1] < found[0]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_training_in_bfloat16_is_close(compiled: bool) -> None:
    expected = trained("fp32", compiled=False)
    assert trained("bf16", compiled=compiled) == pytest.approx(expected, rel=2e-2)
