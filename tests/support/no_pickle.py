"""Notes each object that famecli unpickles, in whatever library that happens, so that the test fails."""

import sys
from types import FrameType

# What was unpickled, as module and name, with the line of famecli that asked for it.
noted: list[str] = []
# These pass objects between processes of their own.
OTHERS = ("multiprocessing", "concurrent", "execnet", "xdist")


def watch() -> None:
    """Start to note; there is no end to it, as Python has it."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and (place := _place(sys._getframe(1))):
        noted.append(f"{arguments[0]}.{arguments[1]} by {place}")


def _place(frame: FrameType | None) -> str:
    """Return the innermost line of famecli that led here; nothing if none did, or through `OTHERS` only."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package in OTHERS:
            return ""
        if package == "famecli":
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
