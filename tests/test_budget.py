"""`fame train --budget`, and schedules that fit the number of images."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from support.outcomes import Command, error_lines
from support.trainers import Times, trainer_of
from torch import Tensor

from famecli.cli.train_options import seconds
from famecli.config.schema import TrainConfig
from famecli.runtime.distributed import Group
from famecli.training import capacity
from famecli.training.capacity import WARM_UP_STEPS, images_in_time
from famecli.training.schedule import fit
from famecli.training.trainer import Trainer

FITTED = ("warmup_images", "rate_warmup_images", "ema_halflife_images", "eval_every_images")


def fitted(images: int, **by_hand: int) -> tuple[int, ...]:
    config = fit(dataclasses.replace(TrainConfig(), total_images=images, **by_hand), by_hand)
    return tuple(getattr(config, name) for name in FITTED)


def test_short_trainings_have_short_schedules() -> None:
    assert fitted(20_000) == (2_500, 5_000, 1_000, 2_000)
    assert fitted(1_009) == (126, 252, 51, 101)
    assert fitted(1) == (0, 0, 1, 1)
    assert fit(TrainConfig()) == TrainConfig()
    assert fitted(10**9) == tuple(getattr(TrainConfig(), name) for name in FITTED)


def test_keys_set_by_hand_stay() -> None:
    assert fitted(20_000, warmup_images=6_400) == (6_400, 5_000, 1_000, 2_000)
    assert fitted(10**9, rate_warmup_images=10**8, ema_halflife_images=0)[1:3] == (10**8, 0)


@pytest.mark.parametrize("words", [("--images", 20_000), ("--steps", 1250), ("--set", "total_images=20000")])
def test_the_schedule_fits_any_length(fame: Command, data: Path, words: tuple[object, ...]) -> None:
    table = tomllib.loads(fame("train", *words, "--set", "warmup_images=7", "--print-config").out)["train"]
    assert tuple(table[name] for name in FITTED) == (7, 5_000, 1_000, 2_000)
    table = tomllib.loads(fame("train", *words, "--ema", 9, "--eval-every", 8, "--print-config").out)["train"]
    assert tuple(table[name] for name in FITTED) == (2_500, 5_000, 9, 8)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Times:
    """Steps that take half a second of a clock that nothing else moves, and a whole one while warming up."""
    times = Times()

    def timed(trainer: Trainer) -> None:
        spent_s = 1.0 if trainer.step_count < WARM_UP_STEPS else 0.5
        times.wall_s, times.cpu_s = times.wall_s + spent_s, times.cpu_s + spent_s
        trainer.step_count += 1

    monkeypatch.setattr("famecli.training.clock.time", times)
    monkeypatch.setattr(Trainer, "step", timed)
    return times


def test_images_are_those_that_fit_beside_what_was_measured(slow: Times) -> None:
    trainer = trainer_of("vae")
    # Five steps of half a second are measured; 47.5 seconds are left.
    assert images_in_time(trainer, 50.0) == (95 * 6, 12.0)
    assert trainer.step_count == WARM_UP_STEPS + 5
    # A twentieth of the budget is measured, 10 s.
    trainer = trainer_of("vae")
    assert images_in_time(trainer, 200.0) == (380 * 6, 12.0)
    assert trainer.step_count == WARM_UP_STEPS + 20
    assert images_in_time(trainer_of("vae"), 0.1) == (6, 12.0)
    trainer = trainer_of("vae")
    assert images_in_time(trainer, 1e5)[0] == 6 * 2 * (100_000 - 30)


def test_all_processes_take_the_number_of_the_first(slow: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of("vae")
    told: list[float] = []

    class Second(Group):
        def sum(self, values: Tensor) -> Tensor:
            told.append(float(values))
            return values * 0 + 5.0

        def largest(self, value: int) -> int:
            told.append(value)
            return int(len(told) >= 7)

    monkeypatch.setattr(Trainer, "step", lambda trainer: None)
    trainer.group = Second(1, 1, 1)
    images, speed = images_in_time(trainer, 50.0)
    # Seven steps in the five seconds of the first process, whatever the clock here says.
    assert (images, speed) == (int(45 * 7 * 6 / 5) // 6 * 6, 7 * 6 / 5)
    assert told == [0] * 7 + [0.0]


def test_a_budget_is_fixed_once(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "images_in_time", lambda trainer, budget_s: (24, 0.4))
    words = ("vae", "--budget", "1m", "--set", "rate_warmup_images=5")
    first = train(*words, "--max-time", "0s")
    assert first.code == 75
    assert "24 images fit in 60 s" in first.err
    (run,) = Path("runs").iterdir()
    config = tomllib.loads((run / "config.toml").read_text())["train"]
    assert (config["total_images"], config["warmup_images"], config["rate_warmup_images"]) == (24, 3, 5)

    def again(trainer: Trainer, budget_s: float) -> tuple[int, float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(capacity, "images_in_time", again)
    # Any spelling of the same time.
    second = train(*words[:2], "60s", *words[3:])
    assert second.code == 0
    assert "resumed at 6 images" in second.err
    assert tomllib.loads((run / "config.toml").read_text())["train"] == config
    outcome = train(*words[:2], "2m", "-o", run)
    (line,) = error_lines(outcome)
    assert "budget = 60 s, now it is 120 s" in line
    (line,) = error_lines(train("vae", "--images", 30, "-o", run))
    assert "train.total_images = 24, now it is 30" in line


def test_a_dry_run_tells_what_fits(fame: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "images_in_time", lambda trainer, budget_s: (int(budget_s), 0.4))
    outcome = fame("train", "vae", "--batch-size", 6, "--budget", "90", "--dry-run", "--json")
    assert '"total_images": 90' in outcome.out
    outcome = fame("train", "vae", "--batch-size", 6, "--budget", "90", "--print-config")
    assert tomllib.loads(outcome.out)["train"]["total_images"] == 90


def test_a_budget_is_a_time(train: Command) -> None:
    for text, hint in (("soon", "1.5h"), ("0s", "--budget 600")):
        outcome = train("vae", "--budget", text)
        assert (outcome.code, len(error_lines(outcome))) == (2, 1)
        assert hint in outcome.err
    assert (seconds("1h30m"), seconds("90"), seconds("1.5m")) == (5400.0, 90.0, 90.0)
