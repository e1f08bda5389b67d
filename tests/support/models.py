"""Models with random weights, and enumerations of all images, for tests of theorems."""

import dataclasses
import itertools
import math
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from famecli.config.presets import PRESETS, Size, model_config
from famecli.config.schema import DecoderConfig, ModelConfig, StageConfig
from famecli.model.decoder import Decoder
from famecli.model.distributions import make_likelihood
from famecli.model.fame import Fame
from famecli.rng import BatchNoise, ImageNoise

M = TypeVar("M", bound=nn.Module)
LATENT_PRESETS = [name for name, preset in PRESETS.items() if preset.latents != "none"]
CAUSAL_PRESETS = [name for name, preset in PRESETS.items() if preset.autoregressive]
BLIND_PRESETS = [name for name, preset in PRESETS.items() if not preset.autoregressive]


def randomise(module: M, seed: int = 0, dtype: torch.dtype = torch.float64, gain: float = 1.0) -> M:
    """Overwrite every weight: many weights start at zero, where theorems hold trivially."""
    generator = torch.Generator().manual_seed(seed)
    module = module.to(dtype)
    with torch.no_grad():
        for weight in module.parameters():
            spread = gain / math.sqrt(weight[0].numel()) if weight.dim() > 1 else 0.3 * gain
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * spread)
    return module


def model_around(
    decoder: DecoderConfig, size: tuple[int, int], channels: int = 1, levels: int = 2, mixtures: int = 3
) -> ModelConfig:
    """Return the configuration of a model with this decoder, with one stage if it has a condition."""
    stages = (StageConfig(width=4, blocks=0, latents=2),) if decoder.condition else ()
    return ModelConfig(
        "test",
        "bernoulli" if levels == 2 else "logistic-mixture",
        channels,
        *size,
        levels,
        mixtures=mixtures,
        decoder=decoder,
        stages=stages,
    )


def make_decoder(config: ModelConfig) -> Decoder:
    return Decoder(config, make_likelihood(config).parameters)


def preset_model(
    preset: str,
    shape: tuple[int, int, int] = (1, 3, 3),
    levels: int = 2,
    dtype: torch.dtype = torch.float64,
    size: Size = "tiny",
) -> Fame:
    return randomise(Fame(model_config(preset, size, shape, levels)), dtype=dtype)


def two_layer_config(latents: int, *, dense: bool = True, autoregressive: bool = True) -> ModelConfig:
    """Return the configuration of 2x2 bits under two layers with the given number of latents each."""
    stages = (
        StageConfig(width=4, blocks=0, stride=1, latents=latents, dense=dense),
        StageConfig(width=4, blocks=1, stride=2, latents=latents, dense=dense),
    )
    decoder = DecoderConfig(autoregressive, width=4, layers=1, first_kernel=3, condition=3)
    return ModelConfig("test", "bernoulli", 1, 2, 2, 2, decoder=decoder, stages=stages)


def two_layer_model(*, dense: bool, autoregressive: bool) -> Fame:
    """Return a model of 2x2 bits with two stochastic layers, small enough for thousands of samples.

    Posteriors are made wide: where a posterior's variance is below half of its prior's, importance weights
    have infinite variance, and their spread gives no valid standard error.
    """
    model = randomise(Fame(two_layer_config(2, dense=dense, autoregressive=autoregressive)), gain=0.7)
    with torch.no_grad():
        for stage in model.stages:
            stage.recognition.layer.bias[2:] += 1.5
    return model


def all_images(channels: int, height: int, width: int, levels: int = 2) -> Tensor:
    """Return all images of a shape, `(levels ** (C * H * W), C, H, W)`, float64."""
    every = itertools.product(range(levels), repeat=channels * height * width)
    return torch.tensor(list(every), dtype=torch.float64).view(-1, channels, height, width)


def random_images(count: int, shape: tuple[int, int, int], levels: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(levels, (count, *shape), generator=generator)


def image_noise(images: int, samples: int = 1) -> ImageNoise:
    return ImageNoise([("test", index) for index in range(images)], samples)


def batch_noise(seed: int = 0) -> BatchNoise:
    return BatchNoise(np.random.default_rng(seed))


def config_of(
    shape: tuple[int, int, int], levels: int = 2, *, switches: bool = False, **sizes: object
) -> ModelConfig:
    """Return a small configuration for random weights; `switches` turns on normalisation and bounds."""
    decoder = DecoderConfig(**{"autoregressive": True, "width": 4, "layers": 2, "heads": 2} | sizes)  # type: ignore[arg-type]
    config = model_around(decoder, shape[1:], shape[0], levels)
    return dataclasses.replace(config, normalised=switches, bounded_latents=switches)
