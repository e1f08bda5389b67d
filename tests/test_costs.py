"""What a step costs per image: counted as one would by hand, the same at any size of a batch."""

import dataclasses
import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from support.outcomes import Command
from support.trainers import PLAIN, assert_same, snapshot, trainer_of
from torch.utils.flop_counter import FlopCounterMode

from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, model_config
from famecli.model.fame import Fame
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
        found.append(costs(trainer_of(preset).model, counted=counted))
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


def attending(patch: int, attention: tuple[int, ...]) -> Fame:
    config = model_config("pixelcnn", "tiny", (1, 12, 8), 2)
    sizes = {"patch": patch, "attention": attention, "heads": 2, "attention_width": 6}
    return Fame(dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, **sizes)))


@pytest.mark.parametrize(
    ("dtype", "products"),
    [
        (torch.float32, "fused"),
        (torch.float64, "fused"),
        (torch.float32, "plain"),
        (torch.float64, "plain"),
        (torch.float32, "bf16"),
    ],
)
@pytest.mark.parametrize("layers", [(1,), (1, 2)])
@pytest.mark.parametrize("patch", [1, 2])
def test_attention_counts_its_projections_and_its_products_of_pairs(
    patch: int, layers: tuple[int, ...], dtype: torch.dtype, products: str
) -> None:
    """Forwards queries by keys and weights by values; backwards two each, and where fused the logits anew."""
    models = [attending(patch, attention).to(dtype) for attention in (layers, ())]
    autocast = partial(torch.autocast, "cpu", torch.bfloat16) if products == "bf16" else nullcontext
    # Torch has no fused attention on a CPU unless channels are last, as those of patches are.
    fused = products == "fused" or (products == "plain" and patch > 1)
    more, none = (
        costs(model if products == "plain" else model.on("cpu"), autocast).flops for model in models
    )
    places, width, inner = 96 // patch**2, 12, 6
    projections = 2 * places * width * 4 * inner
    pairs = 2 * places**2 * inner
    assert more - none == len(layers) * (3 * projections + (2 + 4 + fused) * pairs)


def test_attention_counts_the_same_forwards_alone() -> None:
    flops = []
    for attention in ((), (2,)):
        model = attending(2, attention).on("cpu")
        with FlopCounterMode(display=False, custom_mapping=counting.FORMULAS) as counter, torch.no_grad():
            model.pixel_parameters(torch.zeros(3, *model.config.image_shape), None)
        flops.append(counter.get_total_flops())
    assert flops[1] - flops[0] == 3 * (2 * 24 * 12 * 4 * 6 + 2 * 2 * 24**2 * 6)


def test_costs_of_attention_are_per_image() -> None:
    found = []
    for counted in ((2, 4), (3, 8)):
        found.append(costs(attending(2, (1, 2)).on("cpu"), counted=counted))
    assert found[0].flops == found[1].flops
    assert found[0].activation_bytes == pytest.approx(found[1].activation_bytes, rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_dry_run_of_the_small_presets_tells_what_steps_cost(train: Command, preset: str) -> None:
    done = train(preset, "--size", "small", "--dry-run", "--json", "-o", "run")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    model = Fame(model_config(preset, "small", (1, 28, 28), 2)).on("cpu")
    expected = costs(model)
    assert found["parameters"] == model.count_parameters() == count_parameters(model.config)
    assert found["gflops_per_image"] == expected.flops / 1e9
    assert found["activation_mib_per_image"] == expected.activation_bytes / 2**20
    assert min(found["images_per_s"], found["predicted_memory_mib"], found["state_mib"]) > 0
    assert not Path("run").exists()


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
