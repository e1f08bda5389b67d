"""Models as they should be pass every check; what findings say; how evenly numbers are spread."""

import math
from typing import Any

import pytest
import torch
from support.models import random_images, randomise
from support.verification import BITS, COLOURS, model_of

from famecli.config.costs import image_bytes
from famecli.config.presets import PRESETS
from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.errors import NumericsError, OutOfMemoryError, UnavailableError
from famecli.model.fame import Fame
from famecli.verification import nll_checks
from famecli.verification.causality import check_causality
from famecli.verification.findings import Finding, Measurement
from famecli.verification.nll_checks import check_code
from famecli.verification.runner import MODEL_CHECKS, run_checks
from famecli.verification.sampling import MOST_DISTANCE, distance
from famecli.verification.subject import Subject


@pytest.mark.parametrize("shape", [BITS, COLOURS], ids=["bernoulli", "mixture"])
@pytest.mark.parametrize("preset", PRESETS)
def test_models_as_they_should_be_pass_every_check(preset: str, shape: tuple[int, int, int]) -> None:
    subject = Subject(model_of(preset, shape), samples=32)
    before = {name: weight.clone() for name, weight in subject.model.state_dict().items()}
    results = list(run_checks(subject, MODEL_CHECKS))
    assert [each.name for each in results] == list(MODEL_CHECKS)
    for result in results:
        skipped = result.name == "latents" and preset == "pixelcnn"
        assert result.verdict == ("skipped" if skipped else "passed"), result
    assert all(torch.equal(weight, before[name]) for name, weight in subject.model.state_dict().items())
    assert not subject.model.training


@pytest.mark.parametrize("lag", [1, 3, 9])
def test_other_orders_of_pixels_pass(lag: int) -> None:
    decoder = DecoderConfig(True, width=6, layers=2, first_kernel=5, condition=0, lag=lag)
    config = ModelConfig("test", "bernoulli", 1, 5, 6, 2, decoder=decoder)
    (result,) = run_checks(Subject(randomise(Fame(config))), {"causality": check_causality})
    assert result.verdict == "passed", result


@pytest.mark.parametrize("images", [None, 7])
def test_more_images_are_more_figures(images: int | None) -> None:
    subject = Subject(model_of("pixelcnn"), samples=16, images=images)
    (result,) = run_checks(subject, {"normalisation": MODEL_CHECKS["normalisation"]})
    assert result.verdict == "passed"
    assert result.finding.measurements[0].what.startswith(f"{(images or 2) * 42} sums")


def test_weights_that_are_not_numbers_pass_nothing() -> None:
    model = model_of("fame")
    with torch.no_grad():
        model.decoder.head2.weight[0, 0] = math.nan
    for result in run_checks(Subject(model, samples=4), MODEL_CHECKS):
        # The latents of a sound ladder are as they should be; all that pixels come from is not.
        if result.name != "latents":
            assert result.verdict == "failed", result


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5])
def test_what_is_no_number_within_the_limit_fails(value: float) -> None:
    measurement = Measurement("x", value, 1.0)
    assert not measurement.passed
    assert Finding.of("y", Measurement("x", 0.5, 1.0), measurement).verdict == "failed"
    assert measurement.to_dict()["value"] == (1.5 if value == 1.5 else None)


def test_nothing_measured_has_not_passed() -> None:
    assert Finding.of("y").verdict == "failed"


@pytest.mark.parametrize(
    ("error", "verdict"), [(NumericsError("bad"), "failed"), (UnavailableError("bad"), "skipped")]
)
def test_a_check_that_cannot_be_finished(error: Exception, verdict: str) -> None:
    def broken(subject: Subject) -> Finding:
        raise error

    (result,) = run_checks(Subject(model_of("vae")), {"broken": broken})
    assert (result.verdict, result.finding.sentence) == (verdict, "bad")


def test_a_check_without_memory_is_named() -> None:
    def greedy(subject: Subject) -> Finding:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="in the check 'greedy'") as caught:
        list(run_checks(Subject(model_of("vae")), {"greedy": greedy}))
    assert "`samples`" in caught.value.hint


@pytest.mark.parametrize("images", [1, 3])
def test_the_code_is_checked_by_as_many_images_as_fit(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    model, original, rows = model_of("fame").requires_grad_(False), Fame.bottom_up, list[int]()

    def counted(model: Fame, x: torch.Tensor, *others: Any) -> list[torch.Tensor]:
        rows.append(len(x))
        return original(model, x, *others)

    monkeypatch.setattr(Fame, "bottom_up", counted)
    monkeypatch.setattr(nll_checks, "ROOM_BYTES", images * image_bytes(model.config))
    levels = random_images(8, BITS).numpy()
    assert check_code(model, levels, "images").verdict == "passed"
    # Two draws of an image are the least that shows their variance.
    assert max(rows) == max(2, images)


def test_distance_tells_uniforms_from_others() -> None:
    uniforms = torch.rand(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert distance(uniforms) < 1.5
    assert distance((torch.arange(1000) + 0.5) / 1000) < 0.02
    others = (uniforms**1.2, 0.9 * uniforms, uniforms[:40].repeat(100), 0.5 + 0.8 * (uniforms - 0.5))
    for other in others:
        assert distance(other) > MOST_DISTANCE
    # By hand: half of two numbers lie below 0.3.
    assert distance(torch.tensor([0.2, 0.3])) == pytest.approx(0.7 * math.sqrt(2))
