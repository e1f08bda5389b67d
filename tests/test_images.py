"""Images out in every format and in again, hostile images, grids and previews."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.data import image_bytes, png_claiming, random_pixels

from famecli.data.image_files import LARGEST_SIDE
from famecli.data.image_writers import (
    MANIFEST,
    WRITERS,
    Format,
    Metadata,
    mean_to_uint8,
    open_writer,
    to_uint8,
    write_images,
    write_png,
)
from famecli.data.preparation import Preparation
from famecli.data.reading import read_images
from famecli.errors import FameError, InputError, UsageError
from famecli.evaluation.score import psnr
from famecli.grids import enlarged, grid, visible_scale
from famecli.output import terminal_picture

NAMES: dict[Format, str] = {"grid": "a.png", "png": "a", "npz": "a.npz", "npy": "a.npy", "zip": "a.zip"}
CONVERT = Preparation(convert=True)


def metadata_of(count: int) -> list[Metadata]:
    return [{"seed": 40 + index, "model": "tiny"} for index in range(count)]


def stored_bytes(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else list(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


def read_one(
    path: Path, content: bytes, shape: tuple[int, int, int], how: Preparation | None = None
) -> np.ndarray:
    path.write_bytes(content)
    [(stored, image)] = read_images([path], shape, how)
    assert stored.name == str(path)
    assert image.dtype == np.uint8
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_every_format_gives_back_its_images(tmp_path: Path, channels: int) -> None:
    images = random_pixels(5, channels)
    for name in NAMES.values():
        write_images(images, metadata_of(5), tmp_path / name)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), images)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0"]
        np.testing.assert_array_equal(archive["arr_0"], images)
    shape = (channels, 6, 6)
    read = read_images([tmp_path / "a"], shape)
    assert [Path(each.name).name for each, _ in read] == [f"{40 + index:06d}.png" for index in range(5)]
    np.testing.assert_array_equal(np.stack([image for _, image in read]), images.transpose(0, 3, 1, 2))
    with zipfile.ZipFile(tmp_path / "a.zip") as zipped:
        assert {name: zipped.read(name) for name in zipped.namelist()} == stored_bytes(tmp_path / "a")
    [(_, whole)] = read_images([tmp_path / "a.png"], (channels, 10 * (2 * 8 + 2), 10 * (3 * 8 + 2)))
    np.testing.assert_array_equal(whole.transpose(1, 2, 0), enlarged(grid(images), visible_scale(6, 6)))


@pytest.mark.parametrize("name", NAMES.values())
def test_pieces_make_the_same_bytes_as_all_at_once(tmp_path: Path, name: str) -> None:
    images, metadata = random_pixels(7), metadata_of(7)
    for folder in ("once", "pieces"):
        (tmp_path / folder).mkdir()
    write_images(images, metadata, tmp_path / "once" / name)
    with open_writer(tmp_path / "pieces" / name, 7) as writer:
        for part in (slice(0, 1), slice(1, 5), slice(5, 7)):
            writer.add(images[part], metadata[part])
    assert stored_bytes(tmp_path / "pieces" / name) == stored_bytes(tmp_path / "once" / name)


@pytest.mark.parametrize(("format", "name"), NAMES.items())
def test_nothing_unfinished_is_left(tmp_path: Path, format: Format, name: str) -> None:
    def interrupted() -> None:
        with open_writer(tmp_path / name, 5) as writer:
            writer.add(random_pixels(2), metadata_of(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    # Each PNG of a folder is whole, so those stay; the list of them is not.
    assert left == ({"000040.png", "000041.png"} if format == "png" else set())


@pytest.mark.parametrize("name", NAMES.values())
def test_an_output_that_exists_needs_force(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    write_images(random_pixels(2), metadata_of(2), target)
    before = stored_bytes(target)
    with pytest.raises(InputError) as caught:
        write_images(random_pixels(3), metadata_of(3), target)
    assert "`force`" in caught.value.hint
    assert stored_bytes(target) == before
    write_images(random_pixels(3), metadata_of(3), target, force=True)
    assert stored_bytes(target) != before


def test_files_and_folders_never_replace_each_other(tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "file").touch()
    for name in ("folder.npy", "file"):
        with pytest.raises(InputError):
            write_images(random_pixels(1), metadata_of(1), tmp_path / name, force=True)


@pytest.mark.parametrize("name", NAMES.values())
def test_a_place_that_cannot_be_written_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_images(random_pixels(1), metadata_of(1), tmp_path / "file" / name)


def test_the_format_may_be_said_and_has_to_exist(tmp_path: Path) -> None:
    write_images(random_pixels(2), metadata_of(2), tmp_path / "folder.png", format="png")
    assert (tmp_path / "folder.png" / "000040.png").exists()
    with pytest.raises(UsageError, match="gif"):
        write_images(random_pixels(1), metadata_of(1), tmp_path / "b", format="gif")  # type: ignore[arg-type]


def test_metadata_are_in_the_manifest_and_in_the_pngs(tmp_path: Path) -> None:
    entries = [{"seed": 3, "nats": 1.5}, {"index": 7, "model": "déjà 模"}, {}]
    write_images(random_pixels(3), entries, tmp_path / "a")
    lines = (tmp_path / "a" / MANIFEST).read_text().splitlines()
    names = ["000003.png", "000007.png", "000002.png"]
    assert [json.loads(line) for line in lines] == [
        {"file": name, **entry} for name, entry in zip(names, entries, strict=True)
    ]
    with Image.open(tmp_path / "a" / "000007.png") as image:
        assert image.text == {"index": "7", "model": "déjà 模"}  # type: ignore[attr-defined]
    write_images(random_pixels(2), metadata_of(2), tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.text == {"model": "tiny"}  # type: ignore[attr-defined]


def test_grey_images_can_be_written_as_rgb(tmp_path: Path) -> None:
    images = random_pixels(2)
    for format, name in NAMES.items():
        write_images(images, metadata_of(2), tmp_path / name, format=format, rgb=True)
    assert np.load(tmp_path / "a.npy").shape == (2, 6, 6, 3)
    for path in (tmp_path / "a" / "000040.png", tmp_path / "a.png"):
        with Image.open(path) as image:
            assert image.mode == "RGB"


@pytest.mark.parametrize("format", ["npy", "npz", "zip", "grid"])
def test_stdout_takes_what_a_file_would(tmp_path: Path, format: Format) -> None:
    code = (
        "import numpy as np, sys; from famecli.data.image_writers import open_writer\n"
        f"with open_writer('-', 2, format={format!r}) as writer:\n"
        "    for seed in (0, 1): writer.add(np.full((1, 3, 3, 1), seed, np.uint8), [{'seed': seed}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    images = np.arange(2, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(3, 2)
    write_images(images, [{"seed": 0}, {"seed": 1}], tmp_path / "file", format=format)
    if format in ("npy", "grid"):
        assert done.stdout == (tmp_path / "file").read_bytes()
    else:
        with zipfile.ZipFile(io.BytesIO(done.stdout)) as piped, zipfile.ZipFile(tmp_path / "file") as file:
            assert {name: piped.read(name) for name in piped.namelist()} == {
                name: file.read(name) for name in file.namelist()
            }


def test_stdout_starts_before_the_last_image(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    writer = open_writer("-", 2)
    writer.add(random_pixels(1), [{}])
    first = capfdbinary.readouterr().out
    assert first.startswith(b"\x93NUMPY")
    writer.add(random_pixels(1), [{}])
    writer.close()
    both = np.load(io.BytesIO(first + capfdbinary.readouterr().out))
    np.testing.assert_array_equal(both, random_pixels(1).repeat(2, 0))


def test_stdout_refuses_folders_and_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError):
        open_writer("-", 1, format="png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(UsageError, match="terminal"):
        open_writer("-", 1)


@pytest.mark.parametrize("format", ["npy", "npz", "zip", "grid"])
def test_a_full_disk_is_an_input_error(monkeypatch: pytest.MonkeyPatch, format: Format) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(InputError, match="No space left"), open_writer("-", 40, format=format) as writer:
            writer.add(random_pixels(40, 3, 64), metadata_of(40))
        monkeypatch.undo()
        # The buffer would try again when it is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())


def test_a_grid_has_each_image_in_its_place() -> None:
    images = random_pixels(5, 3)
    canvas = grid(images)
    assert canvas.shape == (2 * 8 + 2, 3 * 8 + 2, 3)
    for index, image in enumerate(images):
        top, left = 2 + index // 3 * 8, 2 + index % 3 * 8
        np.testing.assert_array_equal(canvas[top : top + 6, left : left + 6], image)
    assert int(canvas.sum()) == int(images.sum())
    assert grid(images, columns=5, padding=0).shape == (6, 30, 3)
    np.testing.assert_array_equal(grid(images[:1], padding=0), images[0])


def test_levels_and_means_become_bytes() -> None:
    bits = np.array([[[[0, 1]]], [[[1, 1]]]], np.uint8)
    assert to_uint8(bits, 2)[..., 0].tolist() == [[[0, 255]], [[255, 255]]]
    greys = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    np.testing.assert_array_equal(to_uint8(greys, 256)[..., 0], greys[:, 0])
    assert to_uint8(np.zeros((2, 3, 4, 5), np.uint8), 2).shape == (2, 4, 5, 3)
    assert mean_to_uint8(np.array([-0.1, 0, 0.5, 1, 1.1]).reshape(1, 1, 1, 5)).ravel().tolist() == [
        0,
        0,
        128,
        255,
        255,
    ]


def test_psnr_is_the_textbook_one() -> None:
    image = np.zeros((1, 2, 2), np.uint8)
    assert psnr(image, image) == np.inf
    assert psnr(image, image + 255) == psnr(image + 255, image) == pytest.approx(0)
    assert psnr(image, image + 1) == pytest.approx(48.1308, abs=1e-4)


@pytest.mark.parametrize("width", [1, 10, 79, 200])
@pytest.mark.parametrize("count", [1, 7])
def test_a_preview_fits_the_terminal_and_ends_its_colours(width: int, count: int) -> None:
    lines = terminal_picture(random_pixels(count, 3, 28), width).split("\n")
    visible = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert {len(line) for line in visible} == {len(visible[0])}
    assert len(visible[0]) <= width
    assert set("".join(visible)) == {"▀"}
    assert all(line.endswith("\x1b[0m") for line in lines)


def test_a_preview_shows_two_rows_in_one_line() -> None:
    image = np.array([[10], [20]], np.uint8).reshape(1, 2, 1, 1)
    text = terminal_picture(image, 80)
    assert "38;2;0;0;0;48;2;10;10;10m▀" in text
    assert "38;2;20;20;20;48;2;0;0;0m▀" in text


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_kinds_are_read_exactly(tmp_path: Path, kind: str) -> None:
    image = random_pixels(1, 3)[0]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = image_bytes(Image.fromarray(image), kind, **options)
    np.testing.assert_array_equal(read_one(tmp_path / "a", content, (3, 6, 6)), image.transpose(2, 0, 1))


def test_jpeg_is_read_nearly(tmp_path: Path) -> None:
    content = image_bytes(Image.new("RGB", (6, 6), (200, 100, 50)), "JPEG", quality=95)
    assert np.ptp(read_one(tmp_path / "a", content, (3, 6, 6)).astype(int).reshape(3, -1), axis=1).max() <= 2


def test_greys_and_colours_are_read_where_nothing_is_lost(tmp_path: Path) -> None:
    path, grey = tmp_path / "a.png", random_pixels(1)[0, :, :, 0]
    alike = Image.fromarray(grey)
    for mode in ("L", "RGB", "RGBA", "LA"):
        content = image_bytes(alike.convert(mode))
        np.testing.assert_array_equal(read_one(path, content, (1, 6, 6))[0], grey)
        np.testing.assert_array_equal(read_one(path, content, (3, 6, 6)), np.stack([grey] * 3))
    palette = Image.fromarray(random_pixels(1, 3)[0]).quantize(8)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_one(path, image_bytes(palette), (3, 6, 6)), expected)
    bits = Image.fromarray(grey > 127)
    np.testing.assert_array_equal(
        read_one(path, image_bytes(bits), (1, 6, 6))[0], np.where(grey > 127, 255, 0)
    )


def test_another_size_names_the_file_and_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png: 7x6 pixels, expected 28x28"):
        read_one(tmp_path / "a.png", image_bytes(Image.new("L", (7, 6))), (1, 28, 28))


def test_a_folder_without_images_and_a_missing_file_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for path in (tmp_path, tmp_path / "absent.png", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match=str(path)):
            read_images([path], (1, 6, 6))


def test_stdin_holds_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    image = random_pixels(1)[0]
    content = image_bytes(Image.fromarray(image[:, :, 0]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    [(stored, read)] = read_images(["-"], (1, 6, 6))
    assert stored.name == "-"
    np.testing.assert_array_equal(read, image.transpose(2, 0, 1))


def test_too_large_images_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    sizes = ((LARGEST_SIDE + 1, 1), (5000, 5000), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2))
    for width, height in sizes:
        with pytest.raises(InputError):
            read_one(tmp_path / "bomb.png", png_claiming(width, height), (1, height, width))


def test_other_kinds_and_damaged_images_are_input_errors(tmp_path: Path) -> None:
    image = Image.fromarray(random_pixels(1)[0, :, :, 0])
    contents = [b"", b"text", png_claiming(6, 6), png_claiming(6, 6, b"short"), image_bytes(image)[:-30]]
    contents += [image_bytes(image, kind) for kind in ("ICO", "EPS", "PDF", "SGI")]
    for content in contents:
        with pytest.raises(InputError, match=r"not a readable image(?!.*object at)"):
            read_one(tmp_path / "a.png", content, (1, 6, 6))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_mutated_images_are_read_or_an_input_error(tmp_path: Path, kind: str) -> None:
    content = image_bytes(Image.fromarray(random_pixels(1, 3, 8)[0]), kind)
    source = np.random.default_rng(5)
    for _ in range(250):
        changed = bytearray(content)
        for position in source.integers(0, len(content), 3):
            changed[position] = source.integers(0, 256)
        kept = changed[: source.integers(1, len(content) + 1)] if source.random() < 0.3 else changed
        try:
            assert read_one(tmp_path / "a", bytes(kept), (3, 8, 8)).shape == (3, 8, 8)
        except FameError as error:
            lines = str(error).splitlines()
            assert len(lines) == 1


@pytest.mark.parametrize(
    ("depth", "colour", "clear", "stored", "expected"),
    [
        (16, 0, 0x8000, [0, 0x80, 0x8000, 0xFFFF], [[0, 0, 255, 255]]),
        (16, 4, None, [0, 0, 0x80FF, 0xFFFF, 0x8000, 0x8000], [[255, 128, 191]]),
        (16, 2, None, [0x80, 0x1FF, 0x80FF, 0, 0, 0], [[0, 0], [1, 0], [128, 0]]),
        (2, 0, 1, [0b00011011], [[0, 255, 170, 255]]),
        (4, 0, 2, [0x01, 0x23], [[0, 17, 255, 51]]),
    ],
)
def test_depths_and_transparent_greys_are_converted_only_if_asked(
    tmp_path: Path, depth: int, colour: int, clear: int | None, stored: list[int], expected: list[list[int]]
) -> None:
    row = b"\0" + np.array(stored, ">u2" if depth == 16 else "u1").tobytes()
    key, shape = b"" if clear is None else struct.pack(">H", clear), (len(expected), 1, len(expected[0]))
    content = png_claiming(shape[2], 1, row, depth=depth, colour=colour, clear=key)
    with pytest.raises(InputError, match="has 16 bits" if depth == 16 else "has transparent pixels"):
        read_one(tmp_path / "a.png", content, shape)
    assert read_one(tmp_path / "a.png", content, shape, CONVERT)[:, 0].tolist() == expected


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    content = png_claiming(1, 1, bytes(7), depth=16, colour=2, clear=bytes(6))
    with pytest.raises(InputError, match=r"a\.png has a transparent colour of 16 bits"):
        read_one(tmp_path / "a.png", content, (3, 1, 1), CONVERT)


def test_a_single_png_keeps_its_text(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", random_pixels(1)[0], {"seed": 5})
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"seed": "5"}  # type: ignore[attr-defined]


def test_every_format_is_tested_here() -> None:
    assert set(NAMES) == set(WRITERS)


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("x.jpg", "auto", "no jpg files are written"),
        ("x.tiff", "auto", "no tiff files are written"),
        ("x.png", "npz", "does not fit format npz"),
        ("x.npz", "zip", "does not fit format zip"),
    ],
)
def test_a_name_that_promises_another_format_is_refused(
    tmp_path: Path, name: str, format: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        open_writer(tmp_path / name, 1, format=format)
    assert not list(tmp_path.iterdir())
