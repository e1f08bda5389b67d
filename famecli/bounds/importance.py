"""What several importance weights of an image say: the curve over their number, and its errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Importance:
    """What an image's K weights say beyond the log of their mean.

    Args:
        samples: Sizes `k` of blocks of weights: 1, 2, 5, 10, 20, 50, ... and K.
        curve: `-log` of the mean weight of a block, averaged over the disjoint blocks of that size, nats,
            `(N, len(samples))`: unbiased for what `k` weights would give. With K, all weights are one block.
        stderr: Standard error of each image's NLL over draws of the latents, nats, `(N,)`.
        effective: Effective sample size of each image, 1 to K, `(N,)`.
    """

    samples: tuple[int, ...]
    curve: np.ndarray
    stderr: np.ndarray
    effective: np.ndarray

    @property
    def stderr_of_mean(self) -> float:
        """Standard error of the mean NLL of these very images, over draws of the latents alone, nats."""
        return float(np.sqrt(np.square(self.stderr).sum()) / len(self.stderr))


def block_sizes(samples: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50, ... up to `samples`, and `samples` itself.

    >>> block_sizes(30)
    (1, 2, 5, 10, 20, 30)
    """
    steps = (base * 10**power for power in range(len(str(samples))) for base in (1, 2, 5))
    return (*(step for step in steps if step < samples), samples)


def weigh(log_weights: Tensor) -> Importance:
    """Return what log-weights say.

    The standard error is that of the delta method, `sqrt((K / ESS - 1) / (K - 1))`, with ESS the effective
    sample size `(sum w)^2 / sum w^2`: the relative error of the mean weight.

    Args:
        log_weights: Float64, `(N, K)`, K at least 2, in the order in which they were drawn.

    Source: effective sample size: Kong, A note on importance sampling using standardized weights, 1992.
    """
    samples = log_weights.shape[1]
    sizes = block_sizes(samples)
    curve = torch.stack([_blocks(log_weights, size) for size in sizes], dim=1)
    effective = torch.exp(2.0 * log_weights.logsumexp(1) - (2.0 * log_weights).logsumexp(1))
    effective = effective.clamp(1.0, samples)
    stderr = ((samples / effective - 1.0) / (samples - 1)).sqrt()
    return Importance(sizes, curve.numpy(), stderr.numpy(), effective.numpy())


def join(parts: Sequence[Importance]) -> Importance:
    """Return what parts say that have the same block sizes, one after the other."""
    curve, stderr, effective = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("curve", "stderr", "effective")
    )
    return Importance(parts[0].samples, curve, stderr, effective)


def log_mean(log_weights: Tensor) -> Tensor:
    """Return the log of the mean of exponentials over the last dimension."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def _blocks(log_weights: Tensor, size: int) -> Tensor:
    """Return `-log` of the mean weight of blocks of `size`, averaged over blocks, `(N,)`."""
    blocks = log_weights.shape[1] // size
    return -log_mean(log_weights[:, : blocks * size].unflatten(1, (blocks, size))).mean(1)
