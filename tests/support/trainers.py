"""Trainings of tiny models on small images, for tests of steps, runs and the command line."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors
from famecli.config.presets import model_config
from famecli.config.schema import Precision, TrainConfig
from famecli.data.dataset import FixedLevels, ImageSplit
from famecli.data.registry import dataset_info
from famecli.model.fame import NllTerms
from famecli.runtime.distributed import ALONE, Group
from famecli.training.clock import Clock
from famecli.training.run import STATE_SCHEMA, Run, Stopped
from famecli.training.trainer import StepRecord, Trainer

T = TypeVar("T", bound=Trainer)
SHAPE = (1, 8, 8)
# Decoder settings: patches, and attention after each layer.
ATTENTION = {"patch": 2, "attention": (1, 2), "heads": 2}
TIMES = ("elapsed_s", "cpu_s", "images_per_s")
PLAIN = TrainConfig(
    batch_size=6,
    total_images=48,
    warmup_images=0,
    rate_warmup_images=0,
    decoder_only=0.0,
    free_nats=0.0,
    eval_every_images=18,
)
BATCH = 8
IN_PARTS = dataclasses.replace(PLAIN, batch_size=BATCH, total_images=64)
# Relative float32 tolerance of a step's gradient, by norm; weights after some steps get ten times as much.
STEP_TOLERANCE = 1e-5


def split_of(count: int = 20, shape: tuple[int, int, int] = SHAPE) -> ImageSplit:
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    return ImageSplit(dataclasses.replace(dataset_info("mnist"), shape=shape), "train", pixels)


def trainer_of(
    preset: str = "fame",
    config: TrainConfig = PLAIN,
    precision: Precision = "fp32",
    accumulate: int = 1,
    shape: tuple[int, int, int] = SHAPE,
    group: Group = ALONE,
    compiled: bool = False,
    decoder: Mapping[str, Any] | None = None,
    kind: type[T] = Trainer,  # type: ignore[assignment]
) -> T:
    """Return the trainer of a tiny model, with the given decoder settings."""
    model = model_config(preset, "tiny", shape, 2)
    model = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, **(decoder or {})))
    split, device = split_of(shape=shape), torch.device("cpu")
    return kind(model, config, split, device, precision, accumulate, group, compiled)


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.state_tensors().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def spoil(trainer: Trainer, monkeypatch: pytest.MonkeyPatch, bad_steps: set[int], value: float) -> None:
    """Make the loss of the steps `bad_steps` NaN or infinite."""
    loss = trainer._loss

    def spoiled(terms: NllTerms, mean_rate: Tensor) -> Tensor:
        return loss(terms, mean_rate) * (value if trainer.step_count in bad_steps else 1.0)

    monkeypatch.setattr(trainer, "_loss", spoiled)


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=no_constant) for line in lines]


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def assert_equal_runs(one: Path, other: Path) -> None:
    """Check that weights, averages, optimizer state, counters and metrics but times are equal bit for bit."""
    states = [load_tensors(folder / "state.safetensors", STATE_SCHEMA)[0] for folder in (one, other)]
    assert_same(*states)
    assert timeless(metrics(one)) == timeless(metrics(other))
    for name in ("best.safetensors", "last.safetensors"):
        for kind in ("ema", "raw"):
            models = [load_checkpoint(folder / name, kind) for folder in (one, other)]  # type: ignore[arg-type]
            assert models[0].weights_sha256 == models[1].weights_sha256
            assert models[0].provenance.steps == models[1].provenance.steps


def rates(trainer: Trainer, rows: slice = slice(None)) -> Tensor:
    """Return the rate of each image in the first step, `(images, layers)`."""
    batch = trainer._batch()
    levels, noise = batch.levels, batch.noise
    noise.rows = rows
    with torch.no_grad():
        return trainer.model(torch.from_numpy(levels[rows]), noise).rate


def divided_free_nats(preset: str, parts: int) -> float:
    """Return free nats that some layer's rate exceeds in the whole batch, but not in one of its parts."""
    each = rates(trainer_of(preset, IN_PARTS))[:, 0]
    lowest = float(torch.stack([part.mean() for part in each.chunk(parts)]).min())
    assert lowest < each.mean()
    return (lowest + float(each.mean())) / 2


def configured(preset: str, parts: int) -> TrainConfig:
    return dataclasses.replace(IN_PARTS, free_nats=divided_free_nats(preset, parts))


class Gradients:
    """Context that records the gradient of its first step, before clipping."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}
        clip = nn.utils.clip_grad_norm_

        def remember(weights: Iterable[nn.Parameter], norm: float) -> Tensor:
            kept = list(weights)
            if not self.first:
                self.first = {str(i): w.grad.clone() for i, w in enumerate(kept) if w.grad is not None}
            return clip(kept, norm)

        self.patch = mock.patch.object(nn.utils, "clip_grad_norm_", remember)

    def __enter__(self) -> Self:
        self.patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.patch.stop()


def farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference of two tables of tensors, relative to each tensor's norm."""
    assert found.keys() == expected.keys()
    pairs = [(found[name].double(), value.double()) for name, value in expected.items()]
    return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs)


def run_of(folder: Path, trainer: Trainer | None = None, **options: Any) -> Run:
    levels = (split_of(10).pixels > 127).astype("uint8")
    return Run(trainer or trainer_of(), folder, FixedLevels(levels, range(len(levels)), ""), **options)


def train(run: Run, until: float = math.inf, reason: Stopped = "signal") -> list[dict[str, Any]]:
    """Train to the end, or for the given number of steps."""
    return list(run.records(lambda: reason if run.trainer.step_count >= until else None))


def resumed(folder: Path, config: TrainConfig = PLAIN, preset: str = "fame") -> Run:
    run = run_of(folder, trainer_of(preset, config))
    run.resume(folder / "state.safetensors")
    return run


class Times:
    """Wall and CPU clocks that only the test advances."""

    wall_s = cpu_s = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.wall_s, lambda: self.cpu_s)


def kill_after(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process one signal in the middle of a training."""
    whole_step = Trainer.step

    def spoiled(trainer: Trainer) -> StepRecord:
        record = whole_step(trainer)
        if trainer.step_count == step:
            os.kill(os.getpid(), number)
        return record

    monkeypatch.setattr(Trainer, "step", spoiled)
