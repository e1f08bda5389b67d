"""Where a command's model and images come from: the CKPT argument, `--dataset` and their like."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from famecli.checkpoints.index import default_weights
from famecli.checkpoints.store import Store, checkpoint_file
from famecli.cli.options import use_device
from famecli.data.fetch import say_nothing
from famecli.data.registry import dataset_info
from famecli.errors import UsageError
from famecli.files import STDIN

if TYPE_CHECKING:
    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.data.dataset import ImageSplit, Split
    from famecli.output import Output


@dataclass(frozen=True)
class DataPlace:
    """Where data sets are looked for; see `famecli.data.cache.locate`."""

    data: Path | None
    cache_dir: Path | None
    offline: bool
    report: Callable[[str], None]

    def check_stdin(self, choice: "ModelChoice", split: str) -> None:
        """Check, before anything is loaded, that with `--data -` images and nothing else come through stdin.

        Raises:
            UsageError: The checkpoint would as well, a part of the images is asked for, or it is a terminal.
        """
        if self.data != STDIN:
            return
        if choice.checkpoint == str(STDIN):
            raise UsageError("checkpoint and images cannot both come through stdin", "name the checkpoint")
        # The default of --split, which is for data sets that have it.
        if split != "test":
            raise UsageError(f"images on stdin have no split {split}", "leave --split out")
        if sys.stdin is not None and sys.stdin.isatty():
            raise UsageError(
                "--data - reads images, and stdin is the terminal",
                "for example fame sample -n 64 -o - | fame evaluate-nll --data -",
            )

    def images(self, choice: "ModelChoice", checkpoint: "Checkpoint", split: "Split") -> "ImageSplit":
        """Return the images for a model: those on stdin with `--data -`, else a split of its data set.

        Raises:
            FameError: As `read_stdin`, `ModelChoice.dataset_of` and `load_split` do.
        """
        from famecli.data.dataset import read_stdin

        config = checkpoint.model.config
        if self.data == STDIN:
            return read_stdin(config.image_shape, config.levels)
        return self.split(choice.dataset_of(checkpoint), split, config.levels)

    def split(self, dataset: str, split: "Split", levels: int | None = None) -> "ImageSplit":
        """Return a split of the data set, for a model of `levels`; errors are those of `load_split`."""
        from famecli.data.dataset import load_split

        return load_split(
            dataset,
            split,
            data=self.data,
            cache_dir=self.cache_dir,
            offline=self.offline,
            report=self.report,
            levels=levels,
        )


@dataclass(frozen=True)
class ModelChoice:
    """The options by which a command is told its model.

    Args:
        checkpoint: File, run folder, name of weights, URL, or `-` for stdin; None leaves it to the other two.
        dataset: Data set, which picks the weights if no checkpoint is named.
        model: Preset, likewise.
        weights: `ema` or `raw`.
        device: As typed.
        threads: Of the CPU; None for all.
        cache_dir: Where fetched weights are kept; see `famecli.data.cache.cache_root`.
        offline: Whether downloads are forbidden.
        half: Whether weights are rounded to half precision.
    """

    checkpoint: str | None
    dataset: str | None
    model: str | None
    weights: str
    device: str
    threads: int | None
    cache_dir: Path | None = None
    offline: bool = False
    half: bool = False

    def path(self, report: Callable[[str], None] = say_nothing) -> Path:
        """Return the checkpoint's file, fetched if it is not here.

        Args:
            report: Told a download before it starts.

        Raises:
            UsageError: Nothing is called that, or a URL tells no hash.
            UnavailableError: There are no weights for this data set and model, or they cannot be had.
            IntegrityError: No address has the right file.
            InputError: A run folder without a checkpoint.
        """
        store = Store(self.cache_dir, self.offline, report)
        if self.dataset is not None:
            dataset_info(self.dataset)
        if self.checkpoint is None:
            return store.fetch(default_weights(self.dataset, self.model))
        if self.model is not None:
            raise UsageError("--model picks weights by name: leave it out where a checkpoint is named")
        return checkpoint_file(self.checkpoint, store)

    def load(self, output: "Output") -> "Checkpoint":
        """Return the checkpoint with its model on the device, and say what was loaded.

        Raises:
            FameError: As `path`, `famecli.checkpoints.checkpoint.load_checkpoint` and `use_device` do.
        """
        from famecli.checkpoints.checkpoint import load_checkpoint, rounded

        path = self.path(output.note)
        if self.weights not in ("ema", "raw"):
            raise UsageError(f"unknown weights {self.weights!r}", "choose ema or raw")
        device = use_device(self.device, self.threads)
        loaded = load_checkpoint(path, "raw" if self.weights == "raw" else "ema")
        if self.half:
            loaded = rounded(loaded)
        loaded.model.on(device)
        kind = f"{self.weights} weights{', rounded' if self.half else ''}"
        output.note(f"{loaded.model.config.preset} from {path} ({kind}) on {device}")
        return loaded

    def check_trained_on(self, name: object) -> None:
        """Check, where `--dataset` could only pick weights, that it agrees with the checkpoint that is named.

        Args:
            name: What the checkpoint says it was trained on; anything but a text where it does not say.

        Raises:
            UsageError: It was trained on another data set.
        """
        if self.checkpoint is None or self.dataset is None or not isinstance(name, str):
            return
        if name != self.dataset:
            raise UsageError(
                f"{self.checkpoint} was trained on {name}, not on {self.dataset}",
                "--dataset picks weights by name: leave it out where a checkpoint is named",
            )

    def dataset_of(self, checkpoint: "Checkpoint") -> str:
        """Return the data set asked for, else the one that the model was trained on.

        Raises:
            UsageError: Neither is known.
        """
        name = self.dataset or checkpoint.provenance.dataset
        if name is None:
            raise UsageError(f"{checkpoint.source} does not say what it was trained on", "add --dataset NAME")
        return name
