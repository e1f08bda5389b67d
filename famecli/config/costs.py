"""Memory and work that a configuration asks for, known before anything is allocated. No torch here."""

import math

from famecli.config.schema import ModelConfig
from famecli.errors import InputError

# Largest costs of a model from a file; presets take a tenth at most.
MOST_IMAGE_BYTES = 1 << 30
MOST_STEPS = 1 << 14
MOST_FLOP = 2e12
# Memory of the images that are computed at once, unless the user chooses their number.
BATCH_BYTES = 4 << 30
FLOAT_BYTES = 4


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
    # Logits, means, scales and coefficients of a mixture; one logit for a bit.
    parameters = 1 if config.likelihood == "bernoulli" else config.mixtures * (3 * config.channels + 1)
    values += 4 * config.dimensions * parameters
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
    return 2.0 * parameters * math.prod(config.grid) * config.decoder.patch**2


def images_at_once(config: ModelConfig, most: int) -> int:
    """Return the number of images, at most `most`, that fit into `BATCH_BYTES`, and at least 1."""
    return max(1, min(most, BATCH_BYTES // image_bytes(config)))


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
