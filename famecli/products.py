"""Products of matrices in float32, by the library that is faster here; see `famecli.processor`."""

from typing import Protocol

import torch
from torch import Tensor

from famecli.processor import product_routine


class Product(Protocol):
    """What writes a product of matrices."""

    def __call__(self, weight: Tensor, x: Tensor, out: Tensor) -> Tensor:
        """Write `weight @ x` into `out`, and return it."""
        ...


def mm_into(weight: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Write `weight @ x` into `out` by `torch.mm`.

    Args:
        weight: Matrix `(outputs, inputs)`.
        x: Matrix `(inputs, columns)`.
        out: Matrix `(outputs, columns)`, of any strides.
    """
    return torch.mm(weight, x, out=out)


def linear_into(weight: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Write what `mm_into` does, to rounding, by oneDNN; there are no gradients.

    What oneDNN does not multiply is left to `torch.mm`: other types than float32, other devices than the
    CPU, empty matrices.
    """
    single = weight.dtype == x.dtype == torch.float32 and weight.device.type == "cpu"
    if not (single and weight.numel() and x.numel()):
        return mm_into(weight, x, out)
    # It multiplies by the transpose of its second matrix.
    return out.copy_(torch.ops.mkldnn._linear_pointwise(weight, x.mT, None, "none", [], ""))


def has_linear() -> bool:
    """Whether this torch has the routine of oneDNN that `linear_into` calls."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product() -> Product:
    """Return the routine for this processor, which is `mm_into` where torch lacks the other.

    Raises:
        UsageError: The variable that chooses it is neither `mm` nor `onednn`.
    """
    return linear_into if product_routine() == "onednn" and has_linear() else mm_into
