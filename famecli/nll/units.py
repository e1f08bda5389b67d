"""Nats, bits, and bits per dimension."""

import math
from collections.abc import Sequence

NATS_PER_BIT = math.log(2.0)


def bits_per_dim(nats: float, shape: Sequence[int]) -> float:
    """Return nats per image of `shape` (channels, height, width) as bits per pixel and channel."""
    return nats / (NATS_PER_BIT * math.prod(shape))
