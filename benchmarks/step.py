"""Time of a training step by kind of operation, against the time of its products alone.

    python -m benchmarks.step --model fame --dataset mnist --steps 20 --compile

Images are noise. A step is timed without a profiler; then a profiler measures each kind of operation. The
limit is the time of the model's convolutions, attention and matrix products, without the optimizer's
products. With `--compile` a compiled step is timed as well, against the limit of the uncompiled step.
"""

import argparse
import statistics
import time
from collections import Counter

import numpy as np
import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from benchmarks.checkpoints import run
from benchmarks.tables import Table, publish
from famecli.config.presets import PRESETS, SIZES, model_config
from famecli.config.resolve import Setting, resolve
from famecli.config.schema import TrainConfig
from famecli.data.dataset import ImageSplit
from famecli.data.folder import describe
from famecli.runtime.devices import device_named
from famecli.training.trainer import Trainer

WARM_UP = 3
# The first kind with a matching pattern counts.
KINDS = {
    "convolutions": ("convolution",),
    "attention": ("scaled_dot_product", "::softmax", "::_softmax"),
    "matrix products": ("::mm", "::bmm", "::addmm", "::baddbmm", "::linear"),
    "copies and casts": ("copy", "::clone", "::contiguous", "::fill_", "::zero_", "::cat", "::stack"),
}
LIMIT = ("convolutions", "attention", "matrix products")
POINTWISE, OPTIMIZER, PYTHON = "pointwise and the rest", "optimizer", "between operations"


def main() -> None:
    options = parse_options()
    # CPU time excludes other programs on the machine, and is the time of a step on one thread only.
    torch.set_num_threads(1)
    trainer = make_trainer(options)
    step_ms = median_ms(trainer, options.steps)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        started_s = time.perf_counter()
        for _ in range(options.steps):
            trainer.step()
        profiled_ms = 1e3 * (time.perf_counter() - started_s) / options.steps
    spent = spent_ms(profiled.events() or [], options.steps)
    spent[PYTHON] = profiled_ms - sum(spent.values())
    limit_ms = sum(spent[kind] for kind in LIMIT)
    rows = [(kind, value, value / profiled_ms) for kind, value in spent.most_common()]
    note = (
        f"A step of {trainer.config.batch_size} images takes {step_ms:.1f} ms of the processor without the "
        f"profiler (median), {1e3 * trainer.config.batch_size / step_ms:.1f} images/s. With the profiler it "
        f"takes {profiled_ms / limit_ms:.2f} times the {limit_ms:.1f} ms of {', '.join(LIMIT)}."
    )
    if options.compile:
        compiled_ms = median_ms(make_trainer(options, compiled=True), options.steps)
        note += (
            f" Compiled it takes {compiled_ms:.1f} ms, {1e3 * trainer.config.batch_size / compiled_ms:.1f} "
            f"images/s, {compiled_ms / limit_ms:.2f} times those {limit_ms:.1f} ms."
        )
    title = f"A training step of `{options.model}`, {options.size}, {options.dataset}, {options.precision}"
    publish([Table("step", title, ("operations", "ms", "part of the step"), rows, note)], "", {}, None)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="fame")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def make_trainer(options: argparse.Namespace, *, compiled: bool = False) -> Trainer:
    info = describe(options.dataset, None)
    preset = model_config(options.model, options.size, info.shape, info.levels)
    with_latents = TrainConfig(decoder_only=0.0)
    found = resolve(preset, with_latents, None, [Setting.parse(text) for text in options.set])
    shape = (4 * found.train.batch_size, *info.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    split = ImageSplit(info, "train", pixels)
    return Trainer(found.model, found.train, split, device_named("cpu"), options.precision, compiled=compiled)


def median_ms(trainer: Trainer, steps: int) -> float:
    for _ in range(WARM_UP):
        trainer.step()
    return statistics.median(timed_ms(trainer) for _ in range(steps))


def timed_ms(trainer: Trainer) -> float:
    started_s = time.process_time()
    trainer.step()
    return 1e3 * (time.process_time() - started_s)


def spent_ms(events: list[FunctionEvent], steps: int) -> Counter[str]:
    """Return the milliseconds per step of each kind of operation."""
    spent: Counter[str] = Counter(dict.fromkeys((*KINDS, POINTWISE, OPTIMIZER), 0.0))
    for event in events:
        spent[kind_of(event)] += event.self_cpu_time_total / 1e3 / steps
    return spent


def kind_of(event: FunctionEvent) -> str:
    parent: FunctionEvent | None = event
    while parent is not None:
        if parent.name.startswith("Optimizer."):
            return OPTIMIZER
        parent = parent.cpu_parent
    return next((kind for kind, parts in KINDS.items() if any(p in event.name for p in parts)), POINTWISE)


if __name__ == "__main__":
    run(main)
