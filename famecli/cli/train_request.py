"""From the options of `fame train` to data, model and configuration."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from famecli.checkpoints.index import DEFAULT_DATASET
from famecli.cli import options
from famecli.cli.sources import DataSource
from famecli.cli.train_folder import default_folder
from famecli.cli.train_options import Asked
from famecli.cli.train_resume import Begun, begun_with, check_kind, check_shared, check_values, state_of
from famecli.config.presets import SIZES, model_config
from famecli.config.resolve import resolve, typed
from famecli.config.schema import ModelConfig, Precision, TrainConfig
from famecli.data.info import DatasetInfo
from famecli.data.registry import FOLDER
from famecli.errors import UsageError
from famecli.output import NO_TERMINAL, Output
from famecli.training.schedule import fit

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from famecli.data.dataset import ImageSplit
    from famecli.runtime.distributed import Group
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
        by_hand: Keys of the training that were typed.
        open_budget_s: Seconds that the number of images is still to be chosen for; None where it is known.
        begun: Whether there is such a run, whose configuration this is.
    """

    asked: Asked
    info: DatasetInfo
    model: ModelConfig
    config: TrainConfig
    open_batch: bool
    folder: Path
    place: DataSource
    by_hand: frozenset[str]
    open_budget_s: float | None
    begun: bool

    def trainer(self, output: Output, group: "Group", *, blank: bool = False) -> "Trainer":
        """Load the training images, or with `blank` make up some that are blank, and build the model."""
        from famecli.training.trainer import Trainer

        asked = self.asked
        if asked.precision not in (*get_args(Precision), AUTO):
            raise UsageError(f"unknown precision {asked.precision!r}", "choose fp32, bf16 or auto")
        device = options.use_device(group.device(asked.device), asked.threads)
        with group.one_before_the_others():
            name, levels = self.info.name, self.info.levels
            split = self._blank() if blank else self.place.split(name, "train", levels, output)
        precision = self._precision(device, group, output)
        config = self._fitting(split, device, precision, group)

        def make(config: TrainConfig) -> Trainer:
            parts, compiled = asked.accumulate, asked.compile
            return Trainer(self.model, config, split, device, precision, parts, group, compiled)

        if asked.budget is not None:
            check_shared(group, self.folder, int(self.begun))
        if self.open_budget_s is not None:
            config = self._in_time(make(config), self.open_budget_s, output)
        trainer = make(config)
        output.note(
            f"training {self.model.preset} ({trainer.model.count_parameters():,} parameters) "
            f"on {self.info.name} with {device}{f' in {group.size} processes' if group.size > 1 else ''}: "
            f"{config.total_images:,} images in batches of {config.batch_size}"
        )
        return trainer

    def _in_time(self, trainer: "Trainer", budget_s: float, output: Output) -> TrainConfig:
        """Return the configuration of `trainer` with the images and the schedule that fit in `budget_s`."""
        from famecli.training.budget import images_in_time
        from famecli.training.failures import explain_failed_steps

        with explain_failed_steps(trainer):
            images, images_per_s = images_in_time(trainer, budget_s)
        output.note(f"{images_per_s:,.0f} images/s: {images:,} images fit in {budget_s:g} s")
        return fit(dataclasses.replace(trainer.config, total_images=images), self.by_hand)

    def _blank(self) -> "ImageSplit":
        """Return training images for measuring, not more than a large batch needs."""
        import numpy as np

        from famecli.data.dataset import ImageSplit

        images = min(self.info.splits["train"], max(BLANK_IMAGES, self.config.batch_size))
        return ImageSplit(self.info, "train", np.zeros((images, *self.info.shape), np.uint8))

    def _precision(self, device: "torch.device", group: "Group", output: Output) -> Precision:
        """Return the precision typed, or for `auto` that which the hardware of all processes multiplies."""
        from famecli.runtime.processor import multiplies_bf16

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

        A resumed run keeps its own.
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
            valid = self.place.split(self.info.name, "valid", self.info.levels, output)
        levels = fixed_levels(valid, seed=0, limit=self.config.valid_images).levels
        run = Run(
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
        budget = self.asked.budget
        run.progress.size = self.asked.size
        run.progress.budget_s = None if budget is None else options.seconds(budget)
        return run

    def _show(self, output: Output, group: "Group") -> "Callable[[np.ndarray], None]":
        """Return what is done with samples beyond being written: they are shown, or not."""
        if self.asked.preview and output.errors.is_terminal:
            return output.preview
        if self.asked.preview and group.first:
            output.warn(NO_TERMINAL)
        return lambda images: None


def configure(asked: Asked, place: DataSource) -> Request:
    """Return data, model and training as options, `--set`, file, preset and defaults say, by this rank.

    Where there is a run to go on with, what was not typed is as that began.

    Raises:
        UsageError: Options are unknown or do not go together.
        ConfigError: A value is impossible.
        InputError: A run that is there began otherwise.
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
    budget_s = length[1] if length is not None and length[0] == "budget" else None
    lengths = _total_images(length, info, config)
    model, config = resolve(default, TrainConfig(), asked.config, [*changes, *lengths])
    # Another default shows through only where nothing stands over it.
    other = dataclasses.replace(TrainConfig(), batch_size=1)
    open_batch = resolve(default, other, asked.config, changes)[1].batch_size == 1 != config.batch_size
    named = typed(model, config, asked.config, [*changes, *lengths])
    by_hand = frozenset(path[1] for path in named if path[0] == "train" and len(path) > 1)
    folder = asked.out or default_folder(asked, model, info.name, named, budget_s)
    config = fit(config, by_hand)
    request = Request(
        asked, info, model, config, open_batch, folder, place, by_hand, open_budget_s=budget_s, begun=False
    )
    if asked.print_config or asked.dry_run or asked.resume == "never":
        return request
    begun = begun_with(state_of(folder, asked.resume))
    return request if begun is None else _gone_on_with(request, begun, length, changes)


def _gone_on_with(
    request: Request, begun: Begun, length: tuple[str, float] | None, changes: list[str]
) -> Request:
    """Return the request with the configuration of a run, after a check that nothing else was typed."""
    from famecli.data.folder import seen_with

    asked, info = request.asked, request.info
    check_kind(begun, request.model, asked, info)
    if info.family == FOLDER:
        info = seen_with(info, begun.model.levels)
    _, config = resolve(begun.model, begun.config, asked.config, changes, presets=False)
    changes = [*changes, *_total_images(length, info, config)]
    model, config = resolve(begun.model, begun.config, asked.config, changes, presets=False)
    check_values(
        begun, dataclasses.replace(begun, model=model, config=config, budget_s=request.open_budget_s)
    )
    return dataclasses.replace(
        request, info=info, model=model, config=config, open_batch=False, open_budget_s=None, begun=True
    )


def _total_images(length: tuple[str, float] | None, info: DatasetInfo, config: TrainConfig) -> list[str]:
    """Return what an option that says how long to train says of images, as `--set` has it."""
    if length is None or length[0] == "budget":
        return []
    name, value = length
    units = {"images": 1, "epochs": info.splits["train"], "steps": config.batch_size}
    return [f"train.total_images={max(1, round(value * units[name]))}"]


def _length(asked: Asked) -> tuple[str, float] | None:
    """Return the one option that says how long to train, and its number, of a budget in seconds."""
    budget_s = None if asked.budget is None else options.seconds(asked.budget)
    length = {"images": asked.images, "epochs": asked.epochs, "steps": asked.steps, "budget": budget_s}
    given = [(name, value) for name, value in length.items() if value is not None]
    if len(given) > 1:
        names = " and --".join(name for name, _ in given)
        raise UsageError(f"--{names} say the same thing: give one of them")
    if budget_s == 0:
        raise UsageError("--budget 0 leaves no time for a step", "write for example 10m")
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
