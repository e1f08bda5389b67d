"""`fame info --machine`: the processor, and what is computed how on it."""

import os
from typing import Any

from rich.console import Console

from famecli.output import Output, table
from famecli.runtime.processor import cores, processor

SCHEMA = "famecli/machine/1"


def show_machine(output: Output) -> None:
    """Print what this machine's processor can do, and which routines that makes famecli choose.

    Raises:
        UsageError: The environment asks for an unknown routine.
    """
    facts = machine()
    output.result(facts, facts["precision"], lambda console: _show(facts, console))


def machine() -> dict[str, Any]:
    """Return the document of `fame info --machine`."""
    import torch

    here = processor()
    routine, reason = here.routine(os.environ)
    return {
        "schema": SCHEMA,
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


def _show(facts: dict[str, Any], console: Console) -> None:
    maker = ", ".join((facts["vendor"] or "unknown vendor", f"family {facts['family']}"))
    bf16 = "multiplied in hardware" if facts["bf16_in_hardware"] else "not multiplied in hardware"
    rows = [
        ("processor", f"{facts['processor']} ({maker})"),
        ("instructions", ", ".join(facts["instructions"]) or "none that are told of"),
        ("cores", str(facts["cores"])),
        ("torch", f"{facts['torch']}, {facts['torch_capability']}, oneDNN: {facts['onednn']}"),
        ("bfloat16", f"{bf16}; fame train --precision auto takes {facts['precision']}"),
        ("products in fp32", f"{facts['fp32_products']}: {facts['fp32_products_reason']}"),
    ]
    console.print(table("", ["", ""], rows, right=False))
