"""Outcome of a command, shared by tests of commands."""

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def error_lines(outcome: Outcome) -> list[str]:
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    return [line for line in outcome.err.splitlines() if line.startswith("error: ")]
