"""`fame verify`: what it prints, and how it ends."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import sabotage as broken
from support.commands import CLAIM, Done, error_of, fame, random_model, result_of, save_model, use_small_mnist
from support.forgeries import with_metadata

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.cli.verify import CHECKS
from famecli.model.distributions import Bernoulli
from famecli.verification import runner

FEW = ("--samples", "4", "--limit", "3")
KEYS = {"schema", "checkpoint", "passed", "checks", "seed", "device", "seconds", "version"}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 test images in place of MNIST, and nothing from elsewhere."""
    use_small_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def claiming(tmp_path: Path) -> Path:
    """A model that claims its NLL on the 7 images, as it was measured."""
    model = save_model(tmp_path / "model.safetensors", "vae")
    result_of("evaluate-nll", model, "--record", tmp_path / "claiming.safetensors")
    return tmp_path / "claiming.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model.safetensors", "pixelcnn")


def failed(done: Done, *names: str) -> dict[str, Any]:
    """Return the document of a run in which just these checks failed."""
    assert done.code == 7, done.err
    assert f"failed: {', '.join(names)}\n" in done.err
    assert "hint: docs/verification.md" in done.err
    document: dict[str, Any] = json.loads(done.out)
    assert document["passed"] is False
    assert [each["name"] for each in document["checks"] if each["verdict"] == "failed"] == list(names)
    return document


def test_long_checks_are_announced_and_endless_ones_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("verify", model, *FEW, "--checks", "batch")
    assert "TFLOP" not in fame(*words).err
    monkeypatch.setattr(runner, "LONG_FLOP", 0.0)
    assert fame(*words).err.count("\nthe checks take about 0 TFLOP, some 1 min of one CPU core\n") == 1
    monkeypatch.setattr(runner, "MOST_FLOP", 0.0)
    told = error_of(3, *words)
    assert f"{model}: the checks take about 0 TFLOP, at most 0" in told
    assert "choose fewer --checks, or less of --images, --samples and --limit" in told


def test_a_sound_model_passes_everything(claiming: Path) -> None:
    document = result_of("verify", claiming, *FEW)
    assert set(document) == KEYS
    assert document["schema"] == "famecli/verify/1"
    assert document["passed"] is True
    assert set(document["checkpoint"]) == {"name", "sha256", "weights", "weights_sha256"}
    assert [each["name"] for each in document["checks"]] == list(CHECKS)
    for check in document["checks"]:
        assert set(check) == {"name", "verdict", "sentence", "measurements", "seconds"}
        assert check["verdict"] == "passed"
        assert check["measurements"]
        for each in check["measurements"]:
            assert set(each) == {"what", "value", "limit", "passed"}
            assert each["passed"] is True
            assert 0 <= each["value"] <= each["limit"]


def test_the_table_has_a_row_for_each_figure(claiming: Path) -> None:
    done = fame("verify", claiming, *FEW)
    assert done.code == 0
    first, columns, *rows, last = done.text.splitlines()
    assert first.startswith("vae from ")
    assert columns.split() == ["check", "measured", "value", "limit", "verdict", "s"]
    assert [row.split()[0] for row in rows if row[0] != " "] == list(CHECKS)
    assert all("passed" in row for row in rows)
    assert last.startswith("weights ")
    assert "verifying: 1/7 in " in done.err
    assert "verifying: 7/7 in " in done.err


def test_quiet_prints_one_word(model: Path) -> None:
    done = fame("verify", model, *FEW, "-q", "--checks", "batch,normalisation")
    assert (done.code, done.out, done.err) == (0, b"pass\n", "")


def test_a_broken_model_ends_with_code_7(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.generous_bits(random_model("pixelcnn", (1, 28, 28), 2, 0), monkeypatch)
    words = ("verify", model, *FEW, "--checks", "batch,normalisation")
    document = failed(fame(*words, "--json"), "normalisation")
    assert document["checks"][1]["measurements"][0]["value"] == pytest.approx(1e-6, rel=1e-4)
    quiet = fame(*words, "-q")
    assert (quiet.code, quiet.out) == (7, b"fail\n")
    assert quiet.err.startswith("error: ")
    table = fame(*words)
    assert table.code == 7
    assert table.text.count("FAILED") == 2


def test_all_that_failed_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.no_mask(random_model("pixelcnn", (1, 28, 28), 2, 0), monkeypatch)
    done = fame("verify", model, *FEW, "--json", "--checks", "normalisation,causality")
    failed(done, "causality", "normalisation")


def test_what_is_no_number_is_null(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken.wrap(monkeypatch, Bernoulli, "log_prob", lambda original, *args: original(*args) * math.nan)
    done = fame("verify", model, *FEW, "--json", "--checks", "normalisation")
    document = failed(done, "normalisation")
    assert document["checks"][0]["measurements"][0]["value"] is None
    assert "NaN" not in done.text


def test_a_wrong_claim_fails(claiming: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(claiming)
    weights = {name: 1.01 * weight for name, weight in loaded.model.state_dict().items()}
    path = tmp_path / "other.safetensors"
    assert loaded.claims
    facts = {key: loaded.metadata[key] for key in ("provenance", "claim")}
    save_checkpoint(path, loaded.model.config, weights, None, facts)
    document = failed(fame("verify", path, *FEW, "--json", "--checks", "batch,claims"), "claims")
    assert document["checks"][1]["measurements"][0]["what"].startswith("NLL of 7 test images")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("nats_per_image", 1.0, "1.0000 nats/image, which"),
        ("bits_per_dim", 0.5, "0.50000 bits/dim and"),
        ("annealing", {"steps": 500}, "AIS, 500 steps"),
        (None, None, ""),
    ],
)
def test_a_claim_that_contradicts_itself_fails(
    tmp_path: Path, key: str | None, value: object, told: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (400, 8, 8), np.uint8)
    np.save(tmp_path / "own.npy", 255 * pixels)
    model = save_model(tmp_path / "model.safetensors", "vae", (1, 8, 8))
    claiming, own = tmp_path / "claiming.safetensors", ("--data", tmp_path / "own.npy")
    words = ("--dataset", "folder", "--split", "all", "--record", claiming)
    result_of("evaluate-nll", model, *own, *words)
    change = {} if key is None else {key: value}
    forged = with_metadata(claiming.read_bytes(), lambda metadata: metadata["claim"].update(change))
    claiming.write_bytes(forged)
    done = fame("verify", claiming, *own, "--checks", "claims", "--json")
    if key is not None:
        assert told in failed(done, "claims")["checks"][0]["sentence"]
        return
    (check,) = json.loads(done.out)["checks"]
    assert check["sentence"].startswith("The NLL of the first 256 of 400 images is the one")
    assert check["measurements"][0]["what"].startswith("NLL of the first 256 of 400 test images")


@pytest.mark.parametrize(
    ("shape", "change", "told"),
    [
        ((3, 8, 8), {}, "mnist has (1, 28, 28)"),
        ((1, 28, 28), {"images": 8}, "about 8 images, mnist has 7 in test"),
        ((1, 28, 28), {"images": 300}, "about 300 images, mnist has 7 in test"),
        ((1, 28, 28), {"images": 100_000, "part": "first"}, "about 100,000 images, mnist has 7 in test"),
        ((1, 28, 28), {"split": "foo"}, "about a split 'foo'"),
    ],
)
def test_a_claim_about_images_that_do_not_exist_fails(
    tmp_path: Path, shape: tuple[int, int, int], change: dict[str, Any], told: str
) -> None:
    data = CLAIM["data"] | {"images": 7, "part": "even"} | change  # type: ignore[operator]
    claim = CLAIM | {"data": data, "first_256_nats_per_image": 81.25}
    path = save_model(tmp_path / "model.safetensors", "vae", shape, facts={"claim": claim})
    document = failed(fame("verify", path, "--checks", "claims", "--json"), "claims")
    assert told in document["checks"][0]["sentence"]


def test_a_claim_about_ones_own_images_is_skipped_without_them(tmp_path: Path) -> None:
    claim = CLAIM | {"data": CLAIM["data"] | {"dataset_id": "folder", "images": 7}}  # type: ignore[operator]
    path = save_model(tmp_path / "model.safetensors", facts={"claim": claim})
    done = fame("verify", path, "--checks", "claims", "-q")
    assert (done.code, done.out) == (4, b"skip\n")


def test_what_claims_nothing_is_skipped(model: Path) -> None:
    done = fame("verify", model, "--checks", "claims", "-q")
    assert (done.code, done.out) == (4, b"skip\n")
    assert "the checkpoint claims no NLL" in done.err
    document = result_of("verify", model, *FEW, "--checks", "batch,claims,latents")
    # In the order of the table, whatever was asked for first.
    verdicts = {each["name"]: each["verdict"] for each in document["checks"]}
    assert verdicts == {"batch": "passed", "latents": "skipped", "claims": "skipped"}
    assert document["passed"] is True


def test_the_claim_of_a_checkpoint_on_stdin_is_measured_again(claiming: Path) -> None:
    done = fame("verify", "-", "--checks", "claims", "-q", stdin=claiming.read_bytes())
    assert (done.code, done.out) == (0, b"pass\n")


def test_without_data_the_models_own_images_are_coded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("FAME_DATA")
    done = fame("verify", model, *FEW, "--checks", "code", "--data", tmp_path / "empty", "--json")
    assert done.code == 0, done.err
    assert "samples of the model" in json.loads(done.out)["checks"][0]["measurements"][0]["what"]
    assert "no test images" in done.err


def test_the_limit_is_of_images_coded(model: Path) -> None:
    document = result_of("verify", model, "--checks", "code", "--limit", "2")
    assert document["checks"][0]["measurements"][0]["what"].startswith("values of 2 test images")


def test_a_seed_decides_everything(model: Path) -> None:
    def values(seed: int) -> list[float]:
        document = result_of("verify", model, *FEW, "--checks", "sampler", "--seed", str(seed))
        assert document["seed"] == seed
        return [each["value"] for each in document["checks"][0]["measurements"]]

    assert values(3) == values(3)
    assert values(3) != values(4)


def test_other_words_are_refused(model: Path) -> None:
    assert "causality" in error_of(2, "verify", model, "--checks", "causalty")
    assert "names no check" in error_of(2, "verify", model, "--checks", ",")
    assert "stdin" in error_of(2, "verify", model, "--data", "-")
    error_of(2, "verify", model, "--samples", "1")
    error_of(3, "verify", model.with_name("absent.safetensors"))


def test_a_data_set_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path / "rgb.safetensors", "pixelcnn", (3, 8, 8), 256)
    assert "mnist" in error_of(2, "verify", path, *FEW, "--checks", "code")
