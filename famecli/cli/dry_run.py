"""`fame train --dry-run`: a few measured steps instead of a training."""

import resource
import sys
import time

import torch
from rich.console import Console

from famecli.output import Output, table
from famecli.training.costs import costs
from famecli.training.trainer import Trainer

SCHEMA = "famecli/dry-run/1"
STEPS = 3


def predict(trainer: Trainer, output: Output) -> None:
    """Take some steps in memory and print parameters, peak memory and the time that all images will take."""
    per_image = costs(trainer)
    trainer.step()
    started_s = time.monotonic()
    for _ in range(STEPS):
        trainer.step()
    images_per_s = STEPS * trainer.config.batch_size / (time.monotonic() - started_s)
    epoch_images = len(trainer.split.pixels)
    epoch_s, total_s = epoch_images / images_per_s, trainer.config.total_images / images_per_s
    data = {
        "schema": SCHEMA,
        "batch_size": trainer.config.batch_size,
        "processes": trainer.group.size,
        "parameters": trainer.model.count_parameters(),
        "state_mib": sum(value.nbytes for value in trainer.state_tensors().values()) / 2**20,
        "activation_mib_per_image": per_image.activation_bytes / 2**20,
        "gflops_per_image": per_image.flops / 1e9,
        "peak_memory_mib": _peak_memory_mib(trainer.device),
        "images_per_s": images_per_s,
        "seconds_per_epoch": epoch_s,
        "seconds_total": total_s,
    }

    def human(console: Console) -> None:
        rows = [
            ("parameters", f"{data['parameters']:,}"),
            ("weights, averages, optimizers", f"{data['state_mib']:,.0f} MiB"),
            ("activations of an image", f"{data['activation_mib_per_image']:,.2f} MiB"),
            ("both passes over an image", f"{data['gflops_per_image']:,.2f} GFLOP"),
            ("peak memory", f"{data['peak_memory_mib']:,.0f} MiB"),
            ("speed", f"{images_per_s:,.0f} images/s"),
            (f"one epoch of {epoch_images:,}", f"{epoch_s / 60:,.1f} minutes"),
            (f"all {trainer.config.total_images:,} images", f"{total_s / 60:,.1f} minutes"),
        ]
        console.print(table(f"{trainer.model.config.preset}, without validation", ["", ""], rows))

    if trainer.group.first:
        output.result(data, f"{total_s:.0f}", human)


def _peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far: of the GPU's allocator there, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Kilobytes, but bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
