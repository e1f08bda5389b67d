"""Products of matrices in float32, by the library that is faster here; see `famecli.runtime.processor`."""

from typing import Protocol

import torch
from torch import Tensor

from famecli.runtime.processor import product_routine


class Products(Protocol):
    """Products that are written into memory that is there."""

    def write(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        """Write `weight @ x` into `out`.

        Args:
            weight: Matrix `(outputs, inputs)`.
            x: Matrix `(inputs, columns)`, of any strides.
            out: Matrix `(outputs, columns)`, of any strides.
        """
        ...

    def add(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        """Add `weight @ x` to `out`; arguments are those of `write`."""
        ...

    def add_each(self, weights: Tensor, x: Tensor, out: Tensor) -> None:
        """Add the product of each pair of matrices, `(N, ...)`, to that in `out`."""
        ...


class TorchProducts:
    """Products by `torch.mm`."""

    def write(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        torch.mm(weight, x, out=out)

    def add(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        out.addmm_(weight, x)

    def add_each(self, weights: Tensor, x: Tensor, out: Tensor) -> None:
        out.baddbmm_(weights, x)


class OneDnnProducts:
    """Products by oneDNN, equal to those of `TorchProducts` to rounding; there are no gradients.

    What oneDNN does not multiply is left to `torch.mm`: other types than float32, other devices than the
    CPU, empty matrices.
    """

    def __init__(self) -> None:
        self.others = TorchProducts()

    def write(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        if _multiplies(weight, x):
            out.copy_(_linear(weight, x))
        else:
            self.others.write(weight, x, out)

    def add(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        if _multiplies(weight, x):
            out.add_(_linear(weight, x))
        else:
            self.others.add(weight, x, out)

    def add_each(self, weights: Tensor, x: Tensor, out: Tensor) -> None:
        for each in zip(weights, x, out, strict=True):
            self.add(*each)


def _multiplies(weight: Tensor, x: Tensor) -> bool:
    single = weight.dtype == x.dtype == torch.float32 and weight.device.type == "cpu"
    return single and weight.numel() > 0 and x.numel() > 0


def _linear(weight: Tensor, x: Tensor) -> Tensor:
    # It multiplies by the transpose of its second matrix, and is a hundred times slower if rows have gaps.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        weight.contiguous(), x.contiguous().mT, None, "none", [], ""
    )
    return product


def has_linear() -> bool:
    """Whether this torch has the routine of oneDNN that `OneDnnProducts` calls."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def products() -> Products:
    """Return the products for this processor; those of `torch.mm` where torch lacks oneDNN.

    Raises:
        UsageError: The variable that chooses them is neither `mm` nor `onednn`.
    """
    return OneDnnProducts() if product_routine() == "onednn" and has_linear() else TorchProducts()
