"""Capabilities of the processor, as reported, not timed. Imports no torch at module level."""

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from famecli.errors import UsageError

Routine = Literal["mm", "onednn"]
VARIABLE = "FAME_PRODUCTS"
CPUINFO = Path("/proc/cpuinfo")
# First AMD family with slow MKL: Zen 5. On earlier families MKL and oneDNN are equally fast.
FIRST_SLOW_FAMILY = 26
# Parts of the names of oneDNN's instruction sets that include products of bfloat16.
WITH_BF16 = ("BF16", "FP16", "AMX", "AVX10")


@dataclass(frozen=True)
class Processor:
    """A processor and those of its instructions that torch can use.

    Args:
        name: Model name; the architecture if unknown.
        vendor: Vendor such as `GenuineIntel` or `AuthenticAMD`; empty if unknown.
        family: CPU family, as numbered by the vendor; 0 if unknown.
        avx2: Whether the processor has AVX2, vectors of 256 bits.
        avx512: Whether the processor has AVX-512, vectors of 512 bits.
        avx512_bf16: Whether AVX-512 multiplies bfloat16, and oneDNN may use that.
        amx: Whether the processor has AMX tiles, which multiply bfloat16, and oneDNN may use them.
        onednn: Whether torch has oneDNN, the library that uses these instructions.
    """

    name: str = ""
    vendor: str = ""
    family: int = 0
    avx2: bool = False
    avx512: bool = False
    avx512_bf16: bool = False
    amx: bool = False
    onednn: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the processor of the first entry of a `/proc/cpuinfo`; missing lines mean unknown."""
        entry = text.strip().split("\n\n")[0]
        pairs = (line.split(":", 1) for line in entry.splitlines() if ":" in line)
        told = {key.strip(): value.strip() for key, value in pairs}
        flags, family = set(told.get("flags", "").split()), told.get("cpu family", "")
        return cls(
            name=told.get("model name") or platform.machine(),
            vendor=told.get("vendor_id", ""),
            family=int(family) if family.isdecimal() else 0,
            avx2="avx2" in flags,
            avx512={"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags,
            avx512_bf16="avx512_bf16" in flags,
            amx={"amx_tile", "amx_bf16"} <= flags,
        )

    @property
    def multiplies_bf16(self) -> bool:
        """Whether bfloat16 is multiplied in hardware; emulation is slower than float32."""
        return self.onednn and (self.avx512_bf16 or self.amx)

    @property
    def instructions(self) -> tuple[str, ...]:
        """Names of the available instruction sets."""
        return tuple(name for name in ("avx2", "avx512", "avx512_bf16", "amx") if getattr(self, name))

    def routine(self, environment: Mapping[str, str]) -> tuple[Routine, str]:
        """Return the routine for float32 matrix products, and the reason in words.

        Args:
            environment: Environment variables; `FAME_PRODUCTS` overrides the processor.

        Raises:
            UsageError: `FAME_PRODUCTS` is neither `mm` nor `onednn`.
        """
        if asked := environment.get(VARIABLE):
            for known in get_args(Routine):
                if asked == known:
                    return known, f"{VARIABLE} says so"
            raise UsageError(f"unknown {VARIABLE} {asked!r}", f"choose {' or '.join(get_args(Routine))}")
        if not self.onednn:
            return "mm", "torch has no oneDNN here"
        if self.vendor == "AuthenticAMD" and self.avx512 and self.family >= FIRST_SLOW_FAMILY:
            return "onednn", f"MKL is slow on AMD's family {self.family}"
        return "mm", "no other is known to be faster here"


@functools.cache
def processor() -> Processor:
    """Return the processor of this machine; torch's tests of instructions override /proc/cpuinfo."""
    import torch

    try:
        told = Processor.parse(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        told = Processor.parse("")
    asked = {
        "avx2": "_is_avx2_supported",
        "avx512": "_is_avx512_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "amx": "_is_amx_tile_supported",
    }
    found: dict[str, Any] = {
        name: bool(getattr(torch.cpu, function)())
        for name, function in asked.items()
        if hasattr(torch.cpu, function)
    }
    facts = {**vars(told), **found, "onednn": bool(torch.backends.mkldnn.is_available())}
    if not may_use_bf16(os.environ):
        facts |= {"avx512_bf16": False, "amx": False}
    return Processor(**facts)


def may_use_bf16(environment: Mapping[str, str]) -> bool:
    """Return whether oneDNN may use instructions that multiply bfloat16.

    Args:
        environment: Environment variables; `ONEDNN_MAX_CPU_ISA` limits oneDNN.
    """
    most = environment.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return most in ("", "ALL", "DEFAULT") or any(part in most for part in WITH_BF16)


def multiplies_bf16(device: str = "cpu") -> bool:
    """Return whether a kind of device, such as `cpu` or `cuda`, multiplies bfloat16 in hardware."""
    if device == "cuda":
        import torch

        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and processor().multiplies_bf16


def product_routine() -> Routine:
    """Return the routine for float32 matrix products here; errors are those of `Processor.routine`."""
    return processor().routine(os.environ)[0]


def cores() -> int:
    """Return the number of cores, or hardware threads, that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
