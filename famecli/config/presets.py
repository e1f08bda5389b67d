"""Presets: one row per model, three sizes each; all become a `ModelConfig`. No torch here."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from famecli.config.schema import DecoderConfig, ModelConfig, StageConfig
from famecli.errors import ArgumentError, did_you_mean

Size = Literal["tiny", "small", "paper"]
SIZES: tuple[Size, ...] = ("tiny", "small", "paper")
DEFAULT_SIZE: Size = "small"


@dataclass(frozen=True)
class Preset:
    """Kind of a model, whatever its size.

    Args:
        title: One line for lists and help.
        latents: "maps" (feature maps), "dense" (vectors), or "none".
        ladder: Whether every stage of the size keeps its latents; else only the top one.
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


@dataclass(frozen=True)
class Sizes:
    """Stages and decoders of one size, by the kind of decoder.

    Args:
        ladder: Stages under a PixelCNN, from the image upwards. Latents are counted in maps; a dense latent
            has `DENSE` times as many entries.
        decoder: PixelCNN with latents.
        alone: PixelCNN without latents.
        factorized_ladder: Stages under a factorized decoder.
        factorized: Factorized decoder.
    """

    ladder: tuple[StageConfig, ...]
    decoder: DecoderConfig
    alone: DecoderConfig
    factorized_ladder: tuple[StageConfig, ...]
    factorized: DecoderConfig


def _equal(ladder: tuple[StageConfig, ...], decoder: DecoderConfig) -> Sizes:
    """Return a size with equal stages and decoder for all presets."""
    factorized = dataclasses.replace(decoder, autoregressive=False)
    return Sizes(ladder, decoder, dataclasses.replace(decoder, condition=0), ladder, factorized)


# PixelCNNs over patches depend on the kind of image; see docs/experiments.md. Attention is for binary images.
ATTENTION = (2, 5, 8)
OTHER_FIRST_KERNEL, OTHER_WIDTH = 5, 48
PATCHES = DecoderConfig(
    autoregressive=True,
    width=64,
    layers=8,
    condition=16,
    lag=3,
    patch=2,
    heads=2,
    attention_width=32,
    positions=True,
)
SIZED: dict[Size, Sizes] = {
    "tiny": _equal(
        (
            StageConfig(width=16, blocks=0, stride=2),
            StageConfig(width=24, blocks=1, stride=2, latents=4),
            StageConfig(width=24, blocks=1, stride=2, latents=4),
        ),
        DecoderConfig(autoregressive=True, width=12, layers=2, condition=12),
    ),
    "small": Sizes(
        ladder=(
            StageConfig(width=48, blocks=1, stride=2, latents=8),
            StageConfig(width=96, blocks=1, stride=2, latents=16),
        ),
        decoder=PATCHES,
        alone=dataclasses.replace(PATCHES, width=80, condition=0),
        factorized_ladder=(
            StageConfig(width=48, blocks=1, stride=1),
            StageConfig(width=64, blocks=1, stride=2, latents=8),
            StageConfig(width=64, blocks=2, stride=1, latents=8),
            StageConfig(width=64, blocks=2, stride=2, latents=12),
        ),
        factorized=DecoderConfig(autoregressive=False, width=48, layers=4, condition=48, patch=2),
    ),
    "paper": _equal(
        (
            StageConfig(width=96, blocks=2, stride=2, latents=8),
            StageConfig(width=128, blocks=2, stride=2, latents=16),
            StageConfig(width=128, blocks=2, stride=1, latents=16),
            StageConfig(width=128, blocks=2, stride=2, latents=24),
            StageConfig(width=128, blocks=2, stride=1, latents=24),
        ),
        DecoderConfig(autoregressive=True, width=96, layers=12, first_kernel=15, condition=64),
    ),
}
# Entries of a dense latent per latent map.
DENSE = 4


def model_config(preset: str, size: Size, shape: tuple[int, int, int], levels: int) -> ModelConfig:
    """Return the configuration of `preset` for images of `shape` (channels, height, width).

    Raises:
        ArgumentError: The preset is unknown.
    """
    row, sizes = preset_named(preset), SIZED[size]
    ladder = sizes.ladder if row.autoregressive else sizes.factorized_ladder
    decoder = sizes.decoder if row.autoregressive else sizes.factorized
    if row.latents == "none":
        ladder, decoder = (), sizes.alone
    stages = tuple(
        _stage(stage, row, keep=row.ladder or index == len(ladder) - 1) for index, stage in enumerate(ladder)
    )
    if decoder.autoregressive and decoder.patch > 1:
        decoder = _suited(decoder, levels)
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
        normalised=True,
        bounded_latents=True,
    )


def with_ladder_of(model: ModelConfig, alone: ModelConfig) -> ModelConfig:
    """Return the PixelCNN `alone` under the ladder of `model`; `alone` if it has latents or classes."""
    if alone.stages or alone.classes or not (model.stages and model.decoder.autoregressive):
        return alone
    decoder = dataclasses.replace(alone.decoder, condition=model.decoder.condition)
    return dataclasses.replace(alone, preset=model.preset, stages=model.stages, decoder=decoder)


def presets() -> dict[str, Preset]:
    """Return all presets by name, each with a one-line title: `presets()["fame"].title`."""
    return dict(PRESETS)


def _suited(decoder: DecoderConfig, levels: int) -> DecoderConfig:
    if levels == 2:
        return dataclasses.replace(decoder, attention=ATTENTION)
    # Without latents the decoder models everything, so it keeps its width.
    width = OTHER_WIDTH if decoder.condition else decoder.width
    return dataclasses.replace(decoder, width=width, first_kernel=OTHER_FIRST_KERNEL)


def preset_named(name: str) -> Preset:
    """Return the preset called `name`.

    Raises:
        ArgumentError: The preset is unknown.
    """
    if name not in PRESETS:
        raise ArgumentError(f"unknown model {name!r}", did_you_mean(name, PRESETS, "models"))
    return PRESETS[name]


def _stage(stage: StageConfig, row: Preset, *, keep: bool) -> StageConfig:
    if not keep:
        return dataclasses.replace(stage, latents=0)
    dense = row.latents == "dense"
    return dataclasses.replace(stage, dense=dense, latents=stage.latents * (DENSE if dense else 1))
