"""Capacity: the largest batch in memory, the images in a time budget, and advice when a step fails."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from famecli.config.schema import ModelConfig, Precision, TrainConfig
from famecli.data.dataset import ImageSplit
from famecli.errors import OutOfMemoryError, UnavailableError, truncate
from famecli.runtime.distributed import Group
from famecli.runtime.memory import is_out_of_memory, release
from famecli.training.clock import Clock
from famecli.training.trainer import Trainer

# Fraction of the free memory for steps; validation, samples and fragmentation need the rest.
USED = 0.8
MOST_AT_ONCE = 512
FIRST_TRIAL = 8
# These steps load libraries, allocate memory and compile code.
WARM_UP_STEPS = 3
FEWEST_STEPS = 5
# More steps than are measured.
MANY = 10**6
# Time of measuring: fraction of a budget, but at most this many seconds.
MEASURED_PART = 0.05
MOST_S = 30.0
# Modules with the exceptions of torch's compiler, which are not public.
COMPILER = ("torch._dynamo", "torch._inductor")


def largest_batch(peak_bytes: Callable[[int], int], free_bytes: int, most: int = MOST_AT_ONCE) -> int:
    """Return the largest tested number of images at once that leaves memory to spare, or 1.

    Powers of two are tried: halved until one fits, then doubled while they fit. Only 1 may be untested.

    Args:
        peak_bytes: Function that takes steps of a number of images and returns the peak memory.
        free_bytes: Free memory.
        most: Largest number to try.
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
    """Return a function that takes two steps of a number of images and returns the peak memory in bytes.

    Only the second step has the optimizers' state in memory. Both have latents, which take memory.
    """

    def measure(images: int) -> int:
        release()
        torch.cuda.reset_peak_memory_stats(device)
        changed = dataclasses.replace(config, batch_size=images, decoder_only=0.0)
        trainer = Trainer(model, changed, split, device, precision)
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
    """Return the largest batch size, over all processes, that fits in the memory of every GPU."""
    free = torch.cuda.mem_get_info(device)[0]
    most = min(MOST_AT_ONCE, max(1, len(split.pixels) // (accumulate * group.size)))
    at_once = largest_batch(peak_on_gpu(model, config, split, device, precision), free, most)
    release()
    # The minimum over processes.
    return -group.all_reduce_max(-at_once) * accumulate * group.size


def images_in_time(
    trainer: Trainer,
    budget_s: float,
    clock: Clock | None = None,
    thread_s: Callable[[], float] = time.thread_time,
) -> tuple[int, float, float]:
    """Take trial steps, and return how many images fit in a time budget, in whole batches.

    Measured steps count towards the budget; warm-up steps do not. All processes return the images and the
    speed of the first one, but their own fraction of CPU time.

    Args:
        trainer: Trainer, which takes steps.
        budget_s: Seconds of training steps.
        clock: Clock of the steps; None for a new one.
        thread_s: Function that returns the CPU time of this thread in seconds.

    Returns:
        Number of images, one batch at least; images per second; and the CPU time of this thread divided by
        the wall time of the measured steps.
    """
    clock, group, batch = clock or Clock(), trainer.group, trainer.config.batch_size
    kinds, configs = _kinds(trainer.config.decoder_only), _configs(trainer.config)

    def step() -> None:
        trainer.config = configs[next(kinds)]
        trainer.step()

    for _ in range(WARM_UP_STEPS):
        step()
    with clock.running():
        started_s, started_cpu_s, steps, enough = clock.now_s(), thread_s(), 0, False
        while not enough:
            step()
            steps += 1
            spent_s = clock.now_s() - started_s
            enough = steps >= FEWEST_STEPS and spent_s >= min(MOST_S, MEASURED_PART * budget_s)
            # The first process decides.
            enough = bool(group.all_reduce_max(int(enough and group.is_main)))
    had = (thread_s() - started_cpu_s) / max(spent_s, 1e-9)
    spent_s = float(group.sum(torch.tensor(spent_s if group.is_main else 0.0, dtype=torch.float64)))
    images_per_s = steps * batch / max(spent_s, 1e-9)
    images = int((budget_s - spent_s) * images_per_s)
    return max(1, images // batch) * batch, images_per_s, had


def _kinds(fraction: float) -> Iterator[bool]:
    """Yield whether each step is without latents: first one of each kind, then a `fraction` of all steps."""
    yield from (fraction > 0, False)
    for step in itertools.count():
        yield int(fraction * (step + 1)) > int(fraction * step)


def _configs(config: TrainConfig) -> tuple[TrainConfig, TrainConfig]:
    """Return configurations of steps with latents, and of steps without."""
    without = dataclasses.replace(config, decoder_only=0.99, total_images=MANY * config.batch_size)
    return dataclasses.replace(config, decoder_only=0.0), without


@contextmanager
def explain_failed_steps(trainer: Trainer) -> Iterator[None]:
    """Explain failed steps: what would fit in memory, or what is missing for compilation.

    Raises:
        OutOfMemoryError: A step does not fit.
        UnavailableError: A step cannot be compiled here, for example without a C++ compiler.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            at_once = trainer.images_at_once
            message = f"out of memory in step {trainer.step_count + 1} with {at_once} images at once"
            raise OutOfMemoryError(message, _advice(trainer, at_once)) from error
        if not type(error).__module__.startswith(COMPILER):
            raise
        said = truncate(str(error).partition("\n")[0])
        raise UnavailableError(
            f"a step cannot be compiled: {said}",
            "install a C++ compiler, or leave out `compile`: the result differs only in rounding",
        ) from error


def _advice(trainer: Trainer, at_once: int) -> str:
    batch, processes = trainer.config.batch_size, trainer.group.size
    if at_once == 1:
        return "choose a smaller `size`, or a device with more memory"
    advice = f"add `accumulate={2 * trainer.accumulate}` to compute {-(-at_once // 2)} at once: same result"
    smaller = batch // 2 // processes * processes
    return f"{advice}; or start anew with `batch_size={smaller}`" if smaller else advice
