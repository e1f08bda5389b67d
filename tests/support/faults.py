"""Faults injected at each system call of a file write."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# System calls that replacing a file makes, in order: kind and number.
CALLS = (
    "open 1",
    "close 1",
    "open 2",
    "write 1",
    "close 2",
    "open 3",
    "fchmod 1",
    "fsync 1",
    "close 3",
    "replace 1",
    "open folder 1",
    "fsync 2",
    "close folder 1",
)
Fault = Callable[[str], None]


class FaultyFile(io.FileIO):
    """A file that reports each call before it happens; a failing close still closes the file."""

    before: Fault

    def write(self, content: Any) -> int:
        self.before("write")
        return super().write(content)

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open:
            self.before("close")


@contextmanager
def watched(before: Fault) -> Iterator[None]:
    """Call `before` with the kind of each call that a write makes; it may raise instead of the call."""
    with pytest.MonkeyPatch.context() as patch:

        def open_file(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            before("open")
            file = FaultyFile(path, mode.replace("b", ""))
            file.before = before  # type: ignore[method-assign]
            return file

        def told(kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*arguments: Any) -> Any:
                before(kind)
                return call(*arguments)

            return wrapper

        patch.setattr(io, "open", open_file)
        patch.setattr(os, "open", told("open folder", os.open))
        patch.setattr(os, "close", told("close folder", os.close))
        for name in ("fchmod", "fsync", "replace"):
            patch.setattr(os, name, told(name, getattr(os, name)))
        yield


def fault_at(wanted: str, act: Callable[[], None]) -> Fault:
    counts: dict[str, int] = {}

    def before(kind: str) -> None:
        counts[kind] = counts.get(kind, 0) + 1
        if f"{kind} {counts[kind]}" == wanted:
            act()

    return before
