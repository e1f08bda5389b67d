"""A decoder that learns without latents first, and latents that join it."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import save_model
from support.outcomes import Command
from support.trainers import (
    ATTENTION,
    PLAIN,
    STEP_TOLERANCE,
    assert_equal_runs,
    assert_same,
    farthest,
    metrics,
    resumed,
    run_of,
    snapshot,
    train,
    trainer_of,
)
from torch import Tensor

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.config.presets import model_config
from famecli.config.resolve import Setting, resolve, to_toml
from famecli.config.schema import TrainConfig
from famecli.errors import InputError
from famecli.model.fame import Fame
from famecli.nll.record import NATS_PER_BIT
from famecli.rng import BatchNoise, stream
from famecli.training import capacity
from famecli.training.costs import predict
from famecli.training.options import TrainOptions
from famecli.training.plan import Plan, make_plan
from famecli.training.schedule import fit, rate_weight
from famecli.training.trainer import Trainer

# Four steps without latents, four with them; two validations in each half.
LATER = dataclasses.replace(PLAIN, decoder_only=0.5, eval_every_images=12, rate_warmup_images=12)
HALF = 4


def part_of(trainer: Trainer, *, ladder: bool) -> dict[str, Tensor]:
    """Return the weights of the ladder, or all others."""
    weights = trainer.model.state_dict()
    return {name: value.clone() for name, value in weights.items() if name.startswith("stages.") == ladder}


def optimized(trainer: Trainer) -> set[str]:
    """Return the names of the weights with an optimizer's state."""
    keys = (name for name in trainer.state_tensors() if name.startswith("optimizer/"))
    return {key.removeprefix("optimizer/").partition(":")[0] for key in keys}


def test_the_first_steps_leave_the_ladder_alone() -> None:
    trainer = trainer_of("fame", LATER)
    ladder, rest = part_of(trainer, ladder=True), part_of(trainer, ladder=False)
    assert [trainer.step().rate for _ in range(HALF)] == [(0.0, 0.0)] * HALF
    assert_same(part_of(trainer, ladder=True), ladder)
    learned = part_of(trainer, ladder=False)
    assert sum(not torch.equal(learned[name], value) for name, value in rest.items()) > len(rest) // 2
    assert not any(name.startswith("stages.") for name in optimized(trainer))
    assert min(trainer.step().rate) > 0.0
    now = part_of(trainer, ladder=True)
    assert sum(not torch.equal(now[name], value) for name, value in ladder.items()) > 0
    assert any(name.startswith("stages.") for name in optimized(trainer))


def test_latents_join_without_a_jump() -> None:
    trainer = trainer_of("fame", LATER)
    for _ in range(HALF):
        trainer.step()
    model, x = trainer.model.eval(), torch.ones(3, 1, 8, 8)
    noise = BatchNoise(stream("test"))
    with torch.no_grad():
        alone = model(x, noise)
        model.decoder_only = False
        joined = model(x, noise)
    assert torch.equal(alone.distortion, joined.distortion)
    assert torch.equal(alone.log_weight, -alone.distortion)
    assert float(joined.rate.min()) > 0.0


@pytest.mark.parametrize(
    ("kind", "steps"), [("auto", [True] * HALF + [False] * HALF), ("never", [False] * 8)]
)
def test_bits_are_scored_by_their_mean_until_latents_see_them(kind: str, steps: list[bool]) -> None:
    trainer = trainer_of("fame", dataclasses.replace(LATER, expected_bits=kind))
    found = []
    for _ in range(2 * HALF):
        trainer.step()
        trainer.step_count -= 1
        found.append(trainer.next_images()[2] is not None)
        trainer.step_count += 1
    assert found == steps


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_train_as_the_whole(parts: int) -> None:
    whole, split = (trainer_of("fame", LATER, accumulate=n, decoder=ATTENTION) for n in (1, parts))
    for _ in range(HALF + 2):
        expected, found = whole.step(), split.step()
        assert found.nats == pytest.approx(expected.nats, rel=STEP_TOLERANCE)
    assert farthest(snapshot(split), snapshot(whole)) < 10 * STEP_TOLERANCE


@pytest.mark.parametrize("stop", [HALF - 2, HALF, HALF + 1])
def test_a_run_resumed_in_either_half_equals_the_unbroken_one(tmp_path: Path, stop: int) -> None:
    train(run_of(tmp_path / "unbroken", trainer_of("fame", LATER)))
    train(run_of(tmp_path / "broken", trainer_of("fame", LATER)), until=stop)
    train(resumed(tmp_path / "broken", LATER))
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")


def test_a_state_that_lacks_a_part_of_the_ladder_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of("fame", LATER)
    for _ in range(HALF + 1):
        trainer.step()
    state = snapshot(trainer)
    lost = next(name for name in state if name.startswith("optimizer/stages."))
    with pytest.raises(InputError, match="missing"):
        trainer_of("fame", LATER).restore({name: value for name, value in state.items() if name != lost})
    without = {name: value for name, value in state.items() if not name.startswith("optimizer/stages.")}
    for fraction in (0.0, LATER.decoder_only):
        with pytest.raises(InputError, match="missing"):
            trainer_of("fame", dataclasses.replace(LATER, decoder_only=fraction)).restore(without)
    # A skipped step leaves no state.
    trainer_of("fame", LATER).restore(without | {"counters/steps": torch.tensor([HALF + 1, 1, 1])})


def test_validations_have_the_nll_of_the_decoder_until_latents_are_trained(tmp_path: Path) -> None:
    run = run_of(tmp_path, trainer_of("fame", LATER))
    train(run, until=HALF)
    assert run.best() is None
    assert run.checkpoint == tmp_path / "last.safetensors"
    assert not (tmp_path / "best.safetensors").exists()
    early = [record for record in metrics(tmp_path) if record["split"] == "valid"]
    assert [record["images"] for record in early] == [12, 24]
    assert [record["kl_bits"] for record in early] == [[0.0, 0.0]] * 2
    # With latents that nothing has trained, the bound is looser.
    model = load_checkpoint(tmp_path / "last.safetensors").model
    levels = torch.from_numpy(run.valid.levels)
    with torch.no_grad():
        terms = model(levels, BatchNoise(stream("test")))
    assert float(terms.distortion.mean()) == pytest.approx(early[-1]["nats_per_image"], rel=1e-6)
    assert float(terms.negative_elbo.mean()) > early[-1]["nats_per_image"] + 0.1
    train(run)
    late = [record for record in metrics(tmp_path) if record["split"] == "valid"][2:]
    assert all(bits * NATS_PER_BIT > 0.0 for record in late for bits in record["kl_bits"])
    best = run.best()
    assert best is not None
    assert best.images > 6 * HALF
    assert best.nats == min(record["nats_per_image"] for record in late)


def test_a_model_without_latents_waits_for_none(tmp_path: Path) -> None:
    run = run_of(tmp_path, trainer_of("pixelcnn", LATER))
    train(run, until=HALF - 1)
    best = run.best()
    assert best is not None
    assert best.images == 12


def test_the_decoder_alone_is_given_classes() -> None:
    config = dataclasses.replace(model_config("fame", "tiny", (1, 8, 8), 2), classes=("a", "b"))
    model = Fame(config).eval()
    model.decoder_only = True
    with torch.no_grad():
        model.label.vectors[0, 1] = 1.0
        x, noise = torch.ones(2, 1, 8, 8), BatchNoise(stream("test"))
        first, second = model(x, noise, torch.tensor([0, 1])).distortion.tolist()
    assert first != second


def test_the_divergence_gains_weight_once_there_are_latents() -> None:
    config = TrainConfig(batch_size=10, total_images=1000, rate_warmup_images=200)
    assert config.decoder_only_steps == 50
    assert [rate_weight(config, images) for images in (0, 500, 550, 700, 990)] == [0.0, 0.0, 0.25, 1.0, 1.0]
    at_once = dataclasses.replace(config, rate_warmup_images=0)
    assert [rate_weight(at_once, images) for images in (0, 990)] == [1.0, 1.0]


def test_the_warm_up_of_the_divergence_fits_the_images_with_latents() -> None:
    whole = TrainConfig(total_images=8_000)
    assert (fit(whole).decoder_only, fit(whole).rate_warmup_images) == (0.5, 1_000)
    alone = fit(whole, latents_wait=False)
    assert (alone.decoder_only, alone.rate_warmup_images) == (0.0, 2_000)
    by_hand = fit(dataclasses.replace(whole, decoder_only=0.75), {"decoder_only"}, latents_wait=False)
    assert (by_hand.decoder_only, by_hand.rate_warmup_images) == (0.75, 500)


def planned(preset: str, out: Path, **options: Any) -> Plan:
    return make_plan(TrainOptions(preset=preset, size="tiny", images=8_000, out=out, **options))


@pytest.mark.parametrize(
    ("preset", "fraction"),
    [("fame", 0.5), ("fame-dense", 0.5), ("pixelvae", 0.5)]
    + [(preset, 0.0) for preset in ("pixelcnn", "fame-no-concat", "lvae", "vae")],
)
def test_latents_wait_for_a_pixelcnn(tmp_path: Path, data: Path, preset: str, fraction: float) -> None:
    assert planned(preset, tmp_path / "run").config.decoder_only == fraction
    by_hand = planned(preset, tmp_path / "run", settings=[Setting("decoder_only", 0.25)])
    assert by_hand.config.decoder_only == 0.25


def test_trained_latents_do_not_wait(tmp_path: Path, data: Path) -> None:
    first = tmp_path / "first.safetensors"
    save_model(first)
    options = TrainOptions(preset="fame", images=8_000, out=tmp_path / "run")
    assert make_plan(options, load_checkpoint(first)).config.decoder_only == 0.0
    named = dataclasses.replace(options, init=str(first))
    assert make_plan(named).config.decoder_only == 0.0
    assert make_plan(options).config.decoder_only == 0.5


def test_trainings_of_before_have_latents_at_once(tmp_path: Path) -> None:
    assert TrainConfig.from_dict({"batch_size": 8}).decoder_only == 0.0
    preset, file = model_config("fame", "tiny", (1, 28, 28), 2), tmp_path / "config.toml"
    text = to_toml(preset, TrainConfig())
    file.write_text(text.replace("decoder_only = 0.5\n", ""))
    assert file.read_text() != text
    assert resolve(preset, TrainConfig(), file, []).train.decoder_only == 0.0
    file.write_text(text)
    assert resolve(preset, TrainConfig(), file, []).train.decoder_only == 0.5


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5])
def test_as_many_measured_steps_have_latents_as_in_the_training(fraction: float) -> None:
    class Counting(Trainer):
        def step(self) -> Any:
            record = super().step()
            kinds.append(self.model.decoder_only)
            return record

    kinds: list[bool] = []
    trainer = trainer_of("fame", dataclasses.replace(LATER, decoder_only=fraction), kind=Counting)
    capacity.images_in_time(trainer, 1.0)
    assert len(kinds) >= capacity.WARM_UP_STEPS + capacity.FEWEST_STEPS
    # Each kind is compiled, and loads libraries, before the measured steps.
    assert kinds[:2] == [fraction > 0, False]
    assert sum(kinds[2:]) == math.floor(fraction * len(kinds[2:]))


def test_a_dry_run_takes_steps_with_latents() -> None:
    trainer = trainer_of("fame", LATER)
    assert predict(trainer)["total_images"] == LATER.total_images
    assert any(name.startswith("stages.") for name in optimized(trainer))


def test_a_command_trains_latents_in_the_second_half(train: Command) -> None:
    done = train("fame", "--steps", 8, "--set", "eval_every_images=12")
    assert done.code == 0, done.err
    (run,) = Path("runs").iterdir()
    rows = [record for record in metrics(run) if record["split"] == "train"]
    kinds = [all(record["kl_bits"]) for record in rows]
    assert kinds == sorted(kinds)
    assert set(kinds) == {False, True}
