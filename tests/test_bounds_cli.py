"""`fame evaluate-nll` with -k, --ais, --simulated and --with-images."""

import csv
import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import error_of, fame, result_of, save_model

import famecli
from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.errors import ArgumentError
from famecli.nll.ais import double, evaluate_ais, simulate
from famecli.nll.evaluate import evaluate
from famecli.nll.record import Annealing

SHAPE = (1, 6, 6)
BITS = math.log(2) * 36
ANNEALING_KEYS = {
    "steps",
    "chains",
    "leapfrog",
    "start",
    "acceptance",
    "step_size",
    "elbo_nats_per_image",
    "stderr_elbo_nats_per_image",
    "lower_nats_per_image",
    "stderr_lower_nats_per_image",
    "gap_nats_per_image",
    "stderr_gap_nats_per_image",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 6x6 images with 256 levels, as a folder's are; beside it images.npy with six of them."""
    folder: Path = tmp_path_factory.mktemp("bounds")
    np.save(folder / "images.npy", np.random.default_rng(3).integers(0, 256, (6, 6, 6), np.uint8))
    return save_model(folder / "model.safetensors", shape=SHAPE, levels=256)


def words_of(model: Path, *words: str | Path) -> tuple[str | Path, ...]:
    data = ("--dataset", "folder", "--data", model.with_name("images.npy"), "--split", "train")
    return ("evaluate-nll", model, *data, "--limit", "3", *words)


def scored_by(model: Path) -> tuple[np.ndarray, list[int]]:
    """Return the images that `words_of` scores, and their numbers in the split."""
    done = fame(*words_of(model, "--per-image", "-"))
    assert done.code == 0, done.err
    rows = list(csv.DictReader(io.StringIO(done.text)))
    images = np.load(model.with_name("images.npy"))[:, None]
    by_hash = {hashlib.sha256(image.tobytes()).hexdigest()[:8]: image for image in images}
    return np.stack([by_hash[row["sha8"]] for row in rows]), [int(row["index"]) for row in rows]


def test_the_curve_is_in_the_document_and_the_table(model: Path) -> None:
    found = result_of(*words_of(model, "-k", "7"))
    levels, numbers = scored_by(model)
    nlls = evaluate(load_checkpoint(model).model, levels, importance_samples=7, numbers=numbers)
    assert nlls.importance is not None
    assert [point["importance_samples"] for point in found["curve"]] == [1, 2, 5, 7]
    for point, nats, stderr in zip(
        found["curve"], nlls.importance.curve.T, nlls.importance.stderr_of_means, strict=True
    ):
        assert point["nats_per_image"] == pytest.approx(nats.mean(), rel=1e-6)
        assert point["stderr_nats_per_image"] == pytest.approx(nats.std(ddof=1) / math.sqrt(3), rel=1e-6)
        assert point["stderr_latents_nats_per_image"] == pytest.approx(stderr, rel=1e-4)
        assert point["bits_per_dim"] == pytest.approx(point["nats_per_image"] / BITS)
    assert found["curve"][-1]["nats_per_image"] == found["nats_per_image"]
    assert found["stderr_latents_nats_per_image"] == found["curve"][-1]["stderr_latents_nats_per_image"]
    effective = nlls.importance.effective
    assert found["effective_samples"] == pytest.approx(
        {"mean": effective.mean(), "least": effective.min()}, rel=1e-3
    )
    text = fame(*words_of(model, "-k", "7")).text
    for point in found["curve"][:-1]:
        assert f"with K = {point['importance_samples']} " in text
        assert f" {point['nats_per_image']:.3f} " in text
    assert f"over latents: {found['stderr_latents_nats_per_image']:.3f} nats; effective samples" in text


def test_nats_of_every_image_follow_if_they_are_wanted(model: Path) -> None:
    plain, found = result_of(*words_of(model)), result_of(*words_of(model, "--with-images"))
    assert set(found) - set(plain) == {"image_nats"}
    rows = list(csv.DictReader(io.StringIO(fame(*words_of(model, "--per-image", "-")).text)))
    assert found["image_nats"] == [float(row["nats"]) for row in rows]
    assert "--json" in error_of(2, *words_of(model, "--with-images"))


def test_annealing_is_in_the_document(model: Path) -> None:
    words = words_of(model, "--ais", "3", "--chains", "2", "--leapfrog", "1", "--ais-from", "prior")
    found = result_of(*words, "--seed", "5", "--with-images")
    settings = Annealing(3, 2, 1, "prior")
    levels, numbers = scored_by(model)
    nlls = evaluate_ais(load_checkpoint(model).model, levels, settings, seed=5, numbers=numbers)
    assert (found["bound"], found["importance_samples"], found["precision"]) == ("ais", 2, "float64")
    assert found["image_nats"] == pytest.approx(nlls.nats.tolist(), abs=1e-8)
    annealing = found["annealing"]
    assert set(annealing) == ANNEALING_KEYS
    told = [annealing[key] for key in ("steps", "chains", "leapfrog", "start")]
    assert told == [3, 2, 1, "prior"]
    assert annealing["acceptance"] == pytest.approx(nlls.acceptance.mean())
    assert annealing["elbo_nats_per_image"] == pytest.approx(nlls.elbo.mean(), rel=1e-6)
    assert annealing["lower_nats_per_image"] is None
    assert [point["importance_samples"] for point in found["curve"]] == [1, 2]
    text = fame(*words, "--seed", "5", "--explain").text
    assert "NLL (AIS, 3 steps of " in text
    assert "leapfrog steps from the prior, chains = 2)" in text
    assert "-log(1/2 sum of annealed weights)" in text
    assert "1 leapfrog steps of" in text


def test_one_step_moves_nothing_and_says_so_in_nulls(model: Path) -> None:
    annealing = result_of(*words_of(model, "--ais", "1"))["annealing"]
    assert (annealing["acceptance"], annealing["step_size"]) == (None, None)


@pytest.mark.parametrize("change", [("--batch-size", "1"), ("--threads", "2")])
def test_batch_size_and_threads_change_no_annealing(model: Path, change: tuple[str, str]) -> None:
    words = words_of(model, "--ais", "3", "--chains", "3", "--leapfrog", "1", "--with-images")
    expected, found = result_of(*words), result_of(*words, *change)
    assert found["image_nats"] == pytest.approx(expected["image_nats"], rel=0, abs=1e-8)


def test_simulated_images_are_bounded_from_below_too(model: Path) -> None:
    words = ("evaluate-nll", model, "--simulated", "4", "--ais", "4", "--leapfrog", "2")
    found = result_of(*words, "--seed", "6", "--with-images")
    loaded = load_checkpoint(model).model
    drawn = simulate(double(loaded), 4, 6)
    nlls = evaluate_ais(loaded, drawn.levels, Annealing(4, 1, 2), normals=drawn.normals, seed=6)
    assert nlls.lower is not None
    assert found["image_nats"] == pytest.approx(nlls.nats.tolist(), abs=1e-8)
    data, annealing = found["data"], found["annealing"]
    assert (data["dataset_id"], data["split"], data["images"]) == ("simulated", "all", 4)
    assert annealing["lower_nats_per_image"] == pytest.approx(nlls.lower.mean())
    assert annealing["gap_nats_per_image"] == pytest.approx((nlls.nats - nlls.lower).mean())
    text = " ".join(fame(*words, "--seed", "6").text.split())
    assert f"lower bound (reverse AIS) {annealing['lower_nats_per_image']:.3f}" in text
    assert "between both bounds" in text
    rows = fame(*words, "--seed", "6", "--per-image", "-").text.splitlines()
    assert rows[0].endswith(",elbo_nats,lower_nats")
    assert [float(row.rsplit(",", 1)[1]) for row in rows[1:]] == pytest.approx(nlls.lower.tolist())


def test_rows_hold_what_weights_say(model: Path, tmp_path: Path) -> None:
    found = result_of(*words_of(model, "-k", "4", "--per-image", tmp_path / "rows.jsonl"))
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()
    ]
    squares = sum(row["stderr_latents_nats"] ** 2 for row in rows)
    assert math.sqrt(squares) / 3 == pytest.approx(found["stderr_latents_nats_per_image"])
    assert min(row["effective_samples"] for row in rows) == found["effective_samples"]["least"]


def test_a_model_without_latents_stays_exact(model: Path, tmp_path: Path) -> None:
    exact = save_model(tmp_path / "pixelcnn.safetensors", "pixelcnn", SHAPE, 256)
    words = words_of(model, "--ais", "3")
    found = result_of(words[0], exact, *words[2:])
    assert (found["bound"], found["annealing"]) == ("exact", None)
    assert "has no latents" in error_of(2, "evaluate-nll", exact, "--simulated", "2", "--ais", "3")
    for option in ("-k", "--ais"):
        needless = f"its NLL is exact, and {option} is not needed"
        words = words_of(model, option, "3")
        assert needless in fame(words[0], exact, *words[2:]).err
        assert needless not in fame(*words).err
    words = words_of(model, "-k", "1")
    assert "is exact" not in fame(words[0], exact, *words[2:]).err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--chains", "2"], "--chains is for --ais"),
        (["--leapfrog", "2"], "--leapfrog is for --ais"),
        (["--ais-from", "prior"], "--ais-from is for --ais"),
        (["--ais", "2", "--ais-from", "nowhere"], "'posterior', 'prior'"),
        (["--ais", "2", "-k", "3"], "exclude each other"),
        (["--ais", "0"], "--ais"),
        (["-k", "0"], "-k"),
        (["--ais", "2", "--record", "x.safetensors"], "--record"),
        (["--simulated", "2"], "--simulated is for --ais"),
        (["--simulated", "2", "--ais", "2"], "--data"),
    ],
)
def test_options_that_do_not_fit_are_refused(model: Path, words: list[str], part: str) -> None:
    assert part in error_of(2, *words_of(model, *words))


def test_simulated_images_have_neither_splits_nor_a_limit(model: Path) -> None:
    words = ("evaluate-nll", model, "--simulated", "2", "--ais", "2")
    assert "--limit" in error_of(2, *words, "--limit", "1")
    assert "--split" in error_of(2, *words, "--split", "valid")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Annealing(0), "steps is 0"),
        (Annealing(3, chains=0), "chains is 0"),
        (Annealing(3, leapfrog=-1), "leapfrog is -1"),
        (Annealing(3, start="q"), "start is 'q'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_settings_are_told_by_their_names(model: Path, settings: Annealing, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        famecli.load(model).nll(np.zeros((1, *SHAPE), np.uint8), annealing=settings)
