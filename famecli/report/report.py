"""All that is known and drawn of one run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from famecli.nll.record import NllRecord, Terms
from famecli.report.pictures import TestImages
from famecli.report.runs import RunFacts


@dataclass(frozen=True)
class RunReport:
    """A run on the page; what is None has a reason.

    Args:
        facts: What it says of itself.
        measured: The NLL that was measured for the page; None if it was not.
        samples: Bytes `(N, H, W, C)`.
        images: Of the test split.
        sha256: Of the checkpoint's file.
        no_model: Why there is no model, as the end of a sentence; empty where there is one.
        no_data: Why there are no test images, likewise; also empty where nothing needs them.
    """

    facts: RunFacts
    measured: NllRecord | None = None
    samples: np.ndarray | None = None
    images: TestImages | None = None
    sha256: str | None = None
    no_model: str = ""
    no_data: str = ""

    @property
    def name(self) -> str:
        """Of the run."""
        return self.facts.name

    @property
    def nlls(self) -> Sequence[NllRecord]:
        """What is known of its NLL, the best founded first."""
        found = (self.measured, *self.facts.claims, self.facts.validation)
        return [nll for nll in found if nll is not None]

    @property
    def terms(self) -> Terms | None:
        """The parts of the best founded NLL that has them."""
        return next((nll.terms_nats_per_image for nll in self.nlls if nll.terms_nats_per_image), None)


def comparable(runs: Sequence[RunReport]) -> list[list[RunReport]]:
    """Return runs in groups of one data set, one shape and one number of levels, whose NLLs compare."""
    groups: dict[object, list[RunReport]] = {}
    for run in runs:
        model = run.facts.model
        groups.setdefault((run.facts.dataset, model.image_shape, model.levels), []).append(run)
    return list(groups.values())
