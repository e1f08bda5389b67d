"""Setup of the experiments: named checkpoints, a data set, and error messages."""

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

# NAME=CKPT; the pattern excludes URLs, which have colons and slashes before their first "=".
NAMED = re.compile(r"([\w.+ -]+)=(.+)", re.DOTALL)
CHECKPOINT_HELP = "file, run folder or name of weights; NAME=CKPT gives it a name in the tables"


@dataclass(frozen=True)
class NamedModel:
    """A model and its name in the tables."""

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
        """Return the facts about the model for a report."""
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
        words: Checkpoints, each as `CKPT` or `NAME=CKPT`; the default name is the preset's.
        shape: Required channels, height and width.
        levels: Required number of values of a pixel.

    Raises:
        FameError: As `famecli.load` does.
        InputError: A model has another image shape or number of levels.
        UsageError: Two models have the same name.
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
    """Return the reference model: the first without latents, or else the first."""
    return next((each for each in models if not each.has_latents), models[0])


def read_split(name: str, split: Split, data: Path | None) -> ImageSplit:
    """Return a split of a data set, fetched if missing; messages go to stderr."""
    return load_split(name, split, data=data, report=Output().note)


def shared_facts(models: Sequence[NamedModel]) -> dict[str, Any]:
    """Return models and versions for a report."""
    return {"models": [each.facts() for each in models], "versions": versions()}


def versions() -> dict[str, str]:
    """Return the versions on which results depend."""
    return {"famecli": __version__, "torch": str(torch.__version__)}


def add_shared_options(parser: ArgumentParser) -> None:
    """Declare the options that all experiments share."""
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder of the data set's files; or FAME_DATA"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default: 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one JSON document in place of Markdown")
    parser.add_argument("--quick", action="store_true", help="smallest possible run, to see that it works")


def run(main: Callable[[], None]) -> None:
    """Call `main`; a user's error prints one line and a hint, and sets the exit code."""
    try:
        main()
    except FameError as error:
        Output().fail(str(error), error.hint)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
