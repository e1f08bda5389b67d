"""Statistics of an image's importance weights: the curve over their number, and its errors."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Importance:
    """Statistics of K importance weights per image, besides the log of their mean.

    Args:
        samples: Sizes `k` of blocks of weights: 1, 2, 5, 10, 20, 50, ... and K.
        curve: `-log` of the mean weight of a block, averaged over the disjoint blocks of that size, nats,
            `(N, len(samples))`: an unbiased estimate of the bound with `k` weights. K weights are one block.
        stderr: Standard errors of `curve` over draws of the latents, nats, `(N, len(samples))`.
        effective: Effective sample size of each image, 1 to K, `(N,)`.
    """

    samples: tuple[int, ...]
    curve: np.ndarray
    stderr: np.ndarray
    effective: np.ndarray

    @property
    def stderr_of_means(self) -> np.ndarray:
        """Standard errors of the means over these images, due to draws of the latents alone, nats.

        Shape: `(len(samples),)`.
        """
        total: np.ndarray = np.sqrt(np.square(self.stderr).sum(0)) / len(self.stderr)
        return total


def block_sizes(samples: int) -> tuple[int, ...]:
    """Return 1, 2, 5, 10, 20, 50, ... up to `samples`, and `samples` itself.

    >>> block_sizes(30)
    (1, 2, 5, 10, 20, 30)
    """
    steps = (base * 10**power for power in range(len(str(samples))) for base in (1, 2, 5))
    return (*(step for step in steps if step < samples), samples)


def weigh(log_weights: Tensor) -> Importance:
    """Return the statistics of log-weights.

    Standard errors come from the standard deviation over blocks. For a single block of k weights, the delta
    method gives the relative error of their mean, `sqrt((k / ESS - 1) / (k - 1))`, with the effective sample
    size ESS `(sum w)^2 / sum w^2`.

    Args:
        log_weights: Float64, `(N, K)`, K at least 2, in the order in which they were drawn.

    Source: effective sample size: Kong, A note on importance sampling using standardized weights, 1992.
    """
    samples = log_weights.shape[1]
    sizes = block_sizes(samples)
    blocks = [_blocks(log_weights, size) for size in sizes]
    curve = torch.stack([each.mean(1) for each in blocks], dim=1)
    stderr = torch.stack(
        [
            each.std(1) / math.sqrt(each.shape[1]) if each.shape[1] > 1 else _error(log_weights[:, :size])
            for each, size in zip(blocks, sizes, strict=True)
        ],
        dim=1,
    )
    return Importance(sizes, curve.numpy(), stderr.numpy(), _effective(log_weights).numpy())


def _effective(log_weights: Tensor) -> Tensor:
    """Return the effective sample size of each image, `(N,)`."""
    found = torch.exp(2.0 * log_weights.logsumexp(1) - (2.0 * log_weights).logsumexp(1))
    return found.clamp(1.0, log_weights.shape[1])


def _error(log_weights: Tensor) -> Tensor:
    """Return the relative standard error of the mean weight of each image, `(N,)`."""
    samples = log_weights.shape[1]
    return ((samples / _effective(log_weights) - 1.0) / (samples - 1)).sqrt()


def log_mean(log_weights: Tensor) -> Tensor:
    """Return the log of the mean of exponentials over the last dimension."""
    return log_weights.logsumexp(-1) - math.log(log_weights.shape[-1])


def _blocks(log_weights: Tensor, size: int) -> Tensor:
    """Return `-log` of the mean weight of each block of `size`, `(N, blocks)`."""
    blocks = log_weights.shape[1] // size
    return -log_mean(log_weights[:, : blocks * size].unflatten(1, (blocks, size)))
