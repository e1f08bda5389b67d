"""Environment of famecli: versions, folders, processor."""

import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from famecli import __version__
from famecli.files import cache_root
from famecli.runtime.processor import cores, processor

SCHEMA = "famecli/info/1"
MACHINE_SCHEMA = "famecli/machine/1"
PACKAGES = ("torch", "numpy", "safetensors", "typer", "rich", "pillow", "requests")


def environment(weights: Iterable[str]) -> dict[str, Any]:
    """Return versions and folders of this installation.

    Args:
        weights: Names of the weights in the index.
    """
    return {
        "schema": SCHEMA,
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cache": str(cache_root()),
        "weights": list(weights),
        "executable": sys.executable,
    }


def machine() -> dict[str, Any]:
    """Return the processor's capabilities and the routines chosen for it, as `famecli/machine/1`.

    Raises:
        UsageError: The environment asks for an unknown routine.
    """
    # Deferred: `environment` needs no torch.
    import torch

    here = processor()
    routine, reason = here.routine(os.environ)
    return {
        "schema": MACHINE_SCHEMA,
        "processor": here.name,
        "vendor": here.vendor,
        "family": here.family,
        "instructions": list(here.instructions),
        "cores": cores(),
        "torch": str(torch.__version__),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": here.onednn,
        "bf16_in_hardware": here.multiplies_bf16,
        "precision": "bf16" if here.multiplies_bf16 else "fp32",
        "fp32_products": routine,
        "fp32_products_reason": reason,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
