"""Models with classes, and images of classes, for tests."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from famecli.checkpoints.checkpoint import save_checkpoint
from famecli.config.presets import model_config
from famecli.config.schema import ModelConfig
from famecli.model.fame import Fame
from support.models import randomise

NAMES = ("cat", "dog", "7")
SHAPE = (1, 8, 8)


def with_classes(preset: str, shape: tuple[int, int, int] = SHAPE, levels: int = 2) -> ModelConfig:
    config = model_config(preset, "tiny", shape, levels)
    decoder = dataclasses.replace(config.decoder, condition=config.decoder.condition or 4)
    return dataclasses.replace(config, classes=NAMES, decoder=decoder)


def conditional(
    preset: str, shape: tuple[int, int, int] = SHAPE, levels: int = 2, dtype: torch.dtype = torch.float32
) -> Fame:
    return randomise(Fame(with_classes(preset, shape, levels)), dtype=dtype).eval().requires_grad_(False)


def saved(path: Path, preset: str = "fame") -> Path:
    model = conditional(preset)
    save_checkpoint(path, model.config, model.state_dict(), None, {"provenance": {"dataset": "folder"}})
    return path


def class_folder(folder: Path, images: int = 20, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write bits as images, a folder for each class: those of a class share half of their pixels."""
    source = np.random.default_rng(0)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            pixels = source.integers(0, 2, SHAPE[1:])
            pixels[:4] = index
            Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder
