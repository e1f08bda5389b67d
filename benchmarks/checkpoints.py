"""What the experiments start from: checkpoints under short names, a data set, and how errors are shown."""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from famecli import __version__, load
from famecli.checkpoints.checkpoint import Checkpoint
from famecli.data.dataset import ImageSplit, Split, load_split
from famecli.errors import ExitCode, FameError, InputError, UsageError
from famecli.model.fame import Fame
from famecli.output import Output

# A name in front of a checkpoint; addresses have colons and slashes before their first "=".
NAMED = re.compile(r"([\w.+ -]+)=(.+)", re.DOTALL)
CHECKPOINT_HELP = "file, run folder or name of weights; NAME=CKPT gives it a name in the tables"


@dataclass(frozen=True)
class NamedModel:
    """A model and what the tables call it."""

    name: str
    checkpoint: Checkpoint

    @property
    def model(self) -> Fame:
        """The model, in evaluation mode."""
        return self.checkpoint.model

    @property
    def has_latents(self) -> bool:
        """Whether there are stochastic layers."""
        return self.model.config.stochastic_layers > 0

    def facts(self) -> dict[str, Any]:
        """Return what a report has to say about it."""
        return {
            "name": self.name,
            "checkpoint": self.checkpoint.source,
            "preset": self.model.config.preset,
            "parameters": self.model.count_parameters(),
            "weights_sha256": self.checkpoint.weights_sha256,
            "images_seen": self.checkpoint.provenance.images_seen or None,
        }


def load_models(words: Sequence[str], shape: tuple[int, int, int], levels: int) -> list[NamedModel]:
    """Return the models that `words` name, on the CPU.

    Args:
        words: A checkpoint each, or `NAME=CKPT`; without a name it is that of the preset.
        shape: Channels, height and width that all must have.
        levels: Values of a pixel, likewise.

    Raises:
        FameError: As `famecli.load` does.
        InputError: A model is for other images.
        UsageError: Two have one name.
    """
    found: list[NamedModel] = []
    for word in words:
        match = NAMED.fullmatch(word)
        source = match[2] if match else word
        checkpoint = load(source).checkpoint
        config = checkpoint.model.config
        if (config.image_shape, config.levels) != (shape, levels):
            raise InputError(f"{source} is for images {config.image_shape} of {config.levels} levels")
        name = match[1] if match else config.preset
        if name in [each.name for each in found]:
            raise UsageError(f"two models are called {name!r}", f"write NAME={source}")
        found.append(NamedModel(name, checkpoint))
    return found


def reference_of(models: Sequence[NamedModel]) -> NamedModel:
    """Return what others are compared with: the first model without latents, or else the first."""
    return next((each for each in models if not each.has_latents), models[0])


def read_split(name: str, split: Split, data: Path | None) -> ImageSplit:
    """Return a split of a data set, fetched if it is not here; messages go to stderr."""
    return load_split(name, split, data=data, report=Output().note)


def shared_facts(models: Sequence[NamedModel]) -> dict[str, Any]:
    """Return models and versions for a report."""
    return {"models": [each.facts() for each in models], "versions": versions()}


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {"famecli": __version__, "torch": str(torch.__version__)}


def add_shared_options(parser: ArgumentParser) -> None:
    """Declare the options that all experiments have."""
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with the data set's files; or FAME_DATA")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one JSON document in place of Markdown")
    parser.add_argument("--quick", action="store_true", help="far too little of everything, to see it run")


def run(main: Callable[[], None]) -> None:
    """Call `main`; an error that a user can mend ends it with a line, a hint and an exit code."""
    try:
        main()
    except FameError as error:
        Output().fail(str(error), error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
