"""What tests of commands share: how a command ended."""

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def error_lines(outcome: Outcome) -> list[str]:
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    return [line for line in outcome.err.splitlines() if line.startswith("error: ")]
