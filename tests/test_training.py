"""Optimizers, schedules, and the steps of a training."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.trainers import PLAIN, SHAPE, assert_same, snapshot, split_of, spoil, trainer_of
from torch import nn

from famecli.config.presets import PRESETS, model_config
from famecli.config.schema import ModelConfig, TrainConfig
from famecli.data.dataset import ImageSplit
from famecli.data.registry import dataset_info
from famecli.errors import FameError, InputError, NumericsError
from famecli.model.fame import Fame
from famecli.training.optim import SMALLEST_SIDE, Muon, make_optimizers, optimizer_tensors, orthogonal
from famecli.training.schedule import EMA_RAMP, ema_decay, learning_rate_factor, rate_weight
from famecli.training.trainer import Trainer


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 24, 24), (1, 1, 9)])
def test_orthogonal_moves_singular_values_near_one_and_keeps_their_vectors(
    shape: tuple[int, int, int],
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = orthogonal(x, 5)
    left, before, right = torch.linalg.svd(x, full_matrices=False)
    kept = left.mT @ result @ right.mT
    singular = kept.diagonal(dim1=1, dim2=2)
    well = before > 0.05 * before.amax(1, keepdim=True)
    assert well.sum() >= 0.9 * well.numel()
    assert singular[well].min() > 0.6
    assert singular.max() < 1.25
    assert (kept - torch.diag_embed(singular)).abs().max() < 1e-9


def test_orthogonal_of_a_batch_is_that_of_each_and_scale_does_not_matter() -> None:
    x = torch.randn((4, 17, 20), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    whole = orthogonal(x, 5)
    for index in range(4):
        torch.testing.assert_close(orthogonal(x[index : index + 1], 5)[0], whole[index])
    torch.testing.assert_close(orthogonal(1000 * x, 5), whole, rtol=1e-5, atol=1e-5)


def test_muon_steps_as_its_formula_says() -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(20, 16), (20, 4, 2, 2), (16, 20)]
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    expected = [weight.detach().clone().flatten(1) for weight in weights]
    momenta = [torch.zeros_like(each) for each in expected]
    muon = Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        for index, weight in enumerate(weights):
            assert weight.grad is not None
            grad = weight.grad.flatten(1)
            momenta[index] = 0.9 * momenta[index] + 0.1 * grad
            update = orthogonal((0.1 * grad + 0.9 * momenta[index])[None], 5)[0]
            rows, columns = grad.shape
            scale = 0.1 * math.sqrt(max(1.0, rows / columns))
            expected[index] = expected[index] * (1 - 0.1 * 0.5) - scale * update
        muon.step()
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach().flatten(1), value, rtol=1e-4, atol=1e-5)


def test_muon_leaves_weights_without_gradients_alone() -> None:
    weight = nn.Parameter(torch.ones(20, 20))
    Muon([weight], lr=0.1, weight_decay=1.0).step()
    assert torch.equal(weight.detach(), torch.ones(20, 20))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_every_weight_has_one_optimizer_and_large_matrices_muon(kind: str) -> None:
    config = TrainConfig.from_dict({"optimizer": kind, "lr": 0.25, "muon_lr": 0.5, "weight_decay": 0.125})
    model = Fame(model_config("fame", "tiny", SHAPE, 2))
    optimizers = make_optimizers(model, config)
    assert [type(each) for each in optimizers] == [torch.optim.AdamW, Muon][: 2 if kind == "muon" else 1]
    owned = [(o, w) for o in optimizers for group in o.param_groups for w in group["params"]]
    assert sorted(id(w) for _, w in owned) == sorted(id(w) for w in model.parameters())
    for optimizer, weight in owned:
        sides = (weight.shape[0], weight[0].numel() if weight.dim() else 1)
        large = weight.dim() >= 2 and min(sides) >= SMALLEST_SIDE
        assert isinstance(optimizer, Muon) == (large and kind == "muon")
        group = optimizer.param_groups[0]
        expected_lr = 0.5 if isinstance(optimizer, Muon) else 0.25
        assert (group["lr"], group["initial_lr"], group["weight_decay"]) == (expected_lr, expected_lr, 0.125)


def test_the_learning_rate_stays_and_then_falls_in_a_line_to_zero_by_default() -> None:
    config = TrainConfig(batch_size=10, total_images=1000, warmup_images=100)
    factors = [learning_rate_factor(config, images) for images in (0, 40, 90, 300, 650, 930, 1000, 5000)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.1, 0.0, 0.0])
    kept = dataclasses.replace(config, final_lr=0.1)
    assert learning_rate_factor(kept, 650) == pytest.approx(0.55)
    at_once = dataclasses.replace(config, decay_start=0.0)
    assert learning_rate_factor(at_once, 200) == pytest.approx(0.8)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    falling = {"final_lr": 0.1, "decay": "cosine", "decay_start": 0.0}
    config = TrainConfig(batch_size=10, total_images=1000, warmup_images=100, **falling)
    assert learning_rate_factor(config, 0) == pytest.approx(0.1)
    assert learning_rate_factor(config, 40) == pytest.approx(
        0.5 * (0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * 0.04)))
    )
    assert learning_rate_factor(config, 500) == pytest.approx(0.55)
    assert learning_rate_factor(config, 1000) == pytest.approx(0.1)
    assert learning_rate_factor(config, 5000) == pytest.approx(0.1)
    cold = dataclasses.replace(config, warmup_images=0)
    factors = [learning_rate_factor(cold, images) for images in range(0, 1001, 50)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)


@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
def test_the_weight_of_the_divergence_rises_to_beta(beta: float) -> None:
    config = TrainConfig(rate_warmup_images=200, beta=beta, decoder_only=0.0)
    expected = [0.0, 0.25 * beta, beta, beta]
    assert [rate_weight(config, images) for images in (0, 50, 200, 999)] == expected
    assert rate_weight(dataclasses.replace(config, rate_warmup_images=0), 0) == beta


def test_averages_forget_half_in_a_half_life() -> None:
    config = TrainConfig(batch_size=10, ema_halflife_images=1000)
    late = ema_decay(config, 10**6)
    assert late ** (1000 / 10) == pytest.approx(0.5)
    early = ema_decay(config, 400)
    assert early ** (400 * EMA_RAMP / 10) == pytest.approx(0.5)
    assert early < late < 1
    assert ema_decay(config, 0) == 0.0
    # So no half-life is too long for a short training.
    longest = dataclasses.replace(config, ema_halflife_images=round(400 * EMA_RAMP))
    assert [ema_decay(longest, seen) for seen in (10, 200, 400)] == [
        ema_decay(config, seen) for seen in (10, 200, 400)
    ]
    assert ema_decay(TrainConfig(ema_halflife_images=0), 500) == 0.0


@pytest.mark.parametrize("preset", PRESETS)
def test_two_steps_change_every_weight(preset: str) -> None:
    trainer = trainer_of(preset, shape=(1, 28, 28))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    records = [trainer.step(), trainer.step()]
    after = dict(trainer.model.named_parameters())
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []
    assert all(bool(torch.isfinite(weight).all()) for weight in after.values())
    for number, record in enumerate(records, 1):
        assert (record.step, record.images, record.skipped) == (number, 6 * number, 0)
        assert 0 < record.nats < 2 * 784
        assert len(record.rate) == trainer.model.config.stochastic_layers
        assert record.grad_norm > 0
        assert record.lr_factor == learning_rate_factor(trainer.config, 6 * (number - 1))


def test_averages_move_towards_the_weights_by_the_decay() -> None:
    trainer = trainer_of(config=dataclasses.replace(PLAIN, ema_halflife_images=7))
    trainer.step()
    before = {name: value.clone() for name, value in trainer.averaged.items()}
    trainer.step()
    decay = ema_decay(trainer.config, 12)
    assert 0 < decay < 1
    for name, weight in trainer.model.state_dict().items():
        expected = decay * before[name] + (1 - decay) * weight
        torch.testing.assert_close(trainer.averaged[name], expected)
        assert not torch.equal(trainer.averaged[name], weight)


@pytest.mark.parametrize("preset", ["pixelcnn", "vae"])
@pytest.mark.parametrize("parts", [2, 3, 4, 6])
def test_a_batch_in_parts_is_the_whole_batch(preset: str, parts: int) -> None:
    whole, split = trainer_of(preset), trainer_of(preset, accumulate=parts)
    expected, found = whole.step(), split.step()
    assert found.nats == pytest.approx(expected.nats, rel=1e-5)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert found.rate == pytest.approx(expected.rate, rel=1e-4)
    for one, other in zip(whole.model.parameters(), split.model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    trainer = trainer_of()
    spoil(trainer, monkeypatch, {1, 2}, value)
    trainer.step()
    before = snapshot(trainer)
    counts = [trainer.step().skipped, trainer.step().skipped]
    after = snapshot(trainer)
    counters = "counters/steps"
    assert (counts, after.pop(counters).tolist(), before.pop(counters).tolist()) == (
        [1, 2],
        [3, 2, 2],
        [1, 0, 0],
    )
    assert_same(after, before)
    assert trainer.step().skipped == 2
    assert trainer.skipped_in_a_row == 0
    assert not torch.equal(trainer.averaged["decoder.head2.weight"], before["averaged/decoder.head2.weight"])


@pytest.mark.parametrize("allowed", [0, 2])
def test_too_many_skipped_steps_in_a_row_end_the_training(
    monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    trainer = trainer_of(config=dataclasses.replace(PLAIN, max_skipped=allowed))
    spoil(trainer, monkeypatch, set(range(1, 9)), math.nan)
    for _ in range(1 + allowed):
        trainer.step()
    weights = snapshot(trainer)
    with pytest.raises(NumericsError, match=f"{allowed + 1} steps in a row") as caught:
        trainer.step()
    assert "`lr`" in caught.value.hint
    weights["counters/steps"] = trainer.state_tensors()["counters/steps"]
    assert_same(snapshot(trainer), weights)


def test_large_gradients_are_scaled_down_to_the_norm() -> None:
    trainer = trainer_of(config=dataclasses.replace(PLAIN, clip_norm=0.5))
    record = trainer.step()
    assert record.grad_norm > 0.5
    norms = [weight.grad.norm() for weight in trainer.model.parameters() if weight.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(0.5, rel=1e-3)


def test_the_seed_is_all_that_a_training_depends_on() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, other = trainer_of(), trainer_of()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    for _ in range(2):
        one.step()
        torch.rand(3)
        other.step()
    assert_same(snapshot(one), snapshot(other))
    third = trainer_of(config=dataclasses.replace(PLAIN, seed=1))
    assert not torch.equal(
        third.averaged["decoder.head2.weight"], trainer_of().averaged["decoder.head2.weight"]
    )


def test_an_epoch_shows_each_image_at_most_once() -> None:
    info = dataclasses.replace(dataset_info("mnist-grey"), shape=(1, 2, 2))
    pixels = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None], (20, 1, 2, 2))
    model = model_config("pixelcnn", "tiny", (1, 2, 2), 256)
    trainer = Trainer(model, PLAIN, ImageSplit(info, "train", pixels), torch.device("cpu"))
    epochs = []
    for epoch in range(3):
        seen = []
        for index in range(3):
            trainer.step_count = 3 * epoch + index
            seen += trainer.next_images()[0][:, 0, 0, 0].tolist()
        assert len(set(seen)) == 18
        epochs.append(tuple(seen))
    assert len(set(epochs)) == 3
    assert len(set().union(*epochs)) == 20


def test_bfloat16_comes_near_to_float32() -> None:
    exact, rough = trainer_of().step(), trainer_of(precision="bf16").step()
    assert rough.nats == pytest.approx(exact.nats, rel=0.02)
    assert rough.nats != exact.nats


def test_validation_is_that_of_the_averages_and_changes_nothing() -> None:
    trainer = trainer_of()
    trainer.step()
    before = snapshot(trainer)
    levels = split_of(5).pixels // 128
    first, second = trainer.validate(levels), trainer.validate(levels)
    assert first.nats.tolist() == second.nats.tolist()
    assert_same(snapshot(trainer), before)
    averaged = trainer.averaged_model()
    assert_same(dict(averaged.state_dict()), trainer.averaged)
    assert not any(weight.requires_grad for weight in averaged.parameters())
    trainer.model.load_state_dict({name: 0 * value for name, value in trainer.averaged.items()})
    assert trainer.validate(levels).nats.tolist() == first.nats.tolist()


def test_weights_of_another_training_can_be_the_first() -> None:
    source, trainer = trainer_of(), trainer_of(config=dataclasses.replace(PLAIN, seed=5))
    source.step()
    trainer.start_from(source.averaged)
    assert_same(dict(trainer.model.state_dict()), source.averaged)
    assert_same(trainer.averaged, source.averaged)
    trainer.step()
    assert not torch.equal(trainer.averaged["decoder.head2.weight"], source.averaged["decoder.head2.weight"])
    for other in ("vae", "pixelcnn", "fame-dense"):
        with pytest.raises(InputError, match="of another model") as caught:
            trainer.start_from(trainer_of(other).averaged)
        assert "\n" not in str(caught.value)


def test_images_must_be_those_of_the_model() -> None:
    def build(model: ModelConfig, count: int = 20) -> Trainer:
        return Trainer(model, PLAIN, split_of(count), torch.device("cpu"))

    with pytest.raises(InputError, match=r"\(1, 9, 8\)"):
        build(model_config("vae", "tiny", (1, 9, 8), 2))
    with pytest.raises(InputError, match="256 levels"):
        build(model_config("vae", "tiny", SHAPE, 256))
    with pytest.raises(InputError, match="5 training images are fewer than one batch of 6"):
        build(model_config("vae", "tiny", SHAPE, 2), 5)


WEIGHT = "decoder.head2.weight"


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.pop(f"model/{WEIGHT}"),
        lambda t: t.pop(f"averaged/{WEIGHT}"),
        lambda t: t.pop(f"optimizer/{WEIGHT}:exp_avg"),
        lambda t: t.pop("counters/steps"),
        lambda t: t.update({"no group": torch.zeros(1)}),
        lambda t: t.update({"other/x": torch.zeros(1)}),
        lambda t: t.update({"optimizer/x:step": torch.zeros(())}),
        lambda t: t.update({f"model/{WEIGHT}": torch.zeros(1)}),
        lambda t: t.update({f"averaged/{WEIGHT}": torch.zeros(1)}),
        lambda t: t.update({f"averaged/{WEIGHT}": t[f"averaged/{WEIGHT}"].double()}),
        lambda t: t.update({f"averaged/{WEIGHT}": t[f"averaged/{WEIGHT}"] * math.nan}),
        lambda t: t.update({f"optimizer/{WEIGHT}:exp_avg": torch.zeros(1)}),
        lambda t: t.update({"counters/steps": torch.tensor([1, 2])}),
        lambda t: t.update({"counters/steps": torch.tensor([-1, 0, 0])}),
        lambda t: t.update({"counters/steps": torch.tensor([1.5, 0, 0])}),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(damage: Callable[[dict[str, Any]], object]) -> None:
    trainer = trainer_of()
    trainer.step()
    assert f"optimizer/{WEIGHT}:exp_avg" in trainer.state_tensors()
    assert f"{WEIGHT}:exp_avg" in optimizer_tensors(trainer.model, trainer.optimizers)
    damaged = snapshot(trainer)
    damage(damaged)
    fresh = trainer_of()
    before = snapshot(fresh)
    with pytest.raises(FameError, match="the saved training state is of another training") as caught:
        fresh.restore(damaged)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    assert_same(snapshot(fresh), before)
