"""Optimizers: Muon for large matrices, AdamW for the rest, and their state as tensors with names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from famecli.config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
SMALLEST_SIDE = 16


class Muon(torch.optim.Optimizer):
    """Momentum whose update, seen as a matrix `(out, in * taps)`, is made orthogonal by Newton-Schulz steps.

    Args:
        parameters: Weights of two or more dimensions.
        lr: Learning rate; the update of an (m, n) matrix is scaled by max(1, m / n) ** 0.5.
        momentum: Of Nesterov's kind.
        weight_decay: Decoupled.
        steps: Newton-Schulz steps.

    Source: kellerjordan.github.io/posts/muon; github.com/KellerJordan/Muon (MIT).
    Differs: torch.optim.Muon takes matrices only, so convolutions are flattened here; matrices of one shape
    are made orthogonal in one batch.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape.setdefault((weight.shape[0], weight[0].numel()), []).append(weight)
            for (rows, columns), weights in by_shape.items():
                updates = orthogonal(torch.stack([self._momentum(w, group) for w in weights]), group["steps"])
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                for weight, update in zip(weights, updates, strict=True):
                    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                    weight.add_(update.view_as(weight), alpha=-scale)

    def _momentum(self, weight: Tensor, group: dict[str, Any]) -> Tensor:
        """Return the next update of `weight` as a matrix, before it is made orthogonal."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        assert weight.grad is not None
        state["momentum"].lerp_(weight.grad, 1.0 - group["momentum"])
        return weight.grad.lerp(state["momentum"], group["momentum"]).flatten(1)


# What an optimizer keeps of each weight.
ENTRIES: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum",),
}


def orthogonal(matrices: Tensor, steps: int) -> Tensor:
    """Return each of `(N, m, n)` matrices with its singular values moved near 1.

    Source: the quintic Newton-Schulz iteration of kellerjordan.github.io/posts/muon.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Return the optimizers of `model`; each group's `initial_lr` is what the schedule multiplies."""
    large: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for weight in model.parameters():
        is_large = weight.dim() >= 2 and min(weight.shape[0], weight[0].numel()) >= SMALLEST_SIDE
        (large if is_large and config.optimizer == "muon" else rest).append(weight)
    adamw = torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if large:
        optimizers.append(Muon(large, config.muon_lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def optimizer_tensors(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return all state of `optimizers` under names `WEIGHT:ENTRY`; the tensors are the state itself."""
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {
        f"{names[weight]}:{entry}": value
        for optimizer in optimizers
        for weight, state in optimizer.state.items()
        for entry, value in state.items()
    }


def restore_optimizers(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` returned: the state of each weight, or none before the first step.

    Raises:
        ValueError: It is not of these optimizers.
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
        check_tensors(tensors, {name: step if e == "step" else w for name, (_, w, e) in places.items()})
    for name, value in tensors.items():
        optimizer, weight, entry = places[name]
        # AdamW keeps its step counts on the CPU.
        device = value.device if entry == "step" else weight.device
        optimizer.state[weight][entry] = value.to(device)


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
