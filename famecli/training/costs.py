"""What a training step costs per image, counted and not timed: the same on any device."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from famecli.model.fame import Fame
from famecli.rng import BatchNoise, stream

COUNTED = (2, 4)
# Makes the context of forward passes.
Autocast = Callable[[], AbstractContextManager[object]]


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *rest: object, **named: object) -> int:
    """Return the operations of attention on a CPU, which torch's counter takes for none."""
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
        flops: Operations of convolutions, attention and matrix products; a multiplication and an addition are
            two.
        activation_bytes: Kept from the forward pass for the backward pass.
    """

    flops: float
    activation_bytes: float


def costs(model: Fame, autocast: Autocast = nullcontext, counted: tuple[int, int] = COUNTED) -> Costs:
    """Return the costs per image, from passes over images of zeros that change nothing.

    Source: torch.utils.flop_counter. Masked taps are computed, so they count; elementwise operations do not.

    Args:
        model: Model whose costs are counted.
        autocast: Context of the forward passes.
        counted: Numbers of images in the two passes whose difference is taken.
    """
    few, many = (_pass(model, autocast, images) for images in counted)
    images = counted[1] - counted[0]
    # Of the difference: masked weights, for example, do not grow with the batch.
    return Costs((many.flops - few.flops) / images, (many.activation_bytes - few.activation_bytes) / images)


def _pass(model: Fame, autocast: Autocast, images: int) -> Costs:
    levels = torch.from_numpy(np.zeros((images, *model.config.image_shape), np.uint8)).to(model.device)
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
            # As it is: a compiled call hides its operations, and would stay uncompiled after one under hooks.
            terms = model.forward(levels, BatchNoise(stream("costs"), model.device))
        terms.negative_elbo.sum().backward()
    model.zero_grad()
    return Costs(counter.get_total_flops(), sum(kept.values()))
