"""`famecli.train`: the training of the command, with all that the command takes."""

import inspect
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.outcomes import Command

import famecli
from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.config.presets import DEFAULT_SIZE, model_config
from famecli.data.preparation import Preparation
from famecli.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    FameError,
    InputError,
)
from famecli.training import capacity
from famecli.training.plan import LENGTHS


def test_training_is_that_of_the_command(train: Command, data: Path, tmp_path: Path) -> None:
    words = ("--images", 24, "--seed", 3, "--set", "free_nats=2", "--precision", "fp32", "-o", tmp_path / "a")
    assert train("vae", *words).code == 0
    settings = {"train.free_nats": 2, "eval_every_images": 12}
    told: list[int] = []

    def trained(**changes: object) -> famecli.Model:
        return famecli.train(
            "vae",
            "mnist",
            out=tmp_path / "b",
            size="tiny",
            images=24,
            batch_size=6,
            seed=3,
            settings=settings | changes,
            precision="fp32",
            data=data,
            progress=lambda record: told.append(record["images"]),
        )

    random, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():
        found = trained()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    expected = load_checkpoint(tmp_path / "a" / "best.safetensors")
    assert found.checkpoint.weights_sha256 == expected.weights_sha256
    assert found.name == str(tmp_path / "b" / "best.safetensors")
    assert (tmp_path / "b" / "config.toml").read_text() == (tmp_path / "a" / "config.toml").read_text()
    assert told[-1] == 24
    # It is done, and goes on from its end.
    assert trained().checkpoint.sha256 == found.checkpoint.sha256
    with pytest.raises(FameError, match=r"this run began with train\.beta = 1\.0") as caught:
        trained(beta=2)
    assert "resume=False" in caught.value.hint
    with pytest.raises(FameError, match="`settings` bet: unknown key"):
        trained(bet=2)
    with pytest.raises(ConfigError, match="beta: expected float, got 2j"):
        trained(beta=2j)


def test_training_takes_what_the_command_takes(data: Path, tmp_path: Path) -> None:
    def trained(folder: str, **told: Any) -> famecli.Model:
        return famecli.train("vae", "mnist", out=tmp_path / folder, data=data, precision="fp32", **told)

    sizes = {"size": "tiny", "batch_size": 6, "eval_every": 12}
    whole = trained("whole", epochs=2, **sizes)
    stopped = trained(
        "parts", steps=6, accumulate=2, keep=1, sample_every=12, max_time_s=0.0, threads=1, **sizes
    )
    assert stopped.checkpoint.provenance.images_seen == 6
    # What is not given is that of the run.
    found = trained("parts", keep=1, sample_every=12)
    assert found.checkpoint.metadata["training"] == whole.checkpoint.metadata["training"]
    assert found.checkpoint.metadata["training"]["total_images"] == 36
    names = {path.name for path in (tmp_path / "parts").rglob("*")}
    assert {"images-000000000036.safetensors", "000000000036.png"} <= names
    frozen = {"lr": 0.0, "settings": {"muon_lr": 0.0}}
    waited = trained("patient", steps=50, patience=12, **frozen, **sizes)
    assert waited.checkpoint.provenance.images_seen == 12
    assert famecli.load(tmp_path / "patient" / "last.safetensors").checkpoint.provenance.images_seen == 24
    again = trained("patient", init=whole, resume=False, images=6, **frozen, **sizes)
    assert again.checkpoint.weights_sha256 == whole.checkpoint.weights_sha256
    with pytest.raises(ArgumentError, match="`images` and `epochs` exclude each other"):
        trained("odd", images=6, epochs=1)
    assert not (tmp_path / "odd").exists()


WRONG: dict[str, tuple[object, ...]] = {
    "preset": (3,),
    "dataset": (None,),
    "out": (None, "-"),
    "size": ("huge",),
    "images": (0, 2.5, 10**13),
    "epochs": (-1, 0, "3", float("nan")),
    "steps": (0, "3"),
    "budget_s": ("10m", 0, -1),
    "batch_size": (0, "auto", 10**6),
    "accumulate": (0, None),
    "lr": ("0.1", 11),
    "ema": (-1, 0.5),
    "seed": (-1, "a", 2**63),
    "settings": (["train.beta"], "train.beta=1"),
    "init": (3,),
    "resume": (None, 3),
    "save_every_s": (-1, None, "10m"),
    "eval_every": (0, "all"),
    "keep": (-1, None),
    "sample_every": (0,),
    "patience": (0,),
    "max_time_s": ("1h", -1),
    "device": ("gpu",),
    "threads": (0, 10**9),
    "precision": ("fp64",),
    "data": (3,),
    "preparation": ({"resize": 8},),
    "cache_dir": (3,),
    "progress": (3,),
}


def test_every_argument_that_is_no_truth_value_has_wrong_values() -> None:
    truths = {"conditional", "compile", "offline"}
    assert set(WRONG) == set(inspect.signature(famecli.train).parameters) - truths


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_wrong_arguments_are_told_by_name_before_a_folder_is_made(
    data: Path, tmp_path: Path, name: str, value: object
) -> None:
    told: dict[str, Any] = {"preset": "vae", "dataset": "mnist", "out": tmp_path / "odd", "data": data}
    short = {} if name in LENGTHS else {"steps": 1}
    with pytest.raises(FameError, match=name) as caught:
        famecli.train(**told | short | {name: value})
    assert isinstance(caught.value, ValueError | TypeError)
    assert not (tmp_path / "odd").exists()


def test_numbers_of_numpy_are_numbers(data: Path, tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"images": np.int64(6), "batch_size": np.int16(6), "lr": np.float32(0.5)}
    found = famecli.train("vae", "mnist", out=tmp_path / "run", size="tiny", data=data, **numbers)
    training = found.checkpoint.metadata["training"]
    assert (training["total_images"], training["batch_size"], training["lr"]) == (6, 6, 0.5)


@pytest.mark.parametrize(
    "values",
    [{"size": "small"}, {"size": "tiny"}, {"size": "tiny", "settings": {"decoder.width": 5}}],
    ids=["small", "tiny", "custom"],
)
def test_a_size_that_is_not_given_is_that_of_the_run_or_of_the_first_weights(
    data: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    def trained(folder: str, **told: Any) -> famecli.Model:
        return famecli.train("vae", "mnist", out=tmp_path / folder, data=data, batch_size=6, **told)

    begun = trained("run", steps=1, **values)
    assert trained("run").checkpoint.sha256 == begun.checkpoint.sha256
    assert trained("next", steps=1, init=begun.name).config == begun.config


def test_the_size_of_a_new_run_is_that_of_the_command(data: Path, tmp_path: Path) -> None:
    found = famecli.train("vae", "mnist", out=tmp_path, data=data, batch_size=6, steps=1)
    shape = found.config.image_shape
    assert found.config == model_config("vae", DEFAULT_SIZE, shape, found.config.levels)


@pytest.mark.parametrize("budget_s", [60, 60.0])
def test_a_budget_chooses_the_number_of_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget_s: float
) -> None:
    monkeypatch.setattr(capacity, "images_in_time", lambda trainer, budget_s: (24, budget_s, 1.0))

    def trained(budget_s: Any) -> famecli.Model:
        return famecli.train(
            "vae", "mnist", out=tmp_path / "run", size="tiny", data=data, batch_size=6, budget_s=budget_s
        )

    found = trained(budget_s)
    assert found.checkpoint.metadata["training"]["total_images"] == 24
    assert trained(budget_s).checkpoint.sha256 == found.checkpoint.sha256
    with pytest.raises(ArgumentTypeError, match="budget_s is '60', expected a number"):
        trained("60")


def test_a_budget_gives_the_schedule_of_its_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "images_in_time", lambda trainer, budget_s: (24, budget_s, 1.0))
    sizes: dict[str, Any] = {"size": "tiny", "data": data, "batch_size": 6}
    found = [
        famecli.train("fame", "mnist", out=tmp_path / name, **sizes, **length).checkpoint.metadata["training"]
        for name, length in (("a", {"budget_s": 60}), ("b", {"images": 24}))
    ]
    assert found[0] == found[1]


def test_no_validation_is_lost_to_an_exception(data: Path, tmp_path: Path) -> None:
    def broken(record: dict[str, Any]) -> None:
        if record["images"] == 12:
            raise RuntimeError("broken")

    told: dict[str, Any] = {"size": "tiny", "data": data, "batch_size": 6, "steps": 2, "eval_every": 12}
    with pytest.raises(RuntimeError, match="broken"):
        famecli.train("vae", "mnist", out=tmp_path / "a", progress=broken, **told)
    found = famecli.train("vae", "mnist", out=tmp_path / "a", **told)
    assert found.name == str(tmp_path / "a" / "best.safetensors")
    whole = famecli.train("vae", "mnist", out=tmp_path / "b", **told)
    assert found.checkpoint.weights_sha256 == whole.checkpoint.weights_sha256


def test_a_training_is_saved_before_an_exception_ends_it(data: Path, tmp_path: Path) -> None:
    def broken(record: dict[str, Any]) -> None:
        if record["images"] >= 12:
            raise RuntimeError("broken")

    def interrupted(record: dict[str, Any]) -> None:
        if record["images"] == 18:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    for kind, progress, images in ((RuntimeError, broken, 12), (KeyboardInterrupt, interrupted, 18)):
        with pytest.raises(kind):
            famecli.train(
                "vae",
                "mnist",
                out=tmp_path,
                size="tiny",
                data=data,
                batch_size=6,
                steps=8,
                progress=progress,
                eval_every=6,
            )
        assert load_checkpoint(tmp_path / "last.safetensors").provenance.images_seen == images
        assert signal.getsignal(signal.SIGINT) is before


def test_images_are_prepared_as_for_the_first_weights(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 12, 12), np.uint8)
    np.savez(tmp_path / "images.npz", images=images)

    def trained(folder: str, **told: Any) -> famecli.Model:
        sizes = {"batch_size": 4, "steps": 1}
        own = {"data": tmp_path / "images.npz", "precision": "fp32"}
        return famecli.train("vae", "folder", out=tmp_path / folder, **own, **sizes, **told)

    first = trained("first", preparation=Preparation(resize=8))
    found = [trained("path", init=tmp_path / "first"), trained("model", init=first)]
    for model in found:
        assert model.config == first.config
        assert model.config.image_shape == (1, 8, 8)
        assert model.checkpoint.provenance.preparation == first.checkpoint.provenance.preparation
    assert found[0].checkpoint.weights_sha256 == found[1].checkpoint.weights_sha256
    # A finished run is resumed by those first weights alone.
    assert trained("model", init=tmp_path / "first").checkpoint.sha256 == found[1].checkpoint.sha256
    with pytest.raises(InputError, match=r"init = first/best\.safetensors .*, now it is model/best"):
        trained("model", init=found[1])
