"""A run from the names of a preset and a data set, and from what is to be changed of their configurations."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from famecli.checkpoints.checkpoint import Checkpoint
from famecli.checkpoints.provenance import FirstWeights
from famecli.config.presets import Size, model_config
from famecli.config.resolve import resolve, typed
from famecli.config.schema import ModelConfig, Precision, TrainConfig
from famecli.data.dataset import ImageSplit, Split, describe, fixed_levels, load_split
from famecli.data.folder import seen_with
from famecli.data.registry import FOLDER, DatasetInfo
from famecli.errors import ArgumentTypeError, InputError
from famecli.nll.score import BITS_SEED
from famecli.runtime.processor import multiplies_bf16
from famecli.training.about import describe_run
from famecli.training.grow import first_weights
from famecli.training.run import Run
from famecli.training.schedule import fit
from famecli.training.trainer import Trainer

STATE = "state.safetensors"


@dataclass(frozen=True)
class Plan:
    """What a training is made of.

    Args:
        preset: Name of the model.
        size: Size of the preset.
        dataset: Name of the data set.
        settings: Values of keys of both configurations, as `train.lr` or `decoder.width`.
        data: Folder with the data set's files; see `famecli.data.cache.locate`, as the next two.
        cache_dir: Folder of fetched files.
        offline: Whether downloads are forbidden.
    """

    preset: str
    size: Size
    dataset: str
    settings: Mapping[str, object]
    data: Path | None = None
    cache_dir: Path | None = None
    offline: bool = False

    def resolve(self) -> tuple[DatasetInfo, ModelConfig, TrainConfig]:
        """Return data set, model and training, with the schedule that fits the number of images.

        Raises:
            FameError: There is no such preset, data set or key, or a value is impossible.
        """
        changes = [f"{key}={_text(key, value)}" for key, value in self.settings.items()]

        def resolved(info: DatasetInfo) -> tuple[ModelConfig, TrainConfig]:
            default = model_config(self.preset, self.size, info.shape, info.levels)
            return resolve(default, TrainConfig(), None, changes, word="settings:")

        info = describe(self.dataset, self.data)
        model, config = resolved(info)
        if info.family == FOLDER and model.levels != info.levels:
            # The levels of such images are the model's to choose, and presets go by them.
            info = seen_with(info, model.levels)
            model, config = resolved(info)
        named = typed(model, config, None, changes)
        by_hand = frozenset(path[1] for path in named if path[0] == "train" and len(path) > 1)
        return info, model, fit(config, by_hand)

    def run(
        self, folder: Path, device: torch.device, precision: Precision | None, save_every_s: float
    ) -> Run:
        """Return the run, neither resumed nor begun.

        Args:
            folder: Folder of the run.
            device: Device.
            precision: Precision of the forward pass; None for bf16 where the hardware multiplies it.
            save_every_s: Seconds between two saves.
        """
        info, model, config = self.resolve()

        def split(name: Split) -> ImageSplit:
            return load_split(
                info.name,
                name,
                data=self.data,
                cache_dir=self.cache_dir,
                offline=self.offline,
                levels=info.levels,
            )

        chosen: Precision = precision or ("bf16" if multiplies_bf16(device.type) else "fp32")
        trainer = Trainer(model, config, split("train"), device, chosen)
        valid = fixed_levels(split("valid"), BITS_SEED, config.valid_images).levels
        run = Run(trainer, folder, valid, save_every_s=save_every_s, keep_precision=precision is None)
        run.progress.size = self.size
        return run


def _text(key: str, value: object) -> str:
    """Return a value as TOML has it: numbers, texts, truth values and lists are those of JSON.

    Raises:
        ArgumentTypeError: It is something else.
    """
    try:
        return json.dumps(value)
    except TypeError as error:
        found = type(value).__name__
        raise ArgumentTypeError(f"{key} is of type {found}, expected a number, text or list") from error


def begin(run: Run, *, resume: bool, init: Checkpoint | None = None) -> None:
    """Resume a run whose state is in its folder, or begin it; write its configuration.

    Args:
        run: Fresh.
        resume: Whether to go on with a state; else what another run left is removed.
        init: The model whose weights it begins with; None for random ones.

    Raises:
        InputError: The run in the folder has another configuration, or `init` is no model of the same kind.
    """
    state = run.folder / STATE
    if resume and state.exists():
        try:
            run.resume(state)
        except InputError as error:
            raise InputError(str(error), "choose another folder, or resume=False to start over") from error
    else:
        if init is not None:
            run.trainer.start_from(first_weights(init.model, run.trainer.model))
            # Without the folders above the run's, which would be told to whoever gets the checkpoint.
            source = "/".join(Path(init.source).parts[-2:])
            past = init.provenance.trainings
            run.progress.init = FirstWeights(source, init.sha256, init.weights_sha256, past)
        run.clear()
    describe_run(run)
