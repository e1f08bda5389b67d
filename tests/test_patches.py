"""Images as grids of patches, and that masses sum to one over all images drawn in patches."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from support.models import all_images, batch_noise, config_of, image_noise, random_images, randomise
from torch import Tensor

from famecli.model.decoder import Decoder, from_patches, grid_of, to_patches
from famecli.model.fame import Fame

SIDES = list(itertools.product(range(1, 10), repeat=2))
CHUNK = 2**14


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize(("height", "width"), SIDES)
def test_images_come_back_from_their_patches(height: int, width: int, patch: int, channels: int) -> None:
    image = normal(2, channels, height, width)
    patches = to_patches(image, patch)
    assert patches.shape == (2, channels * patch**2, -(-height // patch), -(-width // patch))
    assert patches.shape[2:] == grid_of(height, width, patch)
    assert torch.equal(from_patches(patches, patch, height, width), image)
    # Every number is there once, and all else is zero.
    assert torch.equal(patches[patches != 0].sort().values, image.flatten().sort().values)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_channels_of_a_patch_are_its_pixels_in_raster_order(patch: int) -> None:
    image = normal(1, 3, 5, 7)
    patches = to_patches(image, patch)[0].unflatten(0, (patch, patch, 3))
    for down, right, row, column in itertools.product(
        range(patch), range(patch), *map(range, patches.shape[3:])
    ):
        y, x = row * patch + down, column * patch + right
        expected = image[0, :, y, x] if y < 5 and x < 7 else torch.zeros(3).double()
        assert torch.equal(patches[down, right, :, row, column], expected)


@pytest.mark.parametrize("patch", [2, 4])
def test_what_reaches_beyond_the_image_is_not_seen(patch: int) -> None:
    maps = normal(1, 3 * patch**2, *grid_of(5, 7, patch)).requires_grad_()
    (gradient,) = torch.autograd.grad(from_patches(maps, patch, 5, 7).sum(), maps)
    # A gradient of one where there is an image.
    assert torch.equal(gradient, to_patches(torch.ones(1, 3, 5, 7).double(), patch))


@pytest.mark.parametrize("autoregressive", [False, True])
def test_features_and_their_gradients_are_channels_last(autoregressive: bool) -> None:
    """In mixed layouts a training step takes a tenth longer."""
    attention = (1,) if autoregressive else ()
    config = config_of((1, 9, 11), autoregressive=autoregressive, patch=2, attention=attention, condition=2)
    decoder = randomise(Decoder(config, 3)).float().to(memory_format=torch.channels_last)
    found = []

    def follow(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        found.append(output)
        output.register_hook(found.append)

    for layer in (decoder.first, *decoder.layers, decoder.head2):
        layer.register_forward_hook(follow)
    condition = normal(2, 2, *decoder.grid).float().to(memory_format=torch.channels_last)
    decoder(normal(2, 1, 9, 11).float(), condition).square().sum().backward()
    assert len(found) == 2 * (2 + len(decoder.layers))
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in found)


@torch.no_grad()
@pytest.mark.parametrize("autoregressive", [False, True])
@pytest.mark.parametrize("patch", [2, 4])
def test_a_decoder_reads_zeros_beyond_the_image(patch: int, autoregressive: bool) -> None:
    attention, full = (1,) if autoregressive else (), (-(-5 // patch) * patch, 8)
    small, large = (
        randomise(
            Decoder(
                config_of(
                    (1, *size),
                    autoregressive=autoregressive,
                    patch=patch,
                    attention=attention,
                    condition=2,
                ),
                3,
            )
        )
        for size in ((5, 7), full)
    )
    image, condition = normal(2, 1, 5, 7), normal(2, 2, *small.grid)
    assert small.grid == large.grid
    whole = torch.zeros(2, 1, *full).double()
    whole[:, :, :5, :7] = image
    assert torch.equal(small(image, condition), large(whole, condition)[:, :, :5, :7])


def in_parts(images: Tensor) -> Iterator[Tensor]:
    return iter(images.split(CHUNK))


def total_mass(model: Fame, images: Iterator[Tensor], condition: Tensor | None = None) -> float:
    total = 0.0
    for part in images:
        given = None if condition is None else condition.expand(len(part), -1, -1, -1)
        total += float(model.log_prob(part, given).flatten(1).sum(1).exp().sum())
    return total


LAYOUTS = [{"patch": 2}, {"patch": 2, "attention": (1,)}, {"patch": 2, "attention": (1, 2)}, {"patch": 4}]
LAYOUTS += [{"attention": (1, 2), "lag": 1}, {"patch": 2, "attention": (2,), "lag": 1, "kernel": 5}]


@torch.no_grad()
@pytest.mark.parametrize("switches", [False, True], ids=["plain", "switches"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_masses_of_all_images_sum_to_one_without_latents(layout: dict[str, object], switches: bool) -> None:
    model, every = randomise(Fame(config_of((1, 3, 3), switches=switches, **layout))), all_images(1, 3, 3)
    masses = model.log_prob(every, None).flatten(1).sum(1).exp()
    assert float(masses.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(masses.std()) > 0.1 / len(every)


@torch.no_grad()
@pytest.mark.parametrize("switches", [False, True], ids=["plain", "switches"])
@pytest.mark.parametrize("layout", [*LAYOUTS, {"autoregressive": False, "patch": 2}], ids=str)
def test_masses_of_all_images_sum_to_one_given_latents(layout: dict[str, object], switches: bool) -> None:
    model = randomise(Fame(config_of((1, 3, 3), switches=switches, condition=3, **layout)))
    every = all_images(1, 3, 3)
    conditions, _ = model.infer(random_images(3, (1, 3, 3)), image_noise(3))
    assert conditions is not None
    sums = [total_mass(model, in_parts(every), condition) for condition in conditions]
    assert sums == pytest.approx([1.0] * 3, abs=1e-12)
    assert not torch.allclose(conditions[0], conditions[1])


@torch.no_grad()
@pytest.mark.parametrize("layout", [{"patch": 2}, {"patch": 2, "attention": (1,)}, {"patch": 4}], ids=str)
def test_masses_of_all_colours_sum_to_one(layout: dict[str, object]) -> None:
    model = randomise(Fame(config_of((3, 1, 3), 3, switches=True, **layout)))
    assert total_mass(model, in_parts(all_images(3, 1, 3, 3))) == pytest.approx(1.0, abs=1e-12)


def bits(height: int, width: int) -> Iterator[Tensor]:
    """All binary images of a size, in parts."""
    for codes in torch.arange(2 ** (height * width)).split(CHUNK):
        yield (codes[:, None] >> torch.arange(height * width) & 1).view(-1, 1, height, width).double()


@torch.no_grad()
def test_masses_of_all_images_of_several_patches_sum_to_one() -> None:
    layout = {"width": 2, "layers": 1, "first_kernel": 3, "patch": 2, "attention": (1,), "heads": 1}
    model = randomise(Fame(config_of((1, 3, 5), **layout)))
    assert model.decoder.grid == (2, 3)
    assert total_mass(model, bits(3, 5)) == pytest.approx(1.0, abs=1e-12)


@torch.no_grad()
def test_a_patch_that_sees_itself_has_masses_of_another_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    model, every = randomise(Fame(config_of((1, 3, 3), patch=2))), all_images(1, 3, 3)
    monkeypatch.setattr(Decoder, "earlier_weight", lambda self: self.earlier.weight.flatten(1))
    assert abs(total_mass(model, in_parts(every)) - 1.0) > 1e-3


@pytest.mark.parametrize("autoregressive", [False, True])
def test_every_weight_of_a_model_with_patches_gets_a_gradient(autoregressive: bool) -> None:
    layout = {"patch": 2, "attention": (1, 2) if autoregressive else (), "condition": 2}
    model = randomise(Fame(config_of((3, 5, 7), 5, switches=True, autoregressive=autoregressive, **layout)))
    model(random_images(4, (3, 5, 7), 5), batch_noise()).negative_elbo.mean().backward()
    unseen = {"decoder.earlier.weight"} | {f"decoder.layers.{k}.conv.weight" for k in (0, 1)}
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        # Of masked ones, those that are kept.
        masked = autoregressive and (name in unseen or name == "decoder.first.weight")
        assert (weight.grad != 0).any() if masked else (weight.grad != 0).all(), name
