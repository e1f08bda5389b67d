import numpy as np
import pytest
import torch
from support.sampling import SAMPLED_PRESETS, make_model

from famecli.rng import ImageNoise, image_uniforms
from famecli.sampling.generate import ImageDecoder, generate


@pytest.mark.parametrize("preset", SAMPLED_PRESETS)
def test_an_image_depends_on_its_seed_alone(preset: str) -> None:
    model = make_model(preset)
    together = generate(model, range(20))
    assert together.dtype == np.uint8
    assert together.shape == (20, 1, 9, 7)
    alone = np.concatenate([generate(model, [seed]) for seed in range(20)])
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(generate(model, [19, 3, 3]), together[[19, 3, 3]])
    assert len({image.tobytes() for image in together}) > 1


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize("preset", SAMPLED_PRESETS)
def test_means_are_the_same_bits_in_any_batch(preset: str) -> None:
    torch.set_num_threads(1)
    model = make_model(preset, levels=256)
    together = generate(model, range(40), decoder_output="mean")
    for images in (1, 2, 9, 17, 33):
        np.testing.assert_array_equal(
            generate(model, range(images), decoder_output="mean"), together[:images]
        )


@pytest.mark.parametrize(("channels", "levels"), [(1, 2), (3, 256)])
def test_cached_and_uncached_images_are_equal(channels: int, levels: int) -> None:
    model = make_model("fame", channels, levels).double()
    fast = generate(model, range(3), temperature=0.9, latent_temperature=0.8)
    slow = generate(model, range(3), temperature=0.9, latent_temperature=0.8, cached=False)
    np.testing.assert_array_equal(fast, slow)


def test_more_seeds_than_a_chunk_holds() -> None:
    model = make_model("pixelcnn")
    images = generate(model, range(70))
    np.testing.assert_array_equal(generate(model, range(60, 70)), images[60:])


def test_no_seeds_are_no_images() -> None:
    assert generate(make_model("fame"), []).shape == (0, 1, 9, 7)


@pytest.mark.parametrize("name", ["temperature", "latent_temperature"])
def test_temperatures_change_images(name: str) -> None:
    model = make_model("fame")
    assert (generate(model, range(4), **{name: 0.2}) != generate(model, range(4))).any()  # type: ignore[arg-type]


@pytest.mark.parametrize(("preset", "levels"), [("fame", 2), ("fame", 256), ("vae", 256)])
def test_means_are_those_of_the_conditionals_given_the_sample(preset: str, levels: int) -> None:
    model = make_model(preset, levels=levels)
    names = [("sample", seed) for seed in range(16)]
    condition = model.prior_condition(16, ImageNoise(names))
    uniforms = image_uniforms(names, model.uniforms_shape)
    sampled = ImageDecoder(model)(condition, uniforms)
    np.testing.assert_array_equal(sampled.numpy(), generate(model, range(16)))
    means = generate(model, range(16), decoder_output="mean")
    assert means.dtype == np.float32
    expected = model.likelihood.mean(model.pixel_parameters(sampled, condition))
    np.testing.assert_allclose(means, expected.numpy(), rtol=1e-5, atol=1e-4)


def test_a_given_condition_decides_the_image() -> None:
    model = make_model("fame").double()
    uniforms = torch.full((2, 1, 9, 7), 0.5)
    condition = torch.randn(2, 12, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    decoder = ImageDecoder(model)
    images = decoder(condition, uniforms)
    assert decoder.sampler is not None
    assert decoder.sampler.verify(images, uniforms, condition) == 0
    assert not torch.equal(images[0], images[1])
