"""Streams of random numbers: what they yield depends on their names alone."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from famecli.rng import BatchNoise, ImageNoise, image_uniforms, normals, stream, uniforms


def first(*name: str | int) -> list[float]:
    return list(stream(*name).random(4))


def test_streams_never_change() -> None:
    assert first("sample", 17) == [
        0.6179109729150624,
        0.8794230293818642,
        0.5527726315526817,
        0.4782153316186134,
    ]


def test_the_same_name_gives_the_same_numbers() -> None:
    assert first("sample", 17) == first("sample", 17)
    before = stream("sample", 17)
    before.random(1000)
    np.random.default_rng(0).random(5)
    assert first("sample", 17) == list(stream("sample", 17).random(4))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, torch.tensor])
def test_a_stream_does_not_depend_on_the_type_of_its_integers(kind: Callable[[int], Any]) -> None:
    assert first("sample", kind(17), 0) == first("sample", 17, 0)


def test_different_names_give_different_numbers() -> None:
    names: list[tuple[str | int, ...]] = [(), ("a",), ("a", 1), ("a", "1"), ("a1",), ("a", 1, 0), (1, "a")]
    names += [("a", index) for index in range(2, 200)]
    assert len({tuple(first(*name)) for name in names}) == len(names)


def test_streams_of_neighbouring_names_are_independent() -> None:
    rows = np.stack([stream("image", index).random(2000) for index in range(50)])
    correlation = np.corrcoef(rows) - np.eye(50)
    assert np.abs(correlation).max() < 5.5 / math.sqrt(2000)


def test_uniforms_are_multiples_of_two_to_minus_24_below_one() -> None:
    values = uniforms(stream("u"), (100, 1000))
    assert (values.shape, values.dtype) == ((100, 1000), torch.float32)
    assert values.min() >= 0
    assert values.max() < 1
    scaled = values.double() * 2**24
    assert torch.equal(scaled, scaled.floor())
    assert (scaled % 2 == 1).double().mean() == pytest.approx(0.5, abs=0.01)
    assert float(values.double().mean()) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 1e5))
    assert float(values.double().var()) == pytest.approx(1 / 12, rel=0.02)


class Largest:
    """Stands in for a generator and yields the largest double below one, then zero."""

    def random(self, count: int) -> np.ndarray:
        return np.resize([np.nextafter(1.0, 0.0), 0.0], count)


def test_the_largest_uniform_is_not_rounded_to_one_and_its_normal_is_finite() -> None:
    edge = uniforms(Largest(), (2,))  # type: ignore[arg-type]
    assert edge.tolist() == [1 - 2**-24, 0.0]
    ends = normals(Largest(), (2,))  # type: ignore[arg-type]
    assert torch.isfinite(ends).all()
    assert ends[0] > 8
    assert ends[1] < -8


def test_float64_uniforms_are_those_of_the_stream_and_float32_ones_its_floor() -> None:
    wide = uniforms(stream("u"), (7, 3), torch.float64)
    assert wide.dtype == torch.float64
    assert wide.flatten().tolist() == stream("u").random(21).tolist()
    narrow = uniforms(stream("u"), (7, 3))
    assert torch.equal(narrow.double(), (wide * 2**24).floor() / 2**24)


def test_normals_are_the_inverse_cdf_of_the_stream() -> None:
    values = normals(stream("n"), (5, 200))
    assert (values.shape, values.dtype) == ((5, 200), torch.float32)
    expected = [NormalDist().inv_cdf(u) for u in stream("n").random(1000)]
    np.testing.assert_allclose(values.flatten().numpy(), expected, rtol=1e-6, atol=1e-7)


def moments(values: Tensor) -> list[float]:
    values = values.double()
    return [float((values**power).mean()) for power in (1, 2, 3, 4)]


def test_normals_have_the_moments_of_a_standard_normal() -> None:
    count = 200_000
    deviations = [math.sqrt(variance / count) for variance in (1, 2, 15, 96)]
    batch = BatchNoise(stream("n"))(0, torch.Size((count,)))
    for values in (normals(stream("n"), (count,)), batch):
        for found, expected, deviation in zip(moments(values), (0, 1, 0, 3), deviations, strict=True):
            assert found == pytest.approx(expected, abs=4 * deviation)


def test_normals_may_be_drawn_in_parts() -> None:
    whole = normals(stream("n"), (8,))
    generator = stream("n")
    assert torch.equal(torch.cat([normals(generator, (3,)), normals(generator, (5,))]), whole)


NAMES: list[tuple[str | int, ...]] = [("evaluate", 0, index) for index in range(6)]


def test_an_images_noise_does_not_depend_on_its_batch() -> None:
    shape = torch.Size((6, 2, 3, 3))
    whole = ImageNoise(NAMES)(0, shape)
    assert whole.shape == shape
    for size in (1, 2, 3, 5):
        parts = [
            ImageNoise(NAMES[start : start + size])(0, torch.Size((size, 2, 3, 3)))
            for start in range(0, 6, size)
        ]
        assert torch.equal(torch.cat(parts), whole)
    turned = ImageNoise(NAMES[::-1])(0, shape)
    assert torch.equal(turned.flip(0), whole)


@pytest.mark.parametrize("chunks", [[8], [1] * 8, [3, 5], [5, 3], [2, 1, 4, 1]])
def test_samples_may_be_drawn_in_chunks_of_any_size(chunks: list[int]) -> None:
    whole = ImageNoise(NAMES, samples=8)(1, torch.Size((48, 4))).view(6, 8, 4)
    noise = ImageNoise(NAMES)
    parts = []
    for samples in chunks:
        noise.samples = samples
        parts.append(noise(1, torch.Size((6 * samples, 4))).view(6, samples, 4))
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_layers_have_noise_of_their_own_whatever_is_asked_for_first() -> None:
    shape = torch.Size((6, 5))
    forwards, backwards = ImageNoise(NAMES), ImageNoise(NAMES)
    first_layer, second_layer = (forwards(layer, shape) for layer in (0, 1))
    assert torch.equal(backwards(1, shape), second_layer)
    assert torch.equal(backwards(0, shape), first_layer)
    assert not torch.equal(first_layer, second_layer)
    assert torch.equal(first_layer[2], normals(stream("evaluate", 0, 2, 0), (5,)))


def test_batch_noise_goes_on_in_its_stream() -> None:
    shape = torch.Size((3, 2))
    one, other = BatchNoise(stream("latents", 0, 5)), BatchNoise(stream("latents", 0, 5))
    drawn = one(0, shape)
    assert drawn.dtype == torch.float32
    assert torch.equal(drawn, other(0, shape))
    assert not torch.equal(drawn, one(0, shape))


def test_pixels_of_an_image_do_not_depend_on_the_others() -> None:
    whole = image_uniforms(NAMES, (1, 4, 4))
    assert whole.shape == (6, 1, 4, 4)
    assert torch.equal(image_uniforms(NAMES[2:3], (1, 4, 4))[0], whole[2])
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 6
    assert torch.equal(whole[0], uniforms(stream("evaluate", 0, 0, "pixels"), (1, 4, 4)))


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    normals(stream("n"), (10,))
    ImageNoise(NAMES)(0, torch.Size((6, 2)))
    image_uniforms(NAMES, (2,))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]
