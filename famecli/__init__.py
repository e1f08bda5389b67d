"""Density estimation and exact PixelCNN sampling with the Feature Map Variational Auto-Encoder.

The public names are loaded when they are first used: importing the package costs no torch and no numpy.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from famecli.api.verbs import Model as Model
    from famecli.api.verbs import compare as compare
    from famecli.api.verbs import evaluate as evaluate
    from famecli.api.verbs import load as load
    from famecli.api.verbs import train as train
    from famecli.config.presets import presets as presets
    from famecli.data.preparation import Preparation as Preparation
    from famecli.errors import FameError as FameError

__version__ = version("famecli")
__all__ = ["FameError", "Model", "Preparation", "compare", "evaluate", "load", "presets", "train"]


def __getattr__(name: str) -> object:
    # No module of the package shares a public name: importing it would replace the public object.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from famecli import errors
    from famecli.config import presets
    from famecli.data import preparation

    # These need no torch.
    light = {"FameError": errors, "Preparation": preparation, "presets": presets}
    if name in light:
        return getattr(light[name], name)
    from famecli.api import verbs

    return getattr(verbs, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
