"""Density estimation and exact PixelCNN sampling with the Feature Map Variational Auto-Encoder.

The public names are loaded when they are first used: importing the package costs no torch and no numpy.
"""

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


def __getattr__(name: str) -> object:
    # No module of the package is called like a public name: its import would take the name's place.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "FameError":
        from famecli.errors import FameError

        return FameError
    if name == "presets":
        from famecli.preset_table import presets

        return presets
    from famecli import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
