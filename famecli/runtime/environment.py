"""Versions and folders of this installation. Imports no torch."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from famecli import __version__
from famecli.checkpoints.index import index
from famecli.data.fetch import cache_root

SCHEMA = "famecli/info/1"
PACKAGES = ("torch", "numpy", "safetensors", "typer", "rich", "pillow", "pooch")


def environment() -> dict[str, Any]:
    """Return versions and folders of this installation."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cache": str(cache_root()),
        "weights": list(index()),
        "executable": sys.executable,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
