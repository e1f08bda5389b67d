"""Muon: matrices that share a weight, bfloat16, and what it was before it was made faster."""

import copy
import math
from typing import Any

import pytest
import torch
from support.trainers import SHAPE, assert_same, trainer_of
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.config.presets import model_config
from famecli.config.schema import TrainConfig
from famecli.model.fame import Fame
from famecli.runtime.distributed import Group
from famecli.training import trainer as trainer_module
from famecli.training.optim import (
    BF16_SIDE,
    NEWTON_SCHULZ,
    SMALLEST_SIDE,
    Muon,
    make_optimizers,
    matrices_of,
    optimizer_tensors,
    orthogonal,
    restore_optimizers,
)

COUNTS = {"qkv.weight": 3, "head.weight": 4, "grouped.weight": 2, "thin.weight": 4}


class Projections(nn.Module):
    """A module whose weights hold several matrices, and some that hold one."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = dict(COUNTS)
        self.qkv = nn.Conv2d(16, 48, 1)
        self.head = nn.Conv2d(16, 4 * 20, 1)
        self.grouped = nn.Conv2d(16, 64, 3, groups=2)
        # Large as a whole, but not each of its matrices.
        self.thin = nn.Conv2d(16, 4 * (SMALLEST_SIDE - 1), 1)
        self.plain = nn.Conv2d(16, 24, 3)
        self.linear = nn.Linear(20, 16)


def plain_orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """Return what the published iteration makes of one matrix."""
    a, b, c = NEWTON_SCHULZ
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


def plain_step(
    weight: Tensor, gradient: Tensor, momentum: Tensor, count: int, lr: float, decay: float
) -> Tensor:
    """Return a weight after a step by the formula, for each of its `count` matrices; changes `momentum`."""
    momentum.lerp_(gradient, 0.05)
    update = gradient.lerp(momentum, 0.95)
    rows, columns = weight.shape[0] // count, weight[0].numel()
    parts = [plain_orthogonal(part.reshape(rows, columns)) for part in update.chunk(count)]
    scale = lr * math.sqrt(max(1.0, rows / columns))
    return weight * (1 - lr * decay) - scale * torch.cat(parts).reshape(weight.shape)


def filled(model: nn.Module, seed: int) -> list[Tensor]:
    """Give all weights gradients that lie in memory as they do, and return these in the plain order."""
    generator = torch.Generator().manual_seed(seed)
    gradients = []
    for weight in model.parameters():
        gradient = torch.randn(weight.shape, generator=generator)
        weight.grad = torch.empty_like(weight).copy_(gradient)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("ratio", [1, 1.9, 2, 9, 36])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("tall", [False, True])
def test_the_iteration_is_the_published_one(ratio: float, steps: int, tall: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 16, int(16 * ratio)), generator=generator, dtype=torch.float64)
    x = x.mT if tall else x
    for one, found in zip(x, orthogonal(x, steps), strict=True):
        assert (found - plain_orthogonal(one, steps)).abs().max() < 1e-10


@pytest.mark.parametrize("decades", [0, 2, 4, 8])
@pytest.mark.parametrize("columns", [48, 96, 576])
def test_single_precision_is_as_exact_as_the_published_iteration(decades: int, columns: int) -> None:
    x = torch.randn((48, columns), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    x = (left * 10 ** -torch.linspace(0, decades, 48, dtype=torch.float64)) @ right
    exact, single = plain_orthogonal(x), x.float()
    own = (orthogonal(single[None], 5)[0] - exact).norm()
    published = (plain_orthogonal(single) - exact).norm()
    assert own < max(3 * published, 1e-6 * exact.norm())


def test_in_bfloat16_singular_values_move_near_one_too() -> None:
    x = torch.randn((3, 24, 64), generator=torch.Generator().manual_seed(2))
    result = orthogonal(1e3 * x, 5, torch.bfloat16)
    assert result.dtype == torch.float32
    assert torch.equal(result, result.bfloat16().float())
    singular = torch.linalg.svdvals(result)
    assert (singular.min().item() > 0.5, singular.max().item() < 1.3) == (True, True)
    left, _, right = torch.linalg.svd(x, full_matrices=False)
    assert F.cosine_similarity(result.flatten(1), (left @ right).flatten(1)).min() > 0.95


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_matrix_of_a_weight_is_made_orthogonal_by_itself(layout: torch.memory_format) -> None:
    model = Projections().to(memory_format=layout)  # type: ignore[call-overload]
    config = TrainConfig.from_dict({"muon_lr": 0.5, "weight_decay": 0.25})
    _, muon = make_optimizers(model, config)
    names = {weight: name for name, weight in model.named_parameters()}
    owned = {names[w]: group["matrices"] for group in muon.param_groups for w in group["params"]}
    assert owned == {
        "qkv.weight": 3,
        "head.weight": 4,
        "grouped.weight": 2,
        "plain.weight": 1,
        "linear.weight": 1,
    }
    expected = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    momenta = {name: torch.zeros(weight.shape) for name, weight in expected.items()}
    for seed in range(3):
        gradients = dict(zip(expected, filled(model, seed), strict=True))
        muon.step()
        for name, count in owned.items():
            expected[name] = plain_step(expected[name], gradients[name], momenta[name], count, 0.5, 0.25)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=0, atol=3e-6)
        assert weight.is_contiguous(memory_format=layout) or weight.dim() != 4
    assert set(optimizer_tensors(model, [muon])) == {f"{name}:momentum" for name in owned}


def test_a_division_matters() -> None:
    divided, whole = Projections(), Projections()
    whole.load_state_dict(divided.state_dict())
    whole.matrices = {}
    for model in (divided, whole):
        optimizers = make_optimizers(model, TrainConfig())
        filled(model, 0)
        optimizers[1].step()
    assert torch.equal(divided.plain.weight, whole.plain.weight)
    assert (divided.qkv.weight - whole.qkv.weight).abs().max() > 1e-4


def test_modules_say_what_their_weights_hold_also_in_copies() -> None:
    model = nn.Sequential(nn.ReLU(), Projections())
    for each in (model, copy.deepcopy(model)):
        names = {weight: name for name, weight in each.named_parameters()}
        found = {names[weight]: count for weight, count in matrices_of(each).items()}
        assert found == {f"1.{name}": count for name, count in COUNTS.items()}
    assert matrices_of(nn.Linear(3, 3)) == {}


@pytest.mark.parametrize("count", [0, -1, 5])
def test_rows_that_cannot_be_divided_are_refused(count: int) -> None:
    model = nn.Sequential(Projections())
    model[0].matrices = {"qkv.weight": count}  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"0\.qkv\.weight: 48 rows cannot be divided into "):
        make_optimizers(model, TrainConfig())
    model[0].matrices = {"absent.weight": 2}  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="absent"):
        make_optimizers(model, TrainConfig())


def test_restored_state_lies_in_memory_as_its_weights_and_goes_on_bit_by_bit() -> None:
    first = Fame(model_config("fame", "tiny", SHAPE, 2)).on("cpu")
    second = copy.deepcopy(first)
    ones, others = make_optimizers(first, TrainConfig()), make_optimizers(second, TrainConfig())
    filled(first, 0)
    for optimizer in ones:
        optimizer.step()
    second.load_state_dict(first.state_dict())
    restore_optimizers(
        second,
        others,
        {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in optimizer_tensors(first, ones).items()
        },
    )
    for model, optimizers in ((first, ones), (second, others)):
        filled(model, 1)
        for optimizer in optimizers:
            optimizer.step()
    assert_same(dict(first.state_dict()), dict(second.state_dict()))
    kept = [optimizer_tensors(*pair) for pair in ((first, ones), (second, others))]
    assert_same(*kept)
    strides = [{name: value.stride() for name, value in each.items()} for each in kept]
    assert strides[0] == strides[1]


def test_bfloat16_is_for_large_matrices_in_single_precision_alone() -> None:
    for dtype, side, equal in (
        (torch.float32, BF16_SIDE, False),
        (torch.float32, BF16_SIDE - 1, True),
        (torch.float64, BF16_SIDE, True),
    ):
        weights = [nn.Parameter(torch.ones(side, 2 * side, dtype=dtype)) for _ in range(2)]
        for weight, bf16 in zip(weights, (False, True), strict=True):
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
            Muon([weight], lr=0.1, bf16=bf16).step()
        assert torch.equal(*weights) == equal
        assert (weights[0] - weights[1]).abs().max() < 0.1 * 0.02


@pytest.mark.parametrize(
    ("own", "others", "expected"), [(True, 1, True), (True, 0, False), (False, 0, False)]
)
def test_a_trainer_takes_bfloat16_where_all_processes_multiply_it(
    own: bool, others: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "multiplies_bf16", lambda device: own)

    class Others(Group):
        def all_reduce_max(self, value: int) -> int:
            return max(value, -others)

    trainer = trainer_of("fame", group=Others())
    found: list[Any] = [group["bf16"] for group in trainer.optimizers[1].param_groups]
    assert set(found) == {expected}
