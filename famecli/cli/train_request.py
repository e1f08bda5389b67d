"""From the options of `fame train` to data, model and configuration."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from famecli.cli import options
from famecli.cli.image_output import NO_TERMINAL, show
from famecli.cli.settings import resolve, to_toml
from famecli.cli.sources import DataPlace
from famecli.cli.train_options import Asked
from famecli.config import ModelConfig, Precision, TrainConfig
from famecli.data.info import DatasetInfo
from famecli.data.registry import FOLDER
from famecli.errors import UsageError
from famecli.output import Output
from famecli.presets import SIZES, model_config
from famecli.weights import DEFAULT_DATASET

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from famecli.data.dataset import ImageSplit
    from famecli.distributed import Group
    from famecli.training.run import Run
    from famecli.training.trainer import Trainer

BLANK_IMAGES = 4096
AUTO = "auto"


@dataclass(frozen=True)
class Request:
    """What the options come to.

    Args:
        asked: The options.
        info: The data set.
        model: What to train.
        config: How.
        open_batch: Whether nothing says how large a batch is.
        folder: Of the run.
        place: Where data sets are.
    """

    asked: Asked
    info: DatasetInfo
    model: ModelConfig
    config: TrainConfig
    open_batch: bool
    folder: Path
    place: DataPlace

    def trainer(self, output: Output, group: "Group", *, blank: bool = False) -> "Trainer":
        """Load the training images, or with `blank` make up some that are blank, and build the model."""
        from famecli.training.trainer import Trainer

        asked = self.asked
        if asked.precision not in (*get_args(Precision), AUTO):
            raise UsageError(f"unknown precision {asked.precision!r}", "choose fp32, bf16 or auto")
        device = options.use_device(group.device(asked.device), asked.threads)
        with group.one_before_the_others():
            split = self._blank() if blank else self.place.split(self.info.name, "train", self.info.levels)
        precision = self._precision(device, group, output)
        config = self._fitting(split, device, precision, group)
        trainer = Trainer(
            self.model, config, split, device, precision, asked.accumulate, group, asked.compile
        )
        output.note(
            f"training {self.model.preset} ({trainer.model.count_parameters():,} parameters) "
            f"on {self.info.name} with {device}{f' in {group.size} processes' if group.size > 1 else ''}: "
            f"{config.total_images:,} images in batches of {config.batch_size}"
        )
        return trainer

    def _blank(self) -> "ImageSplit":
        """Return training images for measuring, not more than a large batch needs."""
        import numpy as np

        from famecli.data.dataset import ImageSplit

        images = min(self.info.splits["train"], max(BLANK_IMAGES, self.config.batch_size))
        return ImageSplit(self.info, "train", np.zeros((images, *self.info.shape), np.uint8))

    def _precision(self, device: "torch.device", group: "Group", output: Output) -> Precision:
        """Return the precision typed, or for `auto` that which the hardware of all processes multiplies."""
        from famecli.processor import multiplies_bf16

        if self.asked.precision != AUTO:
            return cast(Precision, self.asked.precision)
        bf16 = group.all(multiplies_bf16(device.type))
        why = f"{device.type} {'multiplies' if bf16 else 'does not multiply'} bfloat16 in hardware"
        output.note(f"precision {'bf16' if bf16 else 'fp32'}: {why}")
        return "bf16" if bf16 else "fp32"

    def _fitting(
        self, split: "ImageSplit", device: "torch.device", precision: Precision, group: "Group"
    ) -> TrainConfig:
        """Return the configuration, with batches as large as a GPU's memory if nothing says how large.

        A run that is gone on with keeps its own.
        """
        from famecli.training.memory import largest_common_batch

        if not self.open_batch or device.type != "cuda":
            return self.config
        before = self.folder / "config.toml"
        if self.asked.resume != "never" and before.exists():
            batch = resolve(self.model, self.config, before, [])[1].batch_size
        else:
            parts = self.asked.accumulate
            batch = largest_common_batch(self.model, self.config, split, device, precision, parts, group)
        asked = dataclasses.replace(self.asked, batch_size=str(batch))
        return configure(asked, self.place).config

    def run(self, output: Output, group: "Group", save_every_s: float) -> "Run":
        """Return the run of this request, not yet resumed."""
        from famecli.data.dataset import fixed_levels
        from famecli.training.run import Run

        # A warning of it comes before data are loaded.
        show_samples = self._show(output, group)
        trainer = self.trainer(output, group)
        with group.one_before_the_others():
            valid = self.place.split(self.info.name, "valid", self.info.levels)
        levels = fixed_levels(valid, seed=0, limit=self.config.valid_images).levels
        return Run(
            trainer,
            self.folder,
            levels,
            save_every_s=save_every_s,
            patience_images=self.asked.patience,
            keep=self.asked.keep,
            sample_every_images=self.asked.sample_every,
            show=show_samples,
            keep_precision=self.asked.precision == AUTO,
        )

    def _show(self, output: Output, group: "Group") -> "Callable[[np.ndarray], None]":
        """Return what is done with samples beyond being written: they are shown, or not."""
        if self.asked.preview and output.errors.is_terminal:
            return partial(show, output=output)
        if self.asked.preview and group.first:
            output.warn(NO_TERMINAL)
        return lambda images: None


def configure(asked: Asked, place: DataPlace) -> Request:
    """Return data, model and training as options, `--set`, file, preset and defaults say, by this rank.

    Raises:
        UsageError: Options are unknown or do not go together.
        ConfigError: A value is impossible.
    """
    # Here, since it needs numpy, which `fame --help` can do without.
    from famecli.data.folder import describe, seen_with

    info = describe(asked.dataset or DEFAULT_DATASET, asked.data)
    if asked.size not in SIZES:
        raise UsageError(f"unknown size {asked.size!r}", f"sizes: {', '.join(SIZES)}")
    length = _length(asked)
    default = model_config(asked.model, asked.size, info.shape, info.levels)
    changes = [*(asked.assignments or []), *_changes(asked)]
    model, config = resolve(default, TrainConfig(), asked.config, changes)
    if info.family == FOLDER and model.levels != info.levels:
        # The levels of such images are the model's to choose, and presets go by them.
        info = seen_with(info, model.levels)
        default = model_config(asked.model, asked.size, info.shape, info.levels)
        model, config = resolve(default, TrainConfig(), asked.config, changes)
    if length is not None:
        name, value = length
        units = {"images": 1, "epochs": info.splits["train"], "steps": config.batch_size}
        changes.append(f"train.total_images={max(1, round(value * units[name]))}")
        model, config = resolve(default, TrainConfig(), asked.config, changes)
    # Another default shows through only where nothing stands over it.
    other = dataclasses.replace(TrainConfig(), batch_size=1)
    open_batch = resolve(default, other, asked.config, changes)[1].batch_size == 1 != config.batch_size
    folder = asked.out or _default_folder(model, config, info.name)
    return Request(asked, info, model, config, open_batch, folder, place)


def _length(asked: Asked) -> tuple[str, float] | None:
    """Return the one option that says how long to train, and its number."""
    length = {"images": asked.images, "epochs": asked.epochs, "steps": asked.steps}
    given = [(name, value) for name, value in length.items() if value is not None]
    if len(given) > 1:
        names = " and --".join(name for name, _ in given)
        raise UsageError(f"--{names} say the same thing: give one of them")
    for name, value in given:
        if not math.isfinite(value):
            raise UsageError(f"--{name} {value} is no number of images")
    return given[0] if given else None


def _changes(asked: Asked) -> list[str]:
    """Return the options that stand for a key of the configuration, as `--set` has them."""
    flags = {
        "lr": asked.lr,
        "ema_halflife_images": asked.ema,
        "eval_every_images": asked.eval_every,
        "seed": asked.seed,
    }
    changes = [f"train.{name}={value}" for name, value in flags.items() if value is not None]
    if asked.batch_size != "auto":
        changes.append(f"train.batch_size={options.count(asked.batch_size, '--batch-size', 0)}")
    return changes


def _default_folder(model: ModelConfig, config: TrainConfig, dataset: str) -> Path:
    digest = hashlib.sha256(to_toml(model, config).encode()).hexdigest()[:8]
    return Path("runs") / f"{model.preset}-{dataset}-{digest}"
