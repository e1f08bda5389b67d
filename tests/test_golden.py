"""Models of golden files compute and draw what they did when these files were written."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import golden_cases as golden
from support.golden_cases import CASES, FOLDER, checkpoint_path, from_hex, recorded, to_hex
from support.golden_samples import TOLERANCE, Drawn, sigmoid
from support.outcomes import Command

EXACT, SINGLE, IMPORTANCE_NATS = 1e-12, 1e-5, 0.01
# Of the four images that are drawn in one way.
MOST_BROKEN = 1
MOST_BROKEN_IN_ALL = 3
CODED_IMAGES = 3


@pytest.fixture(scope="module", autouse=True)
def _written() -> None:
    if golden.REGENERATE:
        golden.write_all_checkpoints()


def drawn_in(name: str, stored: dict[str, list[str]]) -> dict[str, np.ndarray]:
    return {kind: from_hex(images, CASES[name].shape) for kind, images in stored.items()}


def golden_images(name: str) -> dict[str, np.ndarray]:
    """Return all images that a case drew, by how; without drawing them."""
    text = (FOLDER / f"{name}-images.json").read_text(encoding="utf-8")
    return drawn_in(name, json.loads(text))


def assert_close(found: dict[str, Any], expected: dict[str, Any], relative: float) -> None:
    assert found["bound"] == expected["bound"]
    for key in ("nats", "distortion", "rate"):
        # Terms are as exact as the sum that they are part of.
        scale = float(np.abs(expected["nats"]).min())
        assert np.shape(found[key]) == np.shape(expected[key])
        np.testing.assert_allclose(found[key], expected[key], rtol=relative, atol=relative * scale)


@pytest.mark.parametrize("name", CASES)
def test_names_shapes_and_nats_stay(name: str) -> None:
    found = golden.measure(name)
    expected = recorded(name, found)
    assert list(found["shapes"].items()) == list(expected["shapes"].items())
    assert_close(found["float64"], expected["float64"], EXACT)
    assert_close(found["float32"], expected["float32"], SINGLE)
    np.testing.assert_allclose(found["importance"], expected["importance"], rtol=0.0, atol=IMPORTANCE_NATS)


@pytest.mark.parametrize("name", CASES)
def test_images_stay(name: str) -> None:
    found = golden.draw_all(name)
    stored = drawn_in(
        name, recorded(f"{name}-images", {kind: to_hex(images) for kind, images in found.items()})
    )
    assert list(found) == list(stored)
    broken = 0
    for kind, drawn in golden.drawn_by(name, stored):
        drawn.check_own()
        if kind == "completions 1" and broken_before(found, stored, "completions 0"):
            continue
        differing = drawn.count_broken(found[kind])
        assert differing <= MOST_BROKEN, kind
        broken += differing
    assert broken <= MOST_BROKEN_IN_ALL


def broken_before(found: dict[str, np.ndarray], stored: dict[str, np.ndarray], kind: str) -> bool:
    """Whether the images differ that those of the next sweep were inferred from."""
    return bool((found[kind] != stored[kind]).any())


@pytest.mark.parametrize("name", CASES)
def test_known_pixels_are_those_of_the_image(name: str) -> None:
    stored, known = golden_images(name), golden.known_rows(CASES[name].shape)
    kinds = [kind for kind in stored if kind.startswith("completions")]
    assert kinds
    for kind in kinds:
        np.testing.assert_array_equal(stored[kind][..., known], golden.images_of(name)[..., known])


@pytest.mark.parametrize("name", CASES)
def test_coded_images_come_back(name: str, fame: Command, data: Path) -> None:
    shape, images = CASES[name].shape, golden.images_of(name)[:CODED_IMAGES]
    pixels = (images * (255 // (CASES[name].levels - 1))).transpose(0, 2, 3, 1)
    coded, model = FOLDER / f"{name}.fame", checkpoint_path(name)
    if golden.REGENERATE and not coded.exists():
        np.save("in.npy", pixels)
        named = ["--class", "cat"] if CASES[name].classes else []
        assert fame("compress", model, "in.npy", *named, "-o", coded).code == 0
    done = fame("decompress", coded, "--checkpoint", model, "-o", "out.npy")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(np.load("out.npy").reshape(CODED_IMAGES, *shape[1:], shape[0]), pixels)


def refuses(drawn: Drawn, found: np.ndarray) -> bool:
    try:
        return drawn.count_broken(found) == 0
    except AssertionError:
        return True


@pytest.mark.parametrize("name", ["fame", "pixelcnn-odd", "vae", "pixelcnn-rgb", "fame-rgb-lag4"])
def test_a_changed_pixel_is_refused_unless_its_uniform_is_at_a_boundary(name: str) -> None:
    stored = golden_images(name)
    drawn = dict(golden.drawn_by(name, stored))["samples"]
    refused, most = 0, CASES[name].levels - 1
    places = list(drawn.pixels())
    for image, row, column in places:
        found = drawn.levels.copy()
        # As far from the level as one can go.
        found[image, 0, row, column] = 0 if 2 * int(found[image, 0, row, column]) > most else most
        refused += refuses(drawn, found)
    # A uniform is next to the one boundary of a bit with chance 2e-4, and to the last level's hardly ever.
    assert refused >= 0.99 * len(places)


def pixel(parameters: list[float], uniforms: list[float], level: int, count: int) -> Drawn:
    """Return an image of one pixel."""
    values, random = (np.array(each)[None, :, None, None] for each in (parameters, uniforms))
    return Drawn(np.full((1, 1, 1, 1), level, np.uint8), values, random, np.ones((1, 1), bool), count, True)


def image(level: int) -> np.ndarray:
    return np.full((1, 1, 1, 1), level, np.uint8)


@pytest.mark.parametrize("logit", [-1.5, 0.0, 2.5])
def test_bits_may_differ_next_to_their_boundary_only(logit: float) -> None:
    chance = float(sigmoid(np.array(logit)))
    for offset in (-0.9 * TOLERANCE, 0.9 * TOLERANCE):
        drawn = pixel([logit], [chance + offset], int(offset < 0), 2)
        assert drawn.count_broken(image(int(offset > 0))) == 1
        assert drawn.count_broken(image(int(offset < 0))) == 0
    for offset in (-1.1 * TOLERANCE, 1.1 * TOLERANCE):
        with pytest.raises(AssertionError, match="cannot be"):
            pixel([logit], [chance + offset], int(offset < 0), 2).count_broken(image(int(offset > 0)))


def test_levels_may_differ_next_to_their_boundary_only() -> None:
    # Ten equal components; the sixth has its mean at the end of level 7 of 16.
    edge, scale = 2.0 * 7.5 / 15 - 1.0, 0.1
    parameters = np.concatenate([np.zeros(10), np.full(10, 5.0), np.full(10, np.log(scale))])
    parameters[15] = edge
    for offset, other in ((-0.9, 8), (0.9, 7)):
        drawn = pixel(list(parameters), [0.55, 0.5 + offset * TOLERANCE], 15 - other, 16)
        drawn.check_own()
        assert drawn.count_broken(image(other)) == 1
        with pytest.raises(AssertionError, match="cannot be"):
            drawn.count_broken(image(6 if other == 7 else 9))
    for offset, other in ((-1.1, 8), (1.1, 7)):
        with pytest.raises(AssertionError, match="cannot be"):
            pixel(list(parameters), [0.55, 0.5 + offset * TOLERANCE], 15 - other, 16).count_broken(
                image(other)
            )


def test_components_may_differ_next_to_their_boundary_only() -> None:
    parameters = np.concatenate([np.zeros(10), np.full(10, 5.0), np.full(10, -5.0)])
    parameters[15] = -1.0
    for inside, drawn in ((True, 0.5 - 0.9 * TOLERANCE), (False, 0.5 - 1.1 * TOLERANCE)):
        found = pixel(list(parameters), [drawn, 0.5], 15, 16)
        found.check_own()
        assert found.may_be(0, 0, 0, np.array([0])) is inside


def test_only_pixels_after_a_boundary_escape_the_comparison() -> None:
    drawn = pixel([0.0], [0.5 + 0.9 * TOLERANCE], 0, 2)
    wide: dict[str, Any] = {
        key: np.concatenate([getattr(drawn, key), getattr(drawn, key)], axis=3)
        for key in ("levels", "parameters")
    }
    uniforms = np.concatenate([drawn.uniforms, np.full((1, 1, 1, 1), 0.9)], axis=3)
    row = dataclasses.replace(drawn, **wide, uniforms=uniforms, free=np.ones((1, 2), bool))
    both = np.ones((1, 1, 1, 2), np.uint8)
    assert row.count_broken(both) == 1
    with pytest.raises(AssertionError, match="cannot be"):
        dataclasses.replace(row, ordered=False).count_broken(both)
    with pytest.raises(AssertionError, match="was given"):
        dataclasses.replace(row, free=np.zeros((1, 2), bool)).count_broken(both)
