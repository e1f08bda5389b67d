"""Devices by name, and torch's settings around a call of the library."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from famecli.errors import ArgumentError, UnavailableError
from famecli.runtime.memory import keep_freed_memory

if TYPE_CHECKING:
    import torch

DEVICE = re.compile(r"auto|(cpu|cuda|mps)(:(0|[1-9][0-9]*))?", re.ASCII)
# More threads would crash where the system has fewer.
MOST_THREADS = 256
# Calls of the library that run now, in any thread, and the caller's settings for all threads.
_CALLS = threading.Lock()
_running = 0
_callers: tuple[Any, ...] = ()


def check_device(name: str) -> str:
    """Return the name of a device if it is one, whether or not this machine has it. No torch needed.

    Raises:
        ArgumentError: `name` is no kind of device.
    """
    if not DEVICE.fullmatch(name):
        raise ArgumentError(f"unknown device {name!r}", "choose auto, cpu, cuda, cuda:0 or mps")
    return name


def device_named(name: str) -> "torch.device":
    """Return the device called `name`; `auto` is the fastest kind available.

    On CUDA devices, float32 convolutions are from then on computed in float32, not in TF32: an NLL must not
    depend on the device. For the CPU, this process keeps freed memory from then on (`keep_freed_memory`).

    Args:
        name: `auto`, `cpu`, `cuda`, `cuda:0` and so on, or `mps`.

    Raises:
        ArgumentError: `name` is no kind of device.
        UnavailableError: This machine has no such device.
    """
    import torch

    check_device(name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if available[kind])
    kind, _, index = name.partition(":")
    if not available[kind] or (kind == "cuda" and int(index or 0) >= torch.cuda.device_count()):
        raise UnavailableError(f"device {name} is not available here", "choose auto or cpu")
    if kind == "cuda":
        _compute_in_float32()
    if kind == "cpu":
        keep_freed_memory()
    return torch.device(name)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Compute with famecli's settings of torch, and restore the caller's settings afterwards.

    Settings are the number of threads, the default dtype and device, gradient modes, autocast, and the
    precision of float32 products and convolutions. The dtype and this precision hold for all threads: they
    are restored when the last of several calls at once ends.
    """
    import torch

    # A default device is a mode that slows every operation, so none is entered where it is the CPU already.
    home = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    threads = torch.get_num_threads()
    with (
        home,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        _shared_settings(),
    ):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _shared_settings() -> Iterator[None]:
    """Use famecli's values of the settings that hold for all threads, while any call runs."""
    import torch

    global _running, _callers
    with _CALLS:
        if not _running:
            _callers = torch.get_default_dtype(), _compute_in_float32()
            torch.set_default_dtype(torch.float32)
        _running += 1
    try:
        yield
    finally:
        with _CALLS:
            _running -= 1
            if not _running:
                dtype, precisions = _callers
                torch.set_default_dtype(dtype)
                for owner, former in precisions:
                    owner.fp32_precision = former


def _compute_in_float32() -> list[tuple[Any, str]]:
    """Compute products and convolutions of float32 in float32; return what was set, with its former value."""
    import torch

    # Some of its attributes are not annotated.
    backends: Any = torch.backends
    found: list[tuple[Any, str]] = []
    for owner in (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv):
        former = owner.fp32_precision
        if former not in ("none", "ieee"):
            owner.fp32_precision = "ieee"
            # What follows the general setting goes on following it.
            found.append((owner, "none" if former == backends.fp32_precision else former))
    return found
