"""Values that are not finite, wherever they come up in a training: skipped, counted, bounded, never saved."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.trainers import PLAIN, assert_same, metrics, run_of, snapshot, spoil, trainer_of
from torch import Tensor

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors
from famecli.errors import ExitCode, NumericsError
from famecli.training.run import STATE_SCHEMA
from famecli.training.trainer import Trainer

VALUES = (math.nan, math.inf, -math.inf)
# The steps at which something is wrong, each alone: the first, some, and two in a row.
STEPS = ({0}, {1}, {2}, {4}, {2, 3})
WEIGHT = "decoder.head2.weight"


def with_one(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.to(torch.get_default_dtype()) if not tensor.is_floating_point() else tensor.clone()
    changed[(0,) * changed.dim()] = value
    return changed


def spoil_input(trainer: Trainer, bad: Callable[[], bool], value: float) -> None:
    def change(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (with_one(arguments[0], value), *arguments[1:]) if bad() else None

    trainer.model.register_forward_pre_hook(change)


def spoil_activation(trainer: Trainer, bad: Callable[[], bool], value: float) -> None:
    def change(module: Any, arguments: Any, output: Tensor) -> Tensor | None:
        return with_one(output, value) if bad() else None

    trainer.model.decoder.first.register_forward_hook(change)


def spoil_gradient(trainer: Trainer, bad: Callable[[], bool], value: float) -> None:
    weight = dict(trainer.model.named_parameters())[WEIGHT]
    weight.register_hook(lambda gradient: with_one(gradient, value) if bad() else None)


PLACES = {"input": spoil_input, "activation": spoil_activation, "gradient": spoil_gradient}


# ELU makes minus one of minus infinity, which is no fault of an activation then.
ACTIVATIONS = [("activation", value) for value in VALUES[:2]]
CASES = [*ACTIVATIONS, *((place, value) for place in ("input", "gradient", "loss") for value in VALUES)]


@pytest.mark.parametrize("steps", STEPS, ids=str)
@pytest.mark.parametrize(("place", "value"), CASES)
def test_a_step_with_such_a_value_changes_nothing_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, place: str, steps: set[int], value: float
) -> None:
    trainer = trainer_of("fame")
    if place == "loss":
        spoil(trainer, monkeypatch, steps, value)
    else:
        PLACES[place](trainer, lambda: trainer.step_count in steps, value)
    for step in range(max(steps) + 2):
        before = snapshot(trainer)
        record = trainer.step()
        after = snapshot(trainer)
        skipped = sum(each <= step for each in steps)
        assert (record.skipped, trainer.skipped) == (skipped, skipped)
        assert after.pop("counters/steps")[0] == before.pop("counters/steps")[0] + 1
        if step in steps:
            assert_same(after, before)
        else:
            assert not torch.equal(after[f"model/{WEIGHT}"], before[f"model/{WEIGHT}"])
        assert all(bool(torch.isfinite(each).all()) for each in after.values())
    assert trainer.skipped_in_a_row == 0


@pytest.mark.parametrize("place", PLACES)
def test_such_values_for_ever_end_the_training(place: str) -> None:
    trainer = trainer_of("fame", dataclasses.replace(PLAIN, max_skipped=2))
    PLACES[place](trainer, lambda: trainer.step_count > 0, math.nan)
    for _ in range(3):
        trainer.step()
    with pytest.raises(NumericsError, match="3 steps in a row"):
        trainer.step()
    assert all(bool(torch.isfinite(each).all()) for each in trainer.state_tensors().values())


@pytest.mark.parametrize("value", VALUES, ids=str)
@pytest.mark.parametrize("name", [f"model/{WEIGHT}", f"averaged/{WEIGHT}", f"optimizer/{WEIGHT}:exp_avg"])
def test_a_weight_that_is_not_finite_is_never_saved(tmp_path: Path, name: str, value: float) -> None:
    run = run_of(tmp_path, trainer_of("pixelcnn"), save_every_s=-1.0)
    records = run.records(lambda: None)
    while next(records)["step"] < 4:
        continue
    # Between the fourth step and what is saved after it.
    value_of(run.trainer, name)[0] = value
    with pytest.raises(NumericsError, match=f"not saved: {name}") as caught:
        next(records)
    assert caught.value.exit_code == ExitCode.NUMERICS
    tensors, _, _ = load_tensors(tmp_path / "state.safetensors", STATE_SCHEMA)
    assert tensors["counters/steps"].tolist() == [3, 0, 0]
    assert all(bool(torch.isfinite(each).all()) for each in tensors.values())
    for file in ("best", "last"):
        for kind in ("ema", "raw"):
            loaded = load_checkpoint(tmp_path / f"{file}.safetensors", kind)  # type: ignore[arg-type]
            assert loaded.provenance.steps == 3
    assert len(list(tmp_path.iterdir())) == 4
    # Each line is JSON, in which there is no such number.
    assert metrics(tmp_path)[-1]["step"] == 4


def value_of(trainer: Trainer, name: str) -> Tensor:
    return trainer.state_tensors()[name].flatten()
