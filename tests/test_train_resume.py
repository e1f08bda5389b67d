"""What a command that is typed again takes from the run that is there, and which run that is."""

import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support.outcomes import Command, error_lines

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors, save_tensors
from famecli.config import first_defaults
from famecli.config.first_defaults import DATA_KEYS, first_digest
from famecli.config.presets import model_config
from famecli.config.resolve import Setting, resolve, to_toml
from famecli.config.schema import ModelConfig, TrainConfig, to_dict
from famecli.training import plan
from famecli.training.run import STATE_SCHEMA

STOP = ("--max-time", "0s")
FIRST_DIGESTS = {
    ("fame", "tiny"): "10f5be82",
    ("fame", "small"): "20dc4565",
    ("fame", "paper"): "f3426cba",
    ("fame-no-concat", "tiny"): "0e665a46",
    ("fame-no-concat", "small"): "cb7d5a0e",
    ("fame-no-concat", "paper"): "59300ef8",
    ("fame-dense", "tiny"): "b6339626",
    ("fame-dense", "small"): "a84f4739",
    ("fame-dense", "paper"): "81c8765b",
    ("lvae", "tiny"): "fc3f8fc8",
    ("lvae", "small"): "2b825367",
    ("lvae", "paper"): "b7970bc4",
    ("pixelvae", "tiny"): "5eabda95",
    ("pixelvae", "small"): "c34f6361",
    ("pixelvae", "paper"): "6bc19ded",
    ("pixelcnn", "tiny"): "4b4fd7c6",
    ("pixelcnn", "small"): "3b664141",
    ("pixelcnn", "paper"): "5dcd52ca",
    ("vae", "tiny"): "5e38dab1",
    ("vae", "small"): "c119b6f7",
    ("vae", "paper"): "077d68f5",
}
SEED_5 = "8d4a25b2"


def change_state(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Let a run have begun otherwise."""
    path = folder / "state.safetensors"
    tensors, header, _ = load_tensors(path, STATE_SCHEMA)
    metadata = json.loads(json.dumps(header.metadata))
    change(metadata)
    save_tensors(path, tensors, metadata)


def config_of(folder: Path | str) -> dict[str, Any]:
    return tomllib.loads(Path(folder, "config.toml").read_text())


def as_before(metadata: dict[str, Any]) -> None:
    """Without what the states of older versions have not."""
    for key in ("cpu_seconds", "size", "budget_s"):
        del metadata["progress"][key]


def test_keys_that_were_not_typed_come_from_the_run(train: Command) -> None:
    assert train("vae", "--steps", 3, "-o", "run", *STOP).code == 75

    def change(metadata: dict[str, Any]) -> None:
        as_before(metadata)
        metadata["train"] |= {"warmup_images": 6400, "rate_warmup_images": 38_400, "clip_norm": 7.0}
        metadata["model"]["decoder"]["lag"] = 5

    change_state(Path("run"), change)
    done = train("vae", "--steps", 3, "--size", "tiny", "-o", "run")
    assert done.code == 0, done.err
    assert "resumed at 6 images" in done.err
    found = config_of("run")
    assert (found["train"]["warmup_images"], found["train"]["rate_warmup_images"]) == (6400, 38_400)
    assert (found["train"]["clip_norm"], found["model"]["decoder"]["lag"]) == (7.0, 5)
    # The same without a single word, and with all of them.
    assert train("-o", "run").code == 0
    shutil.copy("run/config.toml", "typed.toml")
    assert train("vae", "--config", "typed.toml", "-o", "run").code == 0
    assert config_of("run") == found


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--set", "clip_norm=50"), "train.clip_norm = 7.0, now it is 50.0"),
        (("--seed", 0), "train.seed = 4, now it is 0"),
        (("--images", 30), "train.total_images = 18, now it is 30"),
        (("--steps", 4), "train.total_images = 18, now it is 24"),
        (("--set", "decoder.lag=3"), "model.decoder.lag = 2, now it is 3"),
        (("--size", "small"), "size = tiny, now it is small"),
        (("lvae",), "model.preset = vae, now it is lvae"),
        (("--budget", "1m"), "budget = none, now it is 60 s"),
    ],
)
def test_a_key_that_was_typed_must_be_as_the_run_began(
    train: Command, words: tuple[object, ...], named: str
) -> None:
    assert train("vae", "--steps", 3, "--set", "clip_norm=7", "--seed", 4, "-o", "run", *STOP).code == 75
    before = Path("run/state.safetensors").read_bytes()
    outcome = train(*words, "-o", "run")
    (line,) = error_lines(outcome)
    assert outcome.code == 3
    assert line == f"error: run/state.safetensors: this run began with {named}"
    assert "--resume never" in outcome.err
    assert Path("run/state.safetensors").read_bytes() == before


def test_a_recorded_budget_of_whole_seconds_is_a_number_like_others(train: Command) -> None:
    words = ("vae", "--budget", "1m", "-o", "run", *STOP)
    assert train(*words).code == 75
    change_state(Path("run"), lambda metadata: metadata["progress"].update(budget_s=60))
    again = train(*words)
    assert (again.code, "resumed at 6 images" in again.err) == (75, True)


def test_a_run_that_does_not_record_its_size_has_that_of_its_stages(train: Command) -> None:
    assert train("vae", "--steps", 2, "--set", "decoder.layers=9", "-o", "run", *STOP).code == 75
    change_state(Path("run"), as_before)
    (line,) = error_lines(train("--size", "small", "-o", "run"))
    assert "size = tiny, now it is small" in line
    assert train("--size", "tiny", "-o", "run").code == 0


@pytest.mark.parametrize("words", [("--init", "first"), ("--config", "first/config.toml")])
def test_a_run_with_the_model_of_another_run_has_its_size(
    train: Command, fame: Command, data: Path, words: tuple[str, ...]
) -> None:
    assert train("vae", "--steps", 1, "-o", "first").code == 0
    common = ("--data", data, "--batch-size", 6, "--eval-every", 12, "--steps", 1, "-o", "run")
    assert fame("train", *words, *common).code == 0
    outcome = train("--size", "small", "-o", "run")
    assert outcome.code == 3
    assert error_lines(outcome) == [
        "error: run/state.safetensors: this run began with size = tiny, now it is small"
    ]
    assert train("--size", "tiny", "-o", "run").code == 0


@pytest.fixture
def firsts(train: Command) -> None:
    """Two runs, `A` and `B`, of one preset."""
    for seed, name in enumerate("AB"):
        assert train("vae", "--steps", 1, "--seed", seed, "-o", name).code == 0


@pytest.mark.usefixtures("firsts")
def test_first_weights_are_part_of_the_name_of_a_folder(train: Command) -> None:
    words = ("vae", "--steps", 1)
    inits: tuple[tuple[str, ...], ...] = ((), ("--init", "A"), ("--init", "B"))
    plain, a, b = folders = [Path(train(*words, *init).out).parent for init in inits]
    assert len(set(folders)) == 3
    again = train(*words, "--init", "A")
    assert (Path(again.out).parent, "finished at 6 images" in again.err) == (a, True)
    # Older runs had a name without first weights.
    shutil.rmtree(plain)
    a.rename(plain)
    shutil.rmtree(b)
    assert [Path(train(*words, *init).out).parent for init in inits[1:]] == [plain, b]


@pytest.mark.usefixtures("firsts")
def test_first_weights_must_be_those_that_a_run_began_with(train: Command) -> None:
    words = ("vae", "--steps", 1, "-o", "run")
    assert train(*words, "--init", "A").code == 0
    hashes = {name: load_checkpoint(Path(name, "best.safetensors")).weights_sha256[:12] for name in "AB"}
    refused = train(*words, "--init", "B")
    assert refused.code == 3
    told = f"init = A (weights {hashes['A']}), now it is B (weights {hashes['B']})"
    assert error_lines(refused) == [f"error: run/state.safetensors: this run began with {told}"]
    # The same weights have another name here.
    assert train(*words, "--init", "A/best.safetensors").code == 0
    for name in "AB":
        shutil.move(name, f"away-{name}")
    assert [train(*words, "--init", name).code for name in "AB"] == [0, 3]
    assert train(*words).code == 0
    (line,) = error_lines(train("vae", "-o", "away-A", "--init", "away-B"))
    assert f"init = none, now it is away-B (weights {hashes['B']})" in line


def test_a_key_that_is_younger_than_a_run_has_the_default_of_its_class(train: Command) -> None:
    assert train("pixelcnn", "--steps", 2, "--set", "decoder.layers=1", "-o", "run", *STOP).code == 75
    change_state(Path("run"), lambda metadata: metadata["model"]["decoder"].pop("lag"))
    change_state(Path("run"), lambda metadata: metadata["train"].pop("beta"))
    assert train("pixelcnn", "-o", "run").code == 0
    assert (config_of("run")["model"]["decoder"]["lag"], config_of("run")["train"]["beta"]) == (2, 1.0)


def test_a_whole_file_that_lacks_younger_keys_is_not_filled_by_presets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, preset = tmp_path / "config.toml", model_config("fame", "paper", (1, 28, 28), 2)
    text = to_toml(preset, TrainConfig())
    assert "first_kernel = 15\n" in text
    file.write_text(text.replace("first_kernel = 15\n", ""))
    # As it is, the key is one that the first runs had: the file has a part of a model.
    assert resolve(preset, TrainConfig(), file, [])[0].decoder.first_kernel == 15
    others = tuple(key for key in first_defaults.DECODER_KEYS if key != "first_kernel")
    monkeypatch.setattr(first_defaults, "DECODER_KEYS", others)
    assert resolve(preset, TrainConfig(), file, [])[0].decoder.first_kernel == 7
    assert (
        resolve(preset, TrainConfig(), file, [Setting("decoder.first_kernel", 9)])[0].decoder.first_kernel
        == 9
    )
    assert resolve(preset, TrainConfig(), file, [], presets=False)[0].decoder.first_kernel == 15


def digest_of(model: ModelConfig, train: TrainConfig) -> str:
    """As folders were named once, by the keys of then."""
    table = {key: value for key, value in to_dict(model).items() if key in first_defaults.MODEL_KEYS}
    table["decoder"] = {key: table["decoder"][key] for key in first_defaults.DECODER_KEYS}
    trained = {key: to_dict(train)[key] for key in first_defaults.TRAIN}
    text = tomli_w.dumps({"model": table, "train": trained})
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def test_first_digests_are_frozen() -> None:
    """Figures of the version that named folders by them."""
    data = dict(zip(DATA_KEYS, ("fame", "bernoulli", 1, 28, 28, 2), strict=True))
    for (preset, size), digest in FIRST_DIGESTS.items():
        assert first_digest(preset, size, data | {"preset": preset}, {}) == digest
    assert first_digest("fame", "tiny", data, {("train", "seed"): 5}) == SEED_5
    assert first_digest("fame", "tiny", data, {("train", "younger"): 5}) is None
    assert first_digest("fame", "huge", data, {}) is None


def test_a_run_in_a_folder_of_the_first_kind_is_found(train: Command) -> None:
    words = ("vae", "--steps", 3, "--set", "decoder.lag=3")
    assert train(*words, "-o", "run", *STOP).code == 75
    # Of then, too, are the rates and the end of their fall.
    wanted = {"batch_size": 6, "total_images": 18, "eval_every_images": 12, "seed": 0}
    wanted |= {"lr": 0.002, "muon_lr": 0.01, "final_lr": 0.02}
    model = resolve(
        model_config("vae", "tiny", (1, 28, 28), 2), TrainConfig(), None, [Setting("decoder.lag", 3)]
    )[0]
    first = Path(f"runs/vae-mnist-{digest_of(model, TrainConfig(**wanted))}")  # type: ignore[arg-type]
    first.parent.mkdir()
    shutil.move("run", first)

    def change(metadata: dict[str, Any]) -> None:
        as_before(metadata)
        metadata["train"] |= {"warmup_images": 6400, "rate_warmup_images": 38_400}

    change_state(first, change)
    done = train(*words)
    assert (done.code, done.out) == (0, f"{first}/best.safetensors\n")
    assert "resumed at 6 images" in done.err
    assert config_of(first)["train"]["warmup_images"] == 6400
    # Another command, and who wants to start over, has a folder of its own.
    assert train(*words, "--seed", 1, *STOP).code == 75
    assert train(*words, "--resume", "never", *STOP).code == 75
    assert len(list(Path("runs").iterdir())) == 3


def test_changed_defaults_find_the_same_run(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("vae", "--steps", 3)
    assert train(*words, *STOP).code == 75
    (run,) = Path("runs").iterdir()
    begun = config_of(run)

    def wider(*told: Any) -> ModelConfig:
        settings = [Setting("decoder.lag", 7), Setting("stages.0.width", 40)]
        return resolve(model_config(*told), TrainConfig(), None, settings).model

    monkeypatch.setattr(plan, "model_config", wider)
    monkeypatch.setattr(plan, "fit", lambda config, by_hand, latents_wait: config)
    done = train(*words)
    assert done.code == 0, done.err
    assert "resumed at 6 images" in done.err
    assert list(Path("runs").iterdir()) == [run]
    assert config_of(run) == begun


def test_values_of_typed_keys_are_told_by_their_paths(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train]\nlr = 1\n[model.decoder]\nlayers = 9\n")
    settings = [Setting("stages.1.latents", 7), Setting("train.seed", 3), Setting("train.seed", 4)]
    found = resolve(model_config("fame", "tiny", (1, 28, 28), 2), TrainConfig(), file, settings)
    assert found.named == {
        ("train", "lr"): 1.0,
        ("model", "decoder", "layers"): 9,
        ("model", "stages", "1", "latents"): 7,
        ("train", "seed"): 4,
    }


def test_a_run_that_is_there_is_the_one_that_is_shown(train: Command) -> None:
    assert train("vae", "--images", 64, "--set", "lr=0.001", "-o", "run", *STOP).code == 75
    shown = train("-o", "run", "--print-config")
    assert shown.out == Path("run/config.toml").read_text()
    assert "began with train.lr = 0.001" in train("-o", "run", "--lr", 0.5, "--print-config").err
    absent = train("--resume", "absent/state.safetensors", "-o", "new", "--print-config")
    assert "no saved state" in absent.err
    fresh = train("-o", "run", "--resume", "never", "--print-config")
    assert tomllib.loads(fresh.out)["model"]["preset"] == "fame"
