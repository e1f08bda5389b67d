"""What `fame train` says on stderr: a line for each validation, warnings that mean something, the end."""

import dataclasses
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.outcomes import Command

from famecli.config.schema import TrainConfig
from famecli.data.dataset import FixedLevels, own_images
from famecli.nll.record import bits_per_dim
from famecli.training.follow import SMALLEST_RATE_BITS, Remarks, in_time
from famecli.training.run import Run
from famecli.training.trainer import Trainer

VALIDATION = re.compile(r"^([\d,]+) of 36 images: validation ([\d.]+) \+- [\d.]+ nats(.*)$")


def test_each_validation_is_a_line_with_images_nll_and_time_left(train: Command) -> None:
    outcome = train("vae", "--images", 36, "-o", "run")
    lines = [match.groups() for line in outcome.err.splitlines() if (match := VALIDATION.match(line))]
    assert [images for images, *_ in lines] == ["12", "24", "36"]
    lowest = np.inf
    for place, (_, nats, rest) in enumerate(lines):
        is_best = float(nats) < lowest
        lowest = min(lowest, float(nats))
        assert rest.startswith(" (best)" if is_best else f", best {lowest:.2f} nats at ")
        assert rest.endswith(" left") == (place < 2)
    end = outcome.err.splitlines()[-1]
    assert end.startswith("done after 36 images, ")
    assert f"(best {lowest:.2f} nats at " in end
    assert train("vae", "--images", 36, "-o", "other", "-q").err == ""


@pytest.mark.parametrize("words", [("--max-time", "0s"), ()])
def test_a_stopped_run_says_what_is_saved_and_how_it_goes_on(
    train: Command, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    if not words:
        step = Trainer.step

        def interrupted(trainer: Trainer) -> Any:
            signal.raise_signal(signal.SIGTERM)
            return step(trainer)

        monkeypatch.setattr(Trainer, "step", interrupted)
    outcome = train("vae", "--images", 36, "-o", "run", *words)
    assert outcome.code == 75
    assert outcome.err.splitlines()[-1] == (
        "stopped at 6 of 36 images (no validation yet); everything is saved in run: the same command goes on"
    )
    assert Path("run/state.safetensors").exists()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run on colour images with a tiny model, neither begun nor saved."""
    from famecli.config.presets import model_config

    images = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), np.uint8)
    split = dataclasses.replace(own_images(images, 256, "files", "Files"), split="train")
    config = TrainConfig(batch_size=4, total_images=1000, rate_warmup_images=250, decoder_only=0.0)
    trainer = Trainer(model_config("fame", "tiny", (3, 8, 8), 256), config, split, torch.device("cpu"))
    return Run(trainer, tmp_path / "run", FixedLevels(images[:4], range(4), ""))


def record(images: int, nats: float | None = 700.0, **changes: Any) -> dict[str, Any]:
    return {
        "split": "valid",
        "images": images,
        "nats_per_image": nats,
        "stderr_nats": None if nats is None else 7.0,
        "kl_bits": [1.0, 0.1],
    } | changes


def test_the_nll_of_256_levels_is_in_bits_per_dimension(run: Run) -> None:
    now_s = 0.0
    remarks = Remarks(run, lambda: now_s)
    now_s = 10.0
    run.progress.best_nats, run.progress.best_images = 600.0, 100
    line = remarks.of(record(250))
    value, error, best = (bits_per_dim(nats, (3, 8, 8)) for nats in (700.0, 7.0, 600.0))
    assert line == (
        f"250 of 1,000 images: validation {value:.4f} +- {error:.4f} bits/dim, "
        f"best {best:.4f} bits/dim at 100, 30 s left"
    )


def test_the_first_line_of_a_longer_training_tells_its_time(run: Run) -> None:
    first = record(250) | {"split": "train", "images_per_s": 5.0}
    remarks = Remarks(run)
    assert remarks.of(first) == "250 of 1,000 images: 5 images/s, 2 min left"
    assert remarks.of(first) == ""
    assert Remarks(run).of(first | {"images_per_s": 13.0}) == ""
    assert Remarks(run).of(first | {"images_per_s": 0.0}).startswith("250 of 1,000 images: 0 images/s")


def test_idle_latents_are_warned_of_once_and_not_before_half_of_the_training(run: Run) -> None:
    remarks = Remarks(run)
    assert remarks.warning(record(499)) == ""
    assert remarks.warning(record(500, kl_bits=[1.0, SMALLEST_RATE_BITS])) == ""
    assert remarks.warning(record(500) | {"split": "train"}) == ""
    assert remarks.warning(record(500)).startswith("stochastic layer 1 (0 is nearest to the image) carries")
    assert remarks.warning(record(600)) == ""
    assert remarks.warning(record(700, kl_bits=[0.0, 0.0])).startswith("stochastic layer 0, 1 ")
    # Not finite is another trouble, and a model without latents has none to warn of.
    assert Remarks(run).warning(record(600, kl_bits=[None, 1.0])) == ""
    assert Remarks(run).warning(record(600, kl_bits=[])) == ""


def test_a_decoder_that_learns_alone_is_told_and_not_warned_of(run: Run) -> None:
    run.trainer.config = dataclasses.replace(run.trainer.config, decoder_only=0.5)
    run.trainer.step_count = 125
    assert " bits/dim without latents, which join later, " in Remarks(run).of(record(500))
    run.stopped = "signal"
    assert "(no validation with latents yet)" in Remarks(run).end()
    run.trainer.step_count = 126
    assert "without" not in Remarks(run).of(record(504))
    run.trainer.config = dataclasses.replace(run.trainer.config, rate_warmup_images=0)
    assert Remarks(run).warning(record(749, kl_bits=[0.0, 0.0])) == ""
    assert Remarks(run).warning(record(750, kl_bits=[0.0, 0.0])).startswith("stochastic layer 0, 1 ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (89, "89 s"), (91, "2 min"), (3569, "59 min"), (3600, "1 h 0 min"), (90061, "25 h 1 min")],
)
def test_times_are_in_words(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
