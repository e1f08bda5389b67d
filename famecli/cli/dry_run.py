"""`fame train --dry-run`: a few measured steps instead of a training."""

import resource
import sys
import time
from typing import Any

import torch
from rich.console import Console

from famecli.output import Output, table
from famecli.training.costs import costs
from famecli.training.failures import explain_failed_steps
from famecli.training.trainer import Trainer

SCHEMA = "famecli/dry-run/1"
STEPS = 3


def predict(trainer: Trainer, output: Output) -> None:
    """Take some steps in memory and print parameters, memory and the time that all images will take.

    Raises:
        OutOfMemoryError: The steps do not fit.
        UnavailableError: They cannot be compiled here.
    """
    with explain_failed_steps(trainer):
        data = _measure(trainer)

    def human(console: Console) -> None:
        console.print(table(f"{trainer.model.config.preset}, without validation", ["", ""], _rows(data)))

    if trainer.group.first:
        output.result(data, f"{data['seconds_total']:.0f}", human)


def _measure(trainer: Trainer) -> dict[str, Any]:
    """Return the document of a dry run.

    The predicted memory is that of weights, averages, optimizers' state, gradients, and of what is kept of
    the images that are computed at once. The peak has workspaces, too, and on the CPU the libraries.
    """
    config, per_image = trainer.config, costs(trainer.model, trainer.autocast)
    trainer.step()
    started_s = time.monotonic()
    for _ in range(STEPS):
        trainer.step()
    images_per_s = STEPS * config.batch_size / (time.monotonic() - started_s)
    state_bytes = sum(value.nbytes for value in trainer.state_tensors().values())
    gradient_bytes = sum(weight.nbytes for weight in trainer.model.parameters())
    activation_bytes = trainer.images_at_once * per_image.activation_bytes
    epoch_images = trainer.split.info.splits["train"]
    return {
        "schema": SCHEMA,
        "batch_size": config.batch_size,
        "processes": trainer.group.size,
        "images_at_once": trainer.images_at_once,
        "parameters": trainer.model.count_parameters(),
        "state_mib": state_bytes / 2**20,
        "activation_mib_per_image": per_image.activation_bytes / 2**20,
        "gflops_per_image": per_image.flops / 1e9,
        "predicted_memory_mib": (state_bytes + gradient_bytes + activation_bytes) / 2**20,
        "peak_memory_mib": _peak_memory_mib(trainer.device),
        "images_per_s": images_per_s,
        "epoch_images": epoch_images,
        "seconds_per_epoch": epoch_images / images_per_s,
        "total_images": config.total_images,
        "seconds_total": config.total_images / images_per_s,
    }


def _rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("parameters", f"{data['parameters']:,}"),
        ("weights, averages, optimizers", f"{data['state_mib']:,.0f} MiB"),
        ("activations of an image", f"{data['activation_mib_per_image']:,.2f} MiB"),
        ("both passes over an image", f"{data['gflops_per_image']:,.2f} GFLOP"),
        (f"memory for {data['images_at_once']} at once", f"{data['predicted_memory_mib']:,.0f} MiB"),
        ("peak memory, measured", f"{data['peak_memory_mib']:,.0f} MiB"),
        ("speed", f"{data['images_per_s']:,.1f} images/s"),
        (f"one epoch of {data['epoch_images']:,}", f"{data['seconds_per_epoch'] / 60:,.1f} minutes"),
        (f"all {data['total_images']:,} images", f"{data['seconds_total'] / 60:,.1f} minutes"),
    ]


def _peak_memory_mib(device: torch.device) -> float:
    """Return the most memory used so far: of the GPU's allocator there, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Kilobytes, but bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
