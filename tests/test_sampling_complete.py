import numpy as np
import pytest
import torch
from scipy.stats import chi2
from support.models import all_images, make_decoder, model_around, randomise
from support.sampling import SAMPLED_PRESETS, make_case, make_model
from torch import Tensor

from famecli.config.schema import DecoderConfig
from famecli.model.decoder import Decoder
from famecli.model.distributions import Bernoulli, scale_levels
from famecli.model.fame import Fame
from famecli.rng import image_uniforms
from famecli.sampling.generate import complete_batches
from famecli.sampling.sampler import Sampler

# Of weights: every completion is drawn some times.
GAIN = 0.8


@pytest.mark.parametrize("seed", range(20))
def test_given_pixels_stay_and_the_others_equal_the_naive_loop(seed: int) -> None:
    case = make_case(seed)
    generator = torch.Generator().manual_seed(seed)
    shape = case.naive().shape
    known = torch.randint(case.levels, shape, generator=generator).to(case.uniforms)
    mask = torch.rand(shape[0], 1, *shape[2:], generator=generator) < 0.4
    sampler = case.sampler()
    found = sampler.sample(case.condition, case.uniforms, known=known, mask=mask)
    assert torch.equal(torch.where(mask, found, known), known)
    assert torch.equal(found, case.naive(known=known, mask=mask))
    assert sampler.verify(found, case.uniforms, case.condition, mask=mask) == 0
    # What was completed before does not stay behind.
    assert torch.equal(sampler.sample(case.condition, case.uniforms), case.naive())


@pytest.mark.parametrize("missing", ["known", "mask"])
def test_known_pixels_and_their_mask_go_together(missing: str) -> None:
    case = make_case(0)
    known = torch.ones_like(case.naive())
    given = {"known": known, "mask": torch.ones(len(known), 1, *known.shape[2:], dtype=torch.bool)}
    del given[missing]
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        case.sampler().sample(case.condition, case.uniforms, **given)
    with pytest.raises(ValueError, match=f"{missing} is missing"):
        case.naive(**given)


@pytest.mark.parametrize("seed", range(10))
def test_nothing_known_is_a_sample_and_everything_known_the_image(seed: int) -> None:
    case = make_case(seed)
    known = torch.ones_like(case.naive())
    nothing = torch.zeros(len(known), 1, *known.shape[2:], dtype=torch.bool)
    sampler = case.sampler()
    plain = sampler.sample(case.condition, case.uniforms)
    assert torch.equal(sampler.sample(case.condition, case.uniforms, known=known, mask=nothing), plain)
    assert torch.equal(sampler.sample(case.condition, case.uniforms, known=known, mask=~nothing), known)


def binary_decoder(size: tuple[int, int], **layout: object) -> Decoder:
    sizes = DecoderConfig(True, **{"width": 4, "layers": 2, "heads": 2, "first_kernel": 5} | layout)  # type: ignore[arg-type]
    return randomise(make_decoder(model_around(sizes, size)), gain=GAIN).requires_grad_(False)


def completions_off_the_conditional(decoder: Decoder, mask: Tensor) -> tuple[float, int]:
    """Chi-squared of completions of one image against the exact conditional, and degrees of freedom."""
    (height, width), draws = decoder.size, 8000
    every = all_images(1, height, width)
    masses = Bernoulli(1).log_prob(every, decoder(scale_levels(every, 2), None)).flatten(1).sum(1).exp()
    image = every[0b101101001011 % len(every)]
    fits = (torch.where(mask, every, image) == image).flatten(1).all(1)
    expected = draws * masses[fits] / masses[fits].sum()
    assert float(expected.min()) > 5
    names = [("test", k) for k in range(draws)]
    uniforms = image_uniforms(names, (1, height, width), torch.float64)
    known, given = image.expand(draws, -1, -1, -1), mask.expand(draws, 1, -1, -1)
    # What is in the place of unknown pixels does not matter.
    known = torch.where(given, known, 1.0 - known)
    found = Sampler(decoder, Bernoulli(1), 2).sample(None, uniforms, known=known, mask=given)
    number = 2 ** torch.arange(height * width - 1, -1, -1)
    codes = (found.flatten(1) * number).sum(1).long()
    counts = torch.bincount(codes, minlength=len(every))
    assert int(counts[~fits].sum()) == 0
    return float(((counts[fits] - expected) ** 2 / expected).sum()), int(fits.sum()) - 1


def rows_given(size: tuple[int, int], rows: int) -> Tensor:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[:, :rows] = True
    return mask


# Of first rows that patches divide, no pixel depends on an unknown one.
@pytest.mark.parametrize(
    ("size", "rows", "layout"),
    [
        ((3, 3), 1, {}),
        ((3, 3), 2, {"attention": (1, 2)}),
        ((4, 3), 2, {"patch": 2}),
        ((4, 3), 2, {"patch": 2, "attention": (1,)}),
        ((4, 3), 2, {"patch": 2, "attention": (2,), "lag": 1}),
        ((3, 3), 2, {"patch": 2, "attention": (1, 2), "lag": 3}),
    ],
)
def test_completions_of_first_rows_follow_the_exact_conditional(
    size: tuple[int, int], rows: int, layout: dict[str, object]
) -> None:
    found, freedom = completions_off_the_conditional(binary_decoder(size, **layout), rows_given(size, rows))
    assert freedom == 2 ** (size[1] * (size[0] - rows)) - 1
    # Exceeded once in a hundred thousand by chance.
    assert found < chi2.ppf(1 - 1e-5, freedom)


@pytest.mark.parametrize("columns", [3, 4])
def test_completions_of_a_row_that_cuts_through_patches_do_not(columns: int) -> None:
    decoder = binary_decoder((2, columns), patch=2, attention=(1,))
    # Of the patch before, which is not known in whole.
    decoder.first.weight *= 6
    found, freedom = completions_off_the_conditional(decoder, rows_given((2, columns), 1))
    assert found > chi2.ppf(1 - 1e-5, freedom)


@pytest.mark.parametrize("seed", range(12))
def test_given_rows_of_half_a_patch_stay(seed: int) -> None:
    case = make_case(seed)
    known, (height, width) = torch.ones_like(case.naive()) * (case.levels - 1), case.size
    mask = torch.zeros(len(known), 1, height, width, dtype=torch.bool)
    mask[:, :, : (height + 1) // 2, : (width + 1) // 2] = True
    found = case.sampler().sample(case.condition, case.uniforms, known=known, mask=mask)
    assert torch.equal(found, case.naive(known=known, mask=mask))
    assert torch.equal(torch.where(mask, found, known), known)


@pytest.mark.parametrize("preset", SAMPLED_PRESETS)
def test_every_preset_completes_an_image_by_its_seed_alone(preset: str) -> None:
    model = make_model(preset)
    known = np.random.default_rng(0).integers(0, 2, (1, 9, 7)).astype(np.uint8)
    mask = np.zeros((9, 7), bool)
    mask[:4] = True
    (found,) = complete_batches(model, known, mask, range(18), sweeps=3)
    np.testing.assert_array_equal(found[:, :, :4], np.broadcast_to(known[:, :4], (18, 1, 4, 7)))
    assert len({image.tobytes() for image in found}) > 1
    (alone,) = complete_batches(model, known, mask, [5], sweeps=3)
    np.testing.assert_array_equal(alone[0], found[5])


@pytest.mark.parametrize("preset", SAMPLED_PRESETS)
def test_completions_do_not_depend_on_batches(preset: str) -> None:
    model, mask = make_model(preset), np.zeros((9, 7), bool)
    mask[:4] = True
    known = np.random.default_rng(0).integers(0, 2, (70, 1, 9, 7)).astype(np.uint8)
    found = []
    for size, parts in ((1, [32, 32, 6]), (64, [64, 6]), (None, None)):
        batches = list(complete_batches(model, known, mask, range(70), sweeps=1, batch_size=size))
        assert parts in (None, [len(batch) for batch in batches])
        found.append(np.concatenate(batches))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_completions_take_fewer_images_at_once_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model, mask, sizes, said = make_model("vae"), np.zeros((9, 7), bool), [], []
    infer = Fame.infer

    def infer_few(self: Fame, x: Tensor, *rest: object, **others: object) -> object:
        sizes.append(len(x))
        if len(x) > 32:
            raise MemoryError
        return infer(self, x, *rest, **others)  # type: ignore[arg-type]

    known = np.zeros((1, 9, 7), np.uint8)
    (whole,) = complete_batches(model, known, mask, range(64), sweeps=1, batch_size=64)
    monkeypatch.setattr(Fame, "infer", infer_few)
    (found,) = complete_batches(model, known, mask, range(64), sweeps=1, batch_size=64, report=said.append)
    np.testing.assert_array_equal(found, whole)
    assert sizes == [64, 32, 32]
    assert said == ["out of memory with 64 images at once, going on with 32"]


def test_the_chain_looks_at_the_known_pixels() -> None:
    model = make_model("vae")
    mask = np.zeros((9, 7), bool)
    mask[:7] = True
    black, white = np.zeros((1, 9, 7), np.uint8), np.ones((1, 9, 7), np.uint8)
    (after_black,) = complete_batches(model, black, mask, range(64))
    (after_white,) = complete_batches(model, white, mask, range(64))
    assert (after_black[:, :, 7:] != after_white[:, :, 7:]).any()
