"""Images of the user as a data set."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data import FOLDER_IMAGES, split_by_pixels, write_images
from support.outcomes import Command, error_lines

from famecli.data.dataset import describe, fixed_levels, load_split
from famecli.data.preparation import Preparation
from famecli.errors import InputError, UsageError

MANY = np.random.default_rng(8).integers(0, 256, (60, 6, 5, 3), np.uint8)


def nchw(images: np.ndarray) -> np.ndarray:
    return images.reshape(*images.shape[:3], -1).transpose(0, 3, 1, 2)


def write(path: Path, kind: str, images: np.ndarray) -> Path:
    if kind == "folder":
        return write_images(path / "images", images)
    target = path / f"images.{kind}"
    if kind == "npy":
        np.save(target, images)
    else:
        np.savez_compressed(target, images)
    return target


@pytest.mark.parametrize("kind", ["folder", "npz", "npy"])
@pytest.mark.parametrize("grey", [False, True])
def test_shape_and_splits_are_those_of_the_files(tmp_path: Path, kind: str, grey: bool) -> None:
    images = MANY[..., 0] if grey else MANY
    path = write(tmp_path, kind, images)
    info = describe("folder", path)
    assert info.shape == (1 if grey else 3, 6, 5)
    expected = split_by_pixels(nchw(images))
    assert dict(info.splits) == {split: len(chosen) for split, chosen in expected.items()}
    assert all(expected.values())
    for split, chosen in expected.items():
        found = load_split("folder", split, data=path)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.pixels, nchw(images[chosen]))
        np.testing.assert_array_equal(fixed_levels(found).levels, found.pixels)
        assert found.info == info
    before = load_split("folder", "test", data=path, preparation=Preparation(rule="tenth"))
    np.testing.assert_array_equal(before.pixels, nchw(images[9::10]))


def test_the_rule_of_older_runs_cuts_the_ninth_of_ten_images_off_train(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / split, FOLDER_IMAGES)
    how = Preparation(rule="tenth")
    info = describe("folder", tmp_path, preparation=how)
    assert info.rule == "as named, valid cut off train as the ninth of ten images in order"
    valid = load_split("folder", "valid", data=tmp_path, preparation=how).pixels
    np.testing.assert_array_equal(valid, nchw(FOLDER_IMAGES[8::10]))


def test_folders_named_after_splits_are_the_splits(tmp_path: Path) -> None:
    for split, part in (
        ("train", FOLDER_IMAGES[:4]),
        ("valid", FOLDER_IMAGES[4:6]),
        ("test", FOLDER_IMAGES[6:7]),
    ):
        write_images(tmp_path / split, part)
    assert dict(describe("folder", tmp_path).splits) == {"train": 4, "valid": 2, "test": 1}
    np.testing.assert_array_equal(
        load_split("folder", "valid", data=tmp_path).pixels, nchw(FOLDER_IMAGES[4:6])
    )


def test_one_coloured_image_gives_all_three_channels(tmp_path: Path) -> None:
    write_images(tmp_path, FOLDER_IMAGES[:1])
    Image.fromarray(FOLDER_IMAGES[1, :, :, 0]).save(tmp_path / "grey.png")
    assert describe("folder", tmp_path).shape == (3, 6, 5)
    found = load_split("folder", "train", data=tmp_path).pixels
    np.testing.assert_array_equal(found[1], np.repeat(FOLDER_IMAGES[1][None, :, :, 0], 3, axis=0))


def test_channels_may_come_first_in_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", nchw(FOLDER_IMAGES))
    np.testing.assert_array_equal(
        load_split("folder", "test", data=tmp_path / "a.npy").pixels,
        nchw(FOLDER_IMAGES[split_by_pixels(nchw(FOLDER_IMAGES))["test"]]),
    )


def test_images_of_two_sizes_are_an_input_error(tmp_path: Path) -> None:
    write_images(tmp_path, FOLDER_IMAGES[:3])
    Image.fromarray(FOLDER_IMAGES[0, :, :4]).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png has 4x6 pixels"):
        describe("folder", tmp_path)


def test_what_is_no_images_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        describe("folder", tmp_path / "empty")
    (tmp_path / "empty" / "a.png").write_bytes(b"no PNG")
    with pytest.raises(InputError, match=r"a\.png"):
        describe("folder", tmp_path / "empty")
    for shape in ((3, 4), (2, 4, 4, 5), (0, 4, 4)):
        np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
        with pytest.raises(InputError, match=r"a\.npy"):
            describe("folder", tmp_path / "a.npy")
    for absent in (tmp_path / "absent", tmp_path / "absent.npz"):
        with pytest.raises(InputError, match="no such file"):
            describe("folder", absent)
    with pytest.raises(UsageError) as caught:
        describe("folder")
    assert "as `data`" in caught.value.hint


def test_too_few_images_for_a_split_are_an_input_error(tmp_path: Path) -> None:
    write_images(tmp_path, FOLDER_IMAGES[:5])
    assert split_by_pixels(nchw(FOLDER_IMAGES[:5]))["test"] == []
    with pytest.raises(InputError, match="no images for the split test, but"):
        load_split("folder", "test", data=tmp_path)


def test_commands_take_a_folder(fame: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAME_DATA", raising=False)
    images = np.random.default_rng(1).integers(0, 256, (30, 8, 8), np.uint8)
    folder, run = write_images(tmp_path / "images", images), tmp_path / "run"
    chosen = ["--dataset", "folder", "--data", folder]
    small = ["--steps", 1, "--batch-size", 2, "--set", "decoder.layers=1", "--eval-every", 2]
    done = fame("train", "pixelcnn", *chosen, "-o", run, *small)
    assert done.code == 0, done.err
    scored = fame("evaluate-nll", run, "--data", folder, "-q")
    assert scored.code == 0, scored.err
    assert 0 < float(scored.out) < 20
    assert fame("evaluate-nll", run).code == 2
    lost = fame("train", "pixelcnn", "--dataset", "folder")
    assert lost.code == 2
    assert error_lines(lost)


def test_black_and_white_images_are_bits_for_a_binary_model(tmp_path: Path) -> None:
    bits = np.random.default_rng(2).integers(0, 2, (20, 6, 5), np.uint8)
    for kind in ("folder", "npz", "npy"):
        path = write(tmp_path, kind, bits * np.uint8(255))
        chosen = split_by_pixels(255 * bits[:, None])["test"]
        seen = load_split("folder", "test", data=path, levels=2)
        np.testing.assert_array_equal(seen.pixels, bits[chosen, None])
        assert (seen.info.levels, seen.info.binarization, seen.info.unit) == (2, "fixed", "nats")
        plain = load_split("folder", "test", data=path)
        np.testing.assert_array_equal(plain.pixels, 255 * bits[chosen, None])
        assert (plain.info.levels, plain.info.binarization) == (256, "none")


def test_a_grey_image_is_no_bits_and_named(tmp_path: Path) -> None:
    images = 255 * np.random.default_rng(2).integers(0, 2, (20, 6, 5), np.uint8)
    images[18, 3, 4] = 7
    how = Preparation(rule="tenth")
    for kind, name in (("folder", r"018/inner/image\.png"), ("npy", r"images\.npy: image 18")):
        path = write(tmp_path, kind, images)
        assert len(load_split("folder", "test", data=path, levels=2, preparation=how).pixels) == 2
        with pytest.raises(InputError, match=rf"{name} has a pixel of 7, .* 0 and 255 alone"):
            load_split("folder", "valid", data=path, levels=2, preparation=how)


def test_levels_of_a_folder_are_those_of_the_model(
    fame: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAME_DATA", raising=False)
    images = 255 * np.random.default_rng(1).integers(0, 2, (30, 8, 8), np.uint8)
    folder, run = write_images(tmp_path / "images", images), tmp_path / "run"
    chosen = ["--dataset", "folder", "--data", folder]
    small = ["--steps", 1, "--batch-size", 2, "--set", "decoder.layers=1", "--eval-every", 2]
    done = fame("train", "vae", *chosen, "-o", run, *small, "--set", "levels=2")
    assert done.code == 0, done.err
    config = tomllib.loads((run / "config.toml").read_text())["model"]
    assert (config["levels"], config["likelihood"]) == (2, "bernoulli")
    scored = fame("evaluate-nll", run, "--data", folder, "--json")
    assert scored.code == 0, scored.err
    data = json.loads(scored.out)["data"]
    assert (data["dataset_id"], data["levels"], data["binarization"]) == ("folder", 2, "fixed")
    assert fame("reconstruct", run, *chosen, "-n", 1, "-o", tmp_path / "r.png").code == 0
    plain = fame("train", "vae", *chosen, "--print-config")
    assert "levels = 256" in plain.out
    again = fame("train", "vae", *chosen, "--config", run / "config.toml", "--print-config")
    assert tomllib.loads(again.out)["model"] == config
