"""Models for the checks of `fame verify`, and the failures of a check."""

import torch

from famecli.model.fame import Fame
from famecli.verification.findings import Finding
from famecli.verification.nll_checks import check_code
from famecli.verification.runner import MODEL_CHECKS, run_checks
from famecli.verification.subject import Subject
from support.models import preset_model

BITS = (1, 6, 7)
COLOURS = (3, 4, 5)
LEVELS = 6
CODED = 32


def model_of(preset: str, shape: tuple[int, int, int] = BITS) -> Fame:
    return preset_model(preset, shape, 2 if shape == BITS else LEVELS, torch.float32).eval()


def code(subject: Subject) -> Finding:
    labels = None if subject.drawn_labels is None else subject.drawn_labels[:CODED]
    return check_code(subject.model, subject.drawn[:CODED], "samples of the model", labels)


CHECKS = {**MODEL_CHECKS, "code": code}


def failures(check: str, model: Fame, samples: int = 64) -> list[str]:
    """Return the figures of a check that exceed their limits."""
    (result,) = run_checks(Subject(model, samples=samples), {check: CHECKS[check]})
    assert result.finding.measurements, result
    return [each.what for each in result.finding.measurements if not each.passed]
