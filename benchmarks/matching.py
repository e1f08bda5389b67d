"""Models of equal parameters and trainings of equal compute."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from famecli.config.costs import count_parameters
from famecli.config.presets import DENSE, PRESETS
from famecli.config.schema import ModelConfig, StageConfig, to_dict

Change = Literal["width", "latents", "decoder"]
# Factors are multiples of 1/256, up to 8.
FINEST = 256
LARGEST = 8 * FINEST


def with_parts_of(config: ModelConfig, preset: str) -> ModelConfig:
    """Return `config`, a `fame`, with the parts of another preset and the sizes of `config`.

    Presets also differ in sizes that suit their decoders; comparisons must vary the parts alone.
    """
    row, stages = PRESETS[preset], list(config.stages)
    if row.latents == "none":
        stages = []
    for index, stage in enumerate(stages):
        kept = row.ladder or index == len(stages) - 1
        dense = row.latents == "dense" and kept
        latents = stage.latents * (DENSE if dense else 1) if kept else 0
        stages[index] = dataclasses.replace(stage, latents=latents, dense=dense)
    decoder = dataclasses.replace(
        config.decoder,
        autoregressive=row.autoregressive,
        condition=config.decoder.condition if stages else 0,
        attention=config.decoder.attention if row.autoregressive else (),
    )
    return dataclasses.replace(config, preset=preset, stages=tuple(stages), decoder=decoder)


def scaled(config: ModelConfig, change: Change, factor: float) -> ModelConfig:
    """Return `config` with the ladder's feature maps, its latents or the decoder's maps scaled by `factor`.

    The minimum is 1; a stage without latents stays without.
    """
    if change == "decoder":
        width = max(1, round(config.decoder.width * factor))
        return dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, width=width))

    def stage_of(stage: StageConfig) -> StageConfig:
        value = getattr(stage, change)
        changed = max(1, round(value * factor)) if value else 0
        if change == "width":
            return dataclasses.replace(stage, width=changed)
        return dataclasses.replace(stage, latents=changed)

    return dataclasses.replace(config, stages=tuple(stage_of(stage) for stage in config.stages))


def fitted(config: ModelConfig, target: int, change: Change) -> ModelConfig:
    """Return `scaled(config, change, factor)` with the number of parameters nearest to `target`.

    Args:
        config: Configuration of the model; needs stages unless the decoder is scaled.
        target: Number of parameters.
        change: Part to scale.
    """
    low, high = 1, LARGEST
    # Parameters grow with the factor: find the first factor that reaches the target.
    while low < high:
        middle = (low + high) // 2
        if count_parameters(scaled(config, change, middle / FINEST)) < target:
            low = middle + 1
        else:
            high = middle
    candidates = [scaled(config, change, step / FINEST) for step in (max(1, low - 1), low)]
    return min(candidates, key=lambda each: abs(count_parameters(each) - target))


def coarser(config: ModelConfig) -> ModelConfig:
    """Return the model with latents at half the height and width, and twice as many maps.

    The lowest stochastic stage is preceded by a copy of itself without latents.
    """
    first = next(index for index, stage in enumerate(config.stages) if stage.latents)
    upper = (dataclasses.replace(stage, latents=2 * stage.latents) for stage in config.stages[first:])
    without = dataclasses.replace(config.stages[first], latents=0)
    return dataclasses.replace(config, stages=(*config.stages[:first], without, *upper))


def flops_per_image(config: ModelConfig) -> int:
    """Return the floating point operations of a training step per image, as `costs` counts them."""
    from famecli.model.fame import Fame
    from famecli.training.costs import costs

    return round(costs(Fame(config)).flops)


def assignments(before: ModelConfig, after: ModelConfig) -> list[str]:
    """Return the settings `KEY=VALUE` for `fame train --set` that turn `before` into `after`."""
    changes = _changes(to_dict(before), to_dict(after), "model")
    return [f"{key}={_toml(value)}" for key, value in changes]


def _toml(value: Any) -> str:  # noqa: ANN401
    """Return plain values as TOML in one line, with bare strings, as `--set` takes them."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _changes(before: Any, after: Any, key: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Yield the paths at which two tables with the same keys differ, with the new values."""
    if isinstance(before, dict):
        for name, value in before.items():
            yield from _changes(value, after[name], f"{key}.{name}")
    elif isinstance(before, list) and len(before) == len(after):
        for index, value in enumerate(before):
            yield from _changes(value, after[index], f"{key}.{index}")
    elif before != after:
        yield key, after
