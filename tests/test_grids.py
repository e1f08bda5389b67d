"""Grids: each image in its place, gaps between groups, the scale, the row above."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import fame, save_model
from support.commands import use_small_mnist as small

from famecli.grids import GAPS, Layout, grid, visible_scale


def numbered(count: int, width: int = 3) -> np.ndarray:
    """Return images of one value each, from 1."""
    return np.broadcast_to(
        np.arange(1, count + 1, dtype=np.uint8)[:, None, None, None], (count, 2, width, 1)
    ).copy()


def runs(row: np.ndarray) -> list[tuple[int, int]]:
    """Return the values along a row of pixels with their lengths."""
    ends = [*np.flatnonzero(np.diff(row)), len(row) - 1]
    return [(int(row[end]), int(end - start)) for start, end in zip([-1, *ends[:-1]], ends, strict=True)]


def test_a_wider_gap_follows_each_group() -> None:
    canvas = grid(numbered(6), 6, padding=1, group=2)
    wide = 1 + GAPS
    assert runs(canvas[1, :, 0]) == [
        (0, 1), (1, 3), (0, 1), (2, 3), (0, wide),
        (3, 3), (0, 1), (4, 3), (0, wide), (5, 3), (0, 1), (6, 3), (0, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("width", "scale"), [(8, 8), (28, 2), (32, 2), (64, 1), (65, 1), (512, 1)])
def test_small_images_are_enlarged(width: int, scale: int) -> None:
    images = numbered(4, width)
    assert visible_scale(1, width) == visible_scale(width, 1) == scale
    found = Layout(columns=4).picture(images)
    np.testing.assert_array_equal(found, grid(images, 4).repeat(scale, 0).repeat(scale, 1))
    np.testing.assert_array_equal(Layout(columns=4, scale=1).picture(images), grid(images, 4))


def test_a_row_above_stands_over_the_others() -> None:
    found = Layout(columns=3, scale=1, above=numbered(2) + 100).picture(numbered(5))
    top, below = grid(numbered(2) + 100, 2), grid(numbered(5), 3)
    np.testing.assert_array_equal(found[: len(top), : top.shape[1]], top)
    assert not found[len(top) : len(top) + 4].any()
    np.testing.assert_array_equal(found[len(top) + 4 :], below)
    colours = Layout(above=numbered(9)).picture(np.repeat(numbered(2), 3, axis=3))
    assert colours.shape[2] == 3


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    return save_model(tmp_path / "model.safetensors")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).reshape(image.height, image.width, -1)


def test_columns_and_scale_lay_out_samples(model: Path) -> None:
    assert fame("sample", model, "-n", "6", "--columns", "3", "--scale", "1", "-o", "s.png").code == 0
    assert pixels("s.png").shape == (2 * 30 + 2, 3 * 30 + 2, 1)
    assert fame("sample", model, "-n", "6", "--columns", "2", "-o", "t.png").code == 0
    assert pixels("t.png").shape == (2 * (3 * 30 + 2), 2 * (2 * 30 + 2), 1)


@pytest.mark.parametrize("word", ["--columns", "--scale"])
def test_a_layout_without_a_grid_is_refused(model: Path, word: str) -> None:
    done = fame("sample", model, "-n", "2", word, "2", "-o", "s.npz")
    assert (done.code, "are for a grid" in done.err) == (2, True)
    assert not Path("s.npz").exists()


def test_pairs_stay_together_in_a_row(model: Path) -> None:
    words = ("reconstruct", model, "-n", "4", "--scale", "1", "-o", "pairs.png")
    assert fame(*words, "--columns", "5").code == 0
    # Two pairs in a row, since half a pair would not be together.
    assert pixels("pairs.png").shape == (2 * 30 + 2, 4 * 30 + 2 + 2 * GAPS, 1)


def test_the_image_and_its_known_part_stand_above_completions(model: Path, tmp_path: Path) -> None:
    digit = np.random.default_rng(0).integers(0, 2, (28, 28), np.uint8) * 255
    Image.fromarray(digit).save("digit.png")
    words = ("sample", model, "--complete", "digit.png", "--rows", "14", "-n", "4", "--scale", "1")
    assert fame(*words, "-o", "c.png").code == 0
    found = pixels("c.png")[..., 0]
    np.testing.assert_array_equal(found[2:30, 2:30], digit)
    np.testing.assert_array_equal(found[2:16, 32:60], digit[:14])
    assert len(np.unique(found[16:30, 32:60])) == 1
    assert found[16, 32] not in (0, 255)
    np.testing.assert_array_equal(found[38:52, 2:30], digit[:14])
    assert fame(*words[:-2], "-o", "c.npz").code == 0
    with np.load("c.npz") as archive:
        assert archive["arr_0"].shape == (4, 28, 28, 1)


def test_reconstructions_say_so_where_latents_carry_next_to_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("reconstruct", model, "-n", "2", "-o", "r.png", "--force")
    monkeypatch.setattr("famecli.cli.reconstruct.LEAST_PART", 0.0)
    assert "the latents carry" not in fame(*words).err
    monkeypatch.setattr("famecli.cli.reconstruct.LEAST_PART", 1.0)
    assert "% of the NLL of these images: reconstructions are little more than samples" in fame(*words).err
