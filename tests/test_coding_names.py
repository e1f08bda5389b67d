"""Names that come from a file mean new files in the folder, on any system, or are refused."""

import pytest

from famecli.coding.container import invalid_names_reason, png_name

EVIL = [
    "../x.png",
    "/etc/x.png",
    "a/b.png",
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


@pytest.mark.parametrize("twin", ["a.png", "A.png", "\u00e9.png"])
def test_names_that_some_systems_take_for_the_same_are_refused(twin: str) -> None:
    assert "appears twice" in invalid_names_reason(["a.png", "e\u0301.png", twin])


def test_an_image_is_stored_under_its_own_name() -> None:
    assert png_name("a/b.c/7.png") == "7.png"
    assert png_name("photo.tar.jpeg") == "photo.tar.png"
