"""Arrays of the user's own: npy, npz and IDX files, their names and the hints for other kinds of numbers."""

import gzip
import os
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import save_model
from support.data import idx_bytes
from support.user_images import COLOURS, GREYS, hint_of

import famecli
from famecli.data.dataset import describe, load_split
from famecli.errors import ArgumentError, ArgumentTypeError, FameError

GREY, RGB = (1, 8, 8), (3, 8, 8)


def test_one_photo_as_an_array_is_not_taken_for_greys(tmp_path: Path) -> None:
    np.save(tmp_path / "one-photo.npy", np.zeros((40, 32, 3), np.uint8))
    text = hint_of(lambda: describe("folder", tmp_path / "one-photo.npy"))
    assert "one-photo.npy has shape (40, 32, 3): that would be 40 grey images of 3x32" in text
    assert "(1, 40, 32, 3)" in text
    np.save(tmp_path / "fine.npy", np.zeros((40, 8, 8), np.uint8))
    assert describe("folder", tmp_path / "fine.npy").shape == GREY


ARRAYS = {
    "floats to 1": (GREYS / np.float32(255)).astype(np.float32),
    "doubles to 1": GREYS / 255,
    "floats from -1": (GREYS / 127.5 - 1).astype(np.float32),
    "floats to 255": GREYS.astype(np.float32),
    "int64": GREYS.astype(np.int64),
    "16 bits": GREYS.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_the_hint_for_an_array_gives_the_right_bytes(tmp_path: Path, kind: str) -> None:
    a = ARRAYS[kind]
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "a.npz", images=a)
    for name in ("a.npy", "a.npz"):
        text = hint_of(lambda name=name: describe("folder", tmp_path / name))  # type: ignore[misc]
        assert str(tmp_path / name) in text
        made = text.partition("numpy.save(NEW, ")[2].removesuffix(", if white is 65,535").removesuffix(")")
        np.testing.assert_array_equal(eval(made, {"numpy": np, "a": a}), GREYS)


def test_no_hint_destroys_an_array_of_an_unknown_range(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREYS * 100.0)
    assert "astype" not in hint_of(lambda: describe("folder", tmp_path / "a.npy"))
    np.save(tmp_path / "a.npy", GREYS * np.nan)
    assert "not all finite" in hint_of(lambda: describe("folder", tmp_path / "a.npy"))
    np.save(tmp_path / "a.npy", np.zeros((0, 28, 28), np.float32))
    assert "it holds no values" in hint_of(lambda: describe("folder", tmp_path / "a.npy"))
    late = np.zeros((3, 512, 512))
    late[-1, -1, -1] = np.nan
    np.save(tmp_path / "a.npy", late)
    assert "not all finite" in hint_of(lambda: describe("folder", tmp_path / "a.npy"))


def test_arrays_named_like_splits_are_splits(tmp_path: Path) -> None:
    path = tmp_path / "several.npz"
    labels = np.zeros(200, np.uint8)
    for names in (("train_images", "val_images", "test_images"), ("x_train", "X_Valid", "x_test")):
        parts = dict(zip(names, (GREYS[:200], GREYS[200:300], GREYS[300:]), strict=True))
        np.savez(path, **parts, train_labels=labels)
        assert dict(describe("folder", path).splits) == {"train": 200, "valid": 100, "test": 100}
        np.testing.assert_array_equal(load_split("folder", "valid", data=path).pixels[:, 0], GREYS[200:300])
        one = Path(f"{path}::{names[2]}")
        np.testing.assert_array_equal(load_split("folder", "test", data=one).pixels[:, 0], GREYS[300:])


def test_names_of_arrays_may_have_folders(tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    parts = {"train/x": GREYS[:2], "valid/x": GREYS[2:3], "test/x": GREYS[3:6]}
    labels = {"train/y": np.array([4, 5]), "valid/y": np.array([4]), "test/y": np.array([5, 4, 5])}
    np.savez(path, **parts, **labels)  # type: ignore[arg-type]
    info = describe("folder", path)
    assert dict(info.splits) == {"train": 2, "valid": 1, "test": 3}
    assert info.classes == ("4", "5")
    assert info.labels["test"] == (1, 0, 1)
    for place in (path, Path(f"{path}::test/x")):
        np.testing.assert_array_equal(load_split("folder", "test", data=place).pixels[:, 0], GREYS[3:6])


def test_one_of_several_arrays_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, a=GREYS[:60], b=COLOURS)
    text = hint_of(lambda: describe("folder", path))
    assert f"{path}::a" in text
    assert "FILE.npz::NAME" in text
    assert sum(describe("folder", Path(f"{path}::a")).splits.values()) == 60
    assert describe("folder", Path(f"{path}::b")).shape == RGB
    assert "no array 'c'" in hint_of(lambda: describe("folder", Path(f"{path}::c")))
    np.savez(path, train_images=GREYS[:9], train_more=GREYS[:9])
    assert "both train" in hint_of(lambda: describe("folder", path))


def write_idx(folder: Path, prefix: str = "", parts: tuple[str, str] = ("train", "t10k")) -> None:
    for part, images in zip(parts, (GREYS[:100], GREYS[100:120]), strict=True):
        content = idx_bytes(images)
        (folder / f"{prefix}{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
        (folder / f"{prefix}{part}-labels-idx1-ubyte.gz").write_bytes(b"")


def test_other_data_sets_in_the_format_of_mnist_are_read(tmp_path: Path) -> None:
    write_idx(tmp_path)
    info = describe("folder", tmp_path)
    assert (info.splits["test"], info.splits["train"] + info.splits["valid"]) == (20, 100)
    np.testing.assert_array_equal(load_split("folder", "test", data=tmp_path).pixels[:, 0], GREYS[100:120])
    text = hint_of(lambda: load_split("mnist", "test", data=tmp_path), FameError)
    assert str(tmp_path) in text
    assert "`dataset=folder`" in text
    assert "delete" not in text


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    write_idx(tmp_path, "emnist-letters-", ("train", "test"))
    found = load_split("folder", "test", data=tmp_path)
    np.testing.assert_array_equal(found.pixels[:, 0], GREYS[100:120].transpose(0, 2, 1))
    assert any("transposed" in line for line in found.info.told)
    write_idx(tmp_path, "emnist-digits-", ("train", "test"))
    assert "both" in hint_of(lambda: describe("folder", tmp_path))
    one = Path(f"{tmp_path}::emnist-letters")
    np.testing.assert_array_equal(load_split("folder", "test", data=one).pixels, found.pixels)


@pytest.mark.parametrize("suffix", ["zip", "tar", "gztar"])
def test_archives_of_idx_files_are_folders_of_them(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "raw" / "data"
    folder.mkdir(parents=True)
    write_idx(folder, "emnist-letters-", ("train", "test"))
    plain = (folder / "emnist-letters-test-images-idx3-ubyte.gz").read_bytes()
    (folder / "emnist-letters-test-images-idx3-ubyte.gz").unlink()
    (folder / "emnist-letters-test-images-idx3-ubyte").write_bytes(gzip.decompress(plain))
    (folder / "notes.txt").write_text("notes")
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), suffix, tmp_path / "raw"))
    info = describe("folder", archive)
    assert any("transposed" in line for line in info.told)
    assert any("1 .txt" in line for line in info.told)
    for split in ("train", "valid", "test"):
        whole = load_split("folder", split, data=tmp_path / "raw")
        found = load_split("folder", split, data=archive)
        np.testing.assert_array_equal(found.pixels, whole.pixels)
        assert found.files is not None
        assert found.files[0].startswith(f"{archive}/")
    write_idx(folder, "emnist-digits-", ("train", "test"))
    shutil.make_archive(str(tmp_path / "packed"), suffix, tmp_path / "raw")
    assert "both" in hint_of(lambda: describe("folder", archive))
    one = Path(f"{archive}::emnist-letters")
    np.testing.assert_array_equal(load_split("folder", "test", data=one).pixels, found.pixels)


def test_a_damaged_idx_file_in_an_archive_is_named(tmp_path: Path) -> None:
    content = idx_bytes(GREYS[:20])
    for bad in (content[:-1], gzip.compress(content)[:-9], b"\x00" * 20):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("in/train-images-idx3-ubyte", bad)
        assert "x.zip/in/train-images-idx3-ubyte" in hint_of(lambda: describe("folder", tmp_path / "x.zip"))


def test_tensors_without_plain_values_are_refused_by_their_kind(tmp_path: Path) -> None:
    model = famecli.load(save_model(tmp_path / "vae.safetensors", preset="vae", shape=(1, 8, 8)))
    x = torch.zeros(2, 1, 8, 8, dtype=torch.int64)
    for tensor, kind in ((x.to_sparse(), "layout torch.sparse_coo"), (x.to("meta"), "no values")):
        with pytest.raises(ArgumentTypeError, match=kind):
            model.nll(tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.quantize_per_tensor(x.float(), 1.0, 0, torch.quint8)
    with pytest.raises(ArgumentTypeError, match=r"dtype torch\.quint8, expected integer levels"):
        model.nll(quantized)
    with pytest.raises(ArgumentTypeError, match=r"layout torch\.sparse_coo"):
        model.grid(x.float().to_sparse())


def test_truth_values_may_be_those_of_numpy() -> None:
    found = famecli.Preparation(resize=8, pad=np.True_, convert=np.False_)  # type: ignore[arg-type]
    assert (found.pad, found.convert) == (True, False)
    assert type(found.pad) is bool
    with pytest.raises(ArgumentError, match="neither True nor False"):
        famecli.Preparation(convert="yes")  # type: ignore[arg-type]


def test_paths_are_all_that_python_takes_for_paths(tmp_path: Path) -> None:
    path = save_model(tmp_path / "vae.safetensors", preset="vae", shape=(1, 8, 8))
    (entry,) = os.scandir(tmp_path)
    assert famecli.load(entry).name == str(path)
    for wrong in ("", "a" * 5000):
        with pytest.raises(FameError):
            famecli.load(wrong)


def test_odd_arguments_are_told_by_name(tmp_path: Path) -> None:
    model = famecli.load(save_model(tmp_path / "vae.safetensors", preset="vae", shape=(1, 8, 8)))
    x, known = model.sample(1), np.zeros((8, 8), bool)
    for call, name in (
        (lambda: model.sample(True), "n is True"),
        (lambda: model.sample(2**63), "n is 9223372036854775808, expected 0 to 1000000000000"),
        (lambda: famecli.train("vae", "mnist", out="a\0b"), "out is .*null character"),
        (
            lambda: famecli.train("vae", "mnist", out=300 * "a", settings={"lr": (_ for _ in ())}),
            "no value of",
        ),
        (lambda: model.sample(1, temperature=10**5000), "temperature is inf"),
        (lambda: model.reconstruct(x, decoder_output=np.array(["mean"])), "decoder_output is"),
        (lambda: model.complete(x, torch.zeros(8, 8).bool().to_sparse()), "mask is a tensor with layout"),
        (lambda: model.grid(np.full((1, 1, 8, 8), np.nan)), "x has values beyond 0 to 1"),
        (lambda: model.grid(np.full((1, 1, 8, 8), 3.0)), "x has values beyond 0 to 1"),
    ):
        with pytest.raises(FameError, match=name):
            call()
    known[:2] = True
    marked = np.where(known, x, 255).astype(np.uint8)
    assert (model.complete(marked, known) == model.complete(x, known)).all()


def test_sizes_may_be_integers_of_numpy() -> None:
    assert type(famecli.Preparation(resize=np.int64(8)).resize) is int  # type: ignore[arg-type]
    for wrong in (np.int64(0), True, 8.0):
        with pytest.raises(ArgumentError, match="is not a side"):
            famecli.Preparation(resize=wrong)  # type: ignore[arg-type]


def test_read_only_levels_are_scored_without_a_warning(tmp_path: Path) -> None:
    model = famecli.load(save_model(tmp_path / "m.safetensors", "pixelcnn", (1, 8, 8)))
    x = np.frombuffer(bytes(128), np.uint8).reshape(2, 1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.log_prob(x)
    np.testing.assert_array_equal(found, model.log_prob(x.copy()))
