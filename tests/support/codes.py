"""Images to code, and coded files with other contents."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from famecli.checkpoints.header import canonical_json
from famecli.coding.codec import Codec, Coded
from famecli.model.fame import Fame
from famecli.nll.evaluate import evaluate
from famecli.nll.record import NATS_PER_BIT
from support.models import random_images

BITS = (1, 5, 4)
# Bins this fine cost next to nothing.
FINE = 12
PREFIX_BYTES = 16


def images_of(count: int, shape: tuple[int, int, int] = BITS, levels: int = 2) -> np.ndarray:
    return random_images(count, shape, levels).numpy().astype(np.uint8)


def all_bits(model: Fame, bits: int) -> list[list[int]]:
    return [[bits] * stage.latents for stage in model.config.stages if stage.latents]


def again(model: Fame, coded: Coded) -> np.ndarray:
    """Decode with a fresh codec."""
    return Codec(model).decode(coded)


def change_last_digits(model: Fame) -> None:
    """Perturb all weights by far more than processors differ, so that few images suffice."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.0 + 1e-9 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)


def bound_bits(model: Fame, images: np.ndarray) -> float:
    nlls = evaluate(model, images, importance_samples=16)
    return float(nlls.distortion.sum() + nlls.rate.sum()) / NATS_PER_BIT


def sealed(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return a file with another header and valid checksums, as a forger would make it."""
    length = int.from_bytes(content[PREFIX_BYTES - 4 : PREFIX_BYTES], "little")
    data = json.loads(zlib.decompress(content[PREFIX_BYTES : PREFIX_BYTES + length]))
    change(data)
    return packed(content, zlib.compress(canonical_json(data).encode(), 9))


def packed(content: bytes, header: bytes, payload: bytes | None = None) -> bytes:
    length = int.from_bytes(content[PREFIX_BYTES - 4 : PREFIX_BYTES], "little")
    payload = content[PREFIX_BYTES + length : -4] if payload is None else payload
    start = content[: PREFIX_BYTES - 4] + len(header).to_bytes(4, "little") + header + payload
    return start + zlib.crc32(start).to_bytes(4, "little")


def set_to(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data.update(values)
