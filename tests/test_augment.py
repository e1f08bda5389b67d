"""Random changes of training images: the maps are the named ones, and only the first part has them."""

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from support.trainers import PLAIN, split_of, trainer_of

from famecli.data.augment import LOG_SCALE, ROTATION_RADIANS, SHEAR, SHIFT_PIXELS, augmented
from famecli.data.dataset import ImageSplit
from famecli.data.registry import dataset_info
from famecli.rng import stream

# Columns of the normal numbers of an affine map.
ANGLE, SHEARED, ACROSS, DOWN, RIGHT, BELOW = range(6)


class Drawn:
    """A generator whose normal numbers are given."""

    def __init__(self, **columns: float) -> None:
        self.columns = columns

    def standard_normal(self, shape: tuple[int, int], dtype: type) -> np.ndarray:
        found = np.zeros(shape, dtype)
        for name, value in self.columns.items():
            found[:, globals()[name]] = value
        return found


def moved(split: ImageSplit, **columns: float) -> np.ndarray:
    return augmented(split, "affine", cast(Any, Drawn(**columns))).pixels


def framed() -> ImageSplit:
    """Random images within a black frame of three pixels."""
    split = split_of(5, (1, 14, 14))
    split.pixels[:, :, :3] = split.pixels[:, :, -3:] = split.pixels[..., :3] = split.pixels[..., -3:] = 0
    return split


def test_a_map_without_change_keeps_every_pixel() -> None:
    split = framed()
    np.testing.assert_array_equal(moved(split), split.pixels)


@pytest.mark.parametrize(("column", "axis"), [("RIGHT", 3), ("BELOW", 2)])
def test_shifts_are_in_pixels(column: str, axis: int) -> None:
    split = framed()
    found = moved(split, **{column: 2 / SHIFT_PIXELS})
    np.testing.assert_array_equal(found, np.roll(split.pixels, -2, axis))


def test_a_quarter_turn_is_that_of_numpy() -> None:
    split = framed()
    found = moved(split, ANGLE=np.pi / 2 / ROTATION_RADIANS)
    assert np.abs(found.astype(int) - np.rot90(split.pixels, axes=(2, 3))).max() <= 1


def test_scales_change_the_size_of_a_blob_and_shear_its_covariance() -> None:
    rows, columns = np.mgrid[-13.5:14, -19.5:20]
    blob = 255 * np.exp(-(rows**2 + columns**2) / 18.0)
    split = dataclasses.replace(split_of(1, (1, 28, 40)), pixels=blob[None, None].astype(np.uint8))

    def covariance(**numbers: float) -> np.ndarray:
        weights = moved(split, **numbers)[0, 0].astype(float)
        places = np.stack([columns.ravel(), rows.ravel()])
        return np.cov(places, aweights=weights.ravel())

    plain = covariance()
    np.testing.assert_allclose(
        covariance(ACROSS=np.log(1.5) / LOG_SCALE)[0, 0], plain[0, 0] / 1.5**2, rtol=0.03
    )
    np.testing.assert_allclose(
        covariance(DOWN=np.log(1.5) / LOG_SCALE)[1, 1], plain[1, 1] / 1.5**2, rtol=0.03
    )
    # A point (x, y) takes the value of (x + y / 2, y), so x falls by half of y.
    np.testing.assert_allclose(covariance(SHEARED=0.5 / SHEAR)[0, 1], -0.5 * plain[1, 1], rtol=0.05)


def test_a_quarter_turn_of_a_wide_image_swaps_both_variances() -> None:
    rows, columns = np.mgrid[-13.5:14, -19.5:20]
    blob = 255 * np.exp(-(rows**2) / 8.0 - columns**2 / 32.0)
    split = dataclasses.replace(split_of(1, (1, 28, 40)), pixels=blob[None, None].astype(np.uint8))
    found = moved(split, ANGLE=np.pi / 2 / ROTATION_RADIANS)[0, 0].astype(float)
    variances = [(found * places**2).sum() / found.sum() for places in (rows, columns)]
    np.testing.assert_allclose(variances, [16.0, 4.0], rtol=0.05)


def test_random_maps_differ_by_image_and_stay_in_the_range_of_the_image() -> None:
    pixels = np.repeat(split_of(1, (1, 14, 14)).pixels // 2 + 50, 64, axis=0)
    split = dataclasses.replace(split_of(1, (1, 14, 14)), pixels=pixels)
    found = augmented(split, "affine", stream("t")).pixels
    assert found.dtype == np.uint8
    assert found.min() >= pixels.min()
    assert found.max() <= pixels.max()
    assert len({image.tobytes() for image in found}) == 64
    np.testing.assert_array_equal(found, augmented(split, "affine", stream("t")).pixels)


def test_probabilities_keep_their_type_and_bits_stay_bits() -> None:
    split = split_of(8, (1, 14, 14))
    chances = dataclasses.replace(split, pixels=split.pixels.astype(np.float32) / 255)
    found = augmented(chances, "affine", stream("t")).pixels
    assert found.dtype == np.float32
    np.testing.assert_allclose(found * 255, augmented(split, "affine", stream("t")).pixels, atol=0.51)
    info = dataclasses.replace(dataset_info("mnist-static"), shape=(1, 14, 14))
    bits = ImageSplit(info, "train", (split.pixels > 127).astype(np.uint8))
    changed = augmented(bits, "affine", stream("t")).pixels
    assert set(np.unique(changed)) == {0, 1}
    assert (changed != bits.pixels).any()


def test_a_flip_mirrors_half_of_the_images() -> None:
    split = split_of(400, (3, 4, 5))
    found = augmented(split, "flip", stream("t")).pixels
    same = (found == split.pixels).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(found[~same], split.pixels[~same][..., ::-1])
    assert abs(same.mean() - 0.5) < 5 * 0.5 / np.sqrt(400)


@pytest.mark.parametrize("kind", ["flip", "affine"])
def test_only_the_first_part_of_a_training_is_changed(kind: Any) -> None:
    config = dataclasses.replace(PLAIN, total_images=10 * PLAIN.batch_size, augment_part=0.3)
    plain, changed = (
        trainer_of("pixelcnn", dataclasses.replace(config, augment=each)) for each in ("none", kind)
    )
    differs = []
    for step in range(10):
        plain.step_count = changed.step_count = step
        # The probabilities of the bits: the bits alone would differ by chance.
        pairs = zip(plain.next_images(), changed.next_images(), strict=True)
        differs.append(any(one is not None and (one != other).any() for one, other in pairs))
    assert differs == [True] * 3 + [False] * 7


def test_a_training_takes_the_same_changes_again() -> None:
    config = dataclasses.replace(PLAIN, augment="affine")
    first, second = (trainer_of("pixelcnn", config) for _ in range(2))
    for one, other in zip(first.next_images(), second.next_images(), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
