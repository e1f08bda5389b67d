"""`fame train --dry-run`: a few measured steps instead of a training."""

import resource
import sys
import time

import torch
from rich.console import Console

from famecli.output import Output, table
from famecli.training.trainer import Trainer

SCHEMA = "famecli/dry-run/1"
STEPS = 3


def predict(trainer: Trainer, output: Output) -> None:
    """Take some steps in memory and print parameters, peak memory and the time that all images will take."""
    trainer.step()
    started_s = time.monotonic()
    for _ in range(STEPS):
        trainer.step()
    images_per_s = STEPS * trainer.config.batch_size / (time.monotonic() - started_s)
    epoch_images = len(trainer.split.pixels)
    epoch_s, total_s = epoch_images / images_per_s, trainer.config.total_images / images_per_s
    data = {
        "schema": SCHEMA,
        "parameters": trainer.model.count_parameters(),
        "peak_memory_mib": _peak_memory_mib(trainer.device),
        "images_per_s": images_per_s,
        "seconds_per_epoch": epoch_s,
        "seconds_total": total_s,
    }

    def human(console: Console) -> None:
        rows = [
            ("parameters", f"{data['parameters']:,}"),
            ("peak memory", f"{data['peak_memory_mib']:,.0f} MiB"),
            ("speed", f"{images_per_s:,.0f} images/s"),
            (f"one epoch of {epoch_images:,}", f"{epoch_s / 60:,.1f} minutes"),
            (f"all {trainer.config.total_images:,} images", f"{total_s / 60:,.1f} minutes"),
        ]
        console.print(table(f"{trainer.model.config.preset}, without validation", ["", ""], rows))

    output.result(data, f"{total_s:.0f}", human)


def _peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far: of the GPU's allocator there, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Kilobytes, but bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
