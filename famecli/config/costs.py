"""Weights, memory and work that a configuration asks for, before anything is allocated. No torch here."""

import math

from famecli.config.schema import DecoderConfig, ModelConfig, StageConfig
from famecli.errors import InputError

# Largest costs of a model from a file; presets take a tenth at most.
MOST_IMAGE_BYTES = 1 << 30
MOST_STEPS = 1 << 14
MOST_FLOP = 2e12
# Memory of the images that are computed at once, unless the user chooses their number.
BATCH_BYTES = 4 << 30
FLOAT_BYTES = 4


def likelihood_parameters(config: ModelConfig) -> int:
    """Return the number of parameters of a pixel's distribution: Bernoulli, or a mixture of logistics.

    A Bernoulli has a logit per channel. A mixture has, for each component, a logit, a mean and a scale per
    channel, and channel coefficients.
    """
    channels = config.channels
    if config.likelihood == "bernoulli":
        return channels
    return config.mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def image_bytes(config: ModelConfig, item_bytes: int = FLOAT_BYTES) -> int:
    """Return an upper bound of the memory of one image in a forward pass, in bytes.

    Args:
        config: Configuration of the model.
        item_bytes: Bytes of a number: 4 in single precision, 8 in double.
    """
    decoder, places = config.decoder, math.prod(config.grid)
    maps = 2 * decoder.width * (decoder.layers + 4) + 4 * decoder.condition
    maps += len(decoder.attention) * (3 * decoder.attention_features + decoder.heads * places)
    values = places * maps
    values += 4 * config.dimensions * likelihood_parameters(config)
    for stage, (rows, columns) in zip(config.stages, config.resolutions(), strict=True):
        values += rows * columns * (stage.width * (2 * stage.blocks + 6) + 8 * stage.latents)
    return item_bytes * values


def sampling_steps(config: ModelConfig) -> int:
    """Return the number of steps in which the pixels of an image are drawn."""
    if not config.decoder.autoregressive:
        return 1
    rows, columns = config.grid
    return config.decoder.patch**2 * (columns + min(config.decoder.lag, columns) * (rows - 1))


def image_flop(config: ModelConfig, parameters: int) -> float:
    """Return an upper bound of the floating-point operations of a forward pass over one image.

    Args:
        config: Configuration of the model.
        parameters: Number of its weights.
    """
    decoder, places = config.decoder, math.prod(config.grid)
    # Products of pairs, and exponentials, which take as long as a hundred operations.
    pairs = len(decoder.attention) * places**2 * (4.0 * decoder.attention_features + 100.0 * decoder.heads)
    return 2.0 * parameters * places * decoder.patch**2 + pairs


def images_at_once(config: ModelConfig, most: int, room_bytes: int = BATCH_BYTES) -> int:
    """Return the number of images, at most `most`, that fit into `room_bytes`, and at least 1."""
    return max(1, min(most, room_bytes // image_bytes(config)))


def check_costs(config: ModelConfig, parameters: int, source: str) -> None:
    """Check that a model from a file can be used at all.

    Raises:
        InputError: An image would take too much memory, too many steps or too much work.
    """
    costs = (
        (image_bytes(config) / 2**20, MOST_IMAGE_BYTES / 2**20, "MiB of memory"),
        (sampling_steps(config), MOST_STEPS, "steps to be drawn"),
        (image_flop(config, parameters) / 1e9, MOST_FLOP / 1e9, "GFLOP"),
    )
    for cost, most, what in costs:
        if cost > most:
            raise InputError(f"{source}: an image of its model takes {cost:,.0f} {what}, at most {most:,.0f}")


def count_parameters(config: ModelConfig) -> int:
    """Return the number of weights of a model from its configuration, without allocating them."""
    decoder = config.decoder
    outputs = likelihood_parameters(config)
    values = config.channels * decoder.patch**2
    vectors = decoder.condition + 2 * sum(stage.width for stage in config.stages)
    total, below = len(config.classes) * vectors, values
    for index, (stage, (height, width)) in enumerate(zip(config.stages, config.resolutions(), strict=True)):
        down = below if index else decoder.condition
        top = index == len(config.stages) - 1
        total += _stage_parameters(stage, below, down, height * width, top=top)
        below = stage.width
    return total + _decoder_parameters(decoder, values, outputs, math.prod(config.grid))


def _stage_parameters(stage: StageConfig, below: int, down: int, pixels: int, *, top: bool) -> int:
    width = stage.width
    total = _conv(below, width, 9) + 4 * stage.blocks * _conv(width, width, 9) + _conv(width, down, 9)
    if not stage.latents:
        return total
    window, places = (1, pixels) if stage.dense else (9, 1)
    heads = 1 if top else 2
    total += heads * _conv(width * places, 2 * stage.latents, window)
    return total + _conv(stage.latents, width * places, window)


def _decoder_parameters(decoder: DecoderConfig, values: int, outputs: int, places: int) -> int:
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
    first += width * places if decoder.positions else 0
    return first + layers + earlier + pixels * (_conv(width, width, 1) + _conv(width, outputs, 1))


def _conv(inputs: int, outputs: int, window: int) -> int:
    """Return the number of weights and biases of a convolution with `window` taps."""
    return outputs * (inputs * window + 1)


def _causal(side: int) -> int:
    """Return the number of taps of a causal convolution; rows below the centre are not stored."""
    return side * (side // 2 + 1)
