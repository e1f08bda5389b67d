"""Verification of named weights: their hashes, and their claims. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from famecli.checkpoints.description import describe
from famecli.checkpoints.store import Named, check_hash
from famecli.config.schema import ModelConfig
from famecli.errors import ExitCode, FameError
from famecli.nll.record import NllRecord

# Exit codes of failed verification, worst first: a wrong hash, then a wrong claim.
WORST_FIRST = (ExitCode.INTEGRITY, ExitCode.GATE)


@dataclass
class Verified:
    """Named weights, and the outcome of their verification.

    Args:
        weights: Named weights.
        model: Configuration of the model; None if no claim was measured.
        claims: Pairs of a claim and its new measurement.
        problem: First error; None if all checks passed.
    """

    weights: Named
    model: ModelConfig | None = None
    claims: list[tuple[NllRecord, NllRecord]] = field(default_factory=list)
    problem: FameError | None = None

    @property
    def state(self) -> str:
        """`right`, `wrong`, or `not measured`."""
        if self.problem is None:
            return "right"
        return "wrong" if self.problem.exit_code in WORST_FIRST else "not measured"

    @property
    def figures(self) -> list[dict[str, Any]]:
        """Claimed and measured mean and accuracy of each claim that was measured, with its estimator."""
        return [
            {
                "bound": claim.bound,
                "importance_samples": claim.importance_samples,
                "images": found.data.images,
                "claimed_nats_per_image": claim.expected(self.weights.name, found.data.images or 0)[1],
                "measured_nats_per_image": found.nats_per_image,
                "claimed_accuracy": claim.expected_accuracy(found.data.images or 0),
                "measured_accuracy": found.accuracy,
            }
            for claim, found in self.claims
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `fame weights verify --json`."""
        return {
            "name": self.weights.name,
            "path": str(self.weights.path),
            "sha256": self.weights.sha256,
            "state": self.state,
            "problem": None if self.problem is None else str(self.problem),
            "claim": self.figures[0] if self.figures else None,
            "further": self.figures[1:],
        }


def verify_weights(
    weights: Named, measure: Callable[[NllRecord], NllRecord] | None = None, *, further: bool = False
) -> Verified:
    """Check a file against its recorded hash, and its claims against new measurements.

    The first error is not raised, but returned as `problem`.

    Args:
        weights: Named weights.
        measure: Returns the measurement of a claim; None to check the hash alone.
        further: Whether the claims by other estimators are measured, too.
    """
    found = Verified(weights)
    try:
        check_hash(weights.path, weights.sha256)
        if measure is not None:
            described = describe(weights.path)
            found.model, claims = described.model, described.claimed()
            for claim in claims if further else claims[:1]:
                found.claims.append((claim, measure(claim)))
                claim.check(weights.name, found.claims[-1][1])
    except FameError as error:
        found.problem = error
    return found
