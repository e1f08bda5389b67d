"""Images that are drawn in patches, with attention, become bits and the same images again."""

import numpy as np
import pytest
import torch
from support.codes import FINE, again, all_bits, bound_bits, change_last_digits, images_of
from support.models import config_of, randomise

from famecli.coding.codec import Codec
from famecli.coding.stack import STATE_WORDS, WORD_BITS
from famecli.model.fame import Fame

BITS = (1, 5, 7)
COLOURS = (3, 3, 5)
LAYOUTS = [{"patch": 2}, {"patch": 4, "attention": (1,)}, {"patch": 2, "attention": (1, 2)}]
LAYOUTS += [{"attention": (2,), "lag": 3}]
BLIND = {"patch": 2, "autoregressive": False}


def model_of(shape: tuple[int, int, int], levels: int = 2, **layout: object) -> Fame:
    config = config_of(shape, levels, switches=True, **layout)
    return randomise(Fame(config), dtype=torch.float32).eval()


@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize(("shape", "levels"), [(BITS, 2), (COLOURS, 7), (COLOURS, 256)])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_images_of_patches_come_back(
    layout: dict[str, object], shape: tuple[int, int, int], levels: int, condition: int
) -> None:
    model, images = model_of(shape, levels, condition=condition, **layout), images_of(5, shape, levels)
    for bits in (None, all_bits(model, 3)):
        coded = Codec(model, 2).encode(images, bits)
        np.testing.assert_array_equal(again(model, coded), images)


@pytest.mark.parametrize(("shape", "levels"), [(BITS, 2), (COLOURS, 7)])
def test_images_of_blind_patches_come_back(shape: tuple[int, int, int], levels: int) -> None:
    model, images = model_of(shape, levels, condition=3, **BLIND), images_of(5, shape, levels)
    np.testing.assert_array_equal(again(model, Codec(model, 2).encode(images)), images)


@pytest.mark.parametrize(("shape", "levels"), [(BITS, 2), (COLOURS, 256)])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_codes_of_patches_are_as_long_as_the_nll(
    layout: dict[str, object], shape: tuple[int, int, int], levels: int
) -> None:
    model, images = model_of(shape, levels, **layout), images_of(60, shape, levels)
    coded = Codec(model).encode(images)
    assert coded.initial_bits == 0
    assert abs(coded.net_bits - bound_bits(model, images)) < 0.0002 * coded.net_bits + STATE_WORDS * WORD_BITS


@pytest.mark.parametrize("layout", [*LAYOUTS[1:3], BLIND], ids=str)
def test_codes_of_patches_with_latents_are_as_long_as_the_bound(layout: dict[str, object]) -> None:
    model, images = model_of(BITS, condition=3, **layout), images_of(100, BITS)
    with torch.no_grad():
        # Bins end where the prior does: posteriors far from it would cost less than the bound says.
        model.stages[0].recognition.layer.weight *= 0.2
        model.stages[0].recognition.layer.bias *= 0.2
    coded = Codec(model).encode(images, all_bits(model, FINE))
    bound = bound_bits(model, images)
    # As with other latents: draws vary, and latents that gave nothing back would cost many times as much.
    assert abs(coded.net_bits - bound) < 0.04 * bound
    assert coded.initial_bits > 0


def test_last_digits_do_not_matter_to_attention() -> None:
    layout = {"patch": 2, "attention": (1, 2), "condition": 3}
    model, images = model_of(BITS, **layout).double(), images_of(40, BITS)
    coded = Codec(model).encode(images, all_bits(model, 3))
    change_last_digits(model)
    np.testing.assert_array_equal(again(model, coded), images)


def test_the_groups_of_the_encoder_may_be_of_any_size() -> None:
    model, images = model_of(BITS, patch=2, attention=(1, 2)), images_of(18, BITS)
    for group in (1, 7, 16):
        coded = Codec(model, group).encode(images)
        assert max(coded.groups) == group
        np.testing.assert_array_equal(Codec(model, 5).decode(coded), images)
