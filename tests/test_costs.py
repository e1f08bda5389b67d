"""What a step costs per image: counted as one would by hand, the same at any size of a batch."""

import dataclasses
from unittest import mock

import pytest
from trainers import PLAIN, assert_same, snapshot, trainer_of

from famecli.preset_table import PRESETS
from famecli.training import costs as counting
from famecli.training.costs import Costs, costs
from famecli.training.trainer import Trainer


def forward_flops(trainer: Trainer, pixels: int) -> tuple[int, int]:
    """Of a pass over one image: of the convolution that reads the image, and of all others."""
    flops = [2 * pixels * weight.numel() for weight in trainer.model.parameters() if weight.dim() == 4]
    return flops[0], sum(flops[1:])


def test_operations_are_those_of_all_convolutions_forwards_and_backwards() -> None:
    trainer = trainer_of("pixelcnn")
    first, others = forward_flops(trainer, 64)
    # Backwards a layer has a product for its weights and one for its inputs, which the image is spared.
    assert costs(trainer.model).flops == pytest.approx(2 * first + 3 * others, rel=0.01)


@pytest.mark.parametrize("preset", ["pixelcnn", "fame", "lvae"])
def test_costs_are_per_image(preset: str) -> None:
    found = []
    for counted in ((2, 4), (3, 8)):
        with mock.patch.object(counting, "COUNTED", counted):
            found.append(costs(trainer_of(preset).model))
    assert dataclasses.astuple(found[0]) == pytest.approx(dataclasses.astuple(found[1]), rel=0.02)


def test_four_times_the_pixels_cost_four_times_as_much() -> None:
    small, large = (costs(trainer_of("pixelcnn", shape=(1, side, side)).model) for side in (8, 16))
    assert large.flops == pytest.approx(4 * small.flops, rel=0.01)
    assert large.activation_bytes == pytest.approx(4 * small.activation_bytes, rel=0.05)


def test_bfloat16_keeps_less() -> None:
    trainers = [trainer_of("pixelcnn", PLAIN, precision) for precision in ("fp32", "bf16")]  # type: ignore[arg-type]
    full, half = (costs(each.model, each.autocast) for each in trainers)
    assert half.flops == full.flops
    assert half.activation_bytes < 0.8 * full.activation_bytes


@pytest.mark.parametrize("preset", PRESETS)
def test_counting_changes_nothing(preset: str) -> None:
    trainer = trainer_of(preset)
    trainer.step()
    before = snapshot(trainer)
    found = costs(trainer.model, trainer.autocast)
    assert_same(snapshot(trainer), before)
    assert isinstance(found, Costs)
    assert min(dataclasses.astuple(found)) > 0
    untouched = trainer_of(preset)
    untouched.step()
    assert trainer.step() == untouched.step()
