"""Patches and attention: what the parameters of a pixel read, by Jacobians and by drawing it up."""

import itertools

import pytest
import torch
from support import sabotage_patches as broken
from support.causality import conditioned, dependence, promised
from support.models import model_around, randomise
from support.sabotage import Sabotage, centre_tap
from torch import Tensor

from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.model.decoder import Decoder
from famecli.model.fame import Fame
from famecli.model.layers import CausalAttention, sees

# Of which neither 2 nor 4 divides a side.
SIZE = (5, 7)
LAYOUTS = [
    {"patch": 2},
    {"patch": 4},
    {"patch": 1, "attention": (2,)},
    {"patch": 1, "attention": (1, 2)},
    {"patch": 2, "attention": (1,)},
    {"patch": 2, "attention": (2,)},
    {"patch": 2, "attention": (1, 2)},
    {"patch": 4, "attention": (1, 2)},
]


def places(size: tuple[int, int]) -> list[tuple[int, int]]:
    return list(itertools.product(range(size[0]), range(size[1])))


def random_model(channels: int = 1, size: tuple[int, int] = SIZE, **sizes: object) -> Fame:
    """A PixelCNN with random weights, of two layers, in float64."""
    config = DecoderConfig(True, **{"width": 4, "layers": 2, "heads": 2, "first_kernel": 5} | sizes)  # type: ignore[arg-type]
    levels = 2 if channels == 1 else 5
    return randomise(Fame(model_around(config, size, channels, levels)))


def seen_places(grid: tuple[int, int], lag: int) -> Tensor:
    """Which places a place attends to, `(p, q)`: of no later wavefront and no lower row."""
    found = torch.zeros(len(places(grid)), len(places(grid)), dtype=torch.bool)
    for (p, (row, column)), (q, (up, other)) in itertools.product(enumerate(places(grid)), repeat=2):
        found[p, q] = other + lag * up <= column + lag * row and up <= row
    return found


def of_pixels(decoder: Decoder, patches: Tensor) -> Tensor:
    """Which pixels a pixel reads, `(p, q)`, if patches read so, and pixels those before them in their own."""
    side, (_, columns) = decoder.config.patch, decoder.grid
    pixels = places(decoder.size)
    found = torch.zeros(len(pixels), len(pixels), dtype=torch.bool)
    for (p, (y, x)), (q, (row, column)) in itertools.product(enumerate(pixels), repeat=2):
        own, other = y // side * columns + x // side, row // side * columns + column // side
        before = (row % side, column % side) < (y % side, x % side)
        found[p, q] = patches[own, other] or (own == other and before)
    return found


def promised_by(decoder: Decoder) -> Tensor:
    """What the layers and blocks of a decoder read together, each residual one after the other, `(p, q)`."""
    sizes, pixels = decoder.config, places(decoder.grid)
    itself = torch.eye(len(pixels), dtype=torch.bool)
    window = promised(sizes.kernel, own_wavefront=True, lag=sizes.lag, pixels=pixels) | itself
    reads = promised(sizes.first_kernel, own_wavefront=False, lag=sizes.lag, pixels=pixels).double()
    for number in range(1, sizes.layers + 1):
        reads = (window.double() @ reads > 0).double()
        if number in sizes.attention:
            reads = (seen_places(decoder.grid, sizes.lag).double() @ reads > 0).double()
    return of_pixels(decoder, reads > 0)


def allowed(decoder: Decoder) -> Tensor:
    """All that a pixel may read, `(p, q)`: earlier waves in no rows of patches below, and its own patch."""
    pixels, lag = places(decoder.grid), decoder.config.lag
    time = torch.tensor([column + lag * row for row, column in pixels])
    row = torch.tensor([row for row, _ in pixels])
    return of_pixels(decoder, (time[None, :] < time[:, None]) & (row[None, :] <= row[:, None]))


def reads_of(model: Fame) -> Tensor:
    """What the parameters of the model's decoder depend on, `(p, q)`."""
    return dependence(conditioned(model.decoder), model.config.channels, size=model.decoder.size)


@pytest.mark.parametrize("lag", [1, 2, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_pixel_reads_earlier_waves_and_its_patchs_earlier_pixels_and_all_that_is_promised(
    layout: dict[str, object], lag: int
) -> None:
    model = random_model(lag=lag, **layout)
    depends = reads_of(model)
    assert not (depends & ~allowed(model.decoder)).any()
    assert torch.equal(depends, promised_by(model.decoder))


@pytest.mark.parametrize("lag", [1, 2, 4])
@pytest.mark.parametrize("patch", [1, 2])
def test_a_large_window_and_attention_at_the_end_read_all_that_is_allowed(patch: int, lag: int) -> None:
    model = random_model(patch=patch, lag=lag, first_kernel=15, attention=(2,))
    assert torch.equal(reads_of(model), allowed(model.decoder))
    # Small windows without attention do not.
    plain = random_model(patch=patch, lag=lag, first_kernel=3, kernel=1, layers=1)
    assert (reads_of(plain) != allowed(plain.decoder)).any()


@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch", [2, 4])
def test_colours_and_conditions_change_nothing_of_that(patch: int, channels: int, condition: int) -> None:
    model = random_model(channels, (3, 6), patch=patch, attention=(1,), condition=condition)
    assert torch.equal(reads_of(model), promised_by(model.decoder))


@pytest.mark.parametrize("normalised", [False, True])
def test_normalised_activations_mix_no_places(normalised: bool) -> None:
    sizes = DecoderConfig(True, width=4, layers=2, patch=2, attention=(1,), heads=2, first_kernel=5)
    config = model_around(sizes, SIZE)
    model = randomise(Fame(ModelConfig(**vars(config) | {"normalised": normalised})))
    assert torch.equal(reads_of(model), promised_by(model.decoder))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 9])
def test_attention_alone_reads_exactly_what_it_sees(lag: int) -> None:
    grid = (4, 5)
    block = randomise(CausalAttention(4, 6, 2, grid))
    row, column = torch.tensor(places(grid)).unbind(1)
    seen = sees(row, column, lag)
    assert torch.equal(seen, seen_places(grid, lag))
    assert torch.equal(dependence(lambda h: block(h, seen), 4, size=grid), seen)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch", [2, 4])
def test_a_patch_hides_its_own_and_later_pixels_from_each_of_its_pixels(patch: int, channels: int) -> None:
    decoder = random_model(channels, patch=patch).decoder
    weight = decoder.earlier_weight().view(patch**2, 4, patch**2, channels)
    stored = decoder.earlier.weight.view(patch**2, 4, patch**2, channels)
    assert (stored != 0).all()
    for to, of in itertools.product(range(patch**2), repeat=2):
        expected = stored[to, :, of] if of < to else torch.zeros_like(stored[to, :, of])
        assert torch.equal(weight[to, :, of], expected)


@pytest.mark.parametrize("patch", [2, 4])
def test_without_a_window_a_pixel_reads_the_earlier_ones_of_its_patch_alone(patch: int) -> None:
    model = random_model(patch=patch, layers=0)
    with torch.no_grad():
        model.decoder.first.weight.zero_()
    nothing = torch.zeros(len(places(model.decoder.grid)), len(places(model.decoder.grid)), dtype=torch.bool)
    assert torch.equal(reads_of(model), of_pixels(model.decoder, nothing))


@pytest.mark.parametrize(
    ("fault", "layout"),
    [
        (broken.attention_to_the_next_wave, {"patch": 1, "attention": (2,)}),
        (broken.attention_to_the_next_wave, {"patch": 2, "attention": (1,)}),
        (broken.attention_to_rows_below, {"patch": 2, "attention": (2,)}),
        (broken.attention_to_everything, {"patch": 2, "attention": (1,)}),
        (broken.own_pixel_of_the_patch, {"patch": 2}),
        (broken.own_pixel_of_the_patch, {"patch": 4, "attention": (1,)}),
        (broken.raster_of_columns, {"patch": 2}),
        (broken.padding_of_the_last_pixel, {"patch": 2}),
        (centre_tap, {"patch": 2}),
    ],
)
def test_a_planted_leak_is_found(
    fault: Sabotage, layout: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(**layout)
    assert not (reads_of(model) & ~allowed(model.decoder)).any()
    fault(model, monkeypatch)
    assert (reads_of(model) & ~allowed(model.decoder)).any()
