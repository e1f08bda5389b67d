"""`fame train --budget`, and schedules that fit the number of images."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.outcomes import Command, Outcome, error_lines
from support.trainers import PLAIN, Times, assert_same, snapshot, trainer_of
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
    assert fitted(20_000) == (312, 2_500, 1_000, 2_000)
    assert fitted(1_009) == (15, 126, 51, 101)
    assert fitted(1) == (0, 0, 1, 1)
    # Of many images, learning rates fall from the start.
    assert fit(TrainConfig()) == TrainConfig(decay_start=0.0)
    assert fit(TrainConfig(total_images=249_999)).decay_start == TrainConfig().decay_start
    assert fit(TrainConfig(total_images=250_000)).decay_start == 0.0
    assert fit(TrainConfig(decay_start=0.5), {"decay_start"}).decay_start == 0.5
    assert fitted(10**9) == tuple(getattr(TrainConfig(), name) for name in FITTED)


def test_keys_set_by_hand_stay() -> None:
    assert fitted(20_000, warmup_images=6_400) == (6_400, 2_500, 1_000, 2_000)
    assert fitted(10**9, rate_warmup_images=10**8, ema_halflife_images=0)[1:3] == (10**8, 0)


@pytest.mark.parametrize("words", [("--images", 20_000), ("--steps", 1250), ("--set", "total_images=20000")])
def test_the_schedule_fits_any_length(fame: Command, data: Path, words: tuple[object, ...]) -> None:
    table = tomllib.loads(fame("train", *words, "--set", "warmup_images=7", "--print-config").out)["train"]
    assert tuple(table[name] for name in FITTED) == (7, 2_500, 1_000, 2_000)
    table = tomllib.loads(fame("train", *words, "--ema", 9, "--eval-every", 8, "--print-config").out)["train"]
    assert tuple(table[name] for name in FITTED) == (312, 2_500, 9, 8)
    by_hand = "train={warmup_images=7, eval_every_images=8}"
    table = tomllib.loads(fame("train", *words, "--set", by_hand, "--print-config").out)["train"]
    assert tuple(table[name] for name in FITTED) == (7, 2_500, 1_000, 8)
    assert (table["decay"], table["decay_start"]) == ("linear", 0.3)


class Slow(Trainer):
    """Steps that take half a second of a clock that nothing else moves.

    Those that warm up take 20 seconds, in which another process compiles, and use one of the CPU.
    """

    part = 1.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.times = Times()

    def step(self) -> Any:
        warms_up = self.step_count < WARM_UP_STEPS
        self.times.wall_s += 20.0 if warms_up else 0.5
        self.times.cpu_s += 1.0 if warms_up else 0.5 * self.part
        self.step_count += 1


def measured(budget_s: float, part: float = 1.0) -> tuple[tuple[int, float, float], int]:
    """Return what `images_in_time` finds, and the number of steps that it measured.

    Args:
        budget_s: Budget in seconds.
        part: Part of a core that steps have.
    """
    trainer = trainer_of("vae", kind=Slow)
    trainer.part = part
    found = images_in_time(trainer, budget_s, trainer.times.clock(), lambda: trainer.times.cpu_s)
    return found, trainer.step_count - WARM_UP_STEPS


def test_images_are_those_that_fit_beside_what_was_measured() -> None:
    # Five steps of half a second are measured; 47.5 seconds are left.
    assert measured(50.0) == ((95 * 6, 12.0, 1.0), 5)
    # A twentieth of the budget is measured, 10 s.
    assert measured(200.0) == ((380 * 6, 12.0, 1.0), 20)
    assert measured(0.1)[0] == (6, 12.0, 1.0)
    assert measured(1e5)[0][0] == 6 * 2 * (100_000 - 30)


def test_only_measured_steps_tell_how_busy_the_machine_is() -> None:
    assert measured(50.0, part=0.25) == ((95 * 6, 12.0, 0.25), 5)


@pytest.mark.parametrize("had", [0.25, 1.0])
def test_a_budget_measured_on_a_busy_machine_says_so(
    train: Command, monkeypatch: pytest.MonkeyPatch, had: float
) -> None:
    monkeypatch.setattr(capacity, "images_in_time", lambda trainer, budget_s: (24, 12.0, had))
    outcome = train("vae", "--budget", "1m", "--max-time", "0s")
    assert "24 images fit in 60 s" in outcome.err
    assert ("the machine is busy: these steps had 25% of a core" in outcome.err) == (had == 0.25)


def test_all_processes_take_the_number_of_the_first() -> None:
    told: list[float] = []

    class Second(Group):
        def sum(self, values: Tensor) -> Tensor:
            told.append(float(values))
            return values * 0 + 5.0

        def all_reduce_max(self, value: int) -> int:
            told.append(value)
            return int(len(told) >= 7)

    trainer = trainer_of("vae", kind=Slow)
    trainer.group = Second(1, 1, 1)
    images, speed, _ = images_in_time(trainer, 50.0, Times().clock())
    # Seven steps in the five seconds of the first process, whatever the clock here says.
    assert (images, speed) == (int(45 * 7 * 6 / 5) // 6 * 6, 7 * 6 / 5)
    assert told == [0] * 7 + [0.0]


@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_a_measured_trainer_starts_as_a_fresh_one(preset: str) -> None:
    config = dataclasses.replace(PLAIN, total_images=30, warmup_images=12)
    trainer, fresh = trainer_of(preset), trainer_of(preset, config)
    first = snapshot(trainer)
    for _ in range(3):
        trainer.step()
    trainer.start_again(config, first)
    assert_same(snapshot(trainer), snapshot(fresh))
    assert [trainer.step() for _ in range(5)] == [fresh.step() for _ in range(5)]
    assert trainer.done
    assert_same(snapshot(trainer), snapshot(fresh))


def fitting(outcome: Outcome) -> list[tuple[int, float]]:
    """Return the numbers of images, and seconds, that a command said it had measured."""
    found = re.findall(r"([\d,]+) images fit in ([\d.]+) s", outcome.err)
    return [(int(images.replace(",", "")), float(budget_s)) for images, budget_s in found]


def test_a_budget_is_fixed_once(train: Command) -> None:
    words = ("vae", "--budget", "1m", "--set", "rate_warmup_images=5", "--max-time", "0s")
    first = train(*words)
    assert first.code == 75
    ((images, budget_s),) = fitting(first)
    assert budget_s == 60
    (run,) = Path("runs").iterdir()
    config = tomllib.loads((run / "config.toml").read_text())["train"]
    assert (config["total_images"], config["rate_warmup_images"]) == (images, 5)
    assert config["warmup_images"] == fitted(images)[0]
    # Any spelling of the same time.
    second = train(*words[:2], "60s", *words[3:])
    assert second.code == 75
    assert fitting(second) == []
    assert "resumed at 6 images" in second.err
    assert tomllib.loads((run / "config.toml").read_text())["train"] == config
    outcome = train(*words[:2], "2m", "-o", run)
    (line,) = error_lines(outcome)
    assert "budget = 60 s, now it is 120 s" in line
    (line,) = error_lines(train("vae", "--images", images + 6, "-o", run))
    assert f"train.total_images = {images}, now it is {images + 6}" in line


def test_a_dry_run_tells_what_fits(fame: Command, data: Path) -> None:
    words = ("train", "vae", "--size", "tiny", "--batch-size", 6, "--budget", "2")
    outcome = fame(*words, "--dry-run", "--json")
    ((images, budget_s),) = fitting(outcome)
    assert (json.loads(outcome.out)["total_images"], budget_s) == (images, 2)
    outcome = fame(*words, "--print-config")
    ((images, _),) = fitting(outcome)
    assert tomllib.loads(outcome.out)["train"]["total_images"] == images


def test_a_budget_is_a_time(train: Command) -> None:
    for text, hint in (("soon", "1.5h"), ("0s", "--budget 600")):
        outcome = train("vae", "--budget", text)
        assert (outcome.code, len(error_lines(outcome))) == (2, 1)
        assert hint in outcome.err
    assert (seconds("1h30m"), seconds("90"), seconds("1.5m")) == (5400.0, 90.0, 90.0)
