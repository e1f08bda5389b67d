"""Random numbers from named streams: the numbers of a stream depend only on its name.

A stream is numpy's counter-based Philox keyed with SHA-256 of its name, for example `("sample", 17)`. A
stream per image makes the image independent of its batch; a stream per training step makes a resumed run
equal to an unbroken one, without any stored state. The normals of images come from the inverse CDF, so that
drawing 3 + 5 values gives the same as drawing 8.
"""

import hashlib
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Words and integers.
StreamName = tuple[str | int, ...]


def stream(*name: str | int) -> np.random.Generator:
    """Return the generator of the stream called `name`.

    Args:
        name: Words and integers of any type; `("a", 1)` and `("a", "1")` are two different streams.
    """
    plain = tuple(part if isinstance(part, str) else operator.index(part) for part in name)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def uniforms(
    generator: np.random.Generator, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return uniforms in [0, 1) on the CPU; float32 values are multiples of 2^-24, never rounded to 1."""
    raw = torch.from_numpy(generator.random(math.prod(shape)).reshape(tuple(shape)))
    return raw if dtype == torch.float64 else (raw * 2**24).floor_().div_(2**24).to(dtype)


def normals(generator: np.random.Generator, shape: Sequence[int]) -> Tensor:
    """Return standard normals (float32, CPU) by the inverse CDF of one uniform each."""
    raw = torch.from_numpy(generator.random(math.prod(shape)).reshape(tuple(shape)))
    # Shift by half a step: the normal of 0 is -infinity. Clamp: the sum can round up to 1.
    quantiles: Tensor = torch.special.ndtri(raw.add_(2**-54).clamp_(max=1 - 2**-53))
    return quantiles.float()


class Seeded(TorchDispatchMode):
    """Context in which initial weights are drawn from a generator of their own, on the CPU.

    Values are those after `torch.manual_seed(seed)`. The default generator, which all threads share, stays as
    it is. Only operations that fill a tensor in place are allowed.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator("cpu").manual_seed(seed)

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        random = {"generator": self.generator} if torch.Tag.nondeterministic_seeded in func.tags else {}
        return func(*args, **(kwargs or {}), **random)


# Source of latents: maps the index of a stochastic layer and a shape `(B, ...)` to standard normals.
Noise = Callable[[int, torch.Size], Tensor]


class BatchNoise:
    """Noise of a whole batch from one stream, for training.

    Args:
        generator: Stream, for example that of a training step.
        device: Device of the noise.
    """

    def __init__(self, generator: np.random.Generator, device: torch.device | str = "cpu") -> None:
        self.generator, self.device = generator, device

    def __call__(self, layer: int, shape: torch.Size) -> Tensor:
        # A step draws its whole batch at once, so it needs no inverse CDF; this is twenty times faster.
        return torch.from_numpy(self.generator.standard_normal(shape, np.float32)).to(self.device)


class PartNoise:
    """Noise of some rows of a batch, the same however the batch is divided.

    All layers are drawn at once, for the whole batch, from the top down: a compiled pass cannot draw.

    Args:
        whole: Noise of the batch.
        batch: Number of images of the batch.
        shapes: Shape of each layer's latents, from the image upwards, without the batch.
        device: Device of the noise.

    Attributes:
        rows: Rows of the batch that the next calls return; all at first.
    """

    def __init__(
        self,
        whole: Noise,
        batch: int,
        shapes: Sequence[Sequence[int]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.rows = slice(0, batch)
        self.drawn = {
            layer: whole(layer, torch.Size((batch, *shapes[layer]))).to(device)
            for layer in reversed(range(len(shapes)))
        }

    def __call__(self, layer: int, shape: torch.Size) -> Tensor:
        return self.drawn[layer][self.rows]


class ImageNoise:
    """Noise with one stream per image and layer: an image's noise is the same in any batch.

    Args:
        names: One stream name per image.
        samples: Importance samples per image; the batch is then image-major, `(len(names) * samples, ...)`.
            Further calls continue each stream, so samples may be drawn in chunks of any size.
        device: Device of the noise.
    """

    def __init__(
        self, names: Sequence[StreamName], samples: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.names, self.samples, self.device = list(names), samples, device
        self.streams: dict[int, list[np.random.Generator]] = {}

    def __call__(self, layer: int, shape: torch.Size) -> Tensor:
        if layer not in self.streams:
            self.streams[layer] = [stream(*name, layer) for name in self.names]
        each = (self.samples, *shape[1:])
        return torch.cat([normals(generator, each) for generator in self.streams[layer]]).to(self.device)


def image_uniforms(
    names: Sequence[StreamName], shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return uniforms `(len(names), *shape)` on the CPU, one stream per image."""
    return torch.stack([uniforms(stream(*name, "pixels"), shape, dtype) for name in names])
