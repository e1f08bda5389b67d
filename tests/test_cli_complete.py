"""`fame sample --complete` and `--precision`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import error_of, fame, save_model

from famecli.checkpoints.checkpoint import save_checkpoint
from famecli.config.presets import model_config
from famecli.model.fame import Fame

SIDE = 28


def write_grey(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    bits = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE)).astype(np.uint8)
    return write_grey(tmp_path / "digit.png", bits * 255)


def drawn(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        images: np.ndarray = archive["arr_0"]
    return images


@pytest.mark.parametrize("preset", ["fame", "pixelcnn", "vae"])
def test_rows_are_kept_and_the_rest_is_drawn(tmp_path: Path, digit: Path, preset: str) -> None:
    model, out = save_model(tmp_path / "a.safetensors", preset), tmp_path / "x.npz"
    assert fame("sample", model, "--complete", digit, "--rows", 10, "-n", 3, "-o", out).code == 0
    images = drawn(out)
    assert images.shape == (3, SIDE, SIDE, 1)
    with Image.open(digit) as image:
        original = np.asarray(image)
    np.testing.assert_array_equal(images[:, :10, :, 0], np.broadcast_to(original[:10], (3, 10, SIDE)))
    assert (images[0, 10:] != images[1, 10:]).any()


def test_a_mask_keeps_where_it_is_white(tmp_path: Path, digit: Path) -> None:
    model, out = save_model(tmp_path / "a.safetensors", "pixelcnn"), tmp_path / "x.npz"
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, 7:20] = 255
    shape = write_grey(tmp_path / "mask.png", mask)
    assert fame("sample", model, "--complete", digit, "--mask", shape, "-n", 2, "-o", out).code == 0
    with Image.open(digit) as image:
        original = np.asarray(image)
    np.testing.assert_array_equal(drawn(out)[1, :, 7:20, 0], original[:, 7:20])


@pytest.mark.parametrize(
    ("preset", "patch", "rows", "exact", "warned"),
    [
        ("pixelcnn", 2, 10, True, False),
        ("pixelcnn", 2, 26, True, False),
        ("pixelcnn", 2, 11, False, True),
        ("pixelcnn", 1, 11, True, False),
        ("fame", 2, 11, False, True),
        ("vae", 2, 11, False, False),
    ],
)
def test_whether_completions_are_exact_is_told(
    tmp_path: Path, digit: Path, preset: str, patch: int, rows: int, exact: bool, warned: bool
) -> None:
    config = model_config(preset, "tiny", (1, SIDE, SIDE), 2)
    model = Fame(replace(config, decoder=replace(config.decoder, patch=patch)))
    path, out = tmp_path / "a.safetensors", tmp_path / "x.npz"
    save_checkpoint(path, model.config, model.state_dict(), None, {})
    done = fame("sample", path, "--complete", digit, "--rows", rows, "-n", 2, "-o", out, "--json")
    assert done.code == 0
    assert json.loads(done.text)["exact"] is exact
    assert ("no exact draws given the known pixels" in done.err) == warned
    assert ("a multiple of 2 of them" in done.err) == warned


def test_a_mask_that_looks_ahead_is_told_also_if_quiet(tmp_path: Path, digit: Path) -> None:
    model, out = save_model(tmp_path / "a.safetensors", "pixelcnn"), tmp_path / "x.npz"
    words = ("sample", model, "--complete", digit, "-n", 1, "-o", out, "-q", "--force")
    for part, warned in (((slice(14), slice(None)), False), ((slice(None), slice(14)), True)):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[part] = 255
        done = fame(*words, "--mask", write_grey(tmp_path / "mask.png", mask))
        assert done.code == 0
        assert ("warning: unknown pixels are drawn without regard to the known" in done.err) == warned
    assert "exact" not in json.loads(fame("sample", model, "-n", 1, "-o", out, "--force", "--json").text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", 3], "--rows and --mask"),
        (["--complete", "digit.png"], "what to keep"),
        (["--complete", "digit.png", "--rows", 3, "--mask", "digit.png"], "what to keep"),
        (["--complete", "digit.png", "--rows", 3, "--decoder", "mean"], "--decoder mean"),
        (["--complete", "digit.png", "--rows", 3, "--latent-temperature", 0], "--latent-temperature"),
        (["--complete", "digit.png", "--rows", 3, "--precision", "bf16"], "--precision bf16"),
        (["--complete", "digit.png", "--rows", 28], "--rows 28 leaves nothing to draw"),
        (["--precision", "fp8"], "fp8"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digit: Path, words: list[object], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "a.safetensors", "fame")
    assert message in error_of(2, "sample", model, "-n", 2, "-o", "x.npz", *words)
    assert not Path("x.npz").exists()


def test_double_precision_draws_the_same_and_half_precision_nearly(tmp_path: Path) -> None:
    model = save_model(tmp_path / "a.safetensors", "pixelcnn")
    images = []
    for precision in ("fp32", "fp64", "bf16"):
        out = tmp_path / f"{precision}.npz"
        assert fame("sample", model, "-n", 4, "--precision", precision, "-o", out).code == 0
        images.append(drawn(out) / 255)
    single, double, half = images
    assert (single != double).mean() < 0.01
    # The first rows, before a flipped pixel changes what follows.
    assert (single[:, :2] != half[:, :2]).mean() < 0.1
