"""Results of checks. Imports no torch."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "failed", "skipped"]
# All checks by name, in the order in which they are made.
CHECKS = ("causality", "batch", "normalisation", "latents", "sampler", "code", "claims")


@dataclass(frozen=True)
class Measurement:
    """A measured value and its limit.

    Args:
        what: Description of the quantity, with its unit.
        value: Measured value, not negative.
        limit: Largest value that passes.
    """

    what: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the value is a number within the limit."""
        return self.value <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return a table for JSON, which knows no NaN and no infinity: they become None."""
        value = self.value if math.isfinite(self.value) else None
        return {"what": self.what, "value": value, "limit": self.limit, "passed": self.passed}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        sentence: Property that the check tests; without measurements, the reason for skipping or failing.
        measurements: Measurements, all of which have to pass.
        verdict: Result of the measurements; without measurements, "skipped" or "failed".
    """

    sentence: str
    measurements: tuple[Measurement, ...]
    verdict: Verdict

    @classmethod
    def of(cls, sentence: str, *measurements: Measurement) -> "Finding":
        """Return the outcome of measurements; without any it is "failed"."""
        right = bool(measurements) and all(each.passed for each in measurements)
        return cls(sentence, measurements, "passed" if right else "failed")

    @classmethod
    def skipped(cls, reason: str) -> "Finding":
        """Return the outcome of a check that could not be made."""
        return cls(reason, (), "skipped")

    @classmethod
    def broken(cls, reason: str) -> "Finding":
        """Return the outcome of a check that failed before it was measured."""
        return cls(reason, (), "failed")


@dataclass(frozen=True)
class CheckResult:
    """The finding of a named check.

    Args:
        name: Name of the check.
        finding: Outcome.
        seconds: Wall-clock time.
    """

    name: str
    finding: Finding
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """Verdict of the finding."""
        return self.finding.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the table for `famecli/verify/1`."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "sentence": self.finding.sentence,
            "measurements": [each.to_dict() for each in self.finding.measurements],
            "seconds": round(self.seconds, 2),
        }
