"""Record every object that famecli unpickles, in any library, so that the test fails."""

import sys
from types import FrameType

# Unpickled objects: module, name, and the calling line of famecli.
noted: list[str] = []
# Libraries that pickle between their own processes.
OTHERS = ("multiprocessing", "concurrent", "execnet", "xdist")


def watch() -> None:
    """Start recording; Python cannot remove an audit hook."""
    sys.addaudithook(_note)


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class" and (place := _place(sys._getframe(1))):
        noted.append(f"{arguments[0]}.{arguments[1]} by {place}")


def _place(frame: FrameType | None) -> str:
    """Return the innermost calling line of famecli; empty if there is none, or only through `OTHERS`."""
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).split(".")[0]
        if package in OTHERS:
            return ""
        if package == "famecli":
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
