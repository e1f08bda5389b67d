"""`fame train`."""

import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from famecli.cli import options
from famecli.cli import train_options as own
from famecli.cli.info import environment
from famecli.cli.settings import resolve, to_toml
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.config import ModelConfig, TrainConfig
from famecli.data.info import DatasetInfo
from famecli.errors import ExitCode, InputError, UsageError
from famecli.output import Output
from famecli.presets import SIZES, model_config
from famecli.weights import DEFAULT_DATASET

if TYPE_CHECKING:
    from famecli.training.run import Run, Stopped
    from famecli.training.trainer import Trainer

SCHEMA = "famecli/train/1"
SMALLEST_RATE_BITS = 0.15


@dataclass(frozen=True)
class Request:
    """What the options of `fame train` come to."""

    info: DatasetInfo
    model: ModelConfig
    config: TrainConfig
    place: DataPlace
    device: str
    threads: int | None
    precision: str
    accumulate: int

    def trainer(self, output: Output) -> "Trainer":
        """Load the training images and build the model."""
        from famecli.training.trainer import Trainer

        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"unknown precision {self.precision!r}", "choose fp32 or bf16")
        device = options.use_device(self.device, self.threads)
        split = self.place.split(self.info.name, "train")
        trainer = Trainer(self.model, self.config, split, device, self.precision, self.accumulate)  # type: ignore[arg-type]
        output.note(
            f"training {self.model.preset} ({trainer.model.count_parameters():,} parameters) "
            f"on {self.info.name} with {device}: "
            f"{self.config.total_images:,} images in batches of {self.config.batch_size}"
        )
        return trainer

    def run(self, output: Output, folder: Path, save_every_s: float, patience: int | None) -> "Run":
        """Return the run of this request in `folder`, not yet resumed."""
        from famecli.data.dataset import fixed_levels
        from famecli.training.run import Run

        trainer = self.trainer(output)
        valid = self.place.split(self.info.name, "valid")
        levels = fixed_levels(valid, seed=0, limit=self.config.valid_images).levels
        return Run(trainer, folder, levels, save_every_s=save_every_s, patience_images=patience)


@dataclass(frozen=True)
class RunOptions:
    """Where a training's files go, where it starts, and when it stops; as typed."""

    out: Path | None
    resume: str
    init: str | None
    save_every: str
    patience: int | None
    max_time: str | None


def train(
    model: own.Model = "fame",
    dataset: options.Dataset = None,
    data: options.Data = None,
    size: own.ModelSize = "tiny",
    config: own.Config = None,
    assignments: own.Assignments = None,
    print_config: own.PrintConfig = False,
    dry_run: own.DryRun = False,
    images: own.Images = None,
    epochs: own.Epochs = None,
    steps: own.Steps = None,
    batch_size: options.BatchSize = "auto",
    accumulate: own.Accumulate = 1,
    lr: own.Lr = None,
    ema: own.Ema = None,
    precision: own.Precision = "fp32",
    out: own.Out = None,
    resume: own.Resume = "auto",
    init: own.Init = None,
    save_every: own.SaveEvery = "10m",
    eval_every: own.EvalEvery = None,
    patience: own.Patience = None,
    max_time: own.MaxTime = None,
    seed: own.TrainSeed = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model. Prints the path of the best checkpoint; running the same command again goes on.

    Exit code 75: stopped by --max-time or SIGTERM with everything saved; 130: the same by Ctrl-C.

    Examples:

      fame train fame --dataset mnist --size tiny -o run/

      fame train pixelcnn --size small --epochs 4 --max-time 1h -o run/

      fame train fame --size small --set free_nats=2 --set decoder.layers=8 --dry-run
    """
    output = Output(json=json, quiet=quiet)
    flags = {"lr": lr, "ema_halflife_images": ema, "eval_every_images": eval_every, "seed": seed}
    length = {"images": images, "epochs": epochs, "steps": steps}
    resolved = _configure(model, size, dataset, data, config, assignments or [], flags, length, batch_size)
    place = DataPlace(data, cache_dir, offline, output.note)
    asked = RunOptions(out, resume, init, save_every, patience, max_time)
    request = Request(*resolved, place, device, threads, precision, accumulate)
    _act(request, asked, output, print_config, dry_run)


def _act(request: Request, asked: RunOptions, output: Output, print_config: bool, dry_run: bool) -> None:
    """Print the configuration, or what a few steps predict, or train."""
    if print_config:
        typer.echo(to_toml(request.model, request.config), nl=False)
        return
    if dry_run:
        from famecli.cli.dry_run import predict

        predict(request.trainer(output), output)
        return
    folder = asked.out or _default_folder(request.model, request.config, request.info.name)
    max_time_s = None if asked.max_time is None else options.seconds(asked.max_time)
    if not options.seconds(asked.save_every):
        raise UsageError("--save-every 0 would do nothing but save", "write for example 10m")
    run = request.run(output, folder, options.seconds(asked.save_every), asked.patience)
    place = request.place
    init = asked.init and ModelChoice(
        asked.init, None, None, "ema", "cpu", None, place.cache_dir, place.offline
    )
    _prepare(run, folder, asked.resume, init or None, output)
    _follow(run, output, max_time_s)


def _configure(
    preset: str,
    size: str,
    dataset: str | None,
    data: Path | None,
    file: Path | None,
    assignments: list[str],
    flags: dict[str, float | int | None],
    length: dict[str, float | int | None],
    batch_size: str,
) -> tuple[DatasetInfo, ModelConfig, TrainConfig]:
    """Return data, model and training as options, `--set`, file, preset and defaults say, by this rank."""
    # Here, since it needs numpy, which `fame --help` can do without.
    from famecli.data.folder import describe

    info = describe(dataset or DEFAULT_DATASET, data)
    if size not in SIZES:
        raise UsageError(f"unknown size {size!r}", f"sizes: {', '.join(SIZES)}")
    given = {name: value for name, value in length.items() if value is not None}
    if len(given) > 1:
        raise UsageError(f"--{' and --'.join(given)} say the same thing: give one of them")
    default = model_config(preset, size, info.shape, info.levels)
    changes = [f"train.{name}={value}" for name, value in flags.items() if value is not None]
    if batch_size != "auto":
        changes.append(f"train.batch_size={options.count(batch_size, '--batch-size', 0)}")
    model, config = resolve(default, TrainConfig(), file, [*assignments, *changes])
    units = {"images": 1, "epochs": info.splits["train"], "steps": config.batch_size}
    for name, value in given.items():
        if not math.isfinite(value):
            raise UsageError(f"--{name} {value} is no number of images")
        total = max(1, round(value * units[name]))
        model, config = resolve(
            default, TrainConfig(), file, [*assignments, *changes, f"train.total_images={total}"]
        )
    return info, model, config


def _default_folder(model: ModelConfig, config: TrainConfig, dataset: str) -> Path:
    digest = hashlib.sha256(to_toml(model, config).encode()).hexdigest()[:8]
    return Path("runs") / f"{model.preset}-{dataset}-{digest}"


def _prepare(run: "Run", folder: Path, resume: str, init: ModelChoice | None, output: Output) -> None:
    """Resume `run`, or give it first weights and an empty folder; write its configuration."""
    import torch

    from famecli.files import write_atomic

    _start(run, folder, resume, init, output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}", "choose another --out") from error
    machine = {"device": str(run.trainer.device), "threads": torch.get_num_threads(), "command": sys.argv}
    write_atomic(folder / "env.json", (json.dumps(environment() | machine, indent=2) + "\n").encode())
    write_atomic(folder / "config.toml", to_toml(run.trainer.model.config, run.trainer.config).encode())


def _start(run: "Run", folder: Path, resume: str, init: ModelChoice | None, output: Output) -> None:
    from famecli.checkpoint import load_checkpoint

    state = folder / "state.safetensors" if resume in ("auto", "never") else Path(resume)
    if resume not in ("auto", "never") or (resume == "auto" and state.exists()):
        if not state.exists():
            raise InputError(f"no saved state {state}", "--resume takes auto, never, or a state.safetensors")
        run.resume(state)
        output.note(f"resumed at {run.trainer.images:,} images from {state}")
        return
    if init is not None:
        path = init.path(output.note)
        run.trainer.start_from(load_checkpoint(path).model.state_dict())
        output.note(f"started from the weights of {init.checkpoint}")
    run.clear()


def _follow(run: "Run", output: Output, max_time_s: float | None) -> None:
    """Train with progress on stderr, then print the result and exit with the code that fits."""
    deadline_s = None if max_time_s is None else time.monotonic() + max_time_s
    total = run.trainer.config.total_steps * run.trainer.config.batch_size
    signals: list[int] = []

    def interrupted() -> "Stopped | None":
        if signals:
            return "signal"
        return "max_time" if deadline_s is not None and time.monotonic() > deadline_s else None

    with _catch_signals(signals):
        with output.progress("training", total) as advance:
            advance(run.trainer.images, "")
            seen = run.trainer.images
            for record in run.records(interrupted):
                advance(record["images"] - seen, _describe(record))
                seen = record["images"]
                if record["split"] == "valid":
                    _warn_of_collapse(record, output)
        _report(run, output)
    if run.stopped == "signal" and signals[0] == signal.SIGINT:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if run.stopped in ("signal", "max_time"):
        raise typer.Exit(ExitCode.PREEMPTED)


@contextmanager
def _catch_signals(caught: list[int]) -> Iterator[None]:
    """Collect SIGINT and SIGTERM in `caught`; a second one acts as usual."""
    kinds = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {}

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for kind in kinds:
            signal.signal(kind, before[kind])

    for kind in kinds:
        before[kind] = signal.signal(kind, remember)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])


def _describe(record: dict[str, Any]) -> str:
    text = f"{record['split']} {record['nats_per_image'] or float('nan'):.2f} nats"
    return f"{text} {record['images_per_s']:.0f} images/s" if "images_per_s" in record else text


def _warn_of_collapse(record: dict[str, Any], output: Output) -> None:
    idle = [str(layer) for layer, bits in enumerate(record["kl_bits"]) if bits < SMALLEST_RATE_BITS]
    if idle:
        output.warn(
            f"stochastic layer {', '.join(idle)} (0 is nearest to the image) carries under "
            f"{SMALLEST_RATE_BITS} bits at {record['images']:,} images; more --set free_nats=... helps"
        )


def _report(run: "Run", output: Output) -> None:
    from famecli.evaluation import bits_per_dim

    best = run.best()
    trainer = run.trainer
    path = run.folder / "last.safetensors" if best is None else best.path
    data = {
        "schema": SCHEMA,
        "run": str(run.folder),
        "best": None
        if best is None
        else {
            "path": str(best.path),
            "sha256": best.sha256,
            "images": best.images,
            "step": best.images // trainer.config.batch_size,
            "valid_nats_per_image": best.nats,
            "valid_bits_per_dim": bits_per_dim(best.nats, trainer.model.config.image_shape),
        },
        "steps": trainer.step_count,
        "images": trainer.images,
        "skipped": trainer.skipped,
        "seconds": round(run.progress.seconds, 1),
        "stopped": run.stopped,
    }
    output.result(data, str(path))
