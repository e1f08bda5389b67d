"""Memory of a training: the largest batch that fits, and what to do when one does not."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from famecli.config.schema import ModelConfig, Precision, TrainConfig
from famecli.data.dataset import ImageSplit
from famecli.errors import OutOfMemoryError
from famecli.memory import is_out_of_memory, release
from famecli.runtime.distributed import Group
from famecli.training.trainer import Trainer

# Of what is free; the rest is for validation, samples and fragmentation.
USED = 0.8
MOST_AT_ONCE = 512
FIRST_TRIAL = 8


def largest_batch(peak_bytes: Callable[[int], int], free_bytes: int, most: int = MOST_AT_ONCE) -> int:
    """Return the largest number of images that was computed at once with memory to spare, or 1.

    Powers of two are tried, the larger one as long as it fits, so what is returned has been seen to work.

    Args:
        peak_bytes: Takes steps of so many images and returns the most memory that was in use.
        free_bytes: What there is, of which a part is left free.
        most: Larger batches are not tried.
    """

    def fits(images: int) -> bool:
        try:
            return peak_bytes(images) <= USED * free_bytes
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False

    images = min(FIRST_TRIAL, 1 << (most.bit_length() - 1))
    while images > 1 and not fits(images):
        images //= 2
        most = images
    while 2 * images <= most and fits(2 * images):
        images *= 2
    return images


def peak_on_gpu(
    model: ModelConfig, config: TrainConfig, split: ImageSplit, device: torch.device, precision: Precision
) -> Callable[[int], int]:
    """Return a function that trains two steps of so many images and returns the bytes used at most.

    The second one has the optimizers' state in memory.
    """

    def measure(images: int) -> int:
        release()
        torch.cuda.reset_peak_memory_stats(device)
        trainer = Trainer(model, dataclasses.replace(config, batch_size=images), split, device, precision)
        for _ in range(2):
            trainer.step()
        return torch.cuda.max_memory_allocated(device)

    return measure


def largest_common_batch(
    model: ModelConfig,
    config: TrainConfig,
    split: ImageSplit,
    device: torch.device,
    precision: Precision,
    accumulate: int,
    group: Group,
) -> int:
    """Return the images of a batch, over all processes, that fit in the memory of each process's GPU."""
    free = torch.cuda.mem_get_info(device)[0]
    most = min(MOST_AT_ONCE, max(1, len(split.pixels) // (accumulate * group.size)))
    at_once = largest_batch(peak_on_gpu(model, config, split, device, precision), free, most)
    release()
    # The smallest of all.
    return -group.largest(-at_once) * accumulate * group.size


@contextmanager
def explain_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """Say what would fit where a step runs out of memory.

    Raises:
        OutOfMemoryError: It does.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        at_once = trainer.images_at_once
        message = f"out of memory in step {trainer.step_count + 1} with {at_once} images at once"
        raise OutOfMemoryError(message, _advice(trainer, at_once)) from error


def _advice(trainer: Trainer, at_once: int) -> str:
    batch, processes = trainer.config.batch_size, trainer.group.size
    if at_once == 1:
        return "choose a smaller --size, or a device with more memory"
    advice = f"add --accumulate {2 * trainer.accumulate} to compute {-(-at_once // 2)} at once: same result"
    smaller = batch // 2 // processes * processes
    return f"{advice}; or start anew with --batch-size {smaller}" if smaller else advice
