"""Groups of options for a command's model and images."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

import typer

from famecli.checkpoints.description import model_in
from famecli.checkpoints.header import Header, read_header
from famecli.checkpoints.index import default_weights, index
from famecli.checkpoints.provenance import parse_provenance
from famecli.checkpoints.store import RUN_FILES, RUN_MARKS, Store, checkpoint_file
from famecli.cli.groups import Data, Dataset, Network, SplitName, typed
from famecli.config.presets import PRESETS
from famecli.data.preparation import AS_THEY_ARE, Preparation
from famecli.data.registry import FOLDER, dataset_info, shared_images
from famecli.errors import UsageError
from famecli.files import STDIN
from famecli.output import Output

if TYPE_CHECKING:
    import torch

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.data.dataset import ImageSplit


def complete_weights(incomplete: str) -> list[str]:
    """Return the names of weights that a shell offers to complete a word; if none fits, it offers files."""
    names = (*index(), *(each.name for each in Store().imported()))
    return [name for name in names if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Return the presets that a shell offers to complete a word."""
    return [name for name in PRESETS if name.startswith(incomplete)]


def check_stdin_once(*words: object) -> None:
    """Check that at most one of a command's inputs is `-`: stdin is read once.

    Raises:
        UsageError: Two are.
    """
    if [str(word) for word in words].count(str(STDIN)) > 1:
        raise UsageError("two inputs cannot both come through stdin", "name a file in place of one -")


@dataclass(frozen=True, kw_only=True)
class CheckpointSource:
    """A named checkpoint, or the weights of a data set and a model."""

    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CKPT",
            help="File, run folder, name of weights, URL, or -; else --dataset and --model choose.",
            autocompletion=complete_weights,
        ),
    ] = None
    dataset: Dataset = None
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model whose weights are used, with --dataset (default: fame).",
            autocompletion=complete_model,
        ),
    ] = None
    network: Network

    def path(self, output: Output) -> Path:
        """Return the checkpoint's file, downloaded if it is missing.

        Raises:
            UsageError: No checkpoint has this name, or a URL has no hash.
            UnavailableError: There are no weights for this data set and model, or they cannot be fetched.
            IntegrityError: No address has the right file.
            InputError: A run folder has no checkpoint.
        """
        store = self.network.store(output)
        if self.dataset is not None:
            dataset_info(self.dataset)
        if self.checkpoint is None:
            return store.fetch(default_weights(self.dataset, self.model))
        if self.model is not None:
            raise UsageError("--model chooses among named weights: leave it out where a checkpoint is named")
        return checkpoint_file(self.checkpoint, store)

    def check(self, output: Output, for_classes: str = "") -> Header | None:
        """Find the checkpoint before torch is loaded, and return its header; errors are those of `path`.

        Under torchrun, and for a URL or a pipe, the checkpoint is found only later, and the result is None.

        Args:
            output: Streams of the command.
            for_classes: Given option that needs a model with classes; empty for none.

        Raises:
            UsageError: The model has no classes.
        """
        if "RANK" in os.environ or "://" in (self.checkpoint or ""):
            return None
        path = self.path(output)
        if path == STDIN or not path.is_file():
            return None
        header = read_header(path)
        if for_classes and not model_in(header.metadata, str(path)).classes:
            dataset = parse_provenance(header.metadata).dataset
            others = ", ".join(self.network.store(output).with_classes(dataset))
            hint = f"weights with classes of {dataset}: {others}" if others else f"leave {for_classes} out"
            name = self.checkpoint or path.stem
            raise UsageError(f"{name} has no classes, which {for_classes} needs", hint)
        return header

    def picked(self, context: typer.Context) -> Self:
        """Return the source for a command in which `--dataset` only picks weights.

        If a checkpoint is named, `--dataset` counts only if typed: FAME_DATASET is meant for all commands.
        """
        if self.checkpoint is None or typed(context, "dataset"):
            return self
        return dataclasses.replace(self, dataset=None)

    def check_trained_on(self, name: object) -> None:
        """Check that `--dataset`, which only picks weights, agrees with a named checkpoint.

        Args:
            name: Data set that the checkpoint was trained on; not a string if unknown.

        Raises:
            UsageError: The checkpoint was trained on another data set.
        """
        if self.checkpoint is None or self.dataset is None or not isinstance(name, str):
            return
        if name != self.dataset:
            raise UsageError(
                f"{self.checkpoint} was trained on {name}, not on {self.dataset}",
                "--dataset chooses among named weights: leave it out where a checkpoint is named",
            )

    def with_images(
        self, context: typer.Context, words: list[str] | None, others: Sequence[str] = ()
    ) -> tuple[Self, list[str]]:
        """Return the source and the image files of a command line.

        The first word names images, not the checkpoint, if it is a file of images, or a folder with images
        and no checkpoint.

        Args:
            context: Context of the command.
            words: Words after the first.
            others: Inputs that options name.

        Raises:
            UsageError: A word after the first names another model, two inputs are stdin, or `--dataset` is
                typed beside a checkpoint and images.
            InputError: There is no such file or folder.
        """
        # Deferred: needs numpy, which `fame --help` does without.
        from famecli.data.listing import file_and_array, holds_images

        word, files = self.checkpoint, words or []
        check_stdin_once(word, *files, *others)
        for each in files:
            if any(os.path.isfile(os.path.join(each, name)) for name in RUN_FILES) or each in index():
                raise UsageError(
                    f"{each} is a model, where images are expected: {word} is the model here",
                    "run the command for each model; fame report and fame compare show several",
                )
            if each != str(STDIN):
                file_and_array(each)
        if word is None or not holds_images(word, RUN_MARKS):
            given = files or any(each == str(STDIN) or os.path.exists(each) for each in others)
            if word is not None and given and typed(context, "dataset"):
                raise UsageError(
                    "--dataset chooses among weights and data sets, but a model and images are given",
                    "leave --dataset out",
                )
            return self, files
        return dataclasses.replace(self, checkpoint=None), [word, *files]


@dataclass(frozen=True, kw_only=True)
class ModelSource(CheckpointSource):
    """A checkpoint whose model is used."""

    weights: Annotated[
        Literal["ema", "raw"],
        typer.Option("--weights", metavar="ema|raw", help="Averaged weights, or those of the last step."),
    ] = "ema"

    def load(
        self, output: Output, device: "torch.device | str" = "cpu", *, half: bool = False
    ) -> "Checkpoint":
        """Return the checkpoint with its model on the device, and note what was loaded.

        Args:
            output: Streams of the command.
            device: Device of the model.
            half: Whether the weights are rounded to half precision.

        Raises:
            FameError: Any error of `path` and `famecli.checkpoints.checkpoint.load_checkpoint`.
        """
        path = self.path(output)
        with output.waiting(f"loading {path}"):
            from famecli.checkpoints.checkpoint import load_checkpoint, rounded

            loaded = load_checkpoint(path, self.weights)
            if half:
                loaded = rounded(loaded)
            loaded.model.on(device)
        kind = f"{self.weights} weights{', rounded' if half else ''}"
        named = self.checkpoint or self.dataset or self.model
        chosen = "" if named else ", the default, since none is named,"
        output.note(f"{loaded.model.config.preset} from {path} ({kind}){chosen} on {device}")
        return loaded

    def usual_split(self, checkpoint: "Checkpoint") -> SplitName:
        """Return the default split: `all` for the user's own images, else `test`."""
        return "all" if (self.dataset or checkpoint.provenance.dataset) == FOLDER else "test"

    def dataset_of(self, checkpoint: "Checkpoint") -> str:
        """Return the requested data set, else the one that the model was trained on.

        Raises:
            UsageError: Neither is known.
        """
        name = self.dataset or checkpoint.provenance.dataset
        if name is None:
            raise UsageError(f"{checkpoint.source} does not say what it was trained on", "add --dataset NAME")
        return name


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Folder of data sets, or the user's images."""

    data: Data = None
    network: Network

    @property
    def inputs(self) -> tuple[str, ...]:
        """Inputs in place of a folder: `-` for images on stdin."""
        return (str(STDIN),) if self.data == STDIN else ()

    def check(
        self,
        source: CheckpointSource,
        output: Output,
        split: str | None,
        for_classes: str = "",
        asked: Preparation = AS_THEY_ARE,
        *,
        unused: bool = False,
    ) -> Header | None:
        """Find the model, check the source of the images before torch is loaded, and return the header.

        The header is None where `CheckpointSource.check` returns None.

        Args:
            source: Source of the model.
            output: Streams of the command.
            split: Requested split; None for the default.
            for_classes: Given option that needs a model with classes; empty for none.
            asked: Requested preparation of the images.
            unused: Whether the images come from elsewhere.

        Raises:
            UsageError: The checkpoint comes through stdin, too; a split of stdin is requested; stdin is a
                terminal; the data set is the user's images, which are not given; or a preparation is
                requested for another data set.
            FameError: Any error of `CheckpointSource.check`.
        """
        if self.data == STDIN:
            self._check_stdin(source, split)
        header = source.check(output, for_classes)
        if header is None or unused or self.data is not None:
            return header
        if name := source.dataset or parse_provenance(header.metadata).dataset:
            # Deferred: needs numpy, which `fame --help` does without.
            from famecli.data.folder import describe

            describe(name, preparation=asked)
        return header

    def _check_stdin(self, source: CheckpointSource, split: str | None) -> None:
        check_stdin_once(source.checkpoint, self.data)
        # `test` is the default of --split.
        if split not in (None, "test", "all"):
            raise UsageError(f"images on stdin have no split {split}", "leave --split out")
        if sys.stdin is not None and sys.stdin.isatty():
            raise UsageError(
                "--data - reads images, and stdin is the terminal",
                "for example fame sample -n 64 -o - | fame evaluate-nll --data -",
            )

    def split(
        self,
        dataset: str,
        split: SplitName,
        checkpoint: "Checkpoint",
        output: Output,
        asked: Preparation = AS_THEY_ARE,
    ) -> "ImageSplit":
        """Return a split of a data set for a model; see `load_split` for errors."""
        from famecli.data.dataset import load_split

        network = self.network
        for each in checkpoint.provenance.trainings:
            if warning := shared_images(each.dataset, dataset, split):
                output.warn(warning)
        return load_split(
            dataset,
            split,
            data=self.data,
            cache_dir=network.cache_dir,
            offline=network.offline,
            report=output.note,
            levels=checkpoint.model.config.levels,
            channels=checkpoint.model.config.channels,
            preparation=checkpoint.provenance.prepared(asked, dataset),
        )

    def images(
        self,
        source: ModelSource,
        checkpoint: "Checkpoint",
        split: SplitName,
        output: Output,
        asked: Preparation = AS_THEY_ARE,
        files: Sequence[str] = (),
    ) -> "ImageSplit":
        """Return the images for a model: those in files, on stdin with `--data -`, or of a data set's split.

        Raises:
            FameError: Any error of `read_files`, `read_stdin`, `ModelSource.dataset_of` and `load_split`.
        """
        from famecli.data.dataset import read_files, read_stdin

        config = checkpoint.model.config
        if files:
            how = checkpoint.provenance.prepared(asked)
            return read_files(config, files, how, output.note)
        if self.data == STDIN:
            if str(asked):
                hint = "leave --resize and --convert out"
                raise UsageError("images on stdin are taken as they are", hint)
            return read_stdin(config.image_shape, config.levels)
        return self.split(source.dataset_of(checkpoint), split, checkpoint, output, asked)
