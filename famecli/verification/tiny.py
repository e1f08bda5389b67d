"""The model in miniature, so small that all images there are can be written down."""

import dataclasses
import itertools
import math

import torch
from torch import Tensor

from famecli.config.schema import ModelConfig, StageConfig
from famecli.model.fame import Fame
from famecli.rng import stream, uniforms

WIDTH = 4
LATENTS = 2
LAYERS = 2
MIXTURES = 3
PATCH = 2
HEADS = 2


def tiny_config(config: ModelConfig) -> ModelConfig:
    """Return `config` with all its switches and windows, but few features, pixels and levels.

    A binary image is 3x3, or with three channels 2x2; with more levels it is 2x2 with 4 levels, or with three
    channels 1x2 with 3: 256 to 4,096 images. With patches, which are 2x2 then, an image holds several of
    them: a binary one is 3x3, or with three channels 1x3; with more levels it is 2x3 with 3 levels, or with
    three channels 1x3 with 3: 512 to 19,683 images.
    """
    grey, bits, patches = config.channels == 1, config.likelihood == "bernoulli", config.decoder.patch > 1
    if patches:
        height, width = (3, 3) if grey and bits else (2, 3) if grey else (1, 3)
    else:
        height, width = (3, 3) if grey and bits else (2, 2) if grey or bits else (1, 2)
    return dataclasses.replace(
        config,
        height=height,
        width=width,
        levels=min(config.levels, 4 if grey and not patches else 3),
        mixtures=min(config.mixtures, MIXTURES),
        stages=tuple(_tiny_stage(stage) for stage in config.stages),
        decoder=dataclasses.replace(
            config.decoder,
            width=WIDTH,
            layers=LAYERS if config.decoder.attention else min(config.decoder.layers, LAYERS),
            condition=min(config.decoder.condition, WIDTH),
            patch=min(config.decoder.patch, PATCH),
            attention=tuple(range(1, LAYERS + 1)) if config.decoder.attention else (),
            heads=HEADS,
            attention_width=0,
        ),
    )


def _tiny_stage(stage: StageConfig) -> StageConfig:
    return dataclasses.replace(
        stage, width=WIDTH, blocks=min(stage.blocks, 1), latents=min(stage.latents, LATENTS)
    )


def tiny_model(model: Fame, seed: int) -> Fame:
    """Return a model like `model` in miniature, float64, CPU, with random weights.

    They are larger than at initialisation, where many are zero and distributions nearly uniform.
    """
    tiny = type(model)(tiny_config(model.config)).double().eval()
    generator = stream("verify", seed, "tiny weights")
    with torch.no_grad():
        for weight in tiny.parameters():
            spread = 1.5 / math.sqrt(weight[0].numel()) if weight.dim() > 1 else 0.5
            normal = torch.special.ndtri(uniforms(generator, weight.shape, torch.float64).add(2**-54))
            weight.copy_(spread * normal)
    return tiny


def every_image(config: ModelConfig) -> Tensor:
    """Return all images, `(levels ** (C * H * W), C, H, W)`, float64."""
    every = itertools.product(range(config.levels), repeat=config.dimensions)
    return torch.tensor(list(every), dtype=torch.float64).view(-1, *config.image_shape)
