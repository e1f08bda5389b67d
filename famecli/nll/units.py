"""Nats, bits, and bits per dimension."""

import math
from collections.abc import Sequence
from typing import Literal

NATS_PER_BIT = math.log(2.0)


def bits_per_dim(nats: float, shape: Sequence[int]) -> float:
    """Return nats per image of `shape` (channels, height, width) as bits per pixel and channel."""
    return nats / (NATS_PER_BIT * math.prod(shape))


def unit_of(levels: int) -> Literal["nats/image", "bits/dim"]:
    """Return the unit in which papers report the NLL of images with a number of levels."""
    return "nats/image" if levels == 2 else "bits/dim"
