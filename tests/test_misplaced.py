"""Words in the wrong place: `-` for outputs that stdout does not take, images for models, names for files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import error_of, fame, save_model, use_small_mnist

from famecli.checkpoints.store import STATE
from famecli.data.image_writers import write_images


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the working folder, beside a file of images."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((3, 8, 8), np.uint8))
    return save_model(Path("vae.safetensors"), preset="vae", shape=(1, 8, 8))


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate-nll", "vae.safetensors", "--dataset", "folder", "--data", "x.npy", "--record", "-"),
        ("evaluate-nll", "vae.safetensors", "x.npy", "--heatmap", "-"),
        ("reconstruct", "vae.safetensors", "x.npy", "--latents", "-"),
        ("train", "vae", "--dataset", "folder", "--data", "x.npy", "-o", "-"),
    ],
    ids=lambda words: words[-2],
)
def test_an_output_that_stdout_does_not_take_is_refused(model: Path, words: tuple[str, ...]) -> None:
    before = set(Path().iterdir())
    assert "cannot go to stdout" in error_of(2, *words)
    assert set(Path().iterdir()) == before


def test_images_are_no_measured_nll(model: Path) -> None:
    Path("photos").mkdir()
    Image.new("L", (8, 8)).save("photos/0.png")
    for name in ("photos", "x.npy"):
        assert f"{name} holds images, and fame compare reads" in error_of(2, "compare", "a.json", name)
    assert "vae.safetensors is a model" in error_of(2, "compare", "a.json", model)


def test_samples_of_a_run_are_not_scored_in_place_of_its_model(model: Path) -> None:
    Path("run/samples").mkdir(parents=True)
    Image.new("L", (8, 8)).save("run/samples/000000000004.png")
    Path("run", STATE).touch()
    assert "no checkpoint in run" in error_of(3, "evaluate-nll", "run", "--dataset", "mnist")


def test_a_prefix_takes_no_images_in_place_of_arrays(model: Path) -> None:
    Path("photos").mkdir()
    Image.new("L", (8, 8)).save("photos/0.png")
    shutil.make_archive("photos", "zip", "photos")
    for name in ("photos::x", "photos.zip::x"):
        assert "no images in" in error_of(3, "evaluate-nll", model, name)
    assert "photos/0.png is no array" in error_of(3, "evaluate-nll", model, "photos/0.png::x")


def test_words_that_exclude_each_other_are_told(model: Path) -> None:
    Image.new("L", (8, 8), 255).save("white.png")
    words = ("sample", model, "--complete", "white.png", "--mask", "white.png")
    assert "both say what to keep" in error_of(2, *words, "--rows", "3")
    assert "nothing is left to draw" in error_of(2, *words)
    assert "--all takes all names" in error_of(2, "weights", "pull", "--all", "fame-mnist")
    assert "no saved state absent" in error_of(3, "train", "vae", "--resume", "absent", "-o", "run")
    error_of(2, "sample", model, "-n", "1", "-o", "x.tar")


def test_options_without_effect_are_refused(model: Path) -> None:
    save_model(Path("p.safetensors"), "pixelcnn", (1, 8, 8))
    drawn, before = ("sample", "p.safetensors", "-n", "1"), set(Path().iterdir())
    assert "leave --dataset out" in error_of(2, "evaluate-nll", model, "x.npy", "--dataset", "mnist")
    assert "has no latents" in error_of(2, *drawn, "--latent-temperature", "0.5")
    ends = Path("0.png"), Path("1.png")
    for end in ends:
        Image.new("1", (8, 8)).save(end)
    before |= {*ends}
    assert "leave --dataset out" in error_of(
        2, "reconstruct", model, "--interpolate", *ends, "--dataset", "mnist"
    )
    error_of(2, *drawn, "-o", "x.jpg", "--format", "grid")
    for name, format in (("x.npz", "png"), ("x.npz/", "auto"), ("y/", "npz")):
        assert f"{name} does not fit format" in error_of(2, *drawn, "-o", name, "--format", format)
    assert "--card and --tensors" in error_of(2, "info", model, "--card", "--tensors")
    assert "is the page" in error_of(2, "report", model, "-o", "r.html", "--figures", "./r.html")
    assert "no such file or folder: absent" in error_of(3, "report", model, "--data", "absent")
    assert set(Path().iterdir()) == before


def test_a_dry_run_without_downloads_prints_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("FAME_DATA", str(tmp_path / "data"))
    done = fame("datasets", "pull", "mnist", "--dry-run")
    assert (done.code, done.out) == (0, b"")
    assert "nothing to download" in done.err


def test_unknown_words_are_told_with_those_that_are_known(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "holds one array" in error_of(3, "evaluate-nll", model, "x.npy::x")
    error = error_of(3, "train", "lvae", "--set", "stages.9.width=8", "--print-config")
    assert "unknown key '9'" in error
    assert "0, 1" in error
    monkeypatch.setenv("FAME_FORKS", "no")
    assert "unknown FAME_FORKS 'no'" in error_of(2, "sample", model, "-n", "1")


def test_a_run_is_kept_under_the_name_of_its_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAME_CACHE", str(Path("cache").absolute()))
    Path("vases").mkdir()
    assert "no checkpoint in vases" in error_of(3, "weights", "pull", "vases")
    shutil.copy(model, "vases/best.safetensors")
    assert fame("weights", "pull", "vases/").code == 0
    assert fame("info", "vases", "-q").code == 0
    save_model(Path("vases/best.safetensors"), "vae", (1, 9, 9))
    assert "another checkpoint is called vases" in error_of(3, "weights", "pull", "vases")
    assert fame("weights", "pull", "vases", "--force").code == 0
    shutil.rmtree("vases")
    assert fame("info", "vases", "-q").code == 0
    assert "did you mean vases?" in error_of(2, "info", "vasess")


def test_named_weights_get_no_second_name(model: Path) -> None:
    assert "fame-mnist has a name already" in error_of(2, "weights", "pull", "fame-mnist", "--name", "mine")


def test_a_checkpoint_on_stdin_is_not_pushed(model: Path) -> None:
    error = error_of(2, "weights", "push", "ORG/REPO", "-", stdin=model.read_bytes())
    assert "on stdin has no name for the repository" in error


def test_verify_names_a_folder_without_files(model: Path) -> None:
    words = ("datasets", "verify", "mnist", "--data", "nowhere")
    assert "no such file or folder: nowhere" in error_of(3, *words)
    Path("nowhere").mkdir()
    assert "no files of mnist in nowhere" in error_of(4, *words)


def test_the_list_of_another_run_says_nothing_about_a_model(model: Path) -> None:
    sizes = ("--size", "tiny", "--batch-size", "1", "--steps", "1", "--dataset", "folder")
    for name, value in (("a", 0), ("b", 255)):
        np.save(
            f"{name}.npy", np.full((40, 8, 8), value, np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
        )
        assert fame("train", "vae", *sizes, "--data", f"{name}.npy", "-o", name).code == 0
    content = Path("b/best.safetensors").read_bytes()
    Path("a/other.safetensors").write_bytes(content)
    shutil.copy("a/training-images.bin", ".")
    for words in (("a/other.safetensors",), ("-",)):
        done = fame("evaluate-nll", *words, "a.npy", stdin=content)
        assert (done.code, "training images" in done.err) == (0, False)
    assert "are training images of a/" in fame("evaluate-nll", "a", "a.npy").err


def test_a_folder_of_images_that_is_replaced_keeps_none_of_the_old(tmp_path: Path) -> None:
    folder, images = tmp_path / "out", np.zeros((4, 2, 2, 1), np.uint8)
    write_images(images, [{"index": index} for index in range(4)], folder, format="png")
    own = folder / "000009.png"
    own.write_bytes(b"of the user")
    write_images(images[:2], [{"index": index} for index in (1, 5)], folder, format="png", force=True)
    assert sorted(path.name for path in folder.glob("*.png")) == ["000001.png", "000005.png", own.name]
