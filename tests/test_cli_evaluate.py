"""`fame evaluate-nll`."""

import csv
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import (
    PROVENANCE,
    check_error,
    error_of,
    fame,
    process,
    real_mnist,
    result_of,
    save_model,
)
from support.commands import use_small_mnist as small

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.data.dataset import fixed_levels, load_split
from famecli.nll.evaluate import evaluate

KEYS = {
    "schema": set(),
    "checkpoint": {"name", "sha256", "weights", "weights_sha256", "step", "images_seen"},
    "data": {
        "dataset_id",
        "split",
        "images",
        "pixels_sha256",
        "shape",
        "levels",
        "binarization",
        "part",
        "preparation",
    },
    "bound": set(),
    "importance_samples": set(),
    "nats_per_image": set(),
    "stderr_nats_per_image": set(),
    "bits_per_dim": set(),
    "stderr_bits_per_dim": set(),
    "stderr_latents_nats_per_image": set(),
    "effective_samples": set(),
    "curve": set(),
    "annealing": set(),
    "terms_nats_per_image": {"decoder", "kl"},
    "terms_bits_per_dim": {"decoder", "kl"},
    "claimed_nats_per_image": set(),
    "claimed_bits_per_dim": set(),
    "claims": set(),
    "seed": set(),
    "trained_on_images": set(),
    "device": set(),
    "precision": set(),
    "seconds": set(),
    "versions": {"famecli", "torch"},
}
BITS = math.log(2) * 28 * 28


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small(tmp_path / "data", monkeypatch)
    return save_model(tmp_path / "model.safetensors", raw=True)


def report(*words: str | Path) -> dict[str, Any]:
    return result_of("evaluate-nll", *words)


def rows_of(model: Path, *words: str | Path) -> list[dict[str, str]]:
    """Return the rows of `--per-image -`."""
    done = fame("evaluate-nll", model, "--per-image", "-", *words)
    assert done.code == 0, done.err
    return list(csv.DictReader(io.StringIO(done.text)))


def test_json_is_one_document_with_every_key(model: Path) -> None:
    done = fame("evaluate-nll", model, "--json")
    assert done.code == 0
    assert done.out.count(b"\n") == 1
    found = json.loads(done.out)
    assert {key: set(value) if isinstance(value, dict) else set() for key, value in found.items()} == KEYS
    levels = fixed_levels(load_split("mnist", "test"))
    loaded = load_checkpoint(model)
    assert found["schema"] == "famecli/nll/1"
    assert found["checkpoint"] == {
        "name": str(model),
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "weights": "ema",
        "weights_sha256": loaded.weights_sha256,
        "step": PROVENANCE["steps"],
        "images_seen": PROVENANCE["images_seen"],
    }
    assert found["data"] == {
        "dataset_id": "mnist",
        "split": "test",
        "images": 7,
        "pixels_sha256": levels.sha256,
        "shape": [1, 28, 28],
        "levels": 2,
        "binarization": "dynamic, bits of seed 0",
        "part": "all",
        "preparation": None,
    }
    assert (found["bound"], found["importance_samples"], found["seed"]) == ("elbo", 1, 0)
    assert (found["claimed_nats_per_image"], found["claimed_bits_per_dim"], found["claims"]) == (
        None,
        None,
        [],
    )
    # Only where there are several weights, or annealing.
    assert (found["stderr_latents_nats_per_image"], found["effective_samples"]) == (None, None)
    assert (found["curve"], found["annealing"]) == ([], None)


def test_figures_are_those_of_the_model_in_both_units(model: Path) -> None:
    found = report(model, "--seed", "5")
    levels = fixed_levels(load_split("mnist", "test")).levels
    nats = evaluate(load_checkpoint(model).model, levels, seed=5).nats
    assert found["nats_per_image"] == pytest.approx(nats.mean(), abs=1e-4)
    assert found["stderr_nats_per_image"] == pytest.approx(nats.std(ddof=1) / math.sqrt(7), rel=1e-5)
    terms = found["terms_nats_per_image"]
    assert len(terms["kl"]) == 2
    assert terms["decoder"] + sum(terms["kl"]) == pytest.approx(found["nats_per_image"])
    for unit in ("", "stderr_"):
        expected = found[f"{unit}nats_per_image"] / BITS
        assert found[f"{unit}bits_per_dim"] == pytest.approx(expected, rel=1e-12)
    bits = found["terms_bits_per_dim"]
    assert [bits["decoder"], *bits["kl"]] == pytest.approx(
        [each / BITS for each in [terms["decoder"], *terms["kl"]]]
    )


def test_people_see_the_bound_the_terms_and_the_protocol(model: Path) -> None:
    found, done = report(model), fame("evaluate-nll", model)
    assert done.code == 0
    lines = {line.strip().rsplit("  ", 4)[0].strip(): line.split() for line in done.text.splitlines()}
    assert "mnist, test, 7 images, binarization: dynamic, bits of seed 0" in done.text
    total = next(words for line, words in lines.items() if line.startswith("NLL (-ELBO)"))
    assert total[2:] == [
        f"{found['nats_per_image']:.3f}",
        f"{found['stderr_nats_per_image']:.3f}",
        f"{found['bits_per_dim']:.5f}",
        f"{found['stderr_bits_per_dim']:.5f}",
    ]
    for layer, nats in enumerate(found["terms_nats_per_image"]["kl"]):
        [words] = [words for words in lines.values() if words[:4] == ["KL", "of", "layer", str(layer)]]
        assert float(words[4]) == pytest.approx(nats, abs=6e-4)
    assert found["data"]["pixels_sha256"][:16] in done.text
    assert found["checkpoint"]["weights_sha256"][:16] in done.text


def test_quiet_prints_bits_alone(model: Path) -> None:
    done = fame("evaluate-nll", model, "-q")
    assert (done.code, done.err) == (0, "")
    assert done.text == f"{report(model)['bits_per_dim']:.5f}\n"


@pytest.mark.parametrize("samples", ["1", "5"])
def test_batch_size_and_threads_change_nothing(model: Path, samples: str) -> None:
    words = ("--split", "train", "-k", samples)
    expected = np.array([float(row["nats"]) for row in rows_of(model, *words)])
    assert len(expected) == 18
    for change in (("--batch-size", "1"), ("--batch-size", "7"), ("--batch-size", "64"), ("--threads", "2")):
        found = [float(row["nats"]) for row in rows_of(model, *words, *change)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_more_samples_give_a_tighter_bound(model: Path) -> None:
    elbo, tight = report(model), report(model, "-k", "30")
    assert (tight["bound"], tight["importance_samples"]) == ("iwae", 30)
    assert tight["nats_per_image"] < elbo["nats_per_image"] - 0.5
    assert "IWAE, K = 30" in fame("evaluate-nll", model, "-k", "30").text


def test_split_limit_and_seed_choose_images_and_latents(model: Path) -> None:
    for split, images in (("train", 18), ("valid", 12), ("test", 7)):
        found = report(model, "--split", split)["data"]
        bits = fixed_levels(load_split("mnist", split))  # type: ignore[arg-type]
        assert (found["split"], found["images"], found["pixels_sha256"]) == (split, images, bits.sha256)
    first, other = report(model, "--limit", "3"), report(model, "--limit", "3", "--seed", "1")
    assert first["data"]["images"] == 3
    assert first["data"] == other["data"]
    assert other["seed"] == 1
    assert first["nats_per_image"] != other["nats_per_image"]
    assert first["data"]["part"] == "even"
    nats = [float(row["nats"]) for row in rows_of(model)]
    assert np.mean([nats[0], nats[2], nats[4]]) == pytest.approx(first["nats_per_image"], abs=1e-4)


def test_one_image_has_no_standard_error(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "one.safetensors"
    found = report(model, "--limit", "1", "--record", target)
    assert (found["stderr_nats_per_image"], found["stderr_bits_per_dim"]) == (None, None)
    assert found["nats_per_image"] > 0
    for done in (fame("evaluate-nll", target, "--limit", "1", "--explain"), fame("info", target)):
        assert done.code == 0, done.err


def test_a_model_without_latents_is_exact(model: Path, tmp_path: Path) -> None:
    exact = save_model(tmp_path / "pixelcnn.safetensors", "pixelcnn")
    found = report(exact, "-k", "9")
    assert (found["bound"], found["importance_samples"]) == ("exact", 1)
    assert found["terms_nats_per_image"] == {"decoder": found["nats_per_image"], "kl": []}
    assert report(exact, "--seed", "3")["nats_per_image"] == found["nats_per_image"]


def test_greys_are_scored_as_they_are(model: Path, tmp_path: Path) -> None:
    grey = save_model(tmp_path / "grey.safetensors", "vae", levels=256)
    found = report(grey, "--dataset", "mnist-grey")["data"]
    pixels = load_split("mnist-grey", "test").pixels
    assert (found["levels"], found["binarization"]) == (256, "none")
    assert found["pixels_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "-"])
def test_rows_of_images_add_up_to_the_report(model: Path, tmp_path: Path, name: str) -> None:
    if name == "-":
        text, whole = fame("evaluate-nll", model, "--per-image", "-").text, report(model)
    else:
        whole = report(model, "--per-image", tmp_path / name)
        text = (tmp_path / name).read_text()
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    if name == "rows.jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
    columns = ["index", "sha8", "bits_per_dim", "nats", "decoder_nats", "kl_nats_0", "kl_nats_1"]
    assert [list(row) for row in rows] == [columns] * 7
    means = {
        key: np.mean([float(row[key]) for row in rows]) for key in columns if key not in ("index", "sha8")
    }
    terms = whole["terms_nats_per_image"]
    expected = [whole["bits_per_dim"], whole["nats_per_image"], terms["decoder"], *terms["kl"]]
    assert list(means.values()) == pytest.approx(expected, rel=1e-9)
    for row in rows:
        assert float(row["nats"]) == pytest.approx(sum(float(row[key]) for key in columns[4:]))
        assert float(row["bits_per_dim"]) == pytest.approx(float(row["nats"]) / BITS)
    hashes = [
        hashlib.sha256(each.tobytes()).hexdigest()
        for each in fixed_levels(load_split("mnist", "test")).levels
    ]
    assert [(int(row["index"]), row["sha8"]) for row in rows] == [
        (i, each[:8]) for i, each in enumerate(hashes)
    ]


def test_rows_on_stdout_leave_the_table_to_stderr(model: Path) -> None:
    done = fame("evaluate-nll", model, "--per-image", "-")
    assert done.text.startswith("index,sha8,")
    assert done.text.count("\n") == 8
    assert "NLL (-ELBO)" in done.err
    assert fame("evaluate-nll", model, "--per-image", "-", "-q").err == ""
    error_of(2, "evaluate-nll", model, "--per-image", "-", "--json")


@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_heatmaps_hold_the_bits_of_the_decoder(model: Path, tmp_path: Path, preset: str) -> None:
    checkpoint, folder = save_model(tmp_path / "a.safetensors", preset), tmp_path / "maps"
    found = report(checkpoint, "--heatmap", folder)
    bits = []
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as image:
            bits.append(float(image.text["bits"]))  # type: ignore[attr-defined]
            pixels = np.asarray(image)
        assert pixels.shape == (28, 28)
        # Bytes are eighths of a bit to 8 bits; what is cut off above 8 bits or rounded is little.
        assert pixels.sum() * 8 / 255 <= bits[-1] + 28 * 28 * 0.5 * 8 / 255
        assert pixels.sum() * 8 / 255 >= bits[-1] * 0.7
    assert len(bits) == 7
    assert np.mean(bits) * math.log(2) == pytest.approx(found["terms_nats_per_image"]["decoder"], abs=1e-3)
    assert "exists" in error_of(3, "evaluate-nll", checkpoint, "--heatmap", folder)
    report(checkpoint, "--heatmap", folder, "--force")


def test_rounded_weights_are_recorded_in_half_the_bytes(model: Path, tmp_path: Path) -> None:
    single, half = tmp_path / "single.safetensors", tmp_path / "half.safetensors"
    exact, rough = report(model, "--record", single), report(model, "--half", "--record", half)
    assert half.stat().st_size < 0.6 * single.stat().st_size + 4000
    assert {each["dtype"] for each in result_of("info", half, "--tensors")["tensors"].values()} == {"F16"}
    assert rough["nats_per_image"] != exact["nats_per_image"]
    assert rough["nats_per_image"] == pytest.approx(exact["nats_per_image"], rel=1e-2)
    # What is scored is what is stored, and stays so when it is recorded again.
    found = load_checkpoint(half)
    assert found.weights_sha256 == rough["checkpoint"]["weights_sha256"]
    wanted = {
        name: tensor.half().float() for name, tensor in load_checkpoint(model).model.state_dict().items()
    }
    for name, tensor in found.model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, wanted[name])
    again = report(half, "-k", "3", "--limit", "4", "--record", half, "--force")
    assert again["checkpoint"]["weights_sha256"] == found.weights_sha256
    assert len(result_of("info", half)["further_claims"]) == 1
    assert report(half)["nats_per_image"] == rough["nats_per_image"]


def test_weights_too_large_for_half_precision_are_not_rounded(model: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(model)
    weights = loaded.model.state_dict()
    weights["decoder.head1.bias"][0] = 1e5
    path = tmp_path / "large.safetensors"
    save_checkpoint(path, loaded.model.config, weights, None, {"provenance": PROVENANCE})
    assert "too large for half precision" in error_of(6, "evaluate-nll", path, "--half", "--dataset", "mnist")


def test_raw_weights_are_others_and_can_be_recorded(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "raw.safetensors"
    raw = report(model, "--weights", "raw", "--record", target)
    assert raw["checkpoint"]["weights"] == "raw"
    assert raw["checkpoint"]["weights_sha256"] == load_checkpoint(model, "raw").weights_sha256
    assert abs(raw["nats_per_image"] - report(model)["nats_per_image"]) > 1
    assert report(target)["nats_per_image"] == raw["nats_per_image"]


def test_a_missed_limit_is_code_7_after_the_result(model: Path) -> None:
    bits = report(model)["bits_per_dim"]
    assert fame("evaluate-nll", model, "--fail-above", str(bits + 1e-4)).code == 0
    limit = str(bits - 1e-4)
    done = fame("evaluate-nll", model, "--json", "--fail-above", limit)
    assert done.code == 7
    assert json.loads(done.out)["bits_per_dim"] == bits
    assert limit in check_error(done.err)
    assert "--fail-above nan" in error_of(2, "evaluate-nll", model, "--fail-above", "nan")


def test_the_explanation_has_the_numbers_in_it(model: Path) -> None:
    found, done = report(model), fame("evaluate-nll", model, "--explain", "--json")
    assert json.loads(done.out)["nats_per_image"] == found["nats_per_image"]
    terms = found["terms_nats_per_image"]
    formula = " + ".join(f"{each:.4f}" for each in [terms["decoder"], *terms["kl"]])
    explanation = json.loads(done.out)["explanation"]
    assert f"{formula}, with one draw of z = {found['nats_per_image']:.4f}" in explanation
    assert f"bits/dim = nats / (ln 2 * 1 * 28 * 28) = {found['bits_per_dim']:.5f}" in explanation
    assert b"-log(1/4 sum of" in fame("evaluate-nll", model, "--explain", "-k", "4").out


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--dataset", "mnist-grey"], 2, "256"),
        (["--dataset", "mnits"], 2, "did you mean mnist?"),
        (["--split", "tset"], 2, "'train', 'valid', 'test'"),
        (["--weights", "best"], 2, "'ema', 'raw'"),
        (["--device", "tpu"], 2, "choose auto, cpu"),
        (["--batch-size", "0"], 2, "--batch-size"),
        (["--batch-size", "many"], 2, "--batch-size"),
        (["--model", "vae"], 2, "--model"),
        (["--data", "/nowhere"], 3, "/nowhere"),
        (["--per-image", "/nowhere/rows.csv"], 3, "/nowhere/rows.csv"),
        (["--record", "/nowhere/a.safetensors"], 3, "/nowhere/a.safetensors"),
        (["--heatmap", __file__], 3, "Not a directory\nhint: free space or choose another place"),
        (["--heatmap", __file__, "--force"], 3, "Not a directory"),
        (["--record", "/"], 3, "Is a directory"),
    ],
)
def test_errors_are_one_line_with_a_code(model: Path, words: list[str], code: int, part: str) -> None:
    assert part in error_of(code, "evaluate-nll", model, *words)


def test_images_of_another_shape_are_refused(model: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other.safetensors", shape=(1, 8, 8))
    text = error_of(2, "evaluate-nll", other)
    assert "(1, 8, 8)" in text
    assert "(1, 28, 28)" in text


def test_a_model_that_does_not_say_its_data_set_needs_one(model: Path, tmp_path: Path) -> None:
    silent = save_model(tmp_path / "silent.safetensors", facts={})
    assert "--dataset" in error_of(2, "evaluate-nll", silent)
    assert report(silent, "--dataset", "mnist")["checkpoint"]["step"] is None


def test_the_weights_of_the_package_score_the_real_mnist() -> None:
    words = (
        "evaluate-nll",
        "--dataset",
        "mnist",
        "--data",
        real_mnist(),
        "--limit",
        "4",
        "--offline",
        "--json",
    )
    done = process(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\n") == 1
    found, here = json.loads(done.stdout), result_of(*words[:-1])
    assert found["data"] == here["data"]
    assert found["nats_per_image"] == pytest.approx(here["nats_per_image"], abs=1e-4)
    assert found["checkpoint"]["name"].endswith("fame-mnist.safetensors")
