"""Presets: one row per model, three sizes each, all of them one `ModelConfig`. No torch here."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from famecli.config import DecoderConfig, ModelConfig, StageConfig
from famecli.errors import UsageError, closest

Size = Literal["tiny", "small", "paper"]
SIZES: tuple[Size, ...] = ("tiny", "small", "paper")


@dataclass(frozen=True)
class Preset:
    """What makes a model what it is.

    Args:
        title: One line for lists and help.
        latents: "maps" (feature maps), "dense" (vectors), or "none".
        ladder: Whether every stage of the size keeps its latents; else the top one alone.
        autoregressive: Whether the decoder is a PixelCNN.
    """

    title: str
    latents: Literal["maps", "dense", "none"]
    ladder: bool
    autoregressive: bool


PRESETS = {
    "fame": Preset("ladder of latent feature maps under a PixelCNN decoder", "maps", True, True),
    "fame-no-concat": Preset("ladder of latent feature maps, factorized decoder", "maps", True, False),
    "fame-dense": Preset("ladder of dense latents under a PixelCNN decoder", "dense", True, True),
    "lvae": Preset("ladder of dense latents, factorized decoder", "dense", True, False),
    "pixelvae": Preset("one layer of dense latents under a PixelCNN decoder", "dense", False, True),
    "pixelcnn": Preset("PixelCNN without latents, exact likelihood", "none", False, True),
    "vae": Preset("one layer of dense latents, factorized decoder", "dense", False, False),
}

# From the image upwards; latents of maps are per position, and become a vector of `DENSE` times as many.
STAGES: dict[Size, tuple[StageConfig, ...]] = {
    "tiny": (
        StageConfig(width=16, blocks=0, stride=2),
        StageConfig(width=24, blocks=1, stride=2, latents=4),
        StageConfig(width=24, blocks=1, stride=2, latents=4),
    ),
    "small": (
        StageConfig(width=48, blocks=1, stride=2),
        StageConfig(width=64, blocks=1, stride=2, latents=8),
        StageConfig(width=64, blocks=2, stride=1, latents=8),
        StageConfig(width=64, blocks=2, stride=2, latents=12),
    ),
    "paper": (
        StageConfig(width=96, blocks=2, stride=2, latents=8),
        StageConfig(width=128, blocks=2, stride=2, latents=16),
        StageConfig(width=128, blocks=2, stride=1, latents=16),
        StageConfig(width=128, blocks=2, stride=2, latents=24),
        StageConfig(width=128, blocks=2, stride=1, latents=24),
    ),
}
DENSE: dict[Size, int] = {"tiny": 4, "small": 4, "paper": 4}
DECODERS: dict[Size, DecoderConfig] = {
    "tiny": DecoderConfig(autoregressive=True, width=12, layers=2, condition=12),
    "small": DecoderConfig(autoregressive=True, width=24, layers=6, first_kernel=15, condition=24),
    "paper": DecoderConfig(autoregressive=True, width=96, layers=12, first_kernel=15, condition=64),
}


def model_config(preset: str, size: Size, shape: tuple[int, int, int], levels: int) -> ModelConfig:
    """Return the configuration of `preset` for images of `shape` (channels, height, width).

    Raises:
        UsageError: There is no such preset.
    """
    row = preset_named(preset)
    stages: tuple[StageConfig, ...] = ()
    if row.latents != "none":
        last = len(STAGES[size]) - 1
        stages = tuple(
            _stage(stage, row, DENSE[size], keep=row.ladder or index == last)
            for index, stage in enumerate(STAGES[size])
        )
    decoder = dataclasses.replace(
        DECODERS[size],
        autoregressive=row.autoregressive,
        condition=DECODERS[size].condition if stages else 0,
    )
    channels, height, width = shape
    return ModelConfig(
        preset=preset,
        likelihood="bernoulli" if levels == 2 else "logistic-mixture",
        channels=channels,
        height=height,
        width=width,
        levels=levels,
        stages=stages,
        decoder=decoder,
    )


def preset_named(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        UsageError: There is none.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown model {name!r}", closest(name, PRESETS, "models"))
    return PRESETS[name]


def _stage(stage: StageConfig, row: Preset, factor: int, *, keep: bool) -> StageConfig:
    if not keep:
        return dataclasses.replace(stage, latents=0)
    dense = row.latents == "dense"
    return dataclasses.replace(stage, dense=dense, latents=stage.latents * (factor if dense else 1))
