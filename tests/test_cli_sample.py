"""`fame sample`."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from support.commands import ENVIRONMENT, error_of, fame, process, result_of, save_model

from famecli import __version__
from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.data.image_writers import MANIFEST, to_uint8
from famecli.grids import Layout
from famecli.sampling.generate import generate

SHAPE = (1, 8, 8)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save_model(tmp_path / "model.safetensors", shape=SHAPE, raw=True)


def drawn(model: Path, *words: str | Path, number: int = 6) -> np.ndarray:
    """Return the images that `fame sample` streams to stdout, `(N, H, W, C)`."""
    done = fame("sample", model, "-n", str(number), "-o", "-", *words)
    assert done.code == 0, done.err
    images: np.ndarray = np.load(io.BytesIO(done.out), allow_pickle=False)
    assert images.dtype == np.uint8
    assert len(images) == number
    return images


def text_of(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        return dict(image.text)  # type: ignore[attr-defined]


def test_images_are_those_of_the_sampler(model: Path) -> None:
    images = drawn(model, "--seed", "3")
    loaded = load_checkpoint(model)
    np.testing.assert_array_equal(images, to_uint8(generate(loaded.model, range(3, 9)), 2))
    assert len({image.tobytes() for image in images}) == 6


def test_every_kind_of_output_holds_the_same_images(model: Path, tmp_path: Path) -> None:
    images = drawn(model)
    for name in ("grid.png", "folder", "a.npz", "a.npy", "a.zip"):
        done = fame("sample", model, "-n", "6", "-o", name)
        assert (done.code, done.text) == (0, f"{name}\n")
    with Image.open("grid.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture)[:, :, None], Layout().picture(images))
    with np.load("a.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0"]
        assert archive["arr_0"].shape == (6, 8, 8, 1)
        np.testing.assert_array_equal(archive["arr_0"], images)
    np.testing.assert_array_equal(np.load("a.npy", allow_pickle=False), images)
    lines = [json.loads(line) for line in (tmp_path / "folder" / MANIFEST).read_text().splitlines()]
    assert [(line["file"], line["seed"]) for line in lines] == [(f"{k:06d}.png", k) for k in range(6)]
    with zipfile.ZipFile("a.zip") as zipped:
        assert set(zipped.namelist()) == {path.name for path in (tmp_path / "folder").iterdir()}
        for index in range(6):
            content = zipped.read(f"{index:06d}.png")
            assert content == (tmp_path / "folder" / f"{index:06d}.png").read_bytes()
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), images[index, :, :, 0])


def test_an_image_depends_on_its_seed_alone(model: Path) -> None:
    images = drawn(model, "--seed", "3", number=18)
    for words in (["--batch-size", "1"], ["--batch-size", "7"], ["--batch-size", "64"], ["--threads", "2"]):
        np.testing.assert_array_equal(drawn(model, "--seed", "3", *words, number=18), images)
    for number in (1, 5):
        np.testing.assert_array_equal(drawn(model, "--seed", "3", number=number), images[:number])
    for words in (["--seed", "3", "--start-index", "13"], ["--seed", "16"]):
        np.testing.assert_array_equal(drawn(model, *words, number=5), images[13:])


@pytest.mark.parametrize("preset", ["fame", "pixelcnn", "lvae"])
def test_the_slow_reference_draws_the_same(tmp_path: Path, preset: str) -> None:
    model = save_model(tmp_path / "model.safetensors", preset, SHAPE)
    np.testing.assert_array_equal(drawn(model, "--no-cache"), drawn(model))


def test_temperatures_change_images(model: Path) -> None:
    usual = drawn(model)
    assert (drawn(model, "--temperature", "0.2") != usual).any()
    assert (drawn(model, "--latent-temperature", "0.2") != usual).any()
    np.testing.assert_array_equal(drawn(model, "--temperature", "1", "--latent-temperature", "1"), usual)
    loaded = load_checkpoint(model).model
    expected = generate(loaded, range(6), temperature=0.5, latent_temperature=0.0)
    found = drawn(model, "--temperature", "0.5", "--latent-temperature", "0")
    np.testing.assert_array_equal(found, to_uint8(expected, 2))


def test_expected_pixels_are_greys(model: Path) -> None:
    means = drawn(model, "--decoder", "mean")
    assert len(np.unique(means)) > 20
    assert set(np.unique(drawn(model))) == {0, 255}
    expected = generate(load_checkpoint(model).model, range(6), decoder_output="mean")
    np.testing.assert_allclose(means[..., 0], expected[:, 0] * 255, atol=0.51)


def test_grey_can_be_written_as_rgb(model: Path) -> None:
    images = drawn(model, "--rgb")
    assert images.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(images, drawn(model).repeat(3, axis=3))


def test_colour_models_draw_colours(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.safetensors", "vae", (3, 8, 8), 256)
    images = drawn(model)
    assert images.shape == (6, 8, 8, 3)
    assert (images[..., 0] != images[..., 1]).any()


def test_raw_weights_draw_other_images(model: Path) -> None:
    assert (drawn(model, "--weights", "raw") != drawn(model)).any()


def test_files_say_what_makes_them_again(model: Path, tmp_path: Path) -> None:
    words = ("-n", "2", "--seed", "7", "--temperature", "0.5")
    assert fame("sample", model, *words, "-o", "folder").code == 0
    assert fame("sample", model, *words, "-o", "grid.png").code == 0
    common = {
        "weights_sha256": load_checkpoint(model).weights_sha256,
        "famecli": __version__,
        "temperature": "0.5",
        "latent_temperature": "1.0",
        "decoder_output": "sample",
    }
    assert common.items() <= text_of(tmp_path / "grid.png").items()
    assert "seed" not in text_of(tmp_path / "grid.png")
    for seed in (7, 8):
        text = text_of(tmp_path / "folder" / f"{seed:06d}.png")
        assert (common | {"seed": str(seed)}).items() <= text.items()


def test_the_default_name_is_free(model: Path, tmp_path: Path) -> None:
    names = ["samples.png", "samples-2.png", "samples-3.png"]
    for seed, name in enumerate(names):
        assert fame("sample", model, "-n", "2", "-q", "--seed", str(seed)).text == f"{name}\n"
    contents = {(tmp_path / name).read_bytes() for name in names}
    assert len(contents) == 3
    (tmp_path / "samples-4.png").symlink_to(tmp_path / "nowhere")
    assert fame("sample", model, "-n", "2", "-q").text == "samples-5.png\n"


@pytest.mark.parametrize("format", ["npz", "npy", "zip", "png"])
def test_the_default_name_fits_the_format(model: Path, format: str) -> None:
    name = fame("sample", model, "-n", "2", "-q", "--format", format).text.strip()
    assert name == ("samples" if format == "png" else f"samples.{format}")
    assert os.path.exists(name)


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.npy", "a.zip", "folder"])
def test_an_output_that_exists_needs_force(model: Path, tmp_path: Path, name: str) -> None:
    assert fame("sample", model, "-n", "2", "-o", name).code == 0
    path = tmp_path / name / "000000.png" if name == "folder" else tmp_path / name
    before = path.read_bytes()
    words = ("sample", model, "-n", "2", "--temperature", "0.1", "-o", name)
    assert "--force" in error_of(3, *words)
    assert path.read_bytes() == before
    assert fame(*words, "--force").code == 0
    assert path.read_bytes() != before


def test_json_is_one_document(model: Path) -> None:
    found = result_of("sample", model, "-n", "3", "--seed", "5", "--start-index", "2", "-o", "a.png")
    loaded = load_checkpoint(model)
    known: dict[str, Any] = {
        "schema": "famecli/sample/1",
        "checkpoint": {
            "name": str(model),
            "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
            "weights": "ema",
        },
        "out": "a.png",
        "images": 3,
        "shape": [1, 8, 8],
        "seeds": [7, 9],
        "weights_sha256": loaded.weights_sha256,
        "famecli": __version__,
        "temperature": 1.0,
        "latent_temperature": 1.0,
        "decoder_output": "sample",
        "device": "cpu",
    }
    assert {key: found[key] for key in known} == known
    assert {"seconds", "images_per_s"} <= set(found)
    assert found["images_per_s"] > 0


def test_quiet_is_the_path_alone(model: Path) -> None:
    done = fame("sample", model, "-n", "2", "-q", "-o", "a.npz")
    assert (done.code, done.text, done.err) == (0, "a.npz\n", "")


def test_a_preview_without_a_terminal_is_a_warning(model: Path) -> None:
    done = fame("sample", model, "-n", "2", "-q", "--preview")
    assert done.code == 0
    assert done.err == "warning: a preview needs a terminal\n"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["-o", "-", "--json"], "--json and -o -"),
        (["-o", "-", "--format", "png"], "zip, npy, npz or grid"),
        (["--format", "gif"], "'auto', 'grid', 'png', 'npz', 'npy', 'zip'"),
        (["--decoder", "median"], "'sample', 'mean'"),
        *((["--device", name], "choose auto, cpu") for name in ("tpu", "cpu:", "cuda:01", "auto:0")),
        (["--weights", "best"], "'ema', 'raw'"),
        (["--model", "vae"], "leave it out"),
        (["--dataset", "mnits"], "did you mean mnist?"),
        (["--dataset", "cifar10"], "trained on mnist, not on cifar10"),
        (["--batch-size", "0"], "--batch-size"),
    ],
)
def test_words_that_do_not_fit_are_code_2(model: Path, tmp_path: Path, words: list[str], part: str) -> None:
    text = error_of(2, "sample", model, "-n", "1", *words)
    assert part in text
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_data_set_beside_a_checkpoint_may_not_contradict_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = save_model(tmp_path / "silent.safetensors", shape=SHAPE, facts={})
    for path, name in ((model, "mnist"), (silent, "cifar10")):
        assert fame("sample", path, "-n", "1", "--dataset", name).code == 0
    assert "trained on mnist, not on cifar10" in error_of(2, "info", model, "--dataset", "cifar10")
    # The variable is for all commands alike, and says nothing of this checkpoint.
    monkeypatch.setitem(ENVIRONMENT, "FAME_DATASET", "cifar10")
    for command in ("sample", "info"):
        assert fame(command, model).code == 0
        assert "trained on mnist" in error_of(2, command, model, "--dataset", "cifar10")


@pytest.mark.parametrize("option", ["--temperature", "--latent-temperature"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_temperatures_are_numbers_in_a_range(model: Path, option: str, value: str) -> None:
    done = fame("sample", model, "-n", "1", option, value)
    assert (done.code, done.out) == (2, b"")
    assert option in done.err


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["--model", "fmae"], 2, "did you mean fame?"),
        (["--dataset", "mnits"], 2, "hint: did you mean mnist?"),
        (["--dataset", "mnist-grey"], 4, "hint: weights: "),
        (["fame-mnits"], 2, "hint: did you mean fame-mnist?"),
        (["nothing like it"], 2, "hint: names of weights: "),
        (["absent.safetensors"], 3, "hint: "),
    ],
)
def test_models_that_do_not_exist_come_with_a_hint(words: list[str], code: int, hint: str) -> None:
    assert hint in error_of(code, "sample", *words)


def test_a_place_that_cannot_be_written_is_code_3(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for target in (tmp_path / "file" / "a.png", tmp_path / "absent" / "a.npz"):
        assert str(target) in error_of(3, "sample", model, "-n", "1", "-o", target)


def test_numpy_reads_a_pipe(model: Path) -> None:
    sampling = [
        sys.executable,
        "-m",
        "famecli",
        "sample",
        str(model),
        "-n",
        "5",
        "-o",
        "-",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(sampling, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        content = running.stdout.read()
        assert b"5 images in" in running.stderr.read()
    assert running.returncode == 0
    np.testing.assert_array_equal(np.load(io.BytesIO(content), allow_pickle=False), drawn(model, number=5))


def test_a_closed_pipe_ends_a_stream_without_a_word(model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = process("sample", model, "-n", "300", "-q", "-o", "-", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_the_weights_of_the_package_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAME_DATA", str(tmp_path))
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = result_of("sample", "--dataset", "mnist", "-n", "4", "--offline", "-o", "a.npz")
    assert found["checkpoint"]["name"].endswith("fame-mnist.safetensors")
    with np.load("a.npz", allow_pickle=False) as archive:
        assert archive["arr_0"].shape == (4, 28, 28, 1)
        assert set(np.unique(archive["arr_0"])) == {0, 255}
    assert result_of("sample", "fame-mnist", "-n", "1", "-o", "b.npz")["checkpoint"] == found["checkpoint"]


def test_a_checkpoint_may_come_from_stdin_or_a_run_folder(model: Path, tmp_path: Path) -> None:
    images, run = drawn(model), tmp_path / "run"
    done = fame("sample", "-", "-n", "6", "-o", "-", stdin=model.read_bytes())
    assert done.code == 0, done.err
    np.testing.assert_array_equal(np.load(io.BytesIO(done.out)), images)
    run.mkdir()
    assert "best.safetensors" in error_of(3, "sample", run)
    save_model(run / "last.safetensors", "lvae", SHAPE)
    assert result_of("sample", run, "-n", "1")["checkpoint"]["name"] == str(run / "last.safetensors")
    (run / "best.safetensors").write_bytes(model.read_bytes())
    np.testing.assert_array_equal(drawn(run), images)
