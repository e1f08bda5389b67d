"""Pointwise functions: the same as the plain operations, forth and back, in every type and layout."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from famecli.model.layers import SMALLEST_SQUARE, attend, gate, normalise, normalised_elu, sees

Function = Callable[[Tensor], Tensor]


def plain_gate(both: Tensor) -> Tensor:
    return F.glu(both, 1)


def plain_normalise(h: Tensor) -> Tensor:
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    return (wide / (wide.square().mean(1, keepdim=True) + SMALLEST_SQUARE).sqrt()).to(h.dtype)


def plain_normalised_elu(h: Tensor) -> Tensor:
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    return F.elu(plain_normalise(wide)).to(h.dtype)


PAIRS = [(gate, plain_gate), (normalised_elu, plain_normalised_elu), (normalise, plain_normalise)]
all_functions = pytest.mark.parametrize(("own", "plain"), PAIRS, ids=["gate", "normalised_elu", "normalise"])
SHAPES = [(2, 6, 3, 5), (3, 4), (1, 2, 7), (2, 64, 14, 14)]


def maps(shape: tuple[int, ...], dtype: torch.dtype, *, last: bool = False) -> Tensor:
    """Return maps that need gradients; a position of the first is zero in all channels."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0].view(shape[1], -1)[:, 0] = 0.0
    x = x.to(dtype)
    return (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()


def passes(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result and the gradient of `x` for random gradients of the result."""
    y = function(x)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (found,) = torch.autograd.grad(y, x, torch.empty_like(y).copy_(gradient))
    return y.detach(), found


@all_functions
@pytest.mark.parametrize("last", [False, True])
def test_gradients_are_those_of_the_function(own: Function, plain: Function, last: bool) -> None:
    x = torch.randn((2, 6, 3, 2), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    assert torch.autograd.gradcheck(own, (x,))


@all_functions
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 3e-2)]
)
def test_both_passes_are_those_of_the_plain_operations(
    own: Function, plain: Function, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    x = maps(shape, dtype)
    found, expected = passes(own, x), passes(plain, x.detach().double().requires_grad_())
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        # At the position of zeros the gradient of the division is a thousand.
        scale = other.abs().clamp(min=1.0)
        assert ((one.double() - other).abs() / scale).max() < tolerance


@all_functions
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_bits_do_not_depend_on_gradients_and_the_layout_stays(
    own: Function, plain: Function, dtype: torch.dtype, last: bool
) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    x = maps((2, 64, 14, 14), dtype, last=last)
    y, gradient = passes(own, x)
    for each in (y, gradient):
        assert each.is_contiguous(memory_format=layout)
    assert torch.equal(own(x.detach()), y)
    with torch.no_grad():
        assert torch.equal(own(x), y)
    with torch.inference_mode():
        assert torch.equal(own(x), y)
    before = maps((2, 64, 14, 14), dtype, last=last)
    assert torch.equal(x.detach(), before.detach())


@all_functions
def test_under_autocast_types_stay_as_they_are(own: Function, plain: Function) -> None:
    for dtype in (torch.bfloat16, torch.float32):
        x = maps((2, 6, 3, 5), dtype)
        outside = passes(own, x)
        with torch.autocast("cpu", torch.bfloat16):
            y = own(x)
        (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
        assert (y.dtype, gradient.dtype) == (dtype, dtype)
        assert torch.equal(y, outside[0])


@all_functions
def test_compiled_functions_are_the_plain_ones(
    own: Function, plain: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = torch.compile(own, backend="eager", fullgraph=True)
    x = maps((2, 6, 3, 5), torch.float32)
    for one, other in zip(passes(compiled, x), passes(own, x), strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for one, other in zip(passes(own, x), passes(plain, x), strict=True):
        torch.testing.assert_close(one, other)


def test_the_root_mean_square_is_one_where_there_is_something() -> None:
    x = torch.rand((3, 8, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    for factor in (1e-2, 1.0, 1e3):
        # ELU is the identity of what is positive.
        square = normalised_elu(factor * x).square().mean(1)
        exact = 1 / (1 + SMALLEST_SQUARE / (factor * x).square().mean(1))
        torch.testing.assert_close(square, exact)
    assert torch.equal(normalised_elu(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


def test_what_is_kept_for_the_gradient_is_little() -> None:
    x = maps((2, 64, 14, 14), torch.float32, last=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = normalised_elu(x)
    of_others = [each for each in kept if each.data_ptr() not in (x.data_ptr(), y.data_ptr())]
    assert sum(each.numel() for each in of_others) == x.numel() // 64


@pytest.mark.parametrize("dim", [1, 3, -1])
def test_normalise_takes_any_dimension(dim: int) -> None:
    x = maps((2, 6, 3, 5), torch.float64)
    for one, other in zip(
        passes(lambda h: normalise(h, dim), x),
        passes(lambda h: plain_normalise(h.movedim(dim, 1)).movedim(1, dim), x),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_attention_in_bfloat16_is_that_of_double_precision() -> None:
    """Its products are not torch's own attention: results and gradients, and what is hidden, are the same."""
    places = torch.arange(35)
    seen = sees(places // 7, places % 7, 2)
    generator = torch.Generator().manual_seed(3)
    parts = torch.randn((3, 2, 3, 35, 8), generator=generator).bfloat16()
    gradient = torch.randn((2, 3, 35, 8), generator=generator).bfloat16()
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        inputs = parts.to(dtype).requires_grad_()
        y = attend(*inputs, seen)
        results.append((y.detach(), torch.autograd.grad(y, inputs, gradient.to(dtype))[0]))
    for found, exact in zip(*results, strict=True):
        assert found.dtype == torch.bfloat16
        assert float((found.double() - exact).norm() / exact.norm()) < 0.01
    hidden = (~seen).nonzero()[0]
    inputs = parts.clone().requires_grad_()
    (slope,) = torch.autograd.grad(attend(*inputs, seen)[:, :, hidden[0]].sum(), inputs)
    assert bool((slope[1:, :, :, hidden[1]] == 0).all())
    assert bool((slope[1:, :, :, hidden[0]] != 0).any())
