"""Checks by name, run one after the other."""

import time
from collections.abc import Callable, Iterator, Mapping

import torch

from famecli.errors import IntegrityError, NumericsError, UnavailableError
from famecli.verification.causality import check_causality
from famecli.verification.findings import CheckResult, Finding
from famecli.verification.nll_checks import check_batches, check_latents
from famecli.verification.normalisation import check_normalisation
from famecli.verification.sampling import check_sampling
from famecli.verification.subject import Subject

Check = Callable[[Subject], Finding]
# Checks that need no data.
MODEL_CHECKS: dict[str, Check] = {
    "causality": check_causality,
    "batch": check_batches,
    "normalisation": check_normalisation,
    "latents": check_latents,
    "sampler": check_sampling,
}


def run_checks(
    subject: Subject,
    checks: Mapping[str, Check],
    advance: Callable[[int, str], None] = lambda done, name: None,
) -> Iterator[CheckResult]:
    """Yield the result of each check, in order.

    Args:
        subject: Model under verification.
        checks: Checks by name.
        advance: Called with 0 and the name before each check, and with 1 and the name after it.
    """
    for name, check in checks.items():
        started_s = time.monotonic()
        advance(0, name)
        finding = _find(check, subject)
        advance(1, name)
        yield CheckResult(name, finding, time.monotonic() - started_s)


@torch.no_grad()
def _find(check: Check, subject: Subject) -> Finding:
    """Return the finding of a check; a model that raises a numerical or integrity error fails it."""
    try:
        return check(subject)
    except UnavailableError as error:
        return Finding.skipped(str(error))
    except (NumericsError, IntegrityError) as error:
        return Finding.broken(str(error))
