"""Forward and backward times of `famecli.model.layers` on one core, beside torch's own functions."""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from famecli.model.layers import SMALLEST_SQUARE, gate, normalise, normalised_elu

SHAPES = ((16, 64, 14, 14), (16, 128, 14, 14), (32, 128, 28, 28))
Function = Callable[[Tensor], Tensor]


def glu(both: Tensor) -> Tensor:
    return F.glu(both, 1)


def plain_normalise(h: Tensor) -> Tensor:
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    return h * (wide.square().mean(1, keepdim=True) + SMALLEST_SQUARE).rsqrt().to(h.dtype)


def plain_normalised_elu(h: Tensor) -> Tensor:
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    return F.elu(plain_normalise(wide)).to(h.dtype)


PAIRS: tuple[tuple[Function, Function], ...] = (
    (glu, gate),
    (plain_normalised_elu, normalised_elu),
    (plain_normalise, normalise),
)


def pass_s(function: Function, x: Tensor, gradient: Tensor) -> float:
    """Return the seconds of one forward and backward pass."""
    x.grad = None
    started_s = time.perf_counter()
    function(x).backward(gradient)
    return time.perf_counter() - started_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=50, help="passes per function")
    parser.add_argument("--bf16", action="store_true", help="in bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    for shape in SHAPES:
        x = torch.randn(shape, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        for pair in PAIRS:
            gradient = torch.randn_like(pair[0](x.detach()))
            # Alternate, so that other load on the machine affects both.
            taken = [[pass_s(function, x, gradient) for function in pair] for _ in range(options.repeats)]
            for kind, of in (("median", statistics.median), ("least", min)):
                theirs, own = (1e3 * of(each) for each in zip(*taken, strict=True))
                times = f"torch {theirs:.3f} ms, here {own:.3f} ms, {own / theirs:.2f}"
                print(f"{shape} {pair[1].__name__} {kind}: {times}")


if __name__ == "__main__":
    main()
