"""Trackers: TensorBoard, Weights & Biases and MLflow, told about a run. None of them can end a training.

Each runs in a thread of its own: a tracker that waits for its server does not hold the training up.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import numpy as np

from famecli.config.schema import to_dict
from famecli.errors import UnavailableError, truncate
from famecli.grids import Layout, with_three_channels
from famecli.nll.record import NATS_PER_BIT, unit_of
from famecli.training.options import Tracker
from famecli.training.progress import TrackedRun
from famecli.training.run import Run

Figures = dict[str, float]
# Entries of a record that are not metrics, and those that `figures` gives in the unit of the data.
OTHERS = ("step", "images", "split", "nats_per_image", "bits_per_dim", "stderr_nats", "kl_bits")
Status = Literal["FINISHED", "KILLED", "FAILED"]
# A tracker may take this long to begin before the training does, and to end after it.
BEGIN_S = 30.0
END_S = 60.0
PROJECT = "famecli"


@dataclass(frozen=True)
class Subject:
    """What a tracker is told about a run at its start.

    Args:
        folder: Folder of the run.
        name: Name of the run.
        config: Configuration of model and training, data set and number of parameters.
        images: Number of images seen so far.
        run_id: Tracker's name of the run that is resumed; None for a new one.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    images: int
    run_id: str | None


class Told(Protocol):
    """One run of a tracker; its constructor takes a `Subject`."""

    run_id: str | None

    def log(self, values: Figures, images: int) -> None:
        """Log figures after `images` images."""

    def show(self, picture: np.ndarray, images: int) -> None:
        """Log a picture, bytes `(H, W, 3)`."""

    def end(self, claim: dict[str, Any], status: Status) -> None:
        """Log the claim, and send everything."""


class TensorBoard:
    """Event files in `tensorboard/`, in the folder of the run."""

    run_id: str | None = None

    def __init__(self, subject: Subject) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Hides the points that a crashed run wrote after the state to resume from.
        self.writer = SummaryWriter(subject.folder / "tensorboard", purge_step=subject.images + 1)
        self._text("config", subject.config, subject.images)

    def _text(self, name: str, values: dict[str, Any], images: int) -> None:
        self.writer.add_text(name, f"```\n{json.dumps(values, indent=2)}\n```", images)

    def log(self, values: Figures, images: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, images)

    def show(self, picture: np.ndarray, images: int) -> None:
        self.writer.add_image("samples", picture, images, dataformats="HWC")

    def end(self, claim: dict[str, Any], status: Status) -> None:
        self._text("claim", claim, claim["images"])
        self.writer.close()


class Wandb:
    """Run of Weights & Biases: its environment variables say where, and whether online; files: `wandb/`."""

    def __init__(self, subject: Subject) -> None:
        # Neither reports of errors, nor lines between those of the training.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        self.wandb: Any = wandb
        online = self.wandb.setup().settings.mode == "online"
        # Without a key it would ask for one.
        if online and not self.wandb.login(prompt=False, verify=False):
            raise UnavailableError("no key: wandb login, or WANDB_MODE=offline")
        # Keep the command, the code, the packages and the machine private.
        settings = self.wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            host="",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=BEGIN_S,
            finish_timeout=END_S / 2,
        )
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=subject.name,
            dir=str(subject.folder),
            id=subject.run_id,
            resume="allow",
            config=subject.config,
            settings=settings,
        )
        self.run_id: str | None = self.run.id
        # Steps count calls, and start again in a resumed run.
        self.run.define_metric("*", step_metric="images")

    def log(self, values: Figures, images: int) -> None:
        self.run.log({**values, "images": images})

    def show(self, picture: np.ndarray, images: int) -> None:
        self.run.log({"samples": self.wandb.Image(picture), "images": images})

    def end(self, claim: dict[str, Any], status: Status) -> None:
        self.run.summary.update({f"claim/{name}": value for name, value in claim.items()})
        self.run.finish(exit_code=int(status == "FAILED"))


class Mlflow:
    """Run of MLflow, in the store of its environment variables, else in `mlflow.db` of the working folder."""

    def __init__(self, subject: Subject) -> None:
        # No reports of its use, and no lines between those of the training.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        import mlflow.entities
        from mlflow.tracking import MlflowClient

        self.entities: Any = mlflow.entities
        # Its client adds no tags, unlike its other functions: they would tell the command and the user.
        self.client: Any = MlflowClient()
        self.run_id = subject.run_id
        if self.run_id is not None:
            self.client.update_run(self.run_id, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(name)
        experiment = self.client.create_experiment(name) if found is None else found.experiment_id
        self.run_id = self.client.create_run(experiment, run_name=subject.name).info.run_id
        params = [self.entities.Param(*each) for each in _flat(subject.config)]
        self.client.log_batch(self.run_id, params=params)

    def log(self, values: Figures, images: int) -> None:
        now_ms = int(time.time() * 1000)
        metrics = [self.entities.Metric(name, value, now_ms, images) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def show(self, picture: np.ndarray, images: int) -> None:
        self.client.log_image(self.run_id, picture, key="samples", step=images)

    def end(self, claim: dict[str, Any], status: Status) -> None:
        self.client.log_dict(self.run_id, claim, "claim.json")
        tags = [self.entities.RunTag(f"claim.{name}", str(value)) for name, value in claim.items()]
        self.client.log_batch(self.run_id, tags=tags)
        self.client.set_terminated(self.run_id, status)


TRACKERS: dict[Tracker, Callable[[Subject], Told]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


class InBackground:
    """A tracker in a thread. After its first error it is told nothing more.

    Args:
        begin: Function that starts and returns the tracker's run.
    """

    def __init__(self, begin: Callable[[], Told]) -> None:
        self.run: Told | None = None
        self.failure: BaseException | None = None
        self._begin, self._begun = begin, threading.Event()
        self._calls: SimpleQueue[Callable[[Told], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._begun.wait(BEGIN_S)

    def tell(self, call: Callable[[Told], None]) -> None:
        """Let the thread make a call, after the earlier ones."""
        if self.failure is None:
            self._calls.put(call)

    def join(self) -> None:
        """Wait for the last call, but not for ever."""
        self._calls.put(None)
        self._thread.join(END_S)
        if self._thread.is_alive():
            self.failure = TimeoutError(f"not done after {END_S:.0f} s")

    def _work(self) -> None:
        try:
            self.run = self._begin()
            self._begun.set()
            while (call := self._calls.get()) is not None:
                call(self.run)
        # Some trackers raise SystemExit.
        except BaseException as error:
            self.failure = error
            self._begun.set()


def check_tracker(name: Tracker | None) -> None:
    """Check that the tracker's package is installed, before any work is done.

    Raises:
        UnavailableError: The package is missing.
    """
    if name is not None and find_spec(name) is None:
        raise UnavailableError(f"{name} is not installed", f"pip install 'famecli[{name}]'")


@contextmanager
def tracking(
    run: Run, name: Tracker, warn: Callable[[str], None]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that tells a tracker a record of metrics.jsonl; grids of samples are told as well.

    Args:
        run: Run that was begun or resumed.
        name: Name of the tracker.
        warn: Called with one line when the tracker fails.
    """
    model, show = run.trainer.model.config, run.show
    ids = {each.tracker: each.run_id for each in run.progress.tracked}
    told = InBackground(lambda: TRACKERS[name](_subject(run, ids.get(name))))
    warned = False

    def look() -> None:
        """Note the tracker's name of the run, and warn once after an error."""
        nonlocal warned
        if told.run is not None and told.run.run_id is not None:
            ids[name] = told.run.run_id
            run.progress.tracked = tuple(TrackedRun(*each) for each in ids.items())
        if told.failure is not None and not warned:
            warned = True
            reason = truncate(f"{type(told.failure).__name__}: {told.failure}", 300)
            warn(f"{name} failed, the training goes on without it ({reason})")

    def log(record: dict[str, Any]) -> None:
        values, images = figures(record, model.levels, model.image_shape), record["images"]
        told.tell(lambda tracker: tracker.log(values, images))
        look()

    def show_and_tell(pixels: np.ndarray) -> None:
        show(pixels)
        picture, images = with_three_channels(Layout().picture(pixels)[None])[0], run.trainer.images
        told.tell(lambda tracker: tracker.show(picture, images))

    look()
    run.show = show_and_tell
    status: Status = "FAILED"
    try:
        yield log
        status = "KILLED" if run.stopped in ("signal", "max_time") else "FINISHED"
    finally:
        run.show = show
        claim = _claim(run)
        told.tell(lambda tracker: tracker.end(claim, status))
        told.join()
        look()


def figures(record: dict[str, Any], levels: int, shape: tuple[int, ...]) -> Figures:
    """Return the curves of a record of metrics.jsonl: names with the split, values in the unit of the data.

    None, which stands for a value that is not finite, is left out.

    Args:
        record: Record of training means or of a validation.
        levels: Number of values of a pixel.
        shape: Channels, height and width.
    """
    in_bits = unit_of(levels) == "bits/dim"
    unit, size = ("bits_per_dim", math.prod(shape)) if in_bits else ("nats", 1 / NATS_PER_BIT)
    nll = "bits_per_dim" if in_bits else "nats_per_image"
    stderr_nats = record.get("stderr_nats")
    values = {
        nll: record[nll],
        f"stderr_{unit}": None if stderr_nats is None else stderr_nats / NATS_PER_BIT / size,
        **{
            f"kl_{unit}/{layer}": None if bits is None else bits / size
            for layer, bits in enumerate(record["kl_bits"])
        },
        **{name: value for name, value in record.items() if name not in OTHERS},
    }
    return {f"{record['split']}/{name}": value for name, value in values.items() if value is not None}


def _subject(run: Run, run_id: str | None) -> Subject:
    trainer = run.trainer
    config = {
        "model": to_dict(trainer.model.config),
        "train": to_dict(trainer.config),
        "dataset": trainer.split.info.name,
        "parameters": trainer.model.count_parameters(),
        "precision": trainer.precision,
    }
    return Subject(run.folder, run.folder.resolve().name, config, trainer.images, run_id)


def _claim(run: Run) -> dict[str, Any]:
    """Return the lowest validation NLL with its protocol, and the hash of the checkpoint that has it."""
    model, best = run.trainer.model.config, run.best()
    claim: dict[str, Any] = {"images": run.trainer.images, "stopped": run.stopped}
    if best is None:
        return claim
    unit = unit_of(model.levels)
    size = NATS_PER_BIT * math.prod(model.image_shape) if unit == "bits/dim" else 1.0
    return claim | {
        "nll": best.nats / size,
        "unit": unit,
        "estimator": ("-ELBO, K = 1" if model.stochastic_layers else "exact")
        + (", p(x|y)" if model.classes else ""),
        "data": f"{run.trainer.split.info.name}, valid, {len(run.valid.levels):,} images",
        "best_images": best.images,
        "sha256": best.sha256,
    }


def _flat(table: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names and values of a table of tables."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)
