"""An image and its parameters are the very same bits in any batch, by any number of threads."""

import dataclasses

import pytest
import torch
from support.models import make_decoder, model_around, randomise
from support.sampling import SEEDS, Case, kinds, make_case, pixels
from torch import Tensor

from famecli.config.schema import DecoderConfig
from famecli.model.distributions import Bernoulli
from famecli.sampling.execution import THREADED_WORK
from famecli.sampling.sampler import LANES, Sampler
from famecli.sampling.wavefront import WavefrontWorkspace
from famecli.sampling.workspace import Workspace


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(6))
def test_an_image_does_not_depend_on_batch_or_chunk(seed: int, dtype: torch.dtype) -> None:
    case = make_case(seed, dtype, batch=40)
    expected = case.sampler().sample(case.condition, case.uniforms)
    assert torch.equal(case.sampler(chunk=32).sample(case.condition, case.uniforms), expected)
    sampler = case.sampler()
    for first, images in ((0, 1), (9, 2), (5, 3), (30, 4), (3, 7), (31, 9), (13, 27)):
        part = slice(first, first + images)
        condition = None if case.condition is None else case.condition[part]
        assert torch.equal(sampler.sample(condition, case.uniforms[part]), expected[part])


def case_of(*wanted: str) -> Case:
    """The first case of some kinds in single precision, 64 images.

    Products with two rows are computed otherwise if they have many columns; no model has so few feature maps.
    """
    cases = (make_case(seed, torch.float32, batch=64) for seed in range(SEEDS))
    return next(case for case in cases if case.decoder.config.width > 2 and set(wanted) <= kinds(case))


def wide_case() -> Case:
    """A decoder as wide as models are, over 6x6 patches, in single precision."""
    generator = torch.Generator().manual_seed(0)
    sizes = DecoderConfig(
        True, 64, 2, condition=3, patch=2, attention=(1,), heads=4, attention_width=64, first_kernel=5
    )
    config = dataclasses.replace(model_around(sizes, (12, 12)), normalised=True)
    decoder = randomise(make_decoder(config), dtype=torch.float32).requires_grad_(False)
    condition = torch.randn(64, 3, 6, 6, generator=generator)
    return Case(decoder, Bernoulli(1), 2, condition, torch.rand(64, 1, 12, 12, generator=generator))


def parameters_of(case: Case, sampler: Sampler, x: Tensor, images: int) -> list[Tensor]:
    """The parameters of every step for the first images of `x`."""
    sampler.begin(None if case.condition is None else case.condition[:images], images)
    found = []
    for step in sampler.plan.steps:
        found.append(sampler.params(step).clone())
        sampler.push(step, pixels(x[:images], sampler.plan, step))
    return found


@pytest.mark.parametrize(
    "wanted",
    [
        ["patch 1, several", "condition"],
        ["patch 1, attention", "RGB", "normalised"],
        ["patch 2, attention", "normalised"],
        ["patch 2, several", "RGB in patches"],
        ["patch 4, attention"],
        ["patch 4, several", "normalised"],
        ["several blocks of attention", "RGB in patches"],
        ["no layers"],
    ],
    ids=" and ".join,
)
@pytest.mark.usefixtures("threads_put_back")
def test_the_very_bits_of_parameters_do_not_depend_on_the_batch(wanted: list[str]) -> None:
    torch.set_num_threads(2)
    case = case_of(*wanted)
    sampler, x = case.sampler(), case.sampler().sample(case.condition, case.uniforms)
    expected = parameters_of(case, sampler, x, 64)
    for images in (1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 33):
        for found, every in zip(parameters_of(case, sampler, x, images), expected, strict=True):
            assert torch.equal(found, every[:images])


class Threaded(Sampler):
    """All products take as many threads as there are, as if they were large."""

    def _workspace(self, batch: int) -> Workspace:
        space = super()._workspace(batch)
        space.work = THREADED_WORK
        return space


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize("routine", ["mm", "onednn"])
def test_the_very_bits_depend_neither_on_the_batch_nor_on_threads(
    routine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAME_PRODUCTS", routine)
    case = wide_case()
    sampler = Threaded(case.decoder, case.likelihood, case.levels)
    x = (case.uniforms > 0.5).float()
    torch.set_num_threads(1)
    expected = parameters_of(case, sampler, x, 64)
    cases = [(1, images) for images in (1, 3, 17, 33)] + [(2, images) for images in (2, 8, 64)]
    for threads, images in cases:
        torch.set_num_threads(threads)
        for found, every in zip(parameters_of(case, sampler, x, images), expected, strict=True):
            assert torch.equal(found, every[:images]), (threads, images)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 9, 16, 17, 32, 40])
def test_matrices_are_whole_and_little_of_them_is_for_nothing(batch: int) -> None:
    case = make_case(4, batch=batch)
    sampler = case.sampler()
    sampler.begin(case.condition, batch)
    assert isinstance(sampler.space, WavefrontWorkspace)
    maps, waves = sampler.space.maps, sampler.plan.waves
    assert {maps.columns(wave) % LANES for wave in waves} == {0}
    images = sampler.space.batch
    assert batch <= images < max(2 * batch, batch + LANES)
    assert all(maps.columns(wave) < wave.count * images + LANES for wave in waves)
