"""Memory of a training: the largest batch that fits, and what to do when one does not."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from famecli.config import ModelConfig, TrainConfig
from famecli.data.dataset import ImageSplit
from famecli.distributed import Group
from famecli.errors import OutOfMemoryError
from famecli.memory import is_out_of_memory, release
from famecli.training.trainer import Precision, Trainer

# Of what is free; the rest is for validation, samples and fragmentation.
USED = 0.8
MOST_AT_ONCE = 512
TRIALS = (8, 16)


def largest_batch(peak_bytes: Callable[[int], int], free_bytes: int, most: int = MOST_AT_ONCE) -> int:
    """Return the largest power of two, up to `most`, of images that can be computed at once.

    Args:
        peak_bytes: Takes steps of so many images and returns the most memory that was in use.
        free_bytes: What there is.
        most: Larger batches are not looked for.
    """
    few, many = TRIALS
    peaks = [peak_bytes(images) for images in TRIALS]
    per_image = max(1.0, (peaks[1] - peaks[0]) / (many - few))
    fitting = int((USED * free_bytes - (peaks[0] - few * per_image)) / per_image)
    return 1 << (min(most, max(1, fitting)).bit_length() - 1)


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
