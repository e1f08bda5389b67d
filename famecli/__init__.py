"""Density estimation and exact PixelCNN sampling with the Feature Map Variational Auto-Encoder.

The public names are loaded when they are first used: importing the package costs no torch and no numpy.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from famecli.api import Model as Model
    from famecli.api import compare as compare
    from famecli.api import evaluate as evaluate
    from famecli.api import load as load
    from famecli.api import train as train
    from famecli.errors import FameError as FameError
    from famecli.preset_table import presets as presets

__version__ = version("famecli")
__all__ = ["FameError", "Model", "compare", "evaluate", "load", "presets", "train"]

# No module of the package is called like any of these: its import would take the name's place.
_HOMES = {
    "FameError": "famecli.errors",
    "Model": "famecli.api",
    "compare": "famecli.api",
    "evaluate": "famecli.api",
    "load": "famecli.api",
    "presets": "famecli.preset_table",
    "train": "famecli.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
