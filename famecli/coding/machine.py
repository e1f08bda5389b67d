"""What computed a code: only another such machine is sure to compute the very same numbers."""

import platform
from dataclasses import asdict, dataclass
from typing import Self

import torch

from famecli import __version__

LARGEST_THREADS = 1024


@dataclass(frozen=True)
class Machine:
    """Versions and hardware.

    Args:
        famecli_version: As `fame --version` says.
        torch_version: With the build.
        processor: Architecture, and instructions that torch uses; of a GPU its name.
        device: As `--device` takes it.
        threads: Of the CPU.
    """

    famecli_version: str
    torch_version: str
    processor: str
    device: str
    threads: int

    @classmethod
    def here(cls, device: torch.device) -> Self:
        """Return this one."""
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        if device.type == "cuda":
            processor = torch.cuda.get_device_name(device)
        return cls(__version__, str(torch.__version__), processor, str(device), torch.get_num_threads())

    def problem(self) -> str:
        """Return why this is none; empty if it may be."""
        if not 1 <= self.threads <= LARGEST_THREADS:
            return f"computed with {self.threads} threads"
        texts = (self.famecli_version, self.torch_version, self.processor, self.device)
        return "" if all(len(text) <= 100 for text in texts) else "no machine in its header"

    def advice(self) -> str:
        """Return how this one differs from the one that runs, for who decoded something else."""
        theirs, ours = asdict(self), asdict(Machine.here(torch.device("cpu")))
        if not self.device.startswith("cpu"):
            return f"decode it where it was written: {self.processor}, torch {self.torch_version}"
        differences = [
            f"{key.removesuffix('_version')} {theirs[key]} (here {ours[key]})"
            for key in theirs
            if theirs[key] != ours[key]
        ]
        if not differences:
            return "the file is damaged, or the processor is another one"
        return f"it was written with {', '.join(differences)}"
