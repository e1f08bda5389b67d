"""A step in parts is the step of the whole batch: its noise, its gradient, the weights that it leads to."""

import dataclasses

import pytest
import torch
from support.trainers import (
    ATTENTION,
    BATCH,
    IN_PARTS,
    STEP_TOLERANCE,
    Gradients,
    configured,
    farthest,
    rates,
    snapshot,
    split_of,
    trainer_of,
)
from torch import Tensor

from famecli.config.schema import Precision
from famecli.model.fame import NllTerms
from famecli.rng import BatchNoise, PartNoise, stream
from famecli.training.trainer import Trainer

LADDERS = ["fame", "lvae"]


def gradient(trainer: Trainer) -> dict[str, Tensor]:
    with Gradients() as gradients:
        trainer.step()
    assert len(gradients.first) == len(list(trainer.model.parameters()))
    return gradients.first


@pytest.mark.parametrize("preset", LADDERS)
def test_one_part_is_what_the_clamped_loss_says(preset: str) -> None:
    config = configured(preset, 2)
    trainer = trainer_of(preset, config)
    terms = trainer.model(
        torch.from_numpy(trainer.next_images()[0]), BatchNoise(stream("latents", config.seed, 0))
    )
    kept = (terms.rate.mean(0) >= config.free_nats).tolist()
    assert kept[0]
    (terms.distortion.mean() + terms.rate.mean(0).clamp(min=config.free_nats).sum()).backward()
    expected = {str(i): weight.grad for i, weight in enumerate(trainer.model.parameters())}
    found = gradient(trainer_of(preset, config))
    assert found.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [2, 3, BATCH])
@pytest.mark.parametrize("preset", LADDERS)
def test_parts_have_the_gradient_of_the_whole(preset: str, parts: int) -> None:
    config = configured(preset, parts)
    expected = gradient(trainer_of(preset, config))
    found = gradient(trainer_of(preset, config, accumulate=parts))
    assert farthest(found, expected) < STEP_TOLERANCE


@pytest.mark.parametrize("preset", LADDERS)
def test_free_nats_that_each_part_decides_for_itself_would_be_noticed(preset: str) -> None:
    config = configured(preset, 2)
    expected = gradient(trainer_of(preset, config))

    class Own(Trainer):
        def _loss(self, terms: NllTerms, mean_rate: Tensor) -> Tensor:
            return super()._loss(terms, terms.rate.detach().mean(0))

    assert farthest(gradient(trainer_of(preset, config, kind=Own)), expected) == 0
    assert (
        farthest(gradient(trainer_of(preset, config, accumulate=2, kind=Own)), expected)
        > 1000 * STEP_TOLERANCE
    )


def test_rates_that_are_all_free_leave_the_gradient_of_the_distortion() -> None:
    unweighted = dataclasses.replace(IN_PARTS, rate_warmup_images=100)
    expected = gradient(trainer_of("fame", unweighted))
    weightless = dataclasses.replace(IN_PARTS, beta=0.0)
    for parts in (1, 4):
        assert farthest(gradient(trainer_of("fame", weightless, accumulate=parts)), expected) < STEP_TOLERANCE
        free = dataclasses.replace(IN_PARTS, free_nats=1e3)
        assert farthest(gradient(trainer_of("fame", free, accumulate=parts)), expected) < STEP_TOLERANCE
    assert farthest(gradient(trainer_of("fame", IN_PARTS)), expected) > 0.01


@pytest.mark.parametrize("parts", [2, 4])
def test_trainings_in_parts_lead_to_the_same_weights(parts: int) -> None:
    config = configured("fame", parts)
    whole, split = trainer_of("fame", config), trainer_of("fame", config, accumulate=parts)
    for _ in range(4):
        expected, found = whole.step(), split.step()
        assert found.nats == pytest.approx(expected.nats, rel=STEP_TOLERANCE)
        assert found.rate == pytest.approx(expected.rate, rel=STEP_TOLERANCE, abs=1e-7)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=STEP_TOLERANCE)
    assert farthest(snapshot(split), snapshot(whole)) < 10 * STEP_TOLERANCE


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_parts_train_patches_and_attention_as_the_whole(preset: str, parts: int) -> None:
    whole, split = (trainer_of(preset, IN_PARTS, accumulate=n, decoder=ATTENTION) for n in (1, parts))
    assert whole.model.config.normalised
    assert any("attention.project" in name for name in snapshot(whole))
    for _ in range(4):
        expected, found = whole.step(), split.step()
        assert found.nats == pytest.approx(expected.nats, rel=STEP_TOLERANCE)
    assert farthest(snapshot(split), snapshot(whole)) < 10 * STEP_TOLERANCE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_rate_known_before_the_first_part_is_that_of_the_batch(precision: Precision) -> None:
    trainer = trainer_of("fame", IN_PARTS, precision, accumulate=4)
    early = trainer._mean_rate(trainer._batch(), trainer._parts())
    with trainer.autocast():
        expected = rates(trainer).mean(0)
    torch.testing.assert_close(early, expected, rtol=1e-2 if precision == "bf16" else 1e-6, atol=1e-3)


def test_bfloat16_goes_with_parts() -> None:
    expected = gradient(trainer_of("fame", IN_PARTS, "bf16"))
    found = gradient(trainer_of("fame", IN_PARTS, "bf16", accumulate=2))
    exact = gradient(trainer_of("fame", IN_PARTS))
    assert farthest(expected, exact) > 1e-4
    assert farthest(found, expected) < farthest(expected, exact)


def test_parts_see_their_rows_of_one_draw() -> None:
    shapes = [torch.Size((6, 2)), torch.Size((6, 3, 2))]
    drawn = BatchNoise(stream("x"))
    whole = {layer: drawn(layer, shapes[layer]) for layer in (1, 0)}
    noise = PartNoise(BatchNoise(stream("x")), 6, [shape[1:] for shape in shapes])
    assert torch.equal(noise(1, shapes[1]), whole[1])
    for rows in (slice(4, 6), slice(0, 4), slice(2, 3)):
        noise.rows = rows
        for layer in (0, 1):
            asked = torch.Size((rows.stop - rows.start, *shapes[layer][1:]))
            assert torch.equal(noise(layer, asked), whole[layer][rows])


@pytest.mark.parametrize(
    ("accumulate", "sizes"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (5, [2, 2, 2, 2]), (99, [1] * 8)]
)
def test_a_batch_is_split_into_as_many_parts_at_most(accumulate: int, sizes: list[int]) -> None:
    trainer = trainer_of("vae", IN_PARTS, accumulate=accumulate)
    parts = trainer._parts()
    assert [rows.stop - rows.start for rows in parts] == sizes
    assert [row for rows in parts for row in range(rows.start, rows.stop)] == list(range(BATCH))
    assert trainer.images_at_once == max(sizes)
    assert len(split_of().pixels) >= BATCH
