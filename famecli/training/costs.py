"""What a training step costs per image, counted and not timed: the same on any device."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from famecli.rng import BatchNoise, stream
from famecli.training.trainer import Trainer

COUNTED = (2, 4)


@dataclass(frozen=True)
class Costs:
    """Costs of the forward and backward pass of one image.

    Args:
        flops: Of convolutions and matrix products; a multiplication and an addition are two.
        activation_bytes: Kept from the forward pass for the backward pass.
    """

    flops: float
    activation_bytes: float


def costs(trainer: Trainer) -> Costs:
    """Return the costs per image, from passes over images of zeros that change nothing."""
    few, many = (_pass(trainer, images) for images in COUNTED)
    images = COUNTED[1] - COUNTED[0]
    # Of the difference: masked weights, for example, do not grow with the batch.
    return Costs((many.flops - few.flops) / images, (many.activation_bytes - few.activation_bytes) / images)


def _pass(trainer: Trainer, images: int) -> Costs:
    model = trainer.model
    levels = torch.from_numpy(np.zeros((images, *model.config.image_shape), np.uint8)).to(trainer.device)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, trainer.autocast():
            terms = model(levels, BatchNoise(stream("costs"), trainer.device))
        terms.negative_elbo.sum().backward()
    model.zero_grad()
    return Costs(counter.get_total_flops(), sum(kept.values()))
