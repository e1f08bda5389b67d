"""Errors that a user can fix: each says what is wrong, where, and what to type next."""

import difflib
from collections.abc import Collection
from enum import IntEnum

from famecli.escape import redacted


class ExitCode(IntEnum):
    """Exit codes of every command, as listed in docs/cli.md."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    BAD_INPUT = 3
    UNAVAILABLE = 4
    INTEGRITY = 5
    NUMERICS = 6
    GATE = 7
    OUT_OF_MEMORY = 8
    PREEMPTED = 75
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


def truncate(text: object, most: int = 120) -> str:
    """Return `text` as one line of at most `most` characters; texts of files and libraries can be long."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


class FameError(Exception):
    """Base of all errors with a one-line message.

    Args:
        message: What is wrong and where, in one line.
        hint: What to do next, as a command to type where there is one.
    """

    exit_code = ExitCode.UNEXPECTED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(redacted(message))
        self.hint = redacted(hint)


class UsageError(FameError):
    """A command or a call is used wrongly."""

    exit_code = ExitCode.USAGE


class ArgumentError(UsageError, ValueError):
    """An argument of a call has an impossible value."""


class ArgumentTypeError(UsageError, TypeError):
    """An argument of a call is of the wrong kind."""


class InputError(FameError):
    """An input is missing, damaged or of the wrong kind; or an output exists or cannot be written."""

    exit_code = ExitCode.BAD_INPUT


class ConfigError(InputError):
    """A configuration has an unknown key or an impossible value; the message names the key."""


class UnavailableError(FameError):
    """Something needed is missing, and cannot or may not be fetched."""

    exit_code = ExitCode.UNAVAILABLE


class IntegrityError(FameError):
    """A file's hash or header does not match its record."""

    exit_code = ExitCode.INTEGRITY


class NumericsError(FameError):
    """A value is not finite, or training diverged."""

    exit_code = ExitCode.NUMERICS


class OutOfMemoryError(FameError):
    """Memory ran out; the hint says what would fit."""

    exit_code = ExitCode.OUT_OF_MEMORY


class GateError(FameError):
    """A measured value is outside its limit, or a check of the model fails."""

    exit_code = ExitCode.GATE


def did_you_mean(name: object, known: Collection[str], heading: str) -> str:
    """Return a hint for an unknown name: the most similar known name, or all names if none is similar.

    Args:
        name: Unknown name.
        known: Known names.
        heading: Heading of the list of known names.
    """
    found = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {found[0]}?" if found else f"{heading}: {', '.join(known) or 'none'}"
