"""Names that come from a file mean new files in the folder, on any system, or are refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data import idx_bytes

from famecli.coding.compress import read_originals
from famecli.coding.container import invalid_names_reason, png_names
from famecli.config.presets import model_config
from famecli.errors import UsageError

EVIL = [
    "../x.png",
    "/etc/x.png",
    "a//b.png",
    "./b.png",
    "a/../b.png",
    "a/../../x.png",
    "a/.b/c.png",
    "a/-b/c.png",
    "a /b.png",
    "a./b.png",
    "CON/b.png",
    "a/nul.x/b.png",
    "n" * 201 + "/b.png",
    "n/" * 500 + "b.png",
    "a\\b.png",
    "..\\x.png",
    "C:x.png",
    "x.png:stream.png",
    "..png",
    "...png",
    ".png",
    ".hidden.png",
    "",
    "x",
    "x.jpg",
    "x.PNG",
    "x.png/",
    "x.png ",
    " x.png",
    "-rf.png",
    "~x.png",
    "a\nb.png",
    "a\0b.png",
    "a\x1b[31m.png",
    "a\u202egnp.png",
    "a\udcff.png",
    "a*.png",
    "a?.png",
    'a".png',
    "a|b.png",
    "CON.png",
    "nul.png",
    "com1.x.png",
    "LPT³.png",
    "aux .png",
    "n" * 197 + ".png",
    "é" * 99 + ".png",
]
FINE = [
    "0.png",
    "a b.png",
    "ä.png",
    "数字.png",
    "a..b.png",
    "x.tar.png",
    "console.png",
    "com10.png",
    "#'%&$!;.png",
    "a/b.png",
    "a b/ä/x.png/0.png",
]


@pytest.mark.parametrize("name", EVIL)
def test_names_that_mean_other_things_are_refused(name: str) -> None:
    reason = invalid_names_reason([name])
    assert reason
    assert reason.isprintable()
    assert reason.isascii()


def test_plain_names_are_taken() -> None:
    assert invalid_names_reason(FINE) == ""
    assert invalid_names_reason([]) == ""


def test_a_name_is_not_both_a_file_and_a_folder() -> None:
    assert "is a file and a folder" in invalid_names_reason(["a.png", "A.png/b.png"])


@pytest.mark.parametrize("twin", ["a.png", "A.png", "\u00e9.png"])
def test_names_that_some_systems_take_for_the_same_are_refused(twin: str) -> None:
    assert "appears twice" in invalid_names_reason(["a.png", "e\u0301.png", twin])


@pytest.mark.parametrize(
    ("paths", "sources", "names"),
    [
        (["a/b.c/7.png"], ["a/b.c/7.png"], ["7.png"]),
        (["photo.tar.jpeg"], ["photo.tar.jpeg"], ["photo.tar.png"]),
        (["a/1.png", "a/b/1.bmp"], ["a"], ["1.png", "b/1.png"]),
        (["a/1.png", "b/1.png"], ["a", "b"], ["a/1.png", "b/1.png"]),
        (["a/1.png", "a/b/1.png"], ["a/1.png", "a/b"], ["1.png", "b/1.png"]),
        (["a/../b/1.png", "./a/1.png"], ["a/../b/", "./a"], ["b/1.png", "a/1.png"]),
        (["../x/1.png", "a/1.png"], ["../x/1.png", "a"], ["x/1.png", "here/a/1.png"]),
    ],
)
def test_an_image_is_stored_under_its_path_below_what_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[str], sources: list[str], names: list[str]
) -> None:
    here = tmp_path / "here"
    for folder in ("here/a/b.c", "here/a/b", "here/b", "x"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(here)
    assert png_names(paths, sources) == names


def test_an_idx_file_among_others_is_to_be_named_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, name = model_config("pixelcnn", "tiny", (1, 5, 4), 2), "t10k-images-idx3-ubyte"
    array = Path("f", name)
    array.parent.mkdir()
    array.write_bytes(idx_bytes(np.full((3, 5, 4), 255, np.uint8)))
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write(array, name)
    for source in ("f", "a.zip"):
        with pytest.raises(UsageError, match=f"^{source}/{name} holds numbered images") as caught:
            read_originals(config, [source])
        assert "name the array file itself" in caught.value.hint
    names, images = read_originals(config, [str(array)])
    assert (names, images.pixels.shape) == (None, (3, 1, 5, 4))


def test_images_of_an_archive_are_stored_in_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (4, 5), 255).save("0.png")
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write("0.png", "b/0.png")
    names, _ = read_originals(model_config("pixelcnn", "tiny", (1, 5, 4), 2), ["a.zip"])
    assert names == ["a.zip/b/0.png"]
