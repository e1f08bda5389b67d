"""Images of the user's own: nothing is dropped, mixed or guessed without a word."""

import io
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from support.archives import tar_bytes, zip_bytes
from support.data import image_bytes, split_by_pixels
from support.user_images import COLOURS, GREYS, hint_of, mixed, save, save_all

from famecli.data.dataset import describe, load_split
from famecli.data.image_files import decode
from famecli.data.listing import list_images
from famecli.data.preparation import Preparation
from famecli.data.reading import read_images
from famecli.errors import ArgumentError, InputError

GREY, RGB = (1, 8, 8), (3, 8, 8)


def read_one(path: Path, shape: tuple[int, int, int], how: Preparation | None = None) -> np.ndarray:
    [(_, pixels)] = read_images([path], shape, how)
    return pixels


def test_listing_takes_all_formats_and_folders_but_nothing_hidden_and_no_link_twice(tmp_path: Path) -> None:
    said: list[str] = []
    found = read_images([mixed(tmp_path / "mixed")], GREY, report=said.append)
    np.testing.assert_array_equal(np.stack([pixels[0] for _, pixels in found]), GREYS[:40])
    assert said == ["40 images of 8x8; passed over: 2 .txt, 1 without ending, 1 .mp4"]


def test_links_to_other_places_are_followed(tmp_path: Path) -> None:
    save_all(tmp_path / "far", GREYS[:3])
    near = save_all(tmp_path / "near", GREYS[3:5], 3)
    (near / "linked").symlink_to(tmp_path / "far", target_is_directory=True)
    (near / "one.png").symlink_to(save(tmp_path / "other/x.png", GREYS[5]))
    names = [Path(each.name).name for each, _ in read_images([near], GREY)]
    assert names == ["003.png", "004.png", "000.png", "001.png", "002.png", "one.png"]


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
def test_archives_are_folders(tmp_path: Path, name: str) -> None:
    files = {
        f"photos/{'train' if n < 6 else 'test'}/{n}.png": image_bytes(Image.fromarray(GREYS[n]))
        for n in range(8)
    }
    files |= {"photos/notes.txt": b"", "__MACOSX/._0.png": b"", "photos/.x/1.png": b""}
    (tmp_path / name).write_bytes(
        zip_bytes(files)
        if name.endswith("zip")
        else tar_bytes(files, "w" if name.endswith("tar") else "w:gz")
    )
    found = list_images([tmp_path / name])
    assert [image.name for image in found.images] == [
        f"{tmp_path / name}/{each}" for each in sorted(files)[3:]
    ]
    assert dict(found.passed_over) == {".txt": 1}
    np.testing.assert_array_equal(load_split("folder", "test", data=tmp_path / name).pixels[:, 0], GREYS[6:8])


def test_archives_of_samples_are_read(tmp_path: Path) -> None:
    from famecli.data.image_writers import write_images

    write_images(GREYS[:12, :, :, None], [{"seed": n} for n in range(12)], tmp_path / "x.zip")
    found = read_images([tmp_path / "x.zip"], GREY)
    np.testing.assert_array_equal(np.stack([pixels[0] for _, pixels in found]), GREYS[:12])


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_of_members_with_one_name_the_last_counts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    files = [(f"{n % 40}.png", image_bytes(Image.fromarray(GREYS[n]))) for n in range(80)]
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, content in files:
                packed.writestr(name, content)
    else:
        path.write_bytes(tar_bytes(dict(files[:40])))
        with tarfile.open(path, "a") as archive:
            for name, content in files[40:]:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    splits = [load_split("folder", split, data=path).pixels for split in ("train", "valid", "test")]  # type: ignore[arg-type]
    chosen = split_by_pixels(GREYS[40:80, None])
    assert [len(part) for part in splits] == [len(chosen[split]) for split in ("train", "valid", "test")]
    found = {image.tobytes() for part in splits for image in part}
    assert found == {image.tobytes() for image in GREYS[40:80]}


@pytest.mark.parametrize(
    "names", [("train", "val"), ("Train", "VALID"), ("train", "validation"), ("TRAIN", "dev")]
)
def test_validation_folders_are_known_by_all_their_names(tmp_path: Path, names: tuple[str, str]) -> None:
    train, valid = names
    save_all(tmp_path / train / "c0", GREYS[:20])
    save_all(tmp_path / valid / "c0", GREYS[20:30], 20)
    info = describe("folder", tmp_path)
    assert dict(info.splits) == {"train": 20, "valid": 10, "test": 0}
    assert "20 train, 10 valid, 0 test (as named)" in info.told[0]
    np.testing.assert_array_equal(load_split("folder", "valid", data=tmp_path).pixels[:, 0], GREYS[20:30])
    assert "no images for the split test, but 20 train, 10 valid" in hint_of(
        lambda: load_split("folder", "test", data=tmp_path)
    )


def test_train_and_test_are_enough(tmp_path: Path) -> None:
    save_all(tmp_path / "train", GREYS[:200])
    save_all(tmp_path / "test", GREYS[200:240])
    chosen = split_by_pixels(GREYS[:200, None])
    kept = sorted(chosen["train"] + chosen["test"])
    info = describe("folder", tmp_path)
    assert dict(info.splits) == {"train": len(kept), "valid": len(chosen["valid"]), "test": 40}
    assert "valid cut off train" in info.rule
    valid = load_split("folder", "valid", data=tmp_path).pixels
    np.testing.assert_array_equal(valid[:, 0], GREYS[chosen["valid"]])
    seen = {image.tobytes() for image in load_split("folder", "train", data=tmp_path).pixels}
    assert len(seen) == len(kept)
    assert seen.isdisjoint(image.tobytes() for image in valid)


@pytest.mark.parametrize(
    ("folders", "why"),
    [
        (("train", "test", "extra"), r"extra/000\.png is in none"),
        (("train", "test", "."), r"000\.png is in none"),
        (("train", "val", "valid"), "val and valid are both valid|valid and val are both valid"),
        (("train", "train/test"), "is in train and test"),
        (("cats/train", "dogs"), "dogs/000.png is in none"),
    ],
)
def test_layouts_that_do_not_add_up_are_refused(tmp_path: Path, folders: tuple[str, ...], why: str) -> None:
    for number, folder in enumerate(folders):
        save_all(tmp_path / folder, GREYS[number : number + 1])
    with pytest.raises(InputError, match=why) as caught:
        describe("folder", tmp_path)
    assert "delete" not in caught.value.hint


def test_new_files_move_no_old_ones(tmp_path: Path) -> None:
    def in_splits(path: Path) -> dict[bytes, str]:
        return {
            image.tobytes(): split
            for split in ("train", "valid", "test")
            for image in load_split("folder", split, data=path).pixels  # type: ignore[arg-type]
        }

    folder = save_all(tmp_path / "a", GREYS[:100], 100)
    before = in_splits(folder)
    save_all(folder, GREYS[100:103])
    after = in_splits(folder)
    assert len(after) == 103
    assert before.items() <= after.items()
    np.save(tmp_path / "a.npy", GREYS[[300, *range(100)]])
    assert before.items() <= in_splits(tmp_path / "a.npy").items()
    renamed = save_all(tmp_path / "b", np.repeat(GREYS[:100, :, :, None], 3, axis=3))
    load = load_split("folder", "test", data=renamed, channels=1).pixels
    assert {before[image.tobytes()] for image in load} == {"test"}


def test_splits_do_not_depend_on_the_size_asked_for(tmp_path: Path) -> None:
    folder = save_all(tmp_path, GREYS[:60])
    sizes = [
        dict(describe("folder", folder, preparation=Preparation(resize)).splits) for resize in (None, 4, 16)
    ]
    assert sizes[0] == sizes[1] == sizes[2]


def test_runs_made_before_keep_every_tenth_image(tmp_path: Path) -> None:
    folder = save_all(tmp_path, GREYS[:40])
    found = load_split("folder", "test", data=folder, preparation=Preparation(rule="tenth"))
    np.testing.assert_array_equal(found.pixels[:, 0], GREYS[9:40:10])


def deep(tmp_path: Path, name: str = "a.png") -> Path:
    return save(tmp_path / name, Image.fromarray(GREYS[0].astype(np.uint16) * 257))


def frames(tmp_path: Path, kind: str = "GIF") -> Path:
    first, *more = [Image.fromarray(image) for image in GREYS[:3]]
    return save(tmp_path / f"a.{kind.lower()}", first, save_all=True, append_images=more)


def seen_through(tmp_path: Path, mode: str = "LA") -> Path:
    alpha = np.stack([0 * GREYS[0], GREYS[0]], -1)
    image = Image.fromarray(alpha, "LA").convert(mode)
    return save(tmp_path / "a.png", image)


def pnm_of_16_bits(tmp_path: Path, kind: bytes = b"P6") -> Path:
    values = GREYS[0].astype(">u2") * 257
    path = tmp_path / "a.ppm"
    path.write_bytes(
        kind + b" 8 8 65535\n" + (np.repeat(values, 3) if kind == b"P6" else values).astype(">u2").tobytes()
    )
    return path


LOST = {
    "16 bits": (deep, "has 16 bits"),
    "16-bit TIFF": (lambda path: deep(path, "a.tif"), "has 16 bits"),
    "16-bit PGM": (lambda path: pnm_of_16_bits(path, b"P5"), "has 16 bits"),
    "16-bit PPM": (pnm_of_16_bits, "has 16 bits"),
    "drawn in alpha": (seen_through, "has transparent pixels"),
    "RGBA": (lambda path: seen_through(path, "RGBA"), "has transparent pixels"),
    "transparent colour": (
        lambda path: save(path / "a.png", Image.fromarray(GREYS[0]), transparency=int(GREYS[0, 0, 0])),
        "has transparent pixels",
    ),
    "CMYK": (lambda path: save(path / "a.jpg", Image.fromarray(COLOURS[0]).convert("CMYK")), "mode CMYK"),
    "LAB": (lambda path: save(path / "a.tif", Image.new("LAB", (8, 8))), "mode LAB"),
    "frames": (frames, "several frames"),
    "pages": (lambda path: frames(path, "TIFF"), "several frames"),
    "animation": (lambda path: frames(path, "PNG"), "several frames"),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_would_be_lost_is_refused_and_named_or_converted_if_asked(tmp_path: Path, kind: str) -> None:
    make, why = LOST[kind]
    path = make(tmp_path)
    assert "`convert" not in hint_of(lambda: read_one(path, GREY))
    for shape in (GREY, RGB):
        text = hint_of(lambda shape=shape: read_one(path, shape, Preparation()))  # type: ignore[misc]
        assert str(path) in text
        assert why in text
        assert "`convert=True`" in text
        assert read_one(path, shape, Preparation(convert=True)).shape == shape


def test_conversions_are_the_documented_ones(tmp_path: Path) -> None:
    how = Preparation(convert=True)
    np.testing.assert_array_equal(read_one(deep(tmp_path), GREY, how)[0], GREYS[0])
    np.testing.assert_array_equal(read_one(pnm_of_16_bits(tmp_path, b"P5"), GREY, how)[0], GREYS[0])
    # Black with the grey as opacity, on white.
    np.testing.assert_allclose(read_one(seen_through(tmp_path), GREY, how)[0], 255.0 - GREYS[0], atol=1)
    np.testing.assert_array_equal(read_one(frames(tmp_path), GREY, how)[0], GREYS[0])
    coloured = save(tmp_path / "c.png", COLOURS[0])
    np.testing.assert_array_equal(
        read_one(coloured, GREY, how)[0], np.asarray(Image.fromarray(COLOURS[0]).convert("L"))
    )


def test_floats_are_never_guessed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.fromarray((GREYS[0] / 255).astype(np.float32)))
    for how in (None, Preparation(convert=True)):
        text = hint_of(lambda how=how: read_one(path, GREY, how))  # type: ignore[misc]
        assert f"{path} holds floats" in text


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "PA", "RGB", "1", "L"])
def test_opaque_alpha_palettes_and_greys_stored_as_colours_are_taken(tmp_path: Path, mode: str) -> None:
    grey = np.where(GREYS[0] > 127, 255, 0).astype(np.uint8) if mode in ("1", "P", "PA") else GREYS[0]
    image = Image.fromarray(grey)
    path = tmp_path / "a.tif" if mode == "PA" else tmp_path / "a.png"
    save(path, image.convert("P" if mode == "PA" else mode))
    np.testing.assert_array_equal(read_one(path, GREY)[0], grey)
    np.testing.assert_array_equal(read_one(path, RGB), np.stack([grey] * 3))


def test_a_file_with_colours_is_named_to_a_grey_model(tmp_path: Path) -> None:
    save_all(tmp_path, np.repeat(GREYS[:9, :, :, None], 3, axis=3))
    assert load_split("folder", "train", data=tmp_path, channels=1).pixels.shape[1:] == GREY
    save(tmp_path / "blue.png", COLOURS[0])
    how = Preparation(rule="tenth")
    text = hint_of(lambda: load_split("folder", "test", data=tmp_path, channels=1, preparation=how))
    assert f"{tmp_path / 'blue.png'} has colours, the model takes greys" in text


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
def test_images_are_turned_as_exif_says(tmp_path: Path, suffix: str, orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", COLOURS[0][:, :6], exif=exif, **options)
    stored = np.asarray(Image.open(path)) if suffix == "jpg" else COLOURS[0][:, :6]
    expected = np.rot90(stored, turns).transpose(2, 0, 1)
    said: list[str] = []
    [(_, pixels)] = read_images([path], expected.shape, report=said.append)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels, expected)
    assert "1 turned as their EXIF data say" in said[0]
    info = describe("folder", tmp_path)
    assert info.shape == expected.shape
    assert "turned by EXIF data: 1 image" in info.told[1]


def test_deep_images_are_turned_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.png", "a.tif"):
        path = save(tmp_path / name, Image.fromarray(GREYS[0][:, :6].astype(np.uint16) * 257), exif=exif)
        pixels = read_one(path, (1, 6, 8), Preparation(convert=True))
        np.testing.assert_array_equal(pixels[0], np.rot90(GREYS[0][:, :6], -1))


@pytest.mark.parametrize("shape", [(1, 9, 8), (1, 9, 9)])
def test_a_png_of_another_size_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int]
) -> None:
    path = save(tmp_path / "a.png", GREYS[0])
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("unpacked"))
    for how in (None, Preparation(convert=True)):
        with pytest.raises(InputError, match=f"8x8 pixels, expected {shape[2]}x{shape[1]}"):
            decode(str(path), path.read_bytes(), shape, how)
        assert "8x8 pixels" in hint_of(lambda how=how: read_one(path, shape, how))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (Preparation(4), "middle"),
        (Preparation(4, "center"), "middle"),
        (Preparation(4, "none"), "stretched"),
        (Preparation(4, pad=True), "padded"),
    ],
)
def test_resize_crops_stretches_or_pads(tmp_path: Path, how: Preparation, expected: str) -> None:
    image = np.zeros((8, 16), np.uint8)
    image[:, 4:12] = 200
    pixels = read_one(save(tmp_path / "a.png", image), (1, 4, 4), how)[0]
    if expected == "middle":
        assert (pixels == 200).all()
    elif expected == "stretched":
        assert pixels[:, 0].max() < 50
        assert pixels[:, 1:3].min() > 150
    else:
        assert (pixels[[0, 3]] == 0).all()
        assert pixels[1:3, 1:3].min() > 150
    info = describe("folder", tmp_path, preparation=how)
    assert (info.shape, info.preparation) == ((1, 4, 4), how)


def test_sizes_may_differ_only_with_resize(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREYS[0])
    save(tmp_path / "b.png", GREYS[1][:5])
    text = hint_of(lambda: describe("folder", tmp_path))
    assert "b.png has 8x5 pixels, the first image 8x8" in text
    assert "`resize=32`" in text
    assert describe("folder", tmp_path, preparation=Preparation(4)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    "values",
    [
        {"crop": "none"},
        {"pad": True},
        {"resize": 0},
        {"resize": 8.5},
        {"resize": 8.0},
        {"resize": True},
        {"resize": "8"},
        {"resize": 8, "crop": "centre"},
        {"resize": 8, "crop": "center", "pad": True},
    ],
)
def test_preparations_that_contradict_themselves_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        Preparation(**values)  # type: ignore[arg-type]


def test_a_checkpoint_among_images_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"")
    text = hint_of(lambda: read_images([tmp_path / "best.safetensors"], GREY))
    assert "is a checkpoint, not an image" in text
    assert "name the checkpoint first" in text


def test_missing_and_empty_places_are_named(tmp_path: Path) -> None:
    for name in ("absent", "absent.npz", "absent.npz::a", "absent.zip"):
        with pytest.raises(InputError, match=r"absent.*no such file"):
            describe("folder", tmp_path / name)
    (tmp_path / "a.csv").touch()
    text = hint_of(lambda: describe("folder", tmp_path))
    assert f"no images in {tmp_path}; passed over: 1 .csv" in text
    with zipfile.ZipFile(tmp_path / "a.zip", "w"), tarfile.open(tmp_path / "a.tar", "w"):
        pass
    for name in ("a.zip", "a.tar"):
        assert f"no images in {tmp_path / name}" in hint_of(
            lambda name=name: describe("folder", tmp_path / name)
        )  # type: ignore[misc]


def test_too_large_images_are_refused_with_the_limits() -> None:
    from support.data import png_claiming

    from famecli.data.image_files import LARGEST_SIDE, image_header

    text = hint_of(lambda: image_header("a.png", png_claiming(LARGEST_SIDE + 1, 1)))
    assert f"a.png: {LARGEST_SIDE + 1}x1 is too large, at most {LARGEST_SIDE:,} pixels a side" in text
