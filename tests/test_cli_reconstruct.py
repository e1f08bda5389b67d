"""`fame reconstruct`."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import error_of, fame, result_of, save_model
from support.commands import use_small_mnist as small

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors, save_checkpoint
from famecli.checkpoints.header import parse_header
from famecli.data.dataset import fixed_levels, load_split
from famecli.data.image_writers import MANIFEST, to_uint8
from famecli.grids import enlarged, grid
from famecli.rng import ImageNoise
from famecli.sampling.reconstruction import Settings
from famecli.sampling.reconstruction import reconstruct as rebuild

KEYS = ["index", "source", "psnr", "mse", "nats", "bits_per_dim", "kl_bits"]
LAYERS = 2


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return save_model(tmp_path / "model.safetensors")


def scored_levels() -> np.ndarray:
    return fixed_levels(load_split("mnist", "test")).levels


def rebuilt(model: Path, *words: str | Path) -> np.ndarray:
    """Return the reconstructions that `--format npz` holds, `(n, H, W, C)`."""
    done = fame("reconstruct", model, *words, "--format", "npz", "-o", "a.npz", "--force")
    assert done.code == 0, done.err
    with np.load("a.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0"]
        images: np.ndarray = archive["arr_0"]
    return images


def picture(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)[:, :, None]


def write_images(folder: Path, levels: np.ndarray) -> list[Path]:
    """Write bits as PNG files, one of 127 and 128 in place of black and white."""
    folder.mkdir()
    paths = [folder / f"{index}.png" for index in range(len(levels))]
    for path, image in zip(paths, levels, strict=True):
        black, white = (127, 128) if path == paths[0] else (0, 255)
        Image.fromarray(np.where(image[0], white, black).astype(np.uint8)).save(path)
    return paths


@pytest.mark.parametrize(("number", "samples", "columns"), [(6, 1, 4), (6, 3, 4), (1, 2, 3)])
def test_pairs_stand_side_by_side(model: Path, number: int, samples: int, columns: int) -> None:
    done = fame("reconstruct", model, "-n", str(number), "--samples", str(samples), "-o", "pairs.png")
    assert (done.code, done.text) == (0, "pairs.png\n")
    before = to_uint8(scored_levels()[:number], 2)
    after = rebuilt(model, "-n", str(number), "--samples", str(samples)).reshape(number, samples, 28, 28, 1)
    cells = np.concatenate([before[:, None], after], axis=1).reshape(-1, 28, 28, 1)
    rows = math.ceil(len(cells) / columns)
    assert len(picture("pairs.png")) == 2 * (rows * 30 + 2)
    expected = grid(cells, columns, group=samples + 1)
    np.testing.assert_array_equal(picture("pairs.png"), enlarged(expected, 2))


def test_other_formats_hold_reconstructions_alone(model: Path, tmp_path: Path) -> None:
    images = rebuilt(model, "-n", "3", "--samples", "2")
    assert images.shape == (6, 28, 28, 1)
    expected = rebuild(load_checkpoint(model).model, scored_levels()[:3], Settings(samples=2))
    np.testing.assert_array_equal(images, to_uint8(expected.reshape(6, 1, 28, 28).astype(np.uint8), 2))
    words = ("reconstruct", model, "-n", "3", "--samples", "2")
    assert fame(*words, "--format", "grid", "-o", "grid.png").code == 0
    np.testing.assert_array_equal(picture("grid.png"), enlarged(grid(images), 2))
    assert fame(*words, "--format", "png", "-o", "folder").code == 0
    lines = [json.loads(line) for line in (tmp_path / "folder" / MANIFEST).read_text().splitlines()]
    assert len(lines) == 6
    for line, image in zip(lines, images, strict=True):
        np.testing.assert_array_equal(picture(f"folder/{line['file']}"), image)
    assert {line["weights_sha256"] for line in lines} == {load_checkpoint(model).weights_sha256}
    assert rebuilt(model, "-n", "3", "--rgb").shape == (3, 28, 28, 3)


def test_samples_differ_and_the_first_is_that_of_one(model: Path) -> None:
    images = rebuilt(model, "-n", "2", "--samples", "3").reshape(2, 3, -1)
    assert len({image.tobytes() for image in images.reshape(6, -1)}) == 6
    np.testing.assert_array_equal(rebuilt(model, "-n", "2").reshape(2, -1), images[:, 0])
    assert (rebuilt(model, "-n", "2", "--seed", "1").reshape(2, -1) != images[:, 0]).any()


def test_kept_layers_count_from_the_top(model: Path) -> None:
    images = [rebuilt(model, "-n", "3", "--keep-layers", str(kept)) for kept in range(LAYERS + 1)]
    np.testing.assert_array_equal(images[LAYERS], rebuilt(model, "-n", "3"))
    for kept in range(LAYERS):
        assert (images[kept] != images[kept + 1]).any()
    # Without any layer nothing of the image is left.
    np.testing.assert_array_equal(
        images[0], rebuilt(model, "-n", "3", "--keep-layers", "0", "--split", "train")
    )
    text = error_of(2, "reconstruct", model, "-n", "1", "--keep-layers", str(LAYERS + 1))
    assert "--keep-layers 3" in text
    assert "2 stochastic layers" in text


def test_expected_pixels_are_greys(model: Path) -> None:
    assert set(np.unique(rebuilt(model, "-n", "2"))) == {0, 255}
    assert len(np.unique(rebuilt(model, "-n", "2", "--decoder", "mean"))) > 50
    assert "'sample', 'mean'" in error_of(2, "reconstruct", model, "--decoder", "median")


@pytest.mark.parametrize(
    ("words", "places"), [(["-n", "5"], [0, 1, 2, 3, 4]), (["--interpolate", "4", "2"], [4, 2])]
)
def test_json_has_a_row_per_image_with_the_nll_of_evaluate(
    model: Path, words: list[str], places: list[int]
) -> None:
    found = result_of("reconstruct", model, *words, "--seed", "2")
    assert set(found) >= {"schema", "checkpoint", "out", "seed", "images"}
    assert (found["schema"], found["out"], found["seed"]) == (
        "famecli/reconstruct/1",
        "reconstructions.png",
        2,
    )
    assert [list(row) for row in found["images"]] == [KEYS] * len(places)
    assert [row["source"] for row in found["images"]] == [f"mnist/test/{place}" for place in places]
    done = fame("evaluate-nll", model, "--per-image", "-", "--seed", "2")
    nlls = list(csv.DictReader(io.StringIO(done.text)))
    for index, (row, place) in enumerate(zip(found["images"], places, strict=True)):
        nll = nlls[place]
        assert (row["index"], int(nll["index"])) == (index, place)
        assert row["nats"] == pytest.approx(float(nll["nats"]), abs=2e-4)
        assert row["bits_per_dim"] == pytest.approx(float(nll["bits_per_dim"]), abs=1e-6)
        kl_nats = [float(nll[f"kl_nats_{layer}"]) for layer in range(LAYERS)]
        assert [bits * math.log(2) for bits in row["kl_bits"]] == pytest.approx(kl_nats, abs=1e-4)


@pytest.mark.parametrize("decoder", ["sample", "mean"])
def test_errors_are_those_of_the_written_images(model: Path, decoder: str) -> None:
    words = ("-n", "4", "--samples", "2", "--decoder", decoder)
    rows = result_of("reconstruct", model, *words, "-o", "pairs.png")["images"]
    after = rebuilt(model, *words).reshape(4, 2, 28, 28, 1)[:, 0].astype(float)
    squares = ((to_uint8(scored_levels()[:4], 2) - after) ** 2).mean(axis=(1, 2, 3))
    assert [row["mse"] for row in rows] == pytest.approx(squares)
    assert [row["psnr"] for row in rows] == pytest.approx(10 * np.log10(255**2 / squares))


def test_a_perfect_reconstruction_has_no_psnr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "model.safetensors", "vae", (1, 4, 4))
    loaded = load_checkpoint(model)
    loaded.model.decoder.head2.weight.zero_()
    loaded.model.decoder.head2.bias.fill_(-50.0)  # type: ignore[union-attr]
    save_checkpoint(model, loaded.model.config, loaded.model.state_dict(), None, {})
    Image.new("L", (4, 4)).save("black.png")
    [row] = result_of("reconstruct", model, "black.png")["images"]
    assert (row["psnr"], row["mse"]) == (None, 0)


def test_images_may_be_files_and_folders(model: Path, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "digits", scored_levels())
    expected = rebuilt(model, "-n", "7")
    np.testing.assert_array_equal(rebuilt(model, tmp_path / "digits", "--convert"), expected)
    np.testing.assert_array_equal(rebuilt(model, *paths, "--convert"), expected)
    rows = result_of("reconstruct", model, tmp_path / "digits", "--convert", "-o", "files.png")["images"]
    assert [row["source"] for row in rows] == [str(path) for path in paths]
    same = result_of("reconstruct", model, "-n", "7", "-o", "split.png")["images"]
    assert [row | {"source": ""} for row in rows] == [row | {"source": ""} for row in same]
    piped = fame("reconstruct", model, "-", "--convert", "-o", "piped.png", stdin=paths[0].read_bytes())
    assert piped.code == 0, piped.err


def test_images_without_a_checkpoint_go_to_the_weights_of_the_package(tmp_path: Path) -> None:
    path, target = tmp_path / "black.png", tmp_path / "pairs.png"
    Image.new("L", (28, 28)).save(path)
    found = result_of("reconstruct", path, "-o", target)
    assert found["checkpoint"]["name"].endswith("fame-mnist.safetensors")
    assert [row["source"] for row in found["images"]] == [str(path)]


def test_latents_are_the_posteriors(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "latents.safetensors"
    assert fame("reconstruct", model, "-n", "5", "--seed", "3", "--latents", target).code == 0
    tensors, header, _ = load_tensors(target, "famecli/latents/1")
    loaded = load_checkpoint(model)
    assert header.metadata["weights_sha256"] == loaded.weights_sha256
    assert header.metadata["sources"] == [f"mnist/test/{index}" for index in range(5)]
    assert set(tensors) == {f"layer{layer}.{part}" for layer in range(LAYERS) for part in ("mean", "scale")}
    noise = ImageNoise([("reconstruct", 3, 0, index) for index in range(5)])
    with torch.no_grad():
        _, draws = loaded.model.infer(torch.from_numpy(scored_levels()[:5]), noise)
    for layer, draw in enumerate(draws):
        assert draw.posterior is not None
        assert len(tensors[f"layer{layer}.mean"]) == 5
        torch.testing.assert_close(tensors[f"layer{layer}.mean"], draw.posterior.mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tensors[f"layer{layer}.scale"], draw.posterior.scale, atol=1e-4, rtol=1e-4)
    content = target.read_bytes()
    assert parse_header(content, len(content), "latents").tensors["layer1.mean"].shape == (5, 4, 4, 4)


def test_quiet_is_the_path_alone_and_names_are_free(model: Path) -> None:
    for name in ("reconstructions.png", "reconstructions-2.png"):
        done = fame("reconstruct", model, "-n", "1", "-q")
        assert (done.code, done.text, done.err) == (0, f"{name}\n", "")
    assert "--force" in error_of(3, "reconstruct", model, "-n", "1", "-o", "reconstructions.png")


@pytest.mark.parametrize("suffix", ["npz", "npy", "zip"])
def test_an_array_needs_no_format(model: Path, suffix: str) -> None:
    for words in (("-o", f"a.{suffix}"), ("--format", suffix, "-o", f"b.{suffix}")):
        assert fame("reconstruct", model, "-n", "2", *words).code == 0
    assert Path(f"a.{suffix}").read_bytes() == Path(f"b.{suffix}").read_bytes()


def test_an_npy_stream_goes_to_stdout(model: Path) -> None:
    done = fame("reconstruct", model, "-n", "2", "--format", "npy", "-o", "-")
    assert done.code == 0
    np.testing.assert_array_equal(np.load(io.BytesIO(done.out)), rebuilt(model, "-n", "2"))
    assert "both want stdout" in error_of(2, "reconstruct", model, "-o", "-", "--json")


def test_models_without_latents_are_code_2(model: Path, tmp_path: Path) -> None:
    pixelcnn = save_model(tmp_path / "pixelcnn.safetensors", "pixelcnn")
    text = error_of(2, "reconstruct", pixelcnn, "-n", "1")
    assert "pixelcnn has no latents" in text
    assert "hint: fame sample" in text


def bad_image(folder: Path, kind: str) -> Path:
    path = folder / "bad.png"
    if kind == "size":
        Image.new("L", (27, 28)).save(path)
    elif kind == "text":
        path.write_text("no image")
    elif kind == "cut":
        Image.effect_noise((28, 28), 50).save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "empty":
        (folder / "bad.png").mkdir()
    return path


@pytest.mark.parametrize("kind", ["size", "text", "cut", "empty", "missing"])
def test_images_that_cannot_be_used_are_code_3(model: Path, tmp_path: Path, kind: str) -> None:
    path = bad_image(tmp_path, kind)
    text = error_of(3, "reconstruct", model, path)
    assert str(path) in text
    assert not (tmp_path / "reconstructions.png").exists()
    if kind == "size":
        assert "27x28 pixels, expected 28x28" in text


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--dataset", "mnist-grey"], 2, "256"),
        (["--split", "tset"], 2, "'train', 'valid', 'test'"),
        (["--format", "gif"], 2, "'grid', 'png', 'npz'"),
        (["--latents", "/nowhere/a.safetensors"], 3, "/nowhere/a.safetensors"),
    ],
)
def test_words_that_do_not_fit(model: Path, words: list[str], code: int, part: str) -> None:
    assert part in error_of(code, "reconstruct", model, "-n", "1", *words)


def test_without_a_data_set_images_are_needed(model: Path, tmp_path: Path) -> None:
    silent = save_model(tmp_path / "silent.safetensors", facts={})
    assert "--dataset" in error_of(2, "reconstruct", silent)
    rows: list[dict[str, Any]] = result_of("reconstruct", silent, "--dataset", "mnist", "-n", "1")["images"]
    assert len(rows) == 1


def test_interpolations_show_both_ends_beside_the_steps(model: Path) -> None:
    done = fame(
        "reconstruct", model, "--interpolate", 2, 0, "--steps", 5, "--samples", 2, "-o", "way.png", "--json"
    )
    assert done.code == 0, done.err
    rows = json.loads(done.out)["images"]
    assert [row["source"] for row in rows] == ["mnist/test/2", "mnist/test/0"]
    shown, levels = picture("way.png"), to_uint8(scored_levels(), 2)
    side = levels.shape[1] + 2
    assert shown.shape == (2 * (2 * side + 2), 2 * (7 * side + 2), 1)
    shown = shown[::2, ::2]
    np.testing.assert_array_equal(shown[2:side, 2:side], levels[2])
    np.testing.assert_array_equal(shown[2:side, 2 + 6 * side : 7 * side], levels[0])


def test_interpolations_take_files(model: Path, tmp_path: Path) -> None:
    first, second = write_images(tmp_path / "files", scored_levels()[:2])
    words = ("--interpolate", first, second, "--convert")
    by_file = fame("reconstruct", model, *words, "--format", "npz", "-o", "a.npz")
    by_place = fame("reconstruct", model, "--interpolate", 0, 1, "--format", "npz", "-o", "b.npz")
    assert (by_file.code, by_place.code) == (0, 0)
    with np.load("a.npz", allow_pickle=False) as one, np.load("b.npz", allow_pickle=False) as other:
        np.testing.assert_array_equal(one["arr_0"], other["arr_0"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--interpolate", "0", "99999"], "none numbered 99999"),
        (["some.png", "--interpolate", "0", "1"], "names its two images itself"),
        (["--interpolate", "0", "1", "--keep-layers", "3"], "2 stochastic layers"),
        (["--interpolate", "0", "-o", "way.png"], "needs two numbers or two files, -o is neither"),
        (["--interpolate", "0", "--steps", "5"], "needs two numbers or two files, --steps is neither"),
    ],
)
def test_interpolations_of_nothing_are_refused(model: Path, words: list[str], message: str) -> None:
    assert message in error_of(2, "reconstruct", model, *words)


def test_each_end_of_an_interpolation_is_one_image(model: Path, tmp_path: Path) -> None:
    first, *_ = write_images(tmp_path / "files", scored_levels()[:3])
    (tmp_path / "empty").mkdir()
    for ends, message in (
        ((first, tmp_path / "files"), "files has 3 images, expected one"),
        ((tmp_path / "files", tmp_path / "empty"), "files has 3 images, expected one"),
        ((tmp_path / "empty", first), "empty"),
    ):
        assert message in error_of(3, "reconstruct", model, "--interpolate", *ends)
