"""The parameters of a training. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from famecli.config.presets import Size
from famecli.config.resolve import Setting
from famecli.config.schema import Precision
from famecli.data.preparation import AS_THEY_ARE, Preparation

AnyPrecision = Literal[Precision, "auto"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
AUTO, NEVER = "auto", "never"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Parameters of a training.

    None means the value of the resumed run, else of the file, else the default.

    Args:
        preset: Name of the preset; default `fame`.
        dataset: Name of the data set; default `mnist`.
        conditional: Whether the model is p(x|y), with the classes of the data set; None for that of the
            first weights, else False.
        data: Folder with the data set's files, see `famecli.data.cache.locate`; or the user's own images.
        preparing: Preparation of the user's own images; the rule of their splits is that of the run.
        size: Size of the preset; default `small`.
        config: TOML file with values for keys.
        settings: Values for keys; they override the file.
        images: Number of images to see; `images`, `epochs`, `steps` and `budget_s` exclude each other.
        epochs: Length in epochs.
        steps: Length in steps.
        budget_s: Length in seconds of training steps; the measured speed fixes the number of images.
        batch_size: Images per step, over all processes; None for 16 on a CPU, on a GPU what fits in memory.
        accumulate: Number of parts of each process's images in a step, to save memory.
        lr: Learning rate of AdamW.
        ema: Half-life of the averaged weights, in images.
        precision: Precision of the forward pass; `auto` for bf16 where the hardware multiplies it.
        compile: Whether to compile the steps with `torch.compile`: faster, after minutes of compilation.
        out: Folder of the run; None for a name made from the given values.
        resume: `auto` to resume a run in the folder, `never` to remove it, or the state file of a run.
        init: Checkpoint with the first weights; see `checkpoints.store.checkpoint_file`.
        save_every_s: Seconds between two saves.
        eval_every: Images between two validations.
        patience: Images without a lower validation NLL before the training stops.
        max_time_s: Seconds since the start of the command after which the training saves and stops.
        keep: Number of numbered checkpoints to keep; each validation writes one.
        sample_every: Images between two grids of samples.
        track: Tracker that also gets the metrics; see `famecli.training.trackers`.
        seed: Seed of weights, order, bits and latents.
        device: Device; see `famecli.runtime.devices.device_named`.
        threads: Number of CPU threads; None for torch's own choice.
        offline: Whether downloads are forbidden.
        cache_dir: Folder of downloaded files; None for the user's cache.
    """

    preset: str | None = None
    dataset: str | None = None
    conditional: bool | None = None
    data: Path | None = None
    preparing: Preparation = AS_THEY_ARE
    size: Size | None = None
    config: Path | None = None
    settings: list[Setting] | None = None
    images: int | None = None
    epochs: float | None = None
    steps: int | None = None
    budget_s: float | None = None
    batch_size: int | None = None
    accumulate: int = 1
    lr: float | None = None
    ema: int | None = None
    precision: AnyPrecision = "auto"
    compile: bool = False
    out: Path | None = None
    resume: str = AUTO
    init: str | None = None
    save_every_s: float = 600.0
    eval_every: int | None = None
    patience: int | None = None
    max_time_s: float | None = None
    keep: int = 0
    sample_every: int | None = None
    track: Tracker | None = None
    seed: int | None = None
    device: str = "auto"
    threads: int | None = None
    offline: bool = False
    cache_dir: Path | None = None
