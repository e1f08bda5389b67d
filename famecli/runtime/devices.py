"""Devices by name."""

import torch

from famecli.errors import UnavailableError, UsageError


def device_named(name: str) -> torch.device:
    """Return the device called `name`; `auto` takes the fastest kind that is here.

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:0` and so on, or `mps`.

    Raises:
        UsageError: There is no such kind of device.
        UnavailableError: It is not here.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    if kind not in available or (index and not index.isdecimal()):
        raise UsageError(f"unknown device {name!r}", "choose auto, cpu, cuda, cuda:0 or mps")
    if not available[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise UnavailableError(f"device {name} is not available here", "choose auto or cpu")
    return torch.device(name)
