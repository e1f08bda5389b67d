"""Models as they should be pass every check, and every kind of broken model fails the check that is for it."""

import pytest
import torch
from models import preset_model

from famecli.model.fame import Fame
from famecli.presets import PRESETS
from famecli.verification.code_length import check_code
from famecli.verification.findings import Finding
from famecli.verification.runner import MODEL_CHECKS, Check, run_checks
from famecli.verification.subject import Subject

BITS = (1, 8, 8)
COLOURS = (3, 4, 5)
LEVELS = 6


def code(subject: Subject) -> Finding:
    return check_code(subject.model, subject.drawn, "samples of the model")


CHECKS = {**MODEL_CHECKS, "code": code}


def model_of(preset: str, shape: tuple[int, int, int] = BITS) -> Fame:
    return preset_model(preset, shape, 2 if shape == BITS else LEVELS, torch.float32).eval()


def failures(check: Check, model: Fame, samples: int = 64) -> list[str]:
    """Return what a check found too large."""
    ((result),) = run_checks(Subject(model, samples=samples), {"check": check})
    assert result.finding.measurements
    return [each.what for each in result.finding.measurements if not each.passed]


@pytest.mark.parametrize("shape", [BITS, COLOURS], ids=["bernoulli", "mixture"])
@pytest.mark.parametrize("preset", PRESETS)
def test_models_as_they_should_be_pass_every_check(preset: str, shape: tuple[int, int, int]) -> None:
    subject = Subject(model_of(preset, shape), samples=64)
    for result in run_checks(subject, CHECKS):
        assert result.verdict == "passed", result
