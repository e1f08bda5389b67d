from collections.abc import Callable

import pytest
import torch
from support.causality import HEIGHT, PIXELS, WIDTH, conditioned, dependence, promised
from support.models import (
    BLIND_PRESETS,
    CAUSAL_PRESETS,
    image_noise,
    model_around,
    preset_model,
    random_images,
    randomise,
)
from torch import Tensor, nn

from famecli.config.schema import DecoderConfig
from famecli.model.decoder import Decoder, GatedLayer
from famecli.model.layers import CausalConv2d


def promised_by_decoder(config: DecoderConfig) -> Tensor:
    """What the layers of a decoder read together, each residual one after the other."""
    layer = promised(config.kernel, own_wavefront=True, lag=config.lag)
    layer |= torch.eye(len(PIXELS), dtype=torch.bool)
    reads = promised(config.first_kernel, own_wavefront=False, lag=config.lag).double()
    for _ in range(config.layers):
        reads = (layer.double() @ reads > 0).double()
    return reads > 0


def earlier(lag: int = 2) -> Tensor:
    """Whether pixel q has a strictly lower `t = column + lag * row` than pixel p, `(p, q)`."""
    t = torch.tensor([x + lag * y for y, x in PIXELS])
    return t[None, :] < t[:, None]


def is_causal(network: Callable[[Tensor], Tensor], channels: int) -> bool:
    return not (dependence(network, channels) & ~earlier()).any()


def random_decoder(channels: int, seed: int = 0, **sizes: int) -> Decoder:
    config = DecoderConfig(autoregressive=True, width=4, **sizes)
    return randomise(Decoder(model_around(config, (HEIGHT, WIDTH), channels), outputs=3), seed)


@pytest.mark.parametrize("lag", [1, 2, 3, 4])
@pytest.mark.parametrize("sees_centre", [False, True])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_a_causal_convolution_reads_exactly_the_taps_it_promises(
    kernel: int, sees_centre: bool, lag: int
) -> None:
    conv = randomise(CausalConv2d(2, 3, kernel, sees_centre=sees_centre, lag=lag))
    assert torch.equal(dependence(conv, 2), promised(kernel, own_wavefront=sees_centre, lag=lag))


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_a_lag_beyond_the_window_is_raster_order(kernel: int) -> None:
    rows = kernel // 2 + 1
    before = torch.arange(rows * kernel).view(rows, kernel) < (rows - 1) * kernel + kernel // 2
    masks = [CausalConv2d(1, 1, kernel, sees_centre=False, lag=lag).mask.bool() for lag in (rows - 1, rows)]
    assert torch.equal(masks[1], before)
    assert not torch.equal(masks[0], before)


def test_the_mask_is_the_one_in_the_drawing() -> None:
    drawn = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    mask = CausalConv2d(1, 1, 5, sees_centre=True).mask
    assert torch.equal(mask.long(), drawn)
    drawn[1, 4] = drawn[2, 2] = 0
    assert torch.equal(CausalConv2d(1, 1, 5, sees_centre=False).mask.long(), drawn)


@pytest.mark.parametrize("kernel", [0, 2, 4])
def test_an_even_window_is_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"odd, got {kernel}"):
        CausalConv2d(1, 1, kernel, sees_centre=False)


def test_masked_weights_change_nothing_and_kept_weights_stay_as_they_are() -> None:
    conv = randomise(CausalConv2d(1, 2, 5, sees_centre=False))
    image = torch.randn(2, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, weight = conv(image), conv.weight.detach().clone()
    assert torch.equal(conv.weight, weight)
    with torch.no_grad():
        conv.weight.add_((1.0 - conv.mask) * 100.0)
    assert torch.equal(conv(image), before)
    with torch.no_grad():
        conv.weight.add_(conv.mask)
    assert not torch.equal(conv(image), before)


def test_the_mask_is_derived_and_no_weight() -> None:
    conv = CausalConv2d(1, 1, 3, sees_centre=False)
    assert set(conv.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("first_kernel", "kernel", "layers"), [(3, 3, 0), (7, 1, 2), (5, 3, 1), (7, 3, 2), (3, 5, 2), (5, 7, 1)]
)
def test_a_decoder_depends_on_earlier_wavefronts_and_on_all_it_promises(
    first_kernel: int, kernel: int, layers: int, channels: int, condition: int
) -> None:
    decoder = random_decoder(
        channels, first_kernel=first_kernel, kernel=kernel, layers=layers, condition=condition
    )
    depends = dependence(conditioned(decoder), channels)
    assert not (depends & ~earlier()).any()
    assert torch.equal(depends, promised_by_decoder(decoder.config))


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 7])
def test_a_decoder_of_any_lag_depends_on_its_own_earlier_wavefronts(lag: int) -> None:
    decoder = random_decoder(1, first_kernel=7, kernel=5, layers=1, condition=2, lag=lag)
    depends = dependence(conditioned(decoder), 1)
    assert not (depends & ~earlier(lag)).any()
    assert torch.equal(depends, promised_by_decoder(decoder.config))
    # A smaller lag sees less, a larger one more.
    assert bool((depends & ~earlier(2)).any()) == (lag > 2)


@pytest.mark.parametrize("preset", CAUSAL_PRESETS)
def test_every_preset_with_a_pixelcnn_is_causal_given_its_latents(preset: str) -> None:
    model = preset_model(preset, (1, HEIGHT, WIDTH))
    with torch.no_grad():
        condition, _ = model.infer(random_images(1, (1, HEIGHT, WIDTH)), image_noise(1))

    def parameters(image: Tensor) -> Tensor:
        every = None if condition is None else condition.expand(len(image), -1, -1, -1)
        return model.pixel_parameters(image, every)

    depends = dependence(parameters, 1)
    assert torch.equal(depends, promised_by_decoder(model.config.decoder))
    assert not (depends & ~earlier()).any()


def leaking_centre(decoder: Decoder) -> None:
    decoder.first = CausalConv2d(1, 4, 7, sees_centre=True)


def leaking_layer(decoder: Decoder) -> None:
    layer = decoder.layers[0]
    assert isinstance(layer, GatedLayer)
    layer.conv = nn.Conv2d(4, 8, 3, padding=1)


def raster_order(decoder: Decoder) -> None:
    # All of a row above: right for drawing pixel by pixel, wrong for drawing wavefronts.
    assert isinstance(decoder.first, CausalConv2d)
    decoder.first.mask[:-1] = 1.0


def wide_residual(decoder: Decoder) -> None:
    decoder.first.register_forward_hook(lambda first, inputs, output: output + inputs[0])


@pytest.mark.parametrize("leak", [leaking_centre, leaking_layer, raster_order, wide_residual])
@pytest.mark.parametrize("condition", [0, 2])
def test_a_leak_is_found(leak: Callable[[Decoder], None], condition: int) -> None:
    decoder = random_decoder(1, first_kernel=7, kernel=3, layers=2, condition=condition)
    assert is_causal(conditioned(decoder), 1)
    leak(decoder)
    assert not is_causal(conditioned(randomise(decoder)), 1)


@pytest.mark.parametrize("preset", BLIND_PRESETS)
def test_a_factorized_decoder_is_blind_to_the_image_and_sees_the_latents(preset: str) -> None:
    shape = (1, HEIGHT, WIDTH)
    model = preset_model(preset, shape)
    conditions = [model.infer(random_images(4, shape, seed=seed), image_noise(4))[0] for seed in (0, 1)]
    image = random_images(4, shape, seed=2).double().requires_grad_()
    parameters = model.pixel_parameters(image, conditions[0])
    assert torch.autograd.grad(parameters.square().sum(), image, allow_unused=True) == (None,)
    assert torch.equal(model.pixel_parameters(1.0 - image, conditions[0]), parameters)
    assert not torch.allclose(model.pixel_parameters(image, conditions[1]), parameters)


@pytest.mark.parametrize("autoregressive", [False, True])
def test_every_pixel_reads_the_condition_at_its_own_place(autoregressive: bool) -> None:
    config = DecoderConfig(autoregressive, width=4, layers=1, condition=2)
    decoder = randomise(Decoder(model_around(config, (HEIGHT, WIDTH)), outputs=3))
    image = random_images(1, (1, HEIGHT, WIDTH)).double()
    depends = dependence(lambda features: decoder(image.expand(len(features), -1, -1, -1), features), 2)
    assert depends.diagonal().all()
