"""Latents whose means leave their float32 no digits for their scale, and probabilities above one."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.forgeries import smallest
from support.models import preset_model, random_images, randomise
from support.sabotage import ratio_of_rounded_latents

from famecli.errors import NumericsError
from famecli.model.distributions import RAW_ONE, SMALLEST_SCALE, Gaussian
from famecli.model.fame import Fame
from famecli.nll.evaluate import check_nats, evaluate
from famecli.verification.nll_checks import check_latents
from famecli.verification.subject import Subject

SHAPE = (1, 16, 16)
IMAGES, SAMPLES = 16, 10
# A sum of log(estimate / exact) above this has a chance of less than one in a million.
MOST_NATS = 14.0


def forged(mean: float, prior: float, recognition: float) -> Fame:
    """Return a model whose lower latents are near `mean` by two scales; its decoder ignores them."""
    model = randomise(preset_model("fame", SHAPE, 2, torch.float32), 0, torch.float32).eval()
    with torch.no_grad():
        for stage in model.stages:
            stage.bounded = False
        lower = next(stage for stage in model.stages if stage.config.latents)
        # Recognition of the top sees nothing: its posterior is the standard normal.
        heads = [(lower.recognition, mean, recognition), (lower.prior, mean, prior)]
        for head, centre, scale in (*heads, (model.stages[-1].recognition, 0.0, 1.0)):
            for weight in head.parameters():
                weight.mul_(1e-6)
            bias = [each for name, each in head.named_parameters() if name.endswith("bias")][-1]
            half = len(bias) // 2
            # The inverse of softplus, which is the identity for large values.
            raw = math.log(math.expm1(scale - SMALLEST_SCALE)) if scale < 30.0 else scale
            bias[:half], bias[half:] = centre, raw - RAW_ONE
        for layer in model.decoder.layers:
            layer.condition.weight.zero_()
    return model.requires_grad_(False)


# Mean, scale of the prior, scale of recognition. Neighbours of the first two means in float32 are 2 ** -8 and
# 2 ** -7 apart, and the scales are below that.
LIARS = {
    "cancellation": (32_768.0, 0.00234, 0.00352),
    "more cancellation": (65_536.0, 0.00469, 0.00703),
    "a ratio below normal numbers": (0.0, 3e38, 0.0011),
    "squares that overflow": (0.0, 2e19, 3e19),
    "precisions that vanish": (0.0, 2e22, 3e22),
    "one precision that vanishes": (0.0, 1.0, 1e30),
    "a mean near the end of float32": (3e38, 1.0, 0.5),
    "the smallest scales": (1.0, 0.0010001, 0.0010001),
    "honest": (3.0, 0.5, 0.4),
}
REFUSED = {"squares that overflow", "precisions that vanish", "a mean near the end of float32"}


@pytest.mark.parametrize("liar", LIARS)
def test_an_estimate_is_no_better_than_the_exact_likelihood(liar: str) -> None:
    model = forged(*LIARS[liar])
    images = random_images(IMAGES, SHAPE).numpy()
    if liar in REFUSED:
        with pytest.raises(NumericsError, match="no mean can be given"):
            evaluate(model, images, importance_samples=SAMPLES)
        return
    # Without latents, the decoder's part is the whole NLL.
    exact = evaluate(model, images).distortion
    found = evaluate(model, images, importance_samples=SAMPLES).nats
    assert float((exact - found).sum()) < MOST_NATS


def test_verify_sees_weights_that_float32_cannot_hold() -> None:
    found = {
        each.what: each.passed
        for each in check_latents(Subject(forged(16_692.3, 0.0021, 0.0021))).measurements
    }
    (name,) = [what for what in found if what.startswith("weight of latents, as evaluated")]
    assert not found[name]
    honest = check_latents(Subject(forged(*LIARS["honest"]))).measurements
    assert [each.what for each in honest if not each.passed] == []


def test_verify_sees_estimates_better_than_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model = forged(*LIARS["cancellation"])
    ratio_of_rounded_latents(model, monkeypatch)
    (failed,) = [
        each.what
        for each in check_latents(Subject(model)).measurements
        if "of 16 images better than exact" in each.what and not each.passed
    ]
    assert failed


def test_a_ratio_of_densities_does_not_depend_on_a_common_shift() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(5, 40, generator=generator)
    posterior, prior = Gaussian(torch.full((5, 40), 0.5), torch.full((5, 40), 0.25)), Gaussian.standard(noise)
    z = posterior.sample(noise).double()
    normal = torch.distributions.Normal
    expected = normal(0.0, 1.0).log_prob(z) - normal(0.5, 0.25).log_prob(z)
    torch.testing.assert_close(posterior.log_ratio(prior, noise).double(), expected, rtol=0.0, atol=1e-5)
    shifted = [Gaussian(each.mean + 2.0**14, each.scale) for each in (posterior, prior)]
    torch.testing.assert_close(
        shifted[0].log_ratio(shifted[1], noise), posterior.log_ratio(prior, noise), rtol=0.0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("nats", "bound", "right"),
    [
        ([1.0, -1e-5], "exact", True),
        ([1.0, -8e-4], "exact", True),
        ([1.0, -9e-4], "exact", False),
        ([1.0, -1e-3], "elbo", False),
        ([1.0, -14.9], "iwae", True),
        ([-10.0, -4.1], "iwae", False),
        ([-10.0, -4.1], "ais", False),
        ([-10.0, -4.1], None, True),
        ([], "exact", True),
    ],
)
def test_a_probability_above_one_is_an_error(nats: list[float], bound: str | None, right: bool) -> None:
    values = np.array(nats)
    if right:
        assert check_nats(values, bound, 784) is values  # type: ignore[arg-type]
    else:
        with pytest.raises(NumericsError, match="above one"):
            check_nats(values, bound, 784)  # type: ignore[arg-type]


@pytest.mark.parametrize("mixtures", [3, 7, 10])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 64, 64)])
def test_rounding_of_certain_pixels_is_no_probability_above_one(
    mixtures: int, shape: tuple[int, int, int]
) -> None:
    config = dataclasses.replace(
        smallest(), likelihood="logistic-mixture", levels=256, mixtures=mixtures,
        channels=shape[0], height=shape[1], width=shape[2],
    )  # fmt: skip
    model = Fame(config).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.zero_()
    # All means are far below the lowest level, which gets all the mass.
    model.decoder.head2.bias[mixtures : mixtures * (1 + shape[0])] = -100.0
    assert evaluate(model, np.zeros((1, *shape), np.uint8)).nats == pytest.approx(0.0, abs=1e-2)
