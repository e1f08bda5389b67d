"""Trainings in their folders: what is saved, how they stop, and that resuming changes nothing."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.trainers import (
    PLAIN,
    SHAPE,
    assert_equal_runs,
    metrics,
    resumed,
    run_of,
    snapshot,
    split_of,
    spoil,
    train,
    trainer_of,
)
from torch import nn

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors, save_tensors
from famecli.checkpoints.header import METADATA_KEY
from famecli.config.schema import TrainConfig
from famecli.errors import InputError
from famecli.model.fame import NllTerms
from famecli.nll.evaluate import ImageNlls
from famecli.nll.record import NATS_PER_BIT
from famecli.training.run import STATE_SCHEMA, record_every_images
from famecli.training.trainer import StepRecord, Trainer

STEPS = PLAIN.total_steps
FILES = ["best.safetensors", "last.safetensors", "metrics.jsonl", "state.safetensors"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("unbroken") / "made" / "by the run"
    run = run_of(folder)
    train(run)
    assert run.stopped == "done"
    return folder


def test_the_folder_holds_what_it_should(unbroken: Path) -> None:
    assert sorted(path.name for path in unbroken.iterdir()) == FILES
    tensors, header, _ = load_tensors(unbroken / "state.safetensors", STATE_SCHEMA)
    assert tensors["counters/steps"].tolist() == [STEPS, 0, 0]
    assert {name.split("/")[0] for name in tensors} == {"model", "averaged", "optimizer", "counters"}
    assert header.metadata["train"] == dataclasses.asdict(PLAIN)
    for kind, group in (("ema", "averaged"), ("raw", "model")):
        weights = load_checkpoint(unbroken / "last.safetensors", kind).model.state_dict()  # type: ignore[arg-type]
        assert all(torch.equal(value, tensors[f"{group}/{name}"]) for name, value in weights.items())
    last = load_checkpoint(unbroken / "last.safetensors")
    assert last.provenance.images_seen == 6 * STEPS
    assert last.provenance.dataset == "mnist"
    assert last.metadata["training"] == dataclasses.asdict(PLAIN)
    assert last.claims == []


def test_metrics_are_one_object_per_line_with_consistent_units(unbroken: Path) -> None:
    records = metrics(unbroken)
    assert [r["step"] for r in records if r["split"] == "train"] == list(range(1, STEPS + 1))
    # After 18, 36 and, at the end, 48 images.
    assert [r["step"] for r in records if r["split"] == "valid"] == [3, 6, 8]
    for record in records:
        assert record["images"] == 6 * record["step"]
        assert record["bits_per_dim"] == pytest.approx(record["nats_per_image"] / NATS_PER_BIT / 64)
        assert len(record["kl_bits"]) == 2
        assert record["elapsed_s"] >= 0
        assert {"grad_norm", "skipped", "images_per_s", "lr_factor"} <= record.keys() or (
            record["valid_images"] == 10 and record["stderr_nats"] > 0
        )


class Turned(Trainer):
    """Validations whose NLLs fall for 18 images, and rise from then on."""

    def validate(self, levels: np.ndarray, labels: np.ndarray | None = None) -> ImageNlls:
        found = super().validate(levels)
        return dataclasses.replace(found, nats=found.nats + 1000.0 * abs(self.images - 18))


def test_the_best_checkpoint_is_that_of_the_lowest_validation(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, eval_every_images=6, ema_halflife_images=0)
    run = run_of(tmp_path, trainer_of("vae", config, kind=Turned))
    records = train(run)
    valid = {r["images"]: r["nats_per_image"] for r in records if r["split"] == "valid"}
    best = run.best()
    assert best is not None
    assert best.nats == min(valid.values()) == valid[best.images]
    assert best.images == 18
    loaded = load_checkpoint(best.path)
    assert (loaded.sha256, loaded.provenance.images_seen) == (best.sha256, best.images)


@pytest.mark.parametrize("stops", [[1], [3], [7], list(range(1, STEPS))], ids=str)
def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path, unbroken: Path, stops: list[int]) -> None:
    run = run_of(tmp_path)
    for stop in stops:
        train(run, until=stop)
        assert (run.stopped, run.trainer.step_count) == ("signal", stop)
        run = resumed(tmp_path)
        assert run.trainer.step_count == stop
    train(run)
    assert run.stopped == "done"
    assert_equal_runs(tmp_path, unbroken)


@pytest.mark.parametrize(("saved", "died"), [(2, 5), (4, 7)])
def test_a_run_that_died_after_its_last_save_equals_the_unbroken_one(
    tmp_path: Path, unbroken: Path, saved: int, died: int
) -> None:
    train(run_of(tmp_path), until=saved)
    shutil.copy(tmp_path / "state.safetensors", tmp_path / "kept")
    train(resumed(tmp_path), until=died)
    shutil.move(tmp_path / "kept", tmp_path / "state.safetensors")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "ima')
    run = resumed(tmp_path)
    assert [record["step"] for record in metrics(tmp_path)][-1] == saved
    best = run.best()
    assert best is None or load_checkpoint(best.path).sha256 == best.sha256
    train(run)
    assert_equal_runs(tmp_path, unbroken)


def test_the_state_is_saved_as_often_as_asked(tmp_path: Path) -> None:
    run = run_of(tmp_path, save_every_s=-1.0)
    seen = []
    for record in run.records(lambda: None):
        state = tmp_path / "state.safetensors"
        seen.append(load_tensors(state, STATE_SCHEMA)[0]["counters/steps"][0] if state.exists() else 0)
        assert seen[-1] == record["step"] - 1
    assert len(seen) == STEPS + 3
    rare = run_of(tmp_path / "rare", save_every_s=1e9)
    for _ in rare.records(lambda: None):
        assert not (tmp_path / "rare" / "state.safetensors").exists()
    assert (tmp_path / "rare" / "state.safetensors").exists()


def test_resuming_a_finished_run_does_nothing(tmp_path: Path, unbroken: Path) -> None:
    shutil.copytree(unbroken, tmp_path / "copy")
    run = resumed(tmp_path / "copy")
    assert train(run) == []
    assert run.stopped == "done"
    for name in FILES:
        assert (tmp_path / "copy" / name).read_bytes() == (unbroken / name).read_bytes()


def test_windows_hold_means_over_their_steps(tmp_path: Path) -> None:
    # Lines come every 18 images, a twentieth of all.
    config = dataclasses.replace(PLAIN, total_images=366, eval_every_images=366)
    run = run_of(tmp_path, trainer_of("vae", config))
    records = [record for record in train(run) if record["split"] == "train"]
    assert [record["step"] for record in records] == [*range(3, 61, 3), 61]
    trainer, before = trainer_of("vae", config), 0
    for record in records:
        steps = [trainer.step().nats for _ in range(record["step"] - before)]
        assert record["nats_per_image"] == pytest.approx(sum(steps) / len(steps))
        before = record["step"]


def test_lines_come_at_least_twenty_times() -> None:
    config = TrainConfig(batch_size=10, total_images=10_000, eval_every_images=2_000)
    assert record_every_images(config) == 200
    assert record_every_images(dataclasses.replace(config, total_images=1_000)) == 50
    assert record_every_images(dataclasses.replace(config, total_images=50)) == 10


@pytest.mark.parametrize(
    ("config", "preset", "named"),
    [
        (dataclasses.replace(PLAIN, lr=0.5), "fame", "train.lr = 0.004, now it is 0.5"),
        (dataclasses.replace(PLAIN, total_images=96), "fame", "train.total_images = 48, now it is 96"),
        (dataclasses.replace(PLAIN, seed=1), "fame", "train.seed = 0, now it is 1"),
        (PLAIN, "fame-no-concat", "model.preset = fame, now it is fame-no-concat"),
    ],
)
def test_a_run_is_not_resumed_with_another_configuration(
    unbroken: Path, config: TrainConfig, preset: str, named: str
) -> None:
    with pytest.raises(InputError) as caught:
        resumed(unbroken, config, preset)
    assert f"{unbroken / 'state.safetensors'}: this run began with {named}" in str(caught.value)
    assert "resume=False" in caught.value.hint


def test_a_changed_key_of_a_stage_is_named_by_its_path(tmp_path: Path, unbroken: Path) -> None:
    model = trainer_of().model.config
    stages = (*model.stages[:2], dataclasses.replace(model.stages[2], latents=5))
    trainer = Trainer(dataclasses.replace(model, stages=stages), PLAIN, split_of(), torch.device("cpu"))
    with pytest.raises(InputError, match=r"model\.stages\.2\.latents = 4, now it is 5"):
        run_of(tmp_path, trainer).resume(unbroken / "state.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: m.pop("progress"), "progress: expected a table"),
        (lambda m: m["progress"].update(colour=1), "unknown key 'colour'"),
        (lambda m: m["progress"].update(seconds="1"), "seconds: expected float"),
        (lambda m: m["progress"].update(best_nats="1"), "best_nats: expected float"),
        (lambda m: m.pop("model"), "expected a table"),
        (lambda m: m["train"].update(lr=99.0), "lr = 99.0 is outside"),
        (lambda m: m.update(schema="famecli/checkpoint/1"), "expected a file of schema famecli/state/1"),
    ],
)
def test_a_damaged_state_is_refused_in_one_line(
    tmp_path: Path, unbroken: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    tensors, header, _ = load_tensors(unbroken / "state.safetensors", STATE_SCHEMA)
    metadata = json.loads(json.dumps(header.metadata))
    damage(metadata)
    path = tmp_path / "state.safetensors"
    save_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match=message) as caught:
        resumed(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_state_without_its_tensors_or_cut_off_is_refused(tmp_path: Path, unbroken: Path) -> None:
    tensors, header, _ = load_tensors(unbroken / "state.safetensors", STATE_SCHEMA)
    path = tmp_path / "state.safetensors"
    del tensors["model/decoder.head2.weight"]
    save_tensors(path, tensors, header.metadata)
    with pytest.raises(InputError, match=f"{path}: .*'decoder.head2.weight' is missing"):
        resumed(tmp_path)
    path.write_bytes((unbroken / "state.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{path}: truncated"):
        resumed(tmp_path)
    with pytest.raises(InputError, match="schema"):
        run_of(tmp_path).resume(unbroken / "last.safetensors")


def test_a_best_checkpoint_that_is_elsewhere_is_not_promised(tmp_path: Path, unbroken: Path) -> None:
    lone = tmp_path / "lone.safetensors"
    shutil.copy(unbroken / "state.safetensors", lone)
    for folder, state, known in (("a", lone, False), ("b", unbroken / "state.safetensors", True)):
        (tmp_path / folder).mkdir()
        run = run_of(tmp_path / folder)
        run.resume(state)
        assert (run.best() is not None) == known
    assert resumed(unbroken).best() is not None


def test_patience_ends_a_training_only_at_a_validation(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, eval_every_images=12)
    run = run_of(tmp_path, trainer_of("pixelcnn", config), patience_images=1)
    train(run)
    validations = [line["images"] for line in metrics(tmp_path) if line["split"] == "valid"]
    assert len(validations) >= 2
    assert run.trainer.images == validations[-1]


def test_the_time_of_grids_is_none_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grid(trainer: Trainer, folder: Path) -> np.ndarray:
        time.sleep(0.2)
        return np.zeros((1, 8, 8, 1), np.uint8)

    monkeypatch.setattr("famecli.training.run.draw_grid", grid)
    config = dataclasses.replace(PLAIN, total_images=240, eval_every_images=240)
    run = run_of(tmp_path, trainer_of("pixelcnn", config), sample_every_images=18)
    step = run.trainer.step

    def slow() -> StepRecord:
        time.sleep(0.05)
        return step()

    monkeypatch.setattr(run.trainer, "step", slow)
    train(run)
    speeds = [line["images_per_s"] for line in metrics(tmp_path) if line["split"] == "train"]
    assert len(speeds) > 10
    assert max(speeds) < 6 / 0.05


def test_patience_counts_images_since_the_best_validation(tmp_path: Path) -> None:
    config = dataclasses.replace(PLAIN, lr=0.0, muon_lr=0.0, eval_every_images=6)
    run = run_of(tmp_path, trainer_of("pixelcnn", config), patience_images=18)
    train(run)
    best = run.best()
    assert best is not None
    assert (run.stopped, best.images, run.trainer.images) == ("patience", 6, 24)
    assert load_checkpoint(tmp_path / "last.safetensors").provenance.images_seen == 24


def test_a_run_says_why_it_stopped(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    train(run, until=2, reason="max_time")
    assert run.stopped == "max_time"
    assert run.best() is None
    late = resumed(tmp_path)
    train(late, until=STEPS, reason="max_time")
    assert late.stopped == "done"


def test_seconds_go_on_when_resumed(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    train(run, until=2)
    metadata = load_tensors(tmp_path / "state.safetensors", STATE_SCHEMA)[1].metadata
    assert 0 < metadata["progress"]["seconds"] < 60
    later = resumed(tmp_path)
    later.progress.seconds += 1000
    train(later, until=3)
    assert 1000 <= metrics(tmp_path)[-1]["elapsed_s"] < 1060


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_skipped_steps_leave_metrics_valid_and_files_loadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    trainer = trainer_of()
    spoil(trainer, monkeypatch, {1}, value)

    def spoiled(model: nn.Module, inputs: object, terms: NllTerms) -> NllTerms:
        return dataclasses.replace(terms, rate=terms.rate * (value if trainer.step_count == 1 else 1.0))

    trainer.model.register_forward_hook(spoiled)
    train(run_of(tmp_path, trainer), until=4)
    records = [record for record in metrics(tmp_path) if record["split"] == "train"]
    assert (records[1]["nats_per_image"], records[1]["kl_bits"]) == (None, [None, None])
    assert [record["skipped"] for record in records] == [0, 1, 1, 1]
    assert load_checkpoint(tmp_path / "last.safetensors").provenance.skipped_steps == 1
    assert resumed(tmp_path).trainer.skipped == 1


def test_the_state_holds_all_and_in_one_metadata_key(unbroken: Path) -> None:
    content = (unbroken / "state.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert list(json.loads(content[8 : 8 + length])["__metadata__"]) == [METADATA_KEY]
    run = resumed(unbroken)
    stored = load_tensors(unbroken / "state.safetensors", STATE_SCHEMA)[0]
    assert snapshot(run.trainer).keys() == stored.keys()
    assert run.trainer.model.config.image_shape == SHAPE
