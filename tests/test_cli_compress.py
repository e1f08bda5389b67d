"""`fame compress` and `fame decompress`."""

import json
import os
import shlex
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.codes import sealed, set_to
from support.commands import error_of, fame, result_of, save_model
from support.commands import use_small_mnist as small

from famecli.checkpoints.checkpoint import save_tensors
from famecli.checkpoints.index import default_weights, weights_folder
from famecli.checkpoints.store import Store, weights_with_hash
from famecli.data.dataset import fixed_levels, load_split
from famecli.data.image_writers import to_uint8
from famecli.errors import UnavailableError

ODD_NAMES = ("0.png", "a b.png", "é 数字.png", "b.c.png", "#'%&;.png")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return save_model(tmp_path / "model.safetensors")


def digits() -> np.ndarray:
    """Return the small test set as bytes, `(7, 28, 28)`."""
    return to_uint8(fixed_levels(load_split("mnist", "test")).levels, 2)[:, :, :, 0]


def write_digits(folder: Path, names: tuple[str, ...] = ODD_NAMES) -> dict[str, np.ndarray]:
    folder.mkdir()
    found = dict(zip(names, digits(), strict=False))
    for name, image in found.items():
        Image.fromarray(image).save(folder / name)
    return found


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: picture(path) for path in folder.iterdir()}


def picture(path: Path, mode: str | None = None) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode) if mode else image)


def check_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, image in expected.items():
        np.testing.assert_array_equal(found[name], image)


def run(*words: str | Path) -> str:
    done = fame(*words)
    assert done.code == 0, done.err
    return done.text


def test_a_folder_comes_back_under_its_own_names(model: Path, tmp_path: Path) -> None:
    expected = write_digits(tmp_path / "in")
    assert run("compress", model, "in", "-o", "x.fame") == "x.fame\n"
    assert run("decompress", "x.fame", "--checkpoint", model, "-o", "out") == "out\n"
    check_same(read_folder(tmp_path / "out"), expected)


def test_a_slice_of_a_data_set_comes_back_under_its_numbers(model: Path, tmp_path: Path) -> None:
    told = result_of("compress", model, "--split", "test", "--start", "2", "--limit", "3", "-o", "x.fame")
    assert (told["images"], told["file_bytes"]) == (3, (tmp_path / "x.fame").stat().st_size)
    assert told["bits_per_dim"] == pytest.approx(told["bits_per_image"] / 784)
    run("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    expected = {f"{index:06d}.png": digits()[index] for index in (2, 3, 4)}
    check_same(read_folder(tmp_path / "out"), expected)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_come_back(model: Path, suffix: str) -> None:
    if suffix == "npy":
        np.save("in.npy", digits())
    else:
        np.savez("in.npz", digits()[..., None])
    run("compress", model, f"in.{suffix}", "-o", "x.fame")
    run("decompress", "x.fame", "--checkpoint", model, "-o", "out.npy")
    np.testing.assert_array_equal(np.load("out.npy")[..., 0], digits())


def test_colours_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "model.safetensors", "fame", (3, 8, 8), 256)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    expected = {f"{index}.png": image for index, image in enumerate(images)}
    (tmp_path / "in").mkdir()
    for name, image in expected.items():
        Image.fromarray(image).save(tmp_path / "in" / name)
    run("compress", model, *sorted((tmp_path / "in").iterdir()), "-o", "x.fame")
    run("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    check_same(read_folder(tmp_path / "out"), expected)
    np.save("in.npy", images)
    run("compress", model, "in.npy", "-o", "y.fame")
    run("decompress", "y.fame", "--checkpoint", model, "-o", "out.npz")
    np.testing.assert_array_equal(np.load("out.npz")["arr_0"], images)


def test_default_weights_are_found_again_by_their_hash(model: Path, tmp_path: Path) -> None:
    entry = default_weights("mnist", None)
    if not (weights_folder() / entry.file).exists():
        pytest.skip("no weights are shipped")
    expected = write_digits(tmp_path / "in", ("1.png", "2.png"))
    told = result_of("compress", "--dataset", "mnist", "in", "-o", "x.fame")
    assert told["checkpoint"]["name"].endswith(entry.file)
    assert result_of("decompress", "x.fame", "-o", "out")["images"] == 2
    check_same(read_folder(tmp_path / "out"), expected)


def test_raw_weights_are_told_apart(tmp_path: Path, model: Path) -> None:
    both = save_model(tmp_path / "both.safetensors", raw=True)
    expected = write_digits(tmp_path / "in", ("1.png",))
    run("compress", both, "in", "--weights", "raw", "-o", "x.fame")
    assert "not with" in error_of(5, "decompress", "x.fame", "--checkpoint", save_other(tmp_path))
    run("decompress", "x.fame", "--checkpoint", both, "-o", "out")
    check_same(read_folder(tmp_path / "out"), expected)


def save_other(folder: Path) -> Path:
    """Return another model for the same images, with raw weights too."""
    return save_model(folder / "other.safetensors", "vae", raw=True)


def test_a_wrong_model_is_told(model: Path, tmp_path: Path) -> None:
    run("compress", model, "--limit", "2", "-o", "x.fame")
    error = error_of(5, "decompress", "x.fame", "--checkpoint", save_other(tmp_path), "-o", "out")
    assert "was written with weights" in error
    assert f"hint: name that model: --checkpoint {model.name}" in error
    error = error_of(4, "decompress", "x.fame", "--offline", "-o", "out")
    assert "which are not here" in error
    assert f"hint: name that model: --checkpoint {model.name}" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("word", "more", "named"),
    [
        ("my run", " --checkpoint 'my run/best.safetensors'", "'my run/best.safetensors'"),
        ("fame-mnist", "", "fame-mnist"),
    ],
)
def test_compress_prints_the_command_that_restores(
    model: Path, tmp_path: Path, word: str, more: str, named: str
) -> None:
    Path("my run").mkdir()
    shutil.copy(model, "my run/best.safetensors")
    expected = write_digits(tmp_path / "in", ("1.png",))
    done = fame("compress", word, "in", "-o", "x y.fame")
    command = f"fame decompress 'x y.fame'{more}"
    assert f"to restore them: {command}\n" in done.err
    error = error_of(5, "decompress", "x y.fame", "--checkpoint", save_other(tmp_path), "-o", "out")
    assert f"hint: name that model: --checkpoint {named}" in error
    run(*shlex.split(command)[1:], "-o", "out")
    check_same(read_folder(tmp_path / "out"), expected)


def test_weights_are_found_by_headers_alone(tmp_path: Path) -> None:
    store, sha256 = Store(tmp_path, offline=True), "ab" * 32
    path = store.folder / "imported" / "large" / f"{sha256}.safetensors"
    path.parent.mkdir(parents=True)
    save_tensors(path, {"zeros": torch.zeros(1 << 23)}, {"weights_sha256": {"raw": sha256}})
    tracemalloc.start()
    found = weights_with_hash("raw", sha256, "large", store)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == path
    assert peak_bytes < path.stat().st_size / 4
    with pytest.raises(UnavailableError, match="which are not here"):
        weights_with_hash("ema", sha256, "large", store)


def test_damage_is_told_and_nothing_written(model: Path, tmp_path: Path) -> None:
    run("compress", model, "--limit", "2", "-o", "x.fame")
    content = (tmp_path / "x.fame").read_bytes()
    for length in (0, 5, 12, 40, len(content) // 2, len(content) - 1):
        (tmp_path / "y.fame").write_bytes(content[:length])
        error_of(5 if length >= 8 else 3, "decompress", "y.fame", "--checkpoint", model, "-o", "out")
    # Whole by its checksum, but for other images.
    (tmp_path / "y.fame").write_bytes(sealed(content, set_to(levels_sha256="0" * 64)))
    error = error_of(5, "decompress", "y.fame", "--checkpoint", model, "-o", "out")
    assert "the images that were decoded are not those that were coded" in error
    (tmp_path / "y.fame").write_bytes(sealed(content, set_to(shape=[1, 14, 56])))
    assert "(1, 28, 28)" in error_of(3, "decompress", "y.fame", "--checkpoint", model, "-o", "out")
    assert "no such file" in error_of(3, "decompress", "z.fame", "--checkpoint", model, "-o", "out").lower()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "a/evil.png", "..\\evil.png", "evil\n.png"])
def test_no_name_leads_out_of_the_folder(model: Path, tmp_path: Path, name: str) -> None:
    run("compress", model, "--limit", "1", "-o", "x.fame")
    content = (tmp_path / "x.fame").read_bytes()
    (tmp_path / "x.fame").write_bytes(sealed(content, set_to(names=[name])))
    before = sorted(tmp_path.rglob("*"))
    error_of(3, "decompress", "x.fame", "--checkpoint", model, "-o", "out")
    assert sorted(tmp_path.rglob("*")) == before


def test_equal_names_in_two_folders_come_back_in_their_folders(model: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "a", ("1.png", "2.png"))
    Image.fromarray(digits()[5]).save(write_only(tmp_path / "b") / "1.png")
    run("compress", model, "a", "b/1.png", "-o", "x.fame")
    assert (tmp_path / "x.fame").read_bytes()[8:12] == b"\x02\0\0\0"
    run("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    for path in ("a/1.png", "a/2.png", "b/1.png"):
        np.testing.assert_array_equal(picture(tmp_path / "out" / path), picture(tmp_path / path))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b"]
    run("compress", model, "a", "-o", "one.fame")
    content = (tmp_path / "one.fame").read_bytes()
    assert content[8:12] == b"\x01\0\0\0"
    nested = sealed(content, set_to(names=["c/1.png", "2.png"]))
    (tmp_path / "older.fame").write_bytes(nested)
    assert "version 1 of the format has no folders" in error_of(3, "decompress", "older.fame", "-o", "no")


def write_only(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_no_link_to_a_folder_leads_out_of_the_folder(model: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_digits(tmp_path / folder, ("1.png",))
    run("compress", model, "a", "b", "-o", "x.fame")
    (tmp_path / "elsewhere").mkdir()
    write_only(tmp_path / "out")
    (tmp_path / "out" / "b").symlink_to(tmp_path / "elsewhere")
    words = ("decompress", "x.fame", "--checkpoint", model, "-o", "out", "--force")
    assert "out/b is a link" in error_of(3, *words)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (tmp_path / "out" / "a").exists()


def test_no_link_leads_out_of_the_folder(model: Path, tmp_path: Path) -> None:
    run("compress", model, "--limit", "1", "-o", "x.fame")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000000.png").symlink_to(tmp_path / "elsewhere.png")
    words = ("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    assert "exists" in error_of(3, *words)
    assert "is a link" in error_of(3, *words, "--force")
    assert not (tmp_path / "elsewhere.png").exists()


def test_outputs_that_exist_are_kept(model: Path, tmp_path: Path) -> None:
    run("compress", model, "--limit", "1", "-o", "x.fame")
    assert "exists" in error_of(3, "compress", model, "--limit", "2", "-o", "x.fame")
    assert "is a folder" in error_of(3, "compress", model, "--limit", "2", "-o", ".")
    run("compress", model, "--limit", "2", "-o", "x.fame", "--force")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    words = ("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    assert "exists" in error_of(3, *words)
    run(*words, "--force")
    assert sorted(os.listdir("out")) == ["000000.png", "000001.png", "mine.txt"]


def test_names_that_are_free_are_taken(model: Path) -> None:
    assert run("compress", model, "--limit", "1") == "images.fame\n"
    assert run("compress", model, "--limit", "1") == "images-2.fame\n"
    assert run("decompress", "images.fame", "--checkpoint", model) == "images\n"
    assert run("decompress", "images.fame", "--checkpoint", model) == "images-2\n"


def save_picture(path: Path, mode: str, value: object, size: tuple[int, int] = (28, 28)) -> Path:
    Image.new(mode, size, value).save(path)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("mode", "value", "words"),
    [
        ("L", 128, "a pixel of 128, a model of 2 levels takes 0 and 255 alone"),
        ("RGB", (255, 0, 0), "has colours, the model takes greys"),
        ("RGBA", (255, 255, 255, 9), "has transparent pixels"),
        ("I;16", 65535, "has 16 bits"),
    ],
)
def test_what_would_not_come_back_is_refused(
    model: Path, tmp_path: Path, mode: str, value: object, words: str
) -> None:
    save_picture(tmp_path / "x.png", mode, value)
    assert words in error_of(3, "compress", model, "x.png", "-o", "x.fame")
    assert not (tmp_path / "x.fame").exists()


def test_black_and_white_in_any_mode_comes_back(model: Path, tmp_path: Path) -> None:
    values = {"1": 1, "L": 255, "P": 1, "RGB": (255, 255, 255), "RGBA": (0, 0, 0, 255)}
    (tmp_path / "in").mkdir()
    for mode, value in values.items():
        image = Image.new(mode, (28, 28), value)  # type: ignore[arg-type]
        if mode == "P":
            image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(tmp_path / "in" / f"{mode}.png")
    run("compress", model, "in", "-o", "x.fame")
    run("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    for mode in values:
        shown = picture(tmp_path / "in" / f"{mode}.png", "L")
        np.testing.assert_array_equal(picture(tmp_path / "out" / f"{mode}.png"), shown)


def test_several_frames_are_refused(model: Path, tmp_path: Path) -> None:
    frames = [Image.new("L", (28, 28), value) for value in (0, 255)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    assert "has several frames" in error_of(3, "compress", model, "x.png", "-o", "x.fame")


def test_names_that_cannot_come_back_are_refused(model: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_digits(tmp_path / folder, ("1.png",))
        save_picture(tmp_path / folder / "1.bmp", "L", 0)
    assert "appears twice" in error_of(3, "compress", model, "a", "b", "-o", "x.fame")
    save_picture(tmp_path / "a:b.png", "L", 0)
    assert "some systems forbid" in error_of(3, "compress", model, "a:b.png", "-o", "x.fame")
    assert "no images in" in error_of(3, "compress", model, empty(tmp_path), "-o", "x.fame")


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("x.png", "--limit", "3"), "are for images of a data set"),
        (("x.png", "--start", "0"), "are for images of a data set"),
        (("x.png", "x.npy"), "must be the only input"),
        (("-",), "has no name to be restored under"),
        (("--start", "7"), "--start 7 is past the last of 7 images"),
        (("--dataset", "cifar10x"), "unknown data set"),
        (("--json", "-o", "-"), "both want stdout"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    model: Path, tmp_path: Path, words: tuple[str, ...], expected: str
) -> None:
    save_picture(tmp_path / "x.png", "L", 0)
    np.save("x.npy", digits())
    out = () if "-o" in words else ("-o", "x.fame")
    assert expected in error_of(2, "compress", model, *words, *out)


def test_arrays_of_other_images_are_refused(model: Path) -> None:
    np.save("x.npy", digits() // 2)
    assert "x.npy: image 0 has a pixel of 127" in error_of(3, "compress", model, "x.npy", "-o", "x.fame")
    np.save("x.npy", digits()[:, :8])
    assert "x.npy: image 0: 28x8 pixels, expected 28x28" in error_of(
        3, "compress", model, "x.npy", "-o", "x.fame"
    )
    np.save("x.npy", digits()[:0])
    error_of(3, "compress", model, "x.npy", "-o", "x.fame")
    assert "no such file" in error_of(3, "compress", model, "y.npy", "-o", "x.fame")


def test_the_manifest_of_a_zip_has_the_names(model: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "in")
    run("compress", model, "in", "-o", "x.fame")
    run("decompress", "x.fame", "--checkpoint", model, "-o", "out.zip")
    with zipfile.ZipFile("out.zip") as archive:
        rows = [json.loads(line) for line in archive.read("manifest.jsonl").splitlines()]
    assert [row["name"] for row in rows] == sorted(ODD_NAMES)


def test_the_same_weights_in_another_file_restore_the_images(model: Path, tmp_path: Path) -> None:
    expected = write_digits(tmp_path / "in")
    run("compress", model, "in", "-o", "x.fame")
    for length in (1, 20, 40):
        twin = save_model(tmp_path / f"{length}.safetensors", facts={"provenance": {"note": "n" * length}})
        assert twin.read_bytes() != model.read_bytes()
        run("decompress", "x.fame", "--checkpoint", twin, "-o", f"out{length}")
        check_same(read_folder(tmp_path / f"out{length}"), expected)
