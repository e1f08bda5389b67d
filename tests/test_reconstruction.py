"""Reconstructions and posteriors."""

import numpy as np
import pytest
import torch
from support.models import LATENT_PRESETS, preset_model, random_images
from torch import Tensor

from famecli.errors import NumericsError, UsageError
from famecli.model.fame import Fame
from famecli.rng import ImageNoise, image_uniforms
from famecli.sampling.generate import ImageDecoder, complete_batches, generate
from famecli.sampling.reconstruction import CHUNK, Settings, interpolate, posteriors, reconstruct
from famecli.sampling.sampler import sample_naive

SHAPE = (1, 8, 8)


def levels_of(count: int, seed: int = 0) -> np.ndarray:
    return random_images(count, SHAPE, seed=seed).numpy().astype(np.uint8)


def model_of(preset: str = "fame", dtype: torch.dtype = torch.float32) -> Fame:
    return preset_model(preset, SHAPE, dtype=dtype)


@pytest.mark.parametrize("output", ["sample", "mean"])
@pytest.mark.parametrize("preset", ["fame", "fame-no-concat", "pixelvae"])
def test_a_reconstruction_does_not_depend_on_its_batch(preset: str, output: str) -> None:
    model, levels = model_of(preset), levels_of(CHUNK + 9)
    settings = Settings(seed=4, decoder_output=output)  # type: ignore[arg-type]
    whole = reconstruct(model, levels, settings)
    assert whole.shape == (CHUNK + 9, 1, *SHAPE)
    for count in (1, 7, 8, CHUNK):
        part = reconstruct(model, levels[:count], settings)
        if output == "sample":
            np.testing.assert_array_equal(part, whole[:count])
        else:
            np.testing.assert_allclose(part, whole[:count], atol=1e-5)
    # Others beside it change nothing either.
    changed = levels.copy()
    changed[1:] = 1 - changed[1:]
    others = reconstruct(model, changed, settings)
    np.testing.assert_array_equal(others[0], whole[0])
    assert (others[1:] != whole[1:]).any()


@pytest.mark.parametrize("preset", ["fame", "lvae"])
def test_it_decodes_the_posterior_with_noise_of_its_own(preset: str) -> None:
    model, levels = model_of(preset, torch.float64), levels_of(3)
    found = reconstruct(model, levels, Settings(seed=2, samples=2))
    for sample in range(2):
        names = [("reconstruct", 2, sample, index) for index in range(3)]
        uniforms = image_uniforms(names, model.uniforms_shape).double()
        with torch.no_grad():
            condition, draws = model.infer(torch.from_numpy(levels), ImageNoise(names))
            assert all(draw.posterior is not None for draw in draws)
            if model.config.decoder.autoregressive:
                expected = sample_naive(model.decoder, model.likelihood, 2, condition, uniforms, 1.0)
            else:
                empty = torch.zeros(3, *SHAPE, dtype=torch.float64)
                expected = model.likelihood.sample(model.pixel_parameters(empty, condition), uniforms, 1.0)
        np.testing.assert_array_equal(found[:, sample], expected.numpy())


@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_no_layers_kept_ignore_the_image(preset: str) -> None:
    model, levels = model_of(preset), levels_of(5)
    layers = model.config.stochastic_layers
    for kept in range(layers + 1):
        settings = Settings(keep_layers=kept, decoder_output="mean")
        found, other = (reconstruct(model, image, settings) for image in (levels, levels_of(5, 1)))
        assert (found == other).all() == (kept == 0)
    everything = reconstruct(model, levels, Settings(keep_layers=layers))
    np.testing.assert_array_equal(everything, reconstruct(model, levels, Settings()))


def test_seed_sample_and_index_draw_differently() -> None:
    model, levels = model_of(), levels_of(1).repeat(4, axis=0)
    found = reconstruct(model, levels, Settings(samples=3))
    assert found.shape == (4, 3, *SHAPE)
    assert len({image.tobytes() for image in found.reshape(12, -1)}) == 12
    np.testing.assert_array_equal(reconstruct(model, levels, Settings())[:, 0], found[:, 0])
    assert (reconstruct(model, levels, Settings(seed=1))[:, 0] != found[:, 0]).any()


def test_progress_counts_each_image_once_it_has_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, drawn = ImageDecoder.__call__, 0
    done: list[tuple[int, int]] = []

    def counted(self: ImageDecoder, condition: Tensor | None, uniforms: Tensor) -> Tensor:
        nonlocal drawn
        drawn += len(uniforms)
        return decode(self, condition, uniforms)

    monkeypatch.setattr(ImageDecoder, "__call__", counted)
    reconstruct(
        model_of("vae"), levels_of(CHUNK + 3), Settings(samples=2), lambda count: done.append((count, drawn))
    )
    assert done == [(CHUNK, 2 * CHUNK), (3, 2 * (CHUNK + 3))]


def test_what_cannot_be_reconstructed_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="pixelcnn has no latents") as caught:
        reconstruct(model_of("pixelcnn"), levels_of(1), Settings())
    assert "`complete`" in caught.value.hint
    model = model_of()
    layers = model.config.stochastic_layers
    with pytest.raises(UsageError, match=f"`keep_layers={layers + 1}`: .* {layers} stochastic layers"):
        reconstruct(model, levels_of(1), Settings(keep_layers=layers + 1))


@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_posteriors_are_those_of_the_reconstruction(preset: str) -> None:
    model, levels = model_of(preset, torch.float64), levels_of(CHUNK + 2)
    found = posteriors(model, levels, seed=6)
    names = [("reconstruct", 6, 0, index) for index in range(len(levels))]
    with torch.no_grad():
        _, draws = model.infer(torch.from_numpy(levels), ImageNoise(names))
    layers = range(model.config.stochastic_layers)
    assert list(found) == [f"layer{layer}.{part}" for layer in layers for part in ("mean", "scale")]
    for layer, draw in enumerate(draws):
        assert draw.posterior is not None
        torch.testing.assert_close(found[f"layer{layer}.mean"], draw.posterior.mean)
        torch.testing.assert_close(found[f"layer{layer}.scale"], draw.posterior.scale)
        assert (found[f"layer{layer}.scale"] > 0).all()
        assert found[f"layer{layer}.mean"].std(0).max() > 1e-3


def test_posteriors_do_not_depend_on_the_batch() -> None:
    model, levels = model_of(), levels_of(CHUNK + 2)
    whole = posteriors(model, levels)
    for name, values in posteriors(model, levels[:3]).items():
        torch.testing.assert_close(values, whole[name][:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("preset", ["fame", "lvae", "vae"])
def test_an_interpolation_goes_from_one_image_to_the_other(preset: str) -> None:
    model, ends = model_of(preset, torch.float64), levels_of(2)
    settings = Settings(seed=3, samples=2, decoder_output="mean" if preset == "vae" else "sample")
    rebuilt = reconstruct(model, ends, settings)
    found = interpolate(model, ends, 5, settings)
    assert found.shape == (2, 5, *SHAPE)
    np.testing.assert_allclose(found[:, 0], rebuilt[0], atol=1e-6)
    back = interpolate(model, ends[::-1].copy(), 5, settings)
    assert (back[:, 0] != found[:, 0]).any()
    if preset == "vae":
        # Means depend on the latents alone; the second image's own noise is that of place 1.
        np.testing.assert_allclose(found[:, -1], rebuilt[1], atol=1e-6)
        distance = np.abs(found - found[:, :1]).sum((2, 3, 4))
        assert (np.diff(distance[:, :2]) > 0).all()


def test_a_model_without_latents_interpolates_nothing() -> None:
    with pytest.raises(UsageError, match="no latents"):
        interpolate(model_of("pixelcnn"), levels_of(2), 4, Settings())


@pytest.mark.parametrize("output", ["sample", "mean"])
@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("preset", ["fame", "vae"])
def test_images_that_are_not_finite_are_an_error(preset: str, levels: int, output: str) -> None:
    model, images = preset_model(preset, SHAPE, levels, torch.float32), levels_of(2)
    settings = Settings(decoder_output=output)  # type: ignore[arg-type]
    with torch.no_grad():
        for head in (model.decoder.head1, model.decoder.head2):
            head.weight.mul_(1e37)
    with pytest.raises(NumericsError, match="not finite"):
        reconstruct(model, images, settings)
    with pytest.raises(NumericsError, match="not finite"):
        interpolate(model, images, 3, settings)
    with pytest.raises(NumericsError, match="not finite"):
        generate(model, range(2), decoder_output=settings.decoder_output)
    with pytest.raises(NumericsError, match="not finite"):
        list(complete_batches(model, images, np.zeros(SHAPE[1:], bool), range(2), sweeps=0))
