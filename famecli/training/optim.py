"""Optimizers: Muon for large matrices, AdamW for the rest, and their state as tensors with names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from famecli.config.schema import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SMALLEST_SIDE = 16
# Newton-Schulz steps on the short side per product with the long side; few, so that errors stay small.
STEPS_TOGETHER = 3
# From this ratio of sides, steps on the short side are cheaper.
LONG = 2
# Matrices with a shorter side gain nothing from bfloat16.
BF16_SIDE = 96


class Muon(torch.optim.Optimizer):
    """Momentum with updates that Newton-Schulz steps orthogonalise as matrices `(out, in * taps)`.

    The option `matrices` of a parameter group is the number of matrices stacked in each weight; each is
    orthogonalised and scaled by itself.

    Args:
        parameters: Weights of two or more dimensions, or groups of them.
        lr: Learning rate; the update of an (m, n) matrix is scaled by max(1, m / n) ** 0.5.
        momentum: Nesterov momentum.
        weight_decay: Decoupled weight decay.
        steps: Number of Newton-Schulz steps.
        bf16: Whether Newton-Schulz steps of large float32 matrices are taken in bfloat16.

    Source: kellerjordan.github.io/posts/muon; github.com/KellerJordan/Muon (MIT).
    Differs: torch.optim.Muon takes matrices only, so convolutions are flattened here; matrices of one shape
    are orthogonalised in one batch.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        *,
        bf16: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        super().__init__(parameters, options | {"matrices": 1, "bf16": bf16})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[torch.Size, tuple[list[Tensor], list[Tensor]]] = {}
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight, update in zip(weights, self._updates(weights, group), strict=True):
                matrices = _as_matrices(update, group["matrices"])
                for batch, each in zip(
                    by_shape.setdefault(matrices.shape, ([], [])), (weight, matrices), strict=True
                ):
                    batch.append(each)
            for shape, (of_a_shape, parts) in by_shape.items():
                _apply(of_a_shape, parts, shape, group)

    def _updates(self, weights: list[Tensor], group: dict[str, Any]) -> Sequence[Tensor]:
        """Return the next updates of `weights`, before orthogonalisation."""
        if not weights:
            return ()
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1.0 - group["momentum"])
        return torch._foreach_lerp(gradients, momenta, group["momentum"])


def _as_matrices(tensor: Tensor, matrices: int) -> Tensor:
    """Return a weight's update as `(matrices, rows, columns)`.

    Columns may have any order; channels come last, so that channels-last weights need no copy.
    """
    last = tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor
    return last.reshape(matrices, tensor.shape[0] // matrices, -1)


def _as_weight(matrices: Tensor, like: Tensor) -> Tensor:
    """Undo `_as_matrices`: return matrices in the shape of `like`."""
    if like.dim() != 4:
        return matrices.reshape(like.shape)
    rows, channels, height, width = like.shape
    return matrices.reshape(rows, height, width, channels).permute(0, 3, 1, 2)


def _apply(weights: list[Tensor], parts: list[Tensor], shape: torch.Size, group: dict[str, Any]) -> None:
    """Decay `weights`, and subtract the orthogonalised `parts`, all of one `shape`."""
    lr, (matrices, rows, columns) = group["lr"], shape
    bf16 = group["bf16"] and parts[0].dtype == torch.float32 and min(rows, columns) >= BF16_SIDE
    whole = orthogonal(torch.cat(parts), group["steps"], torch.bfloat16 if bf16 else parts[0].dtype)
    updates = [_as_weight(part, weight) for part, weight in zip(whole.split(matrices), weights, strict=True)]
    if group["weight_decay"]:
        torch._foreach_mul_(weights, 1.0 - lr * group["weight_decay"])
    torch._foreach_add_(weights, updates, alpha=-lr * max(1.0, rows / columns) ** 0.5)


# State that an optimizer keeps for each weight.
ENTRIES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum",),
}


def orthogonal(matrices: Tensor, steps: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return `(N, m, n)` matrices with their singular values moved near 1.

    Args:
        matrices: Matrices of any scale, `(N, m, n)`.
        steps: Number of Newton-Schulz steps.
        dtype: Type of the products; None for that of `matrices`. The result has the type of `matrices`.

    Source: the quintic Newton-Schulz iteration of kellerjordan.github.io/posts/muon.
    Differs: where one side is long, steps are taken only on `x @ x.mT`, `STEPS_TOGETHER` at a time.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).to(dtype or x.dtype)
    # In bfloat16 the errors of steps on the short side would be too large.
    if x.shape[2] < LONG * x.shape[1] or x.dtype == torch.bfloat16:
        for _ in range(steps):
            x = torch.baddbmm(x, _polynomial(torch.bmm(x, x.mT)), x, beta=NEWTON_SCHULZ[0])
    else:
        for start in range(0, steps, STEPS_TOGETHER):
            x = torch.bmm(_short_side(torch.bmm(x, x.mT), min(STEPS_TOGETHER, steps - start)), x)
    return (x.mT if tall else x).to(matrices.dtype)


def _polynomial(square: Tensor) -> Tensor:
    """Return `b * square + c * square @ square`."""
    _, b, c = NEWTON_SCHULZ
    return torch.baddbmm(square, square, square, beta=b, alpha=c)


def _short_side(square: Tensor, steps: int) -> Tensor:
    """Return the matrix by which `steps` iterations multiply `x` from the left, given `square = x @ x.mT`."""
    product: Tensor | None = None
    for left in reversed(range(steps)):
        factor = _polynomial(square)
        factor.diagonal(dim1=1, dim2=2).add_(NEWTON_SCHULZ[0])
        product = factor if product is None else torch.bmm(factor, product)
        if left:
            square = torch.bmm(torch.bmm(factor, square), factor)
    assert product is not None
    return product


def matrices_of(model: nn.Module) -> dict[Tensor, int]:
    """Return the number of stacked matrices of each weight that holds several.

    A module declares them in an attribute `matrices`, a dictionary from names of its weights, such as
    `"project.weight"`, to numbers: 3 for the query, key and value of one projection, n for a convolution in
    n groups. Attributes of parameters would be lost in a copy of the model.

    Raises:
        ValueError: The number does not divide the rows of a weight.
    """
    found: dict[Tensor, int] = {}
    for path, module in model.named_modules():
        said: Mapping[str, int] = getattr(module, "matrices", {})
        for name, count in said.items():
            weight = module.get_parameter(name)
            if count < 1 or weight.shape[0] % count:
                rows = weight.shape[0]
                raise ValueError(f"{path}.{name}: {rows} rows cannot be divided into {count} matrices")
            found[weight] = count
    return found


def make_optimizers(
    model: nn.Module, config: TrainConfig, *, bf16: bool = False
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of `model`; the schedule multiplies each group's `initial_lr`.

    If `config.optimizer` is "muon", Muon trains the weights whose matrices have both sides of at least
    `SMALLEST_SIDE`, with its option `bf16`. AdamW trains the rest.
    """
    large: dict[int, list[nn.Parameter]] = {}
    rest: list[nn.Parameter] = []
    counts = matrices_of(model)
    for weight in model.parameters():
        count = counts.get(weight, 1)
        is_large = weight.dim() >= 2 and min(weight.shape[0] // count, weight[0].numel()) >= SMALLEST_SIDE
        (large.setdefault(count, []) if is_large and config.optimizer == "muon" else rest).append(weight)
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if large:
        groups = [{"params": weights, "matrices": count} for count, weights in large.items()]
        optimizers.append(Muon(groups, config.muon_lr, weight_decay=config.weight_decay, bf16=bf16))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return all state of `optimizers` under names `WEIGHT:ENTRY`; the tensors are not copies."""
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"{names[weight]}:{entry}": value
        for optimizer in optimizers
        for weight, state in optimizer.state.items()
        for entry, value in state.items()
    }


def restore_optimizers(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor], later: str = ""
) -> None:
    """Restore the state that `optimizer_tensors` returned; it is empty before the first step.

    Args:
        model: Model in training.
        optimizers: Optimizers without state.
        tensors: State by name.
        later: Name of a module that may lack state, because only later steps train it; empty for none.

    Raises:
        ValueError: The state is not of these optimizers.
    """
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    places = {
        f"{names[weight]}:{entry}": (optimizer, weight, entry)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
        for entry in ENTRIES[type(optimizer)]
    }
    step = torch.zeros(())
    if tensors:
        like = {name: step if e == "step" else w for name, (_, w, e) in places.items()}
        if later and not any(name.startswith(f"{later}.") for name in tensors):
            like = {name: value for name, value in like.items() if not name.startswith(f"{later}.")}
        check_tensors(tensors, like)
    for name, value in tensors.items():
        optimizer, weight, entry = places[name]
        # AdamW keeps its step counts on the CPU. Other state has the memory format of its weight.
        optimizer.state[weight][entry] = value if entry == "step" else torch.empty_like(weight).copy_(value)


def check_tensors(found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> None:
    """Check that the tensors `found` are finite and have the names, shapes and dtypes of `like`.

    Raises:
        ValueError: One differs; the message names it.
    """
    if odd := sorted(set(found) ^ set(like)):
        raise ValueError(f"{odd[0]!r} is {'unknown' if odd[0] in found else 'missing'}")
    for name, expected in like.items():
        tensor = found[name]
        if (tensor.shape, tensor.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"{name!r} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected {expected.dtype} {tuple(expected.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name!r} has values that are not finite")
