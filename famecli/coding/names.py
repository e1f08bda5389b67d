"""Names of files that come from a file: they must mean a new file in the folder, on any system."""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

SUFFIX = ".png"
LARGEST_NAME_BYTES = 200
# Separators, what Windows forbids, and what only it gives a meaning.
FORBIDDEN = re.compile(r'[/\\:*?"<>|]')
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)


def png_name(path: str) -> str:
    """Return the name under which the image at `path` is stored."""
    return Path(path).stem + SUFFIX


def problem(names: Sequence[str]) -> str:
    """Return why these cannot be names of PNG files in one folder; empty if they can."""
    seen: set[str] = set()
    for name in names:
        if reason := _problem(name):
            return f"{name!a:.80} {reason}"
        # Some systems take names for the same that differ in case or composition.
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in seen:
            return f"{name!a:.80} is there twice"
        seen.add(plain)
    return ""


def _problem(name: str) -> str:
    if not name.isprintable():
        return "has characters that cannot be printed"
    if FORBIDDEN.search(name):
        return "has characters that file names cannot have everywhere"
    if not name.endswith(SUFFIX) or name.startswith((".", " ", "-", "~")):
        return f"is no plain name that ends in {SUFFIX}"
    if len(name.encode()) > LARGEST_NAME_BYTES:
        return f"is longer than {LARGEST_NAME_BYTES} bytes"
    if DEVICES.fullmatch(name.split(".")[0].rstrip()):
        return "is the name of a device on Windows"
    return ""
