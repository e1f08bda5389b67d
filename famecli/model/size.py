"""The number of weights of a model by arithmetic alone, before anything is allocated."""

import math

from famecli.config.schema import DecoderConfig, ModelConfig, StageConfig
from famecli.model.distributions import make_likelihood


def count_parameters(config: ModelConfig) -> int:
    """Return the number of weights that the model of a configuration has, as `Fame.count_parameters` does."""
    decoder = config.decoder
    outputs = make_likelihood(config).parameters
    values = config.channels * decoder.patch**2
    total, below = 0, values
    for index, (stage, (height, width)) in enumerate(zip(config.stages, config.resolutions(), strict=True)):
        down = below if index else decoder.condition
        top = index == len(config.stages) - 1
        total += _stage(stage, below, down, height * width, top=top)
        below = stage.width
    return total + _decoder(decoder, values, outputs, math.prod(config.grid))


def _stage(stage: StageConfig, below: int, down: int, pixels: int, *, top: bool) -> int:
    width = stage.width
    total = _conv(below, width, 9) + 4 * stage.blocks * _conv(width, width, 9) + _conv(width, down, 9)
    if not stage.latents:
        return total
    window, places = (1, pixels) if stage.dense else (9, 1)
    heads = 1 if top else 2
    total += heads * _conv(width * places, 2 * stage.latents, window)
    return total + _conv(stage.latents, width * places, window)


def _decoder(decoder: DecoderConfig, values: int, outputs: int, places: int) -> int:
    width, kernel, pixels = decoder.width, decoder.kernel, decoder.patch**2
    first = _conv(decoder.condition, width, 1)
    earlier = 0
    if decoder.autoregressive:
        first = _conv(values, width, _causal(decoder.first_kernel))
        earlier = pixels * width * values if pixels > 1 else 0
    window = _causal(kernel) if decoder.autoregressive else kernel**2
    layer = _conv(width, 2 * width, window) + 2 * width * decoder.condition + _conv(width, width, 1)
    inner = decoder.attention_features
    attention = width * places + _conv(width, 3 * inner, 1) + _conv(inner, width, 1)
    layers = decoder.layers * layer + len(decoder.attention) * attention
    return first + layers + earlier + pixels * (_conv(width, width, 1) + _conv(width, outputs, 1))


def _conv(inputs: int, outputs: int, window: int) -> int:
    """Return the weights and biases of a convolution with a window of `window` places."""
    return outputs * (inputs * window + 1)


def _causal(side: int) -> int:
    """Return the places in the window of a causal convolution; rows below the centre are not stored."""
    return side * (side // 2 + 1)
