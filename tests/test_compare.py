"""Two NLLs of the same images, compared: the statistics, and what is refused."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.commands import error_of, fame, result_of, save_model
from support.commands import use_small_mnist as small

from famecli.evaluation.comparison import paired, two_sided_p, two_sided_quantile

IMAGES = 40
KEYS = {
    "schema",
    "a",
    "b",
    "images",
    "pixels_sha256",
    "difference_nats_per_image",
    "stderr_nats_per_image",
    "interval_nats_per_image",
    "bootstrap_interval_nats_per_image",
    "difference_bits_per_dim",
    "stderr_bits_per_dim",
    "interval_bits_per_dim",
    "bootstrap_interval_bits_per_dim",
    "interval_level",
    "t",
    "degrees_of_freedom",
    "p_value",
    "images_lower_in_a",
    "allowed",
    "remark",
}
ANNEALING = {"steps": 9, "chains": 1, "leapfrog": 5, "start": "posterior", "acceptance": 0.7}


def document(nats: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Return what `fame evaluate-nll --json --with-images` prints, as far as it matters."""
    return {
        "schema": "famecli/nll/1",
        "checkpoint": {"name": "run/best.safetensors", "weights_sha256": "ab" * 32, "step": 3},
        "data": {
            "dataset_id": "mnist",
            "split": "test",
            "images": len(nats),
            "pixels_sha256": "cd" * 32,
            "shape": [1, 28, 28],
            "levels": 2,
            "binarization": "dynamic, bits of seed 0",
        },
        "bound": "iwae",
        "importance_samples": 5,
        "nats_per_image": float(nats.mean()),
        "annealing": None,
        "seed": 0,
        "image_nats": nats.tolist(),
    } | changes


def pair_of_nats() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    images = generator.normal(80.0, 20.0, IMAGES)
    return images + generator.normal(-0.3, 0.5, IMAGES), images


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two files, of which the first is the better one, by far less than images differ."""
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, nats in zip(paths, pair_of_nats(), strict=True):
        path.write_text(json.dumps(document(nats)))
    return paths


def rewrite(path: Path, **changes: Any) -> None:
    """Change keys of the document in `path`; those with `data_` in front belong to the data."""
    found = json.loads(path.read_text())
    for key, value in changes.items():
        table = found["data"] if key.startswith("data_") else found
        table[key.removeprefix("data_")] = value
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("degrees", [1, 2, 7, 30, 9999, 49_999, 999_999])
@pytest.mark.parametrize("t", [0.0, 1e-9, 0.01, 0.7, -1.9, 12.7, 70.0, 80.0, 90.0, 100.0, -200.0, 1e9])
def test_chances_are_those_of_students_distribution(t: float, degrees: int) -> None:
    expected = 2 * stats.t.sf(abs(t), degrees)
    assert two_sided_p(t, degrees) == pytest.approx(expected, rel=1e-8, abs=1e-300)


@pytest.mark.parametrize("degrees", [1, 2, 7, 30, 9999])
@pytest.mark.parametrize("p", [0.9, 0.05, 1e-6])
def test_quantiles_are_those_of_students_distribution(p: float, degrees: int) -> None:
    assert two_sided_quantile(p, degrees) == pytest.approx(stats.t.isf(p / 2, degrees), rel=1e-9)


@pytest.mark.parametrize("images", [2, 3, 40, 500])
def test_the_test_is_the_paired_t_test(images: int) -> None:
    generator = np.random.default_rng(images)
    a, b = generator.normal(80.0, 10.0, (2, images))
    found, expected = paired(a - b), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert (found.t, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.mean == pytest.approx((a - b).mean())
    assert found.stderr == pytest.approx(stats.sem(a - b))


def test_the_bootstrap_supposes_no_distribution_and_repeats_itself() -> None:
    skewed = np.random.default_rng(1).exponential(1.0, 300)
    found = paired(skewed)
    assert found.bootstrap == paired(skewed).bootstrap
    low, high = found.bootstrap
    assert high - found.mean > found.mean - low > 0.0
    expected = stats.bootstrap((skewed,), np.mean, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator, held = np.random.default_rng(3), 0
    for _ in range(400):
        low, high = paired(generator.normal(0.3, 1.0, 8)).interval
        held += low <= 0.3 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.035)


def test_equal_images_are_no_difference_and_a_constant_one_is_certain() -> None:
    same, shifted = paired(np.zeros(5)), paired(np.full(5, 0.25))
    assert (same.mean, same.interval, same.bootstrap, same.t, same.p_value) == (0.0, (0, 0), (0, 0), None, 1)
    assert (shifted.mean, shifted.interval, shifted.t, shifted.p_value) == (0.25, (0.25, 0.25), None, 0)


@pytest.mark.parametrize("nats", [0.1, 0.3, -0.7])
@pytest.mark.parametrize("images", [10, 100, 1_000])
def test_rounding_is_no_deviation_of_equal_differences(nats: float, images: int) -> None:
    found = paired(np.full(images, nats))
    assert (found.mean, found.stderr, found.interval) == (nats, 0.0, (nats, nats))
    assert (found.t, found.p_value) == (None, 0.0)
    assert found.bootstrap == pytest.approx((nats, nats), rel=1e-12)


def test_json_has_every_key_in_both_units(files: tuple[Path, Path]) -> None:
    found = result_of("compare", *files)
    a, b = pair_of_nats()
    expected = paired(a - b)
    assert set(found) == KEYS
    assert found["schema"] == "famecli/compare/1"
    assert found["difference_nats_per_image"] == expected.mean < 0
    assert found["interval_nats_per_image"] == list(expected.interval)
    assert found["bootstrap_interval_nats_per_image"] == list(expected.bootstrap)
    assert (found["t"], found["p_value"]) == (expected.t, expected.p_value)
    assert found["p_value"] < 0.01
    assert (found["images"], found["degrees_of_freedom"], found["allowed"]) == (IMAGES, IMAGES - 1, [])
    assert found["images_lower_in_a"] == (a < b).sum() > IMAGES / 2
    bits = math.log(2) * 28 * 28
    for key in ("difference", "stderr"):
        assert found[f"{key}_bits_per_dim"] == pytest.approx(found[f"{key}_nats_per_image"] / bits)
    for key in ("interval", "bootstrap_interval"):
        nats = np.array(found[f"{key}_nats_per_image"])
        assert found[f"{key}_bits_per_dim"] == pytest.approx(list(nats / bits))
    assert found["a"]["nats_per_image"] == a.mean()
    assert found["b"]["checkpoint"] == {"name": "run/best.safetensors", "weights_sha256": "ab" * 32}


def test_people_see_the_difference_its_interval_and_its_chance(files: tuple[Path, Path]) -> None:
    found, done = result_of("compare", *files), fame("compare", *files)
    assert done.code == 0
    low, high = found["interval_nats_per_image"]
    assert f"{found['difference_nats_per_image']:+.3f}" in done.text
    assert f"95 % interval (t): {low:+.3f} to {high:+.3f} nats" in done.text
    assert f"p = {found['p_value']:.2g}; A costs less on {found['images_lower_in_a']} of 40" in done.text
    assert f"A, {files[0]}, IWAE, K = 5" in done.text
    assert "mnist, test, 40 images, binarization: dynamic, bits of seed 0" in done.text
    assert "both are upper bounds" in done.text
    quiet = fame("compare", *files, "-q")
    assert (quiet.text, quiet.err) == (f"{found['difference_nats_per_image']:.5f}\n", "")


def test_the_sides_change_the_sign_alone(files: tuple[Path, Path]) -> None:
    one, other = result_of("compare", *files), result_of("compare", *reversed(files))
    assert one["difference_nats_per_image"] == -other["difference_nats_per_image"]
    assert one["p_value"] == other["p_value"]
    assert one["images_lower_in_a"] + other["images_lower_in_a"] == IMAGES


@pytest.mark.parametrize(
    ("changes", "words", "waiver"),
    [
        ({"data_pixels_sha256": "ef" * 32}, "pixels (cdcdcdcdcdcdcdcd; efefefefefefefef)", None),
        ({"data_shape": [1, 14, 56]}, "shape and levels ((1, 28, 28, 2); (1, 14, 56, 2))", None),
        ({"data_levels": 256}, "levels ((1, 28, 28, 2); (1, 28, 28, 256))", None),
        ({"data_split": "valid"}, "split (test; valid)", "names"),
        ({"data_dataset_id": "stdin"}, "data set (mnist; stdin)", "names"),
        ({"data_binarization": "none"}, "binarization (dynamic, bits of seed 0; none)", "names"),
        ({"importance_samples": 6}, "estimator (IWAE, K = 5; IWAE, K = 6)", "estimator"),
        ({"bound": "elbo", "importance_samples": 1}, "estimator (IWAE, K = 5; -ELBO)", "estimator"),
        ({"bound": "ais", "importance_samples": 1, "annealing": ANNEALING}, "AIS, 9 steps of", "estimator"),
    ],
)
def test_other_protocols_are_refused_unless_it_is_said(
    files: tuple[Path, Path], changes: dict[str, Any], words: str, waiver: str | None
) -> None:
    rewrite(files[1], **changes)
    text = error_of(2, "compare", *files)
    assert words in text
    other = {"names": "estimator", "estimator": "names"}
    if waiver is None:
        assert "--allow" not in text
        assert words in error_of(2, "compare", *files, "--allow", "names", "--allow", "estimator")
        return
    assert f"--allow {waiver}" in text
    assert words in error_of(2, "compare", *files, "--allow", other[waiver])
    assert result_of("compare", *files, "--allow", waiver)["allowed"] == [waiver]


def test_fewer_images_are_refused(files: tuple[Path, Path]) -> None:
    files[1].write_text(json.dumps(document(pair_of_nats()[1][:30])))
    text = error_of(2, "compare", *files, "--allow", "names", "--allow", "estimator")
    assert "images (40; 30)" in text
    assert "--limit" in text


def test_annealing_that_differs_in_its_settings_is_another_estimator(files: tuple[Path, Path]) -> None:
    for path, steps in zip(files, (9, 10), strict=True):
        rewrite(path, bound="ais", importance_samples=1, annealing=ANNEALING | {"steps": steps})
    assert "estimator (AIS, 9 steps" in error_of(2, "compare", *files)
    rewrite(files[1], annealing=ANNEALING | {"acceptance": 0.5})
    assert result_of("compare", *files)["allowed"] == []


@pytest.mark.parametrize(
    ("exact", "words"),
    [((True, True), ""), ((False, False), "both are upper bounds"), ((False, True), "A is better by at"),
     ((True, False), "B may be better")],
)  # fmt: skip
def test_what_a_difference_of_bounds_means_is_said(
    files: tuple[Path, Path], exact: tuple[bool, bool], words: str
) -> None:
    for path, each in zip(files, exact, strict=True):
        if each:
            rewrite(path, bound="exact", importance_samples=1)
    remark = result_of("compare", *files, "--allow", "estimator")["remark"]
    assert words in remark
    assert bool(words) == bool(remark)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON document"),
        ("[" * 100_000, "no JSON document"),
        ("\x00", "no JSON document"),
        ("[]", "no NLL of each image"),
        ('{"schema": "famecli/nll/1"}', "no NLL of each image"),
    ],
)
def test_what_is_no_such_document_is_refused(files: tuple[Path, Path], text: str, words: str) -> None:
    files[1].write_text(text)
    assert words in error_of(3, "compare", *files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "famecli/nll/2"}, "famecli/nll/1"),
        ({"image_nats": [1.0, "2"]}, "image_nats[1]"),
        ({"image_nats": [80.0] * 3}, "has the NLLs of 3"),
        ({"image_nats": [math.nan] * IMAGES}, "out of range"),
        ({"image_nats": [1e300] * IMAGES}, "out of range"),
        ({"image_nats": [10**400] * IMAGES}, "out of range"),
        ({"image_nats": [80.0] * IMAGES}, "but the mean of its images is 80.0"),
        ({"nats_per_image": math.inf}, "says inf nats"),
        ({"data_shape": [1, 28, 0]}, "out of range"),
        ({"data_shape": [1, 28, 10**400]}, "out of range"),
        ({"data": []}, "data"),
        ({"checkpoint": None}, "checkpoint"),
        ({"bound": "guess"}, "guess"),
    ],
)
def test_documents_that_make_no_sense_are_refused(
    files: tuple[Path, Path], changes: dict[str, Any], words: str
) -> None:
    rewrite(files[0], **changes)
    assert words in error_of(3, "compare", *files)


def test_one_image_cannot_be_compared(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(document(np.array([80.0]))))
    assert "a mean of one has no error" in error_of(3, "compare", path, path)


def test_one_side_may_come_through_stdin(files: tuple[Path, Path], tmp_path: Path) -> None:
    expected = result_of("compare", *files)
    assert result_of("compare", files[0], "-", stdin=files[1].read_bytes()) == expected
    assert "stdin" in error_of(2, "compare", "-", "-")
    assert "cannot read" in error_of(3, "compare", files[0], tmp_path / "none.json")
    assert "choose estimator or names" in error_of(2, "compare", *files, "--allow", "everything")


def test_what_evaluate_nll_prints_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "data", monkeypatch)
    documents = {}
    for name, preset in (("a", "fame"), ("b", "vae")):
        model = save_model(tmp_path / f"{name}.safetensors", preset)
        documents[name] = result_of("evaluate-nll", model, "-k", "2", "--with-images")
        (tmp_path / f"{name}.json").write_text(json.dumps(documents[name]))
    found = result_of("compare", tmp_path / "a.json", tmp_path / "b.json")
    expected = documents["a"]["nats_per_image"] - documents["b"]["nats_per_image"]
    assert found["difference_nats_per_image"] == pytest.approx(expected)
    assert found["images"] == 7
    shorter = copy.deepcopy(documents["a"])
    del shorter["image_nats"]
    (tmp_path / "c.json").write_text(json.dumps(shorter))
    assert "--with-images" in error_of(3, "compare", tmp_path / "a.json", tmp_path / "c.json")


def test_torch_is_not_imported(files: tuple[Path, Path]) -> None:
    code = (
        "import sys; from famecli.cli.app import app\n"
        "try: app(['compare', *sys.argv[1:]])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == fame("compare", *files).out
