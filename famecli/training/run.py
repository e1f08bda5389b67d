"""A training in its folder: what is saved when, how it is resumed, when it stops.

config.toml          the resolved configuration
env.json             versions, device, threads and the command
metrics.jsonl        one JSON object per line: training means, validations
last.safetensors     the model, averaged and raw weights
best.safetensors     the same at the lowest validation NLL
state.safetensors    all that resuming needs
images-N.safetensors the model after N images, if asked for
training-images.bin  hashes of the training images, see `famecli.data.dataset`
.lock                keeps a second training out, see `famecli.training.lock`
samples/N.png        images drawn after N images, if asked for

With several processes each runs the same code, and only the first one writes to the folder.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from famecli import __version__
from famecli.checkpoints.checkpoint import load_tensors, save_checkpoint, save_tensors
from famecli.checkpoints.store import STATE
from famecli.config.schema import TrainConfig, to_dict
from famecli.data.dataset import FixedLevels
from famecli.errors import InputError
from famecli.files import read_bytes, remove_leftovers, unwritable, write_atomic
from famecli.nll.record import NATS_PER_BIT, bits_per_dim
from famecli.training.clock import Clock
from famecli.training.lock import FolderLock
from famecli.training.progress import Progress
from famecli.training.resume import OWN_FILES, SAMPLES_FOLDER, check_same, take_along
from famecli.training.resume import STATE_SCHEMA as STATE_SCHEMA
from famecli.training.snapshots import draw_grid, keep_last, numbered_name, remove_later
from famecli.training.trainer import StepRecord, Trainer

Stopped = Literal["done", "patience", "max_time", "signal"]
# If processes have different reasons, the last one in this order wins.
REASONS: tuple[Stopped | None, ...] = (None, "patience", "max_time", "signal")


@dataclass(frozen=True)
class Best:
    """The checkpoint with the lowest validation NLL."""

    path: Path
    sha256: str
    images: int
    nats: float


class Run:
    """A trainer with its folder.

    Args:
        trainer: Fresh trainer.
        folder: Folder of the run; made if missing.
        valid: Validation images as levels, with their classes if the model has any.
        save_every_s: Seconds between two saves of the state.
        patience_images: Images without a lower validation NLL before the training stops; None for never.
        keep: Number of numbered checkpoints to keep; each validation writes one.
        sample_every_images: Images between two grids of samples; None for no grids.
        show: Called with each grid's images, uint8 `(N, H, W, C)`, in the process that writes.
        keep_precision: Whether a resumed run keeps the precision of its last step, not the trainer's.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        valid: FixedLevels,
        *,
        save_every_s: float = 600.0,
        patience_images: int | None = None,
        keep: int = 0,
        sample_every_images: int | None = None,
        show: Callable[[np.ndarray], None] = lambda images: None,
        keep_precision: bool = False,
    ) -> None:
        self.trainer, self.folder, self.valid = trainer, folder, valid
        self.save_every_s, self.patience_images = save_every_s, patience_images
        self.keep, self.sample_every_images, self.show = keep, sample_every_images, show
        self.keep_precision, self.group = keep_precision, trainer.group
        self.progress = Progress()
        self.stopped: Stopped = "done"
        # Set by those who share the folder with other trainings.
        self.lock: FolderLock | None = None
        self.image_hashes = np.zeros((0, 32), np.uint8)
        self._window: list[StepRecord] = []
        self._clock = Clock()
        self._last_saved_s = time.monotonic()
        self._counted_s = self._window_start_s = self._clock.now_s()
        self._counted_cpu_s = time.process_time()

    def resume(self, state: Path) -> None:
        """Go on from a state file.

        Raises:
            InputError: The file is damaged, or its run has another configuration or other training images;
                the message names the difference.
        """
        tensors, header, _ = load_tensors(state, STATE_SCHEMA)
        try:
            for name, now in (("model", self.trainer.model.config), ("train", self.trainer.config)):
                check_same(header.metadata.get(name), to_dict(now), name)
            progress = Progress.of(header.metadata.get("progress"))
            progress.check_data(self.progress.data)
            self.trainer.restore(tensors)
        except InputError as error:
            raise InputError(f"{state}: {error}", error.hint) from error
        if self.group.is_main and not (self.folder / STATE).exists():
            take_along(state.parent, self.folder)
        best = self.folder / "best.safetensors"
        # After a crash the file may be of a later step, or missing in a new folder: validation rewrites it.
        if not best.is_file() or hashlib.sha256(best.read_bytes()).hexdigest() != progress.best_sha256:
            progress = dataclasses.replace(progress, best_nats=None, best_images=0, best_sha256="")
        progress.data = self.progress.data
        self.progress = progress
        if self.keep_precision:
            self.trainer.precision = progress.precision
        if self.group.is_main:
            self._remove_leftovers()
            self._drop_later_metrics()
            remove_later(self.folder, self.trainer.images)

    def clear(self) -> None:
        """Remove what another run left in the folder."""
        if not self.group.is_main:
            return
        for pattern in OWN_FILES:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for folder in (self.folder, self.folder / SAMPLES_FOLDER):
            remove_leftovers(folder)

    def records(self, interrupted: Callable[[], Stopped | None]) -> Generator[dict[str, Any], None, None]:
        """Train to the end, or until `interrupted` gives a reason; yield each line of metrics.jsonl.

        After the last record everything is saved, and `stopped` is the reason. Closing the iterator
        saves, too.
        """
        if self.group.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._clock.running():
            self._last_saved_s = time.monotonic()
            self._counted_s = self._window_start_s = self._clock.now_s()
            self._counted_cpu_s = time.process_time()
            try:
                yield from self._records(interrupted)
            except GeneratorExit:
                self.save()
                raise

    def _records(self, interrupted: Callable[[], Stopped | None]) -> Iterator[dict[str, Any]]:
        reason = self._agreed(self._out_of_patience())
        while not self.trainer.done and reason is None:
            self._window.append(self.trainer.step())
            self._count_time()
            # A caller may end the training at a record, so all work of the step comes before.
            found = [self._log(record) for record in self._due()]
            if self.sample_every_images is not None and self._passed(self.sample_every_images):
                self._draw()
            yield from found
            if time.monotonic() - self._last_saved_s > self.save_every_s:
                self.save()
            reason = self._agreed(interrupted() or self._out_of_patience())
        self.stopped = reason if reason and not self.trainer.done else "done"
        if self._window:
            yield self._log(self._train_record())
        self.save()

    def _due(self) -> Iterator[dict[str, Any]]:
        """Yield the records that are due after a step."""
        config = self.trainer.config
        if self._passed(config.eval_every_images) or self.trainer.done:
            yield self._train_record()
            yield self._validate()
        elif len(self._window) * config.batch_size >= record_every_images(config):
            yield self._train_record()

    def _draw(self) -> None:
        """Draw a grid of samples; its time does not count as that of steps."""
        started_s = self._clock.now_s()
        images = draw_grid(self.trainer, self.folder)
        if self.group.is_main:
            self.show(images)
        self._window_start_s += self._clock.now_s() - started_s

    def _count_time(self) -> None:
        """Add the time since the last call to the time of the run."""
        now_s, cpu_s = self._clock.now_s(), time.process_time()
        own = torch.tensor(cpu_s - self._counted_cpu_s, dtype=torch.float64)
        self.progress.seconds += now_s - self._counted_s
        if self.progress.cpu_seconds is not None:
            self.progress.cpu_seconds += float(self.group.sum(own))
        self._counted_s, self._counted_cpu_s = now_s, cpu_s

    def _passed(self, every: int) -> bool:
        """Return whether the last step reached or passed a multiple of `every` images."""
        images = self.trainer.images
        return images // every > (images - self.trainer.config.batch_size) // every

    def _agreed(self, reason: Stopped | None) -> Stopped | None:
        """Return one reason to stop for all processes, so that they stop after the same step."""
        return REASONS[self.group.all_reduce_max(REASONS.index(reason))]

    def best(self) -> Best | None:
        """Return the best checkpoint so far; None before a validation, and until latents have joined."""
        if self.progress.best_nats is None:
            return None
        path = self.folder / "best.safetensors"
        return Best(path, self.progress.best_sha256, self.progress.best_images, self.progress.best_nats)

    @property
    def checkpoint(self) -> Path:
        """Best checkpoint; the last one where there is no best one yet."""
        best = self.best()
        return self.folder / "last.safetensors" if best is None else best.path

    def save(self) -> None:
        """Write `state.safetensors` and `last.safetensors`; see `_follow_folder` for errors."""
        if not self.group.is_main:
            return
        gone = self._follow_folder()
        self.save_state()
        self._save_model("last.safetensors")
        self._last_saved_s = time.monotonic()
        if gone is not None:
            raise gone

    def save_state(self) -> None:
        """Write `state.safetensors`, by which the folder is that of a run."""
        self.progress.precision = self.trainer.precision
        metadata = {
            "schema": STATE_SCHEMA,
            "model": to_dict(self.trainer.model.config),
            "train": to_dict(self.trainer.config),
            "progress": dataclasses.asdict(self.progress),
        }
        save_tensors(self.folder / STATE, self.trainer.state_tensors(), metadata)

    def _save_model(self, name: str) -> str:
        """Write a checkpoint and return its SHA-256, or an empty string in processes other than the first."""
        if not self.group.is_main:
            return ""
        trainer, init, data = self.trainer, self.progress.init, self.progress.data
        how = trainer.split.info.preparation
        facts = {
            "training": to_dict(trainer.config),
            "provenance": {
                "dataset": trainer.split.info.name,
                **({} if how is None else {"preparation": dataclasses.asdict(how)}),
                "images_seen": trainer.images,
                "steps": trainer.step_count,
                "skipped_steps": trainer.skipped,
                "seconds": round(self.progress.seconds, 1),
                "cpu_seconds": _rounded(self.progress.cpu_seconds),
                "device": trainer.device.type,
                "precision": trainer.precision,
                "threads": torch.get_num_threads(),
                "processes": self.group.size,
                **({} if init is None else {"init": dataclasses.asdict(init)}),
                **({} if data is None else {"data": dataclasses.asdict(data)}),
                "versions": {"famecli": __version__, "torch": torch.__version__},
            },
            "claim": None,
        }
        raw = trainer.model.state_dict()
        return save_checkpoint(self.folder / name, trainer.model.config, trainer.averaged, raw, facts)

    def _validate(self) -> dict[str, Any]:
        result = self.trainer.validate(self.valid.levels, self.valid.labels)
        self._count_time()
        progress = self.progress
        better = progress.best_nats is None or result.mean < progress.best_nats
        if better and self.trainer.has_latents:
            progress.best_nats, progress.best_images = result.mean, self.trainer.images
            progress.best_sha256 = self._save_model("best.safetensors")
        if self.keep and self.group.is_main:
            self._save_model(numbered_name(self.trainer.images))
            keep_last(self.folder, self.keep)
        # Validation is not part of the training speed: the next window starts here.
        self._window_start_s = self._clock.now_s()
        return {
            **self._measures("valid", result.mean, list(result.rate.mean(0))),
            "stderr_nats": result.stderr,
            "valid_images": len(result.nats),
        }

    def _train_record(self) -> dict[str, Any]:
        window, self._window = self._window, []
        now_s = self._clock.now_s()
        speed = len(window) * self.trainer.config.batch_size / max(1e-9, now_s - self._window_start_s)
        self._window_start_s = now_s
        rate = np.mean([record.rate for record in window], axis=0)
        return {
            **self._measures("train", float(np.mean([record.nats for record in window])), list(rate)),
            "grad_norm": float(np.mean([record.grad_norm for record in window])),
            "skipped": window[-1].skipped,
            "images_per_s": speed,
            "lr_factor": window[-1].lr_factor,
        }

    def _measures(self, split: str, nats: float, rate: list[float]) -> dict[str, Any]:
        return {
            "step": self.trainer.step_count,
            "images": self.trainer.images,
            "split": split,
            "nats_per_image": nats,
            "bits_per_dim": bits_per_dim(nats, self.trainer.model.config.image_shape),
            "kl_bits": [float(each) / NATS_PER_BIT for each in rate],
            "elapsed_s": round(self.progress.seconds, 1),
            "cpu_s": _rounded(self.progress.cpu_seconds),
        }

    def _log(self, record: dict[str, Any]) -> dict[str, Any]:
        finite = {key: _finite(value) for key, value in record.items()}
        if self.group.is_main:
            gone = self._follow_folder()
            path = self.folder / "metrics.jsonl"
            try:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(finite, allow_nan=False) + "\n")
            except OSError as error:
                raise unwritable(path, error) from error
            if gone is not None:
                self.save()
                raise gone
        return finite

    def _follow_folder(self) -> InputError | None:
        """Follow a folder that was moved, and make one anew that was removed.

        Returns:
            Error to raise once all is saved there; None if the folder is where it was.

        Raises:
            UnavailableError: Another training took the folder.
        """
        if self.lock is None or (place := self.lock.place()) == self.folder:
            return None
        former, self.folder, self.lock = self.folder, place or self.folder, None
        self.folder.mkdir(parents=True, exist_ok=True)
        return InputError(
            f"{former} was {'removed' if place is None else 'moved'} during the training; "
            f"all is saved in {self.folder}",
            f"resume it there: `out={self.folder}`",
        )

    def _drop_later_metrics(self) -> None:
        """Cut metrics.jsonl back to the step that is resumed from."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = read_bytes(path, "metrics").decode(errors="replace").splitlines(keepends=True)
            kept = [line for line in lines if _step_of(line) <= self.trainer.step_count]
            write_atomic(path, "".join(kept).encode())

    def _out_of_patience(self) -> Stopped | None:
        if self.patience_images is None or self.progress.best_nats is None:
            return None
        every, batch = self.trainer.config.eval_every_images, self.trainer.config.batch_size
        # The last validation came with the step that reached a multiple of `every`.
        validated = -(-(self.trainer.images // every * every) // batch) * batch
        waited = validated - self.progress.best_images
        return "patience" if waited >= self.patience_images else None


def _finite(value: Any) -> Any:  # noqa: ANN401
    """Return `value` with None in place of non-finite numbers, which JSON lacks."""
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def record_every_images(config: TrainConfig) -> int:
    """Return the number of images per line of training means in metrics.jsonl."""
    return max(config.batch_size, min(config.eval_every_images // 10, config.total_images // 20))


def _step_of(line: str) -> float:
    """Return the step of a line of metrics; infinity for a truncated line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
