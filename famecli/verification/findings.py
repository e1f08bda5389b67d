"""What a check found. No torch here."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["passed", "failed", "skipped"]
# All checks by name, in the order in which they are made.
CHECKS = ("causality", "batch", "normalisation", "latents", "sampler", "code", "claims")


@dataclass(frozen=True)
class Measurement:
    """One figure and the most that it may be.

    Args:
        what: Was measured, in words, with its unit.
        value: Of it, not negative.
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
        sentence: What it proves if it passed; why it could not be measured, or what broke, if there are no
            measurements.
        measurements: All have to pass.
        verdict: Follows from the measurements unless there are none.
    """

    sentence: str
    measurements: tuple[Measurement, ...]
    verdict: Verdict

    @classmethod
    def of(cls, sentence: str, *measurements: Measurement) -> "Finding":
        """Return the outcome that measurements, at least one, decide."""
        right = bool(measurements) and all(each.passed for each in measurements)
        return cls(sentence, measurements, "passed" if right else "failed")

    @classmethod
    def skipped(cls, reason: str) -> "Finding":
        """Return the outcome of a check that could not be made, which neither passed nor failed."""
        return cls(reason, (), "skipped")

    @classmethod
    def broken(cls, reason: str) -> "Finding":
        """Return the outcome of a check that the model did not let come to its figures."""
        return cls(reason, (), "failed")


@dataclass(frozen=True)
class CheckResult:
    """A check, what it found, and how long that took."""

    name: str
    finding: Finding
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """That of the finding."""
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
