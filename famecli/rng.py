"""Random numbers by explicit streams: what a stream yields depends on its name alone.

A stream is numpy's counter-based Philox keyed with SHA-256 of its name, for example
`("sample", 17)`. Naming a stream after one image makes that image independent of the batch it is in;
naming one after a training step makes a resumed run equal to an unbroken one with nothing to store.
The normals of images come from the inverse CDF, so that drawing 3 + 5 values yields the same as drawing 8.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


def stream(*name: str | int) -> np.random.Generator:
    """Return the generator of the stream called `name`.

    Args:
        name: Words and integers; `("a", 1)` and `("a", "1")` are two different streams.
    """
    digest = hashlib.sha256(repr(name).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def uniforms(
    generator: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return uniforms in [0, 1) on the CPU; float32 values are multiples of 2^-24, so never rounded to 1."""
    raw = torch.from_numpy(generator.random(math.prod(shape)).reshape(tuple(shape)))
    return raw if dtype == torch.float64 else (raw * 2**24).floor_().div_(2**24).to(dtype)


def normals(generator: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Return standard normals (float32, CPU) by the inverse CDF of one uniform each."""
    raw = torch.from_numpy(generator.random(math.prod(shape)).reshape(tuple(shape)))
    # Half a step up from 0, whose normal is -infinity; the largest uniform must not be rounded up to 1.
    quantiles: Tensor = torch.special.ndtri(raw.add_(2**-54).clamp_(max=1 - 2**-53))
    return quantiles.float()


class Noise(Protocol):
    """What a model asks for when it draws latents."""

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        """Return standard normals of `shape` `(B, ...)` for the stochastic layer with that index."""
        ...


class BatchNoise:
    """Noise of a whole batch from one stream, for training.

    Args:
        generator: The stream, for example that of a training step.
        device: Where the noise is needed.
    """

    def __init__(self, generator: np.random.Generator, device: torch.device | str = "cpu") -> None:
        self.generator = generator
        self.device = device

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        # Not by inverse CDF as below: a step draws its whole batch at once, and this is twenty times faster.
        return torch.from_numpy(self.generator.standard_normal(shape, np.float32)).to(self.device)


class PartNoise:
    """The noise of some rows of a batch: the same rows, in whatever parts the batch is computed.

    Each layer is drawn once, for the whole batch, in the order in which layers are first asked for.

    Args:
        whole: Noise of the batch.
        batch: Its images.
        device: Where the noise is needed.
    """

    def __init__(self, whole: Noise, batch: int, device: torch.device | str = "cpu") -> None:
        self.whole, self.batch, self.device = whole, batch, device
        self.rows = slice(0, batch)
        self.drawn: dict[int, Tensor] = {}

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        if layer not in self.drawn:
            self.drawn[layer] = self.whole.normal(layer, torch.Size((self.batch, *shape[1:])))
        return self.drawn[layer][self.rows].to(self.device)


class ImageNoise:
    """Noise with one stream per image and layer: an image's noise is the same in any batch.

    Args:
        names: One stream name per image.
        samples: Importance samples per image; the batch is then image-major, `(len(names) * samples, ...)`.
            Calling again goes on in each stream, so samples may be drawn in chunks of any size.
        device: Where the noise is needed.
    """

    def __init__(
        self, names: Sequence[tuple[str | int, ...]], samples: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.names = list(names)
        self.samples = samples
        self.device = device
        self.streams: dict[int, list[np.random.Generator]] = {}

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        if layer not in self.streams:
            self.streams[layer] = [stream(*name, layer) for name in self.names]
        each = (self.samples, *shape[1:])
        return torch.cat([normals(generator, each) for generator in self.streams[layer]]).to(self.device)


def image_uniforms(
    names: Sequence[tuple[str | int, ...]], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return `(len(names), *shape)` uniforms on the CPU, one stream per image."""
    return torch.stack([uniforms(stream(*name, "pixels"), shape, dtype) for name in names])
