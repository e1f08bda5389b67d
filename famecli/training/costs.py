"""Costs of a training: operations and bytes per image are counted, memory and time are measured."""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from famecli.model.fame import Fame, labels_on
from famecli.rng import BatchNoise, stream
from famecli.training.capacity import explain_failed_steps
from famecli.training.trainer import Trainer

SCHEMA = "famecli/dry-run/1"
COUNTED = (2, 4)
MEASURED_STEPS = 3
# Factory of the context of forward passes.
Autocast = Callable[[], AbstractContextManager[object]]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, **named: object) -> int:
    """Return the operations of attention on a CPU, which torch's counter ignores."""
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(
    gradient: torch.Size,
    query: torch.Size,
    key: torch.Size,
    value: torch.Size,
    *rest: object,
    **named: object,
) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Costs:
    """Costs of the forward and backward pass of one image.

    Args:
        flops: Operations of convolutions, attention and matrix products; a multiply-add counts as two.
        activation_bytes: Bytes kept from the forward pass for the backward pass.
    """

    flops: float
    activation_bytes: float


def costs(model: Fame, autocast: Autocast = nullcontext, counted: tuple[int, int] = COUNTED) -> Costs:
    """Return the costs per image, from passes over images of zeros; the model stays unchanged.

    Source: torch.utils.flop_counter. Masked taps are computed, so they count; elementwise operations do not.

    Args:
        model: Model whose costs are counted.
        autocast: Context of the forward passes.
        counted: Batch sizes of the two passes whose difference is taken.
    """
    few, many = (_pass(model, autocast, images) for images in counted)
    images = counted[1] - counted[0]
    # The difference leaves out what does not grow with the batch, such as masked weights.
    return Costs((many.flops - few.flops) / images, (many.activation_bytes - few.activation_bytes) / images)


def _pass(model: Fame, autocast: Autocast, images: int) -> Costs:
    levels = torch.from_numpy(np.zeros((images, *model.config.image_shape), np.uint8)).to(model.device)
    labels = labels_on(model, np.zeros(images, np.int64) if model.config.classes else None)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, autocast():
            # The compiled call hides its operations, and would stay uncompiled after a call under hooks.
            terms = model.forward(levels, BatchNoise(stream("costs"), model.device), labels)
        terms.negative_elbo.sum().backward()
    model.zero_grad()
    return Costs(counter.get_total_flops(), sum(kept.values()))


def predict(trainer: Trainer) -> dict[str, Any]:
    """Take some steps and return the document of `fame train --dry-run`: memory, speed, time of the training.

    The predicted memory is the sum of weights, averages, the optimizers' state, gradients, and activations
    of the images computed at once. The measured peak also includes workspaces and, on a CPU, libraries.

    Args:
        trainer: Trainer to be discarded afterwards.

    Raises:
        OutOfMemoryError: A step does not fit.
        UnavailableError: A step cannot be compiled here.
    """
    # Steps with latents take the most memory and time.
    trainer.config = config = dataclasses.replace(trainer.config, decoder_only=0.0)
    with explain_failed_steps(trainer):
        per_image = costs(trainer.model, trainer.autocast)
        trainer.step()
        started_s = time.monotonic()
        for _ in range(MEASURED_STEPS):
            trainer.step()
    images_per_s = MEASURED_STEPS * config.batch_size / (time.monotonic() - started_s)
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
        "peak_memory_mib": _peak_bytes(trainer.device) / 2**20,
        "images_per_s": images_per_s,
        "epoch_images": epoch_images,
        "seconds_per_epoch": epoch_images / images_per_s,
        "total_images": config.total_images,
        "seconds_total": config.total_images / images_per_s,
    }


def _peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far: by the allocator of a GPU, or else by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in kilobytes, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
