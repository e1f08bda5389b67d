"""What computed a code: only another such machine is sure to compute the very same numbers."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Self

import torch

from famecli import __version__

LONGEST_TEXT = 100


@dataclass(frozen=True)
class Machine:
    """Versions and hardware.

    Args:
        famecli_version: As `fame --version` says.
        torch_version: With the build.
        constriction_version: Of the coder.
        processor: Architecture, and instructions that torch uses.
    """

    famecli_version: str
    torch_version: str
    constriction_version: str
    processor: str

    @classmethod
    def here(cls) -> Self:
        """Return this one."""
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        return cls(__version__, str(torch.__version__), version("constriction"), processor)

    def problem(self) -> str:
        """Return why this is none; empty if it may be."""
        return (
            ""
            if all(len(text) <= LONGEST_TEXT for text in asdict(self).values())
            else "no machine in its header"
        )

    def advice(self) -> str:
        """Return how this one differs from the one that runs, for who decoded something else."""
        theirs, ours = asdict(self), asdict(Machine.here())
        differences = [
            f"{key.removesuffix('_version')} {theirs[key]} (here {ours[key]})"
            for key in theirs
            if theirs[key] != ours[key]
        ]
        if not differences:
            return "the file is damaged, or the processor is another one"
        return f"it was written with {', '.join(differences)}"
