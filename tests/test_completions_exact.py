"""Which completions are exact draws: the rule by the plan against what decoders depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.models import all_images, make_decoder, model_around, randomise
from torch import Tensor

from famecli.config.presets import model_config
from famecli.config.schema import DecoderConfig
from famecli.model.decoder import Decoder
from famecli.model.fame import Fame
from famecli.sampling.generate import complete_batches, is_exact, looks_ahead
from famecli.sampling.plan import Plan, parallel_plan, wavefront_plan

SIZES = [(6, 7), (5, 5)]
# Layers enough that a pixel depends on all that it may.
DEEP = [
    DecoderConfig(autoregressive=True, width=4, layers=8, first_kernel=7, lag=2),
    DecoderConfig(autoregressive=True, width=4, layers=6, first_kernel=5, lag=3, patch=2, heads=1),
    DecoderConfig(autoregressive=True, width=4, layers=1, first_kernel=3, lag=1, patch=2, heads=1),
    DecoderConfig(autoregressive=True, width=4, layers=2, lag=2, attention=(1, 2), heads=2),
    DecoderConfig(autoregressive=True, width=4, layers=2, lag=1, patch=2, attention=(1, 2), heads=1),
    DecoderConfig(autoregressive=True, width=4, layers=2, lag=3, patch=4, attention=(1,), heads=1),
]


def dependences(decoder: Decoder, size: tuple[int, int]) -> Tensor:
    """Which pixel (row) depends on which (column), found by derivatives at one image, `(H * W, H * W)`."""
    image = torch.rand((1, 1, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = torch.autograd.functional.jacobian(lambda x: decoder(x, None).sum((0, 1)).flatten(), image)
    return found.flatten(1) != 0  # type: ignore[no-any-return]


def masks(plan: Plan) -> list[np.ndarray]:
    """First rows, first pixels in the order, single pixels known and unknown, columns, and chance."""
    size = (plan.height, plan.width)
    found = [np.arange(plan.height)[:, None].repeat(plan.width, 1) < rows for rows in range(plan.height + 1)]
    for count in range(0, plan.height * plan.width, 3):
        first = np.zeros(size, bool)
        first.flat[list(plan.order[:count])] = True
        found.append(first)
    for pixel in range(plan.height * plan.width):
        one = np.zeros(size, bool)
        one.flat[pixel] = True
        found += [one, ~one]
    found.append(np.arange(plan.width) < np.full(size, plan.width // 2))
    source = np.random.default_rng(0)
    return found + [source.random(size) < share for share in (0.05, 0.5, 0.95) for _ in range(10)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("config", DEEP, ids=lambda config: f"{config.lag}-{config.patch}-{config.attention}")
def test_a_mask_looks_ahead_where_a_known_pixel_depends_on_an_unknown_one(
    config: DecoderConfig, size: tuple[int, int]
) -> None:
    depends = dependences(randomise(make_decoder(model_around(config, size))), size)
    plan = wavefront_plan(*size, config.lag, config.patch)
    known = [torch.from_numpy(mask.flatten()) for mask in masks(plan)]
    found = [plan.looks_ahead(each.tolist()) for each in known]
    assert {True, False} == set(found)
    assert found == [bool(depends[each][:, ~each].any()) for each in known]


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("lag", [1, 2, 3, 20])
def test_first_rows_of_patches_never_look_ahead_and_others_do(lag: int, patch: int) -> None:
    plan = wavefront_plan(10, 9, lag, patch)
    for rows in range(11):
        known = [raster // 9 < rows for raster in range(90)]
        assert plan.looks_ahead(known) == (rows % patch != 0 and rows < 10)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_pixels_that_are_first_in_the_order_never_look_ahead(lag: int, patch: int) -> None:
    plan = wavefront_plan(7, 8, lag, patch)
    for count in range(57):
        first = set(plan.order[:count])
        assert not plan.looks_ahead([raster in first for raster in range(56)])


@pytest.mark.parametrize(
    ("pixel", "ahead"), [((0, 0), False), ((0, 1), True), ((1, 0), True), ((0, 2), True), ((2, 0), True)]
)
def test_one_known_pixel_looks_ahead_unless_it_is_first(pixel: tuple[int, int], ahead: bool) -> None:
    known = [divmod(raster, 4) == pixel for raster in range(16)]
    assert wavefront_plan(4, 4, patch=2).looks_ahead(known) == ahead


def test_pixels_that_are_drawn_at_once_never_look_ahead() -> None:
    plan = parallel_plan(3, 2)
    for code in range(64):
        assert not plan.looks_ahead([bool(code >> bit & 1) for bit in range(6)])


@pytest.mark.parametrize("preset", ["pixelcnn", "fame", "vae"])
def test_only_models_without_latents_complete_exactly(preset: str) -> None:
    config = model_config(preset, "tiny", (1, 5, 4), 2)
    model = Fame(replace(config, decoder=replace(config.decoder, patch=2)))
    exact = []
    for rows in range(6):
        mask = np.arange(5)[:, None].repeat(4, 1) < rows
        exact.append(is_exact(model, mask))
        assert looks_ahead(model, mask) == (preset != "vae" and rows in (1, 3))
    assert exact == [preset == "pixelcnn" and rows not in (1, 3) for rows in range(6)]


@pytest.mark.parametrize("exact", [True, False])
def test_completions_follow_the_conditional_where_they_are_said_to(exact: bool) -> None:
    """Images of two patches, of which the first is known, or in place of it the first row."""
    decoder = DecoderConfig(autoregressive=True, width=4, layers=2, patch=2, attention=(1,), heads=1)
    model = randomise(Fame(model_around(decoder, (2, 4))), 3, gain=2.0)
    every, draws = all_images(1, 2, 4), 2000
    joint = model.log_prob(every, None).flatten(1).sum(1).exp().detach()
    assert float(joint.sum()) == pytest.approx(1, rel=1e-9)
    known = np.array([[[1, 0, 0, 1], [0, 1, 0, 0]]], np.uint8)
    mask = np.zeros((2, 4), bool)
    mask[(slice(None), slice(2)) if exact else slice(1)] = True
    assert is_exact(model, mask) == exact
    fits = (every == torch.from_numpy(known))[:, 0, torch.from_numpy(mask)].all(1)
    conditional = joint * fits / (joint * fits).sum()
    images = np.concatenate(list(complete_batches(model, known, mask, range(draws))))
    codes = torch.from_numpy(images.reshape(draws, 8).astype(np.int64)) @ 2 ** torch.arange(7, -1, -1)
    frequency = torch.bincount(codes, minlength=256) / draws
    sigma = (conditional * (1 - conditional) / draws).sqrt()
    assert bool(((frequency - conditional).abs() <= 5 * sigma + 1e-12).all()) == exact
