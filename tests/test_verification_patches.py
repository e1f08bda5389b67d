"""Models with patches and attention pass every check; each that is broken there fails the check for it."""

import dataclasses
import itertools

import pytest
import torch
from support import sabotage_patches as broken
from support.models import config_of, randomise
from support.sabotage import Sabotage, centre_tap, leak_of
from support.verification import failures

from famecli.config.schema import StageConfig
from famecli.model.fame import Fame
from famecli.verification.causality import check_causality
from famecli.verification.runner import MODEL_CHECKS, run_checks
from famecli.verification.subject import Subject

# Of several patches, some of which reach beyond the image below and to the right.
BITS = (1, 5, 7)
COLOURS = (3, 3, 5)
LEVELS = 6
PATCHES = {"patch": 2}
ATTENTION = {"patch": 2, "attention": (2,)}
BOTH = {"patch": 2, "attention": (1, 2)}
LARGE = {"patch": 4, "attention": (1,)}
SINGLE = {"attention": (1, 2)}
PLACED = {"patch": 2, "positions": True}
STEP = "change of a parameter by pixels of the same step"
SLOPE = "derivative of parameters by pixels of the same step"
ROWS = "change of a parameter by rows below"
PASS = "float64, that a pass does not give"


def model_of(
    shape: tuple[int, int, int], layout: dict[str, object], *, latents: bool = False, switches: bool = True
) -> Fame:
    """A model in single precision, with a ladder of two layers if it has latents."""
    levels = 2 if shape == BITS else LEVELS
    config = config_of(shape, levels, switches=switches, condition=3 if latents else 0, **layout)
    stages = (StageConfig(4, 0, latents=2), StageConfig(4, 1, stride=2, latents=2)) if latents else ()
    return randomise(Fame(dataclasses.replace(config, stages=stages)), dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("shape", "layout", "latents"),
    [
        (BITS, PATCHES, False),
        (BITS, ATTENTION, True),
        (BITS, BOTH, False),
        (BITS, LARGE, True),
        (BITS, SINGLE, True),
        (BITS, PLACED, False),
        (COLOURS, PATCHES, True),
        (COLOURS, BOTH | PLACED, True),
        (COLOURS, LARGE, False),
    ],
)
def test_models_with_patches_and_attention_pass_every_check(
    shape: tuple[int, int, int], layout: dict[str, object], latents: bool
) -> None:
    model = model_of(shape, layout, latents=latents)
    for result in run_checks(Subject(model, samples=32), MODEL_CHECKS):
        skipped = result.name == "latents" and not latents
        assert result.verdict == ("skipped" if skipped else "passed"), result
    assert failures("code", model) == []


@pytest.mark.parametrize("shape", [BITS, COLOURS], ids=["bernoulli", "mixture"])
def test_blind_models_of_patches_pass_every_check(shape: tuple[int, int, int]) -> None:
    model = model_of(shape, PLACED | {"autoregressive": False}, latents=True)
    for result in run_checks(Subject(model, samples=32), MODEL_CHECKS):
        assert result.verdict == "passed", result
    assert failures("code", model) == []


CASES = [
    ("causality", BITS, ATTENTION, broken.attention_to_the_next_wave, STEP),
    ("causality", COLOURS, BOTH, broken.attention_to_the_next_wave, SLOPE),
    ("causality", BITS, ATTENTION, broken.attention_to_rows_below, ROWS),
    ("causality", BITS, BOTH, broken.attention_to_rows_below, "derivative of parameters by rows below"),
    ("causality", BITS, LARGE, broken.attention_to_everything, STEP),
    ("causality", BITS, SINGLE, broken.attention_to_the_next_wave, STEP),
    ("causality", BITS, PATCHES, broken.own_pixel_of_the_patch, STEP),
    ("causality", COLOURS, LARGE, broken.own_pixel_of_the_patch, SLOPE),
    ("causality", BITS, ATTENTION, broken.raster_of_columns, STEP),
    ("causality", BITS, PATCHES, centre_tap, STEP),
    ("causality", BITS, ATTENTION, broken.padding_of_the_last_pixel, STEP),
    # A pixel of the same patch, and one of the same row in the next patch.
    ("causality", BITS, ATTENTION, leak_of(1e-9, (0, 1), (1, 0)), STEP),
    ("causality", BITS, ATTENTION, leak_of(1e-9, (1, 1), (0, 2)), STEP),
    ("causality", BITS, ATTENTION, leak_of(1e-9, (1, 6), (2, 0)), ROWS),
    ("causality", BITS, ATTENTION, leak_of(1e-300, (4, 6), (4, 6)), SLOPE),
    ("normalisation", BITS, PATCHES, broken.own_pixel_of_the_patch, "sums over all images"),
    ("normalisation", BITS, ATTENTION, broken.scored_padding, "minus that of the pixels"),
    ("normalisation", COLOURS, PATCHES, broken.scored_padding, "minus that of the pixels"),
    ("sampler", BITS, ATTENTION, broken.keys_one_place_later, PASS),
    ("sampler", COLOURS, BOTH, broken.keys_one_place_later, PASS),
    ("sampler", BITS, PLACED, broken.positions_one_patch_later, PASS),
    ("sampler", COLOURS, PLACED, broken.positions_one_patch_later, "float64, off their quantile"),
    ("sampler", BITS, BOTH, broken.stale_keys, PASS),
    ("sampler", BITS, SINGLE, broken.stale_keys, "float64, off their quantile"),
    ("sampler", BITS, ATTENTION, broken.padding_of_the_border, PASS),
    ("sampler", COLOURS, PATCHES, broken.padding_of_the_border, "float64, off their quantile"),
    ("sampler", BITS, ATTENTION, broken.pixels_beyond_the_image, PASS),
    ("sampler", COLOURS, BOTH, broken.pixels_beyond_the_image, "float64, off their quantile"),
    ("sampler", BITS, PATCHES, broken.earlier_pixels_forgotten, PASS),
    ("code", BITS, ATTENTION, broken.scored_padding, "code length"),
    ("code", BITS, PATCHES, broken.scored_padding, "code length"),
]


@pytest.mark.parametrize(
    ("check", "shape", "layout", "break_it", "what"),
    CASES,
    ids=[f"{case[0]}-{getattr(case[3], '__name__', 'leak')}-{i}" for i, case in enumerate(CASES)],
)
def test_broken_patches_and_attention_fail_the_check_that_is_for_them(
    check: str,
    shape: tuple[int, int, int],
    layout: dict[str, object],
    break_it: Sabotage,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(shape, layout)
    assert failures(check, model, samples=32) == []
    break_it(model, monkeypatch)
    found = failures(check, model, samples=32)
    assert any(what in each for each in found), found


def test_slots_of_an_earlier_wave_are_seen_beyond_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    # So many waves that the ring of slots goes round.
    model = model_of((1, 5, 31), PATCHES)
    assert failures("sampler", model, samples=32) == []
    broken.slots_of_the_image_before(model, monkeypatch)
    assert any(PASS in each for each in failures("sampler", model, samples=32))


@pytest.mark.parametrize("step", [False, True], ids=["seen-by-derivative", "seen-by-change"])
def test_every_pair_of_pixels_of_patches_is_seen(step: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a pair that the sampler's order allows, but that lets a row of patches see the next."""
    config = config_of((1, 3, 3), patch=2, attention=(1,), layers=1)
    model = randomise(Fame(config), dtype=torch.float32)
    pixels = list(itertools.product(range(config.height), range(config.width)))

    def order(pixel: tuple[int, int]) -> tuple[int, int]:
        (row, column), (down, right) = (tuple(side // 2 for side in pixel), tuple(side % 2 for side in pixel))
        return column + config.decoder.lag * row, 2 * down + right

    for to, of in itertools.product(pixels, pixels):
        leaking = Fame(config)
        leaking.load_state_dict(model.state_dict())
        leak_of(1e-9 if step else 1e-300, to, of, step=step)(leaking, monkeypatch)
        (result,) = run_checks(Subject(leaking.eval(), samples=2), {"causality": check_causality})
        allowed = order(of) < order(to) and of[0] // 2 <= to[0] // 2
        assert result.verdict == ("passed" if allowed else "failed"), (to, of)
