"""Models of equal parameters and trainings of equal compute."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from famecli.config import ModelConfig, StageConfig, to_dict

Change = Literal["width", "latents"]
# Factors are tried in steps of a 256th, up to 8.
FINEST = 256
LARGEST = 8 * FINEST
FLOP_BATCH = 2


def scaled(config: ModelConfig, change: Change, factor: float) -> ModelConfig:
    """Return `config` with the ladder's feature maps, or its latents, times `factor`; the decoder stays.

    Nothing falls below 1, and a stage without latents gets none.
    """

    def stage_of(stage: StageConfig) -> StageConfig:
        value = getattr(stage, change)
        changed = max(1, round(value * factor)) if value else 0
        if change == "width":
            return dataclasses.replace(stage, width=changed)
        return dataclasses.replace(stage, latents=changed)

    return dataclasses.replace(config, stages=tuple(stage_of(stage) for stage in config.stages))


def fitted(
    config: ModelConfig, target: int, change: Change, count: Callable[[ModelConfig], int] | None = None
) -> ModelConfig:
    """Return `scaled(config, change, factor)` with the factor that brings it nearest to `target` parameters.

    Args:
        config: A model with stages.
        target: Parameters.
        change: What may be scaled.
        count: Counts the parameters; default: `count_parameters`.
    """
    measure = count or count_parameters
    low, high = 1, LARGEST
    # Parameters grow with the factor: find the first factor that reaches the target.
    while low < high:
        middle = (low + high) // 2
        if measure(scaled(config, change, middle / FINEST)) < target:
            low = middle + 1
        else:
            high = middle
    candidates = [scaled(config, change, step / FINEST) for step in (max(1, low - 1), low)]
    return min(candidates, key=lambda each: abs(measure(each) - target))


def count_parameters(config: ModelConfig) -> int:
    """Return the number of weights, of which none is allocated."""
    import torch

    from famecli.model.fame import Fame

    with torch.device("meta"):
        return Fame(config).count_parameters()


def flops_per_image(config: ModelConfig) -> int:
    """Return the floating point operations of a training step for each of its images.

    Forward and backward passes count, a multiplication with its addition as two; masked taps are computed, so
    they count; elementwise operations and the optimizer do not.

    Source: torch.utils.flop_counter.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from famecli.model.fame import Fame
    from famecli.rng import BatchNoise, stream

    model = Fame(config)
    images = torch.zeros(FLOP_BATCH, *config.image_shape)
    counter = FlopCounterMode(display=False)
    with counter:
        model(images, BatchNoise(stream("flops"))).negative_elbo.mean().backward()
    return int(counter.get_total_flops()) // FLOP_BATCH


def assignments(before: ModelConfig, after: ModelConfig) -> list[str]:
    """Return the words `KEY=VALUE` of `fame train --set` that turn `before` into `after`."""
    return [f"{key}={value}" for key, value in _changes(to_dict(before), to_dict(after), "model")]


def _changes(before: Any, after: Any, key: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the paths at which two tables of the same form differ, with the later values."""
    if isinstance(before, dict):
        for name, value in before.items():
            yield from _changes(value, after[name], f"{key}.{name}")
    elif isinstance(before, Sequence) and not isinstance(before, str):
        for index, value in enumerate(before):
            yield from _changes(value, after[index], f"{key}.{index}")
    elif before != after:
        yield key, after
