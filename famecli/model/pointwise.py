"""Pointwise functions of the layers; some are faster on CPUs than torch's own.

The forward pass gives the same bits with and without gradients. Compiled steps use the plain formulas, which
the compiler fuses. Times: `python -m benchmarks.pointwise`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SMALLEST_SQUARE = 1e-6


def to_float32_or_wider(x: Tensor) -> Tensor:
    """Return `x` in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalise(h: Tensor, dim: int = 1) -> Tensor:
    """Return `h` divided by its root mean square over `dim`.

    Source: arXiv:1910.07467, equation 4, without gains.
    """
    square = to_float32_or_wider(h).square().mean(dim, keepdim=True)
    return h * torch.rsqrt(square + SMALLEST_SQUARE).to(h.dtype)


def activate(h: Tensor, *, normalised: bool) -> Tensor:
    """Return the ELU of `h`, or of `h` divided by its root mean square over channels."""
    return normalised_elu(h) if normalised else F.elu(h)


def gate(both: Tensor) -> Tensor:
    """Return `F.glu(both, 1)`, which is `a * sigmoid(b)`.

    Args:
        both: Maps `a` and after them as many `b`, `(B, 2 * width, ...)`.

    Returns:
        `(B, width, ...)`, where bfloat16 is rounded twice.

    Differs: on CPUs two operations, since the gradient of torch's one is slow in channels-last layout.
    """
    if torch.compiler.is_compiling() or both.device.type != "cpu":
        return F.glu(both, 1)
    a, b = both.chunk(2, 1)
    return a * torch.sigmoid(b)


def normalised_elu(h: Tensor) -> Tensor:
    """Return the ELU of `h` divided at each position by its root mean square over channels.

    Args:
        h: Maps `(B, width, ...)`; bfloat16 is computed in float32, and the result is rounded once.
    """
    if torch.compiler.is_compiling():
        wide = to_float32_or_wider(h)
        scale = (wide.square().mean(1, keepdim=True) + SMALLEST_SQUARE).rsqrt()
        return F.elu(wide * scale).to(h.dtype)
    if not (h.requires_grad and torch.is_grad_enabled()):
        return _normalised_elu(h)[0]
    result: Tensor = _NormalisedElu.apply(h)
    return result


class _NormalisedElu(torch.autograd.Function):
    """`normalised_elu` with its gradient; saves `h`, the result, and a number per position."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # noqa: ANN401
        y, scale = _normalised_elu(h)
        ctx.save_for_backward(h, y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        h, y, scale = ctx.saved_tensors
        # With n = scale * h, and g the gradient of n: scale * (g - n * mean(g * n)).
        g = to_float32_or_wider(torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, y))
        along = (g * h).sum(1, keepdim=True).mul_(scale).mul_(scale).mul_(scale).div_(-h.shape[1])
        return g.mul_(scale).addcmul_(to_float32_or_wider(h), along).to(h.dtype)


def _normalised_elu(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result, and the factor of each position in float32 or wider."""
    wide = to_float32_or_wider(h)
    norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    scale = norm.square_().div_(h.shape[1]).add_(SMALLEST_SQUARE).rsqrt_()
    return F.elu_(wide * scale).to(h.dtype), scale
