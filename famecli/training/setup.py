"""From a plan to a run: the trainer, its precision, its batch, its budget and its first weights."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable

import numpy as np
import torch

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.checkpoints.index import index
from famecli.checkpoints.provenance import FirstWeights, TrainingData
from famecli.checkpoints.store import STATE, Store, checkpoint_file
from famecli.config.resolve import to_toml
from famecli.config.schema import Precision
from famecli.data.dataset import (
    ImageSplit,
    Split,
    even_part,
    fixed_levels,
    image_hashes,
    load_split,
    read_split,
    write_seen,
)
from famecli.data.fetch import say_nothing
from famecli.data.folder import SPLITS
from famecli.data.labels import labels_in
from famecli.data.preparation import PIXELS
from famecli.data.registry import FOLDER
from famecli.escape import redacted
from famecli.files import write_atomic
from famecli.nll.record import BITS_SEED
from famecli.runtime.devices import device_named
from famecli.runtime.distributed import ALONE, Group
from famecli.runtime.environment import environment
from famecli.runtime.processor import multiplies_bf16
from famecli.training import capacity
from famecli.training.grow import first_weights
from famecli.training.options import AUTO, NEVER
from famecli.training.plan import Plan
from famecli.training.resume import check_shared, source_of
from famecli.training.run import Run
from famecli.training.trainer import Trainer

BLANK_IMAGES = 4096
# Fraction of a core below which measured steps were disturbed by other work.
BUSY_PART = 0.6
Note = Callable[[str], None]


def make_trainer(
    plan: Plan, group: Group = ALONE, note: Note = say_nothing, *, blank: bool = False
) -> Trainer:
    """Load the training images and build the model.

    Args:
        plan: Plan of the training.
        group: Processes that train together.
        note: Called with one line for each choice that is made here.
        blank: Whether to use images of zeros in place of the data set.

    Raises:
        FameError: The images or the device are unavailable, or do not fit the model.
    """
    options, info = plan.options, plan.info
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = device_named(group.device(options.device))
    with group.local_main_first():
        split = _blank(plan) if blank else _split(plan, "train", note)
    precision = _precision(plan, device, group, note)
    if plan.open_batch_size and device.type == "cuda":
        batch_size = _batch_size(plan, split, device, precision, group)
        plan = plan.fitted(batch_size=batch_size)

    trainer = Trainer(
        plan.model, plan.config, split, device, precision, options.accumulate, group, options.compile
    )
    if options.budget_s is not None:
        check_shared(group, plan.folder, int(plan.begun is not None))
    if plan.open_budget_s is not None:
        note("measuring the speed of this machine")
        first = {name: value.clone() for name, value in trainer.state_tensors().items()}
        with capacity.explain_failed_steps(trainer):
            images, images_per_s, had = capacity.images_in_time(trainer, plan.open_budget_s)
        note(f"{images_per_s:,.0f} images/s: {images:,} images fit in {plan.open_budget_s:g} s")
        if had < BUSY_PART:
            note(f"the machine is busy: these steps had {had:.0%} of a core, so more images would fit later")
        plan = plan.fitted(total_images=images)
        trainer.start_again(plan.config, first)
    note(
        f"training {plan.model.preset} ({trainer.model.count_parameters():,} parameters) "
        f"on {info.name} with {device}{f' in {group.size} processes' if group.size > 1 else ''}: "
        f"{plan.config.total_images:,} images in batches of {plan.config.batch_size}"
    )
    return trainer


def make_run(
    plan: Plan,
    group: Group = ALONE,
    note: Note = say_nothing,
    show: Callable[[np.ndarray], None] = lambda images: None,
) -> Run:
    """Return the run of a plan, neither resumed nor begun.

    Args:
        plan: Plan of the training.
        group: Processes that train together; see `make_trainer`, also for errors.
        note: Called with one line for each choice.
        show: Called with the images of each grid of samples, bytes `(N, H, W, C)`.
    """
    options, trainer = plan.options, make_trainer(plan, group, note)
    with group.local_main_first():
        valid = _split(plan, "valid", note)
    older = plan.begun is not None and plan.begun.progress.valid_part == "first"
    count, total = plan.config.valid_images, len(valid.pixels)
    numbers = range(min(count, total)) if older else even_part(total, count)
    run = Run(
        trainer,
        plan.folder,
        dataclasses.replace(
            fixed_levels(valid, BITS_SEED, numbers),
            labels=labels_in(plan.model.classes, valid, numbers),
        ),
        save_every_s=options.save_every_s,
        patience_images=options.patience,
        keep=options.keep,
        sample_every_images=options.sample_every,
        show=show,
        keep_precision=options.precision == AUTO,
    )
    run.progress.size, run.progress.budget_s = plan.size, options.budget_s
    run.progress.valid_part, run.progress.rule = "even", PIXELS
    run.image_hashes = image_hashes(trainer.split.pixels)
    sizes = [plan.info.splits.get(name, 0) for name in SPLITS]
    digest = hashlib.sha256(run.image_hashes.data)
    if trainer.labels is not None:
        digest.update(trainer.labels.data)
    run.progress.data = TrainingData(plan.info.name, sizes[0], sizes[1], sizes[2], digest.hexdigest())
    return run


def begin(run: Run, plan: Plan, note: Note = say_nothing) -> None:
    """Resume a run, or give it first weights and an empty folder; write its configuration.

    Args:
        run: Run as `make_run` returns it.
        plan: Plan of the training.
        note: Called with one line about what was done.

    Raises:
        InputError: There is nothing to resume, the folder cannot be made, not all processes see it, or the
            first weights are of another kind of model.
    """
    trainer, resume = run.trainer, plan.options.resume
    if resume != NEVER and (resume != AUTO or plan.state.exists()):
        run.resume(plan.state)
        kind = "finished" if trainer.done else "resumed"
        note(f"{kind} at {trainer.images:,} images from {plan.state} in {trainer.precision}")
    else:
        _give_first_weights(run, plan, note)
        run.clear()
    check_shared(trainer.group, run.folder, trainer.step_count)
    if trainer.group.is_main:
        _describe(run)
        if not (run.folder / STATE).exists():
            run.save_state()


def _split(plan: Plan, name: Split, note: Note) -> ImageSplit:
    options, info = plan.options, plan.info
    if info.family == FOLDER and options.data is not None:
        for line in info.told if name == "train" else ():
            note(line)
        return read_split(info, options.data, name, note)
    return load_split(
        info.name,
        name,
        data=options.data,
        cache_dir=options.cache_dir,
        offline=options.offline,
        report=note,
    )


def _blank(plan: Plan) -> ImageSplit:
    """Return blank training images for measuring, no more than a large batch needs."""
    images = min(plan.info.splits["train"], max(BLANK_IMAGES, plan.config.batch_size))
    labels = np.zeros(images, np.int64) if plan.info.classes else None
    return ImageSplit(plan.info, "train", np.zeros((images, *plan.info.shape), np.uint8), labels)


def _precision(plan: Plan, device: torch.device, group: Group, note: Note) -> Precision:
    """Return the requested precision; for `auto` bf16 if the hardware of all processes multiplies it."""
    if plan.options.precision != "auto":
        return plan.options.precision
    bf16 = group.all(multiplies_bf16(device.type))
    why = f"{device.type} {'multiplies' if bf16 else 'does not multiply'} bfloat16 in hardware"
    note(f"precision {'bf16' if bf16 else 'fp32'}: {why}")
    return "bf16" if bf16 else "fp32"


def _batch_size(
    plan: Plan, split: ImageSplit, device: torch.device, precision: Precision, group: Group
) -> int:
    """Return the largest batch size that fits in memory."""
    parts = plan.options.accumulate
    return capacity.largest_common_batch(plan.model, plan.config, split, device, precision, parts, group)


def _give_first_weights(run: Run, plan: Plan, note: Note) -> None:
    """Start a run from the weights of another model, if one is given, and record which."""
    options, model, first = plan.options, run.trainer.model, plan.first
    name = options.init
    if first is not None:
        name = first.source
    elif name is not None:
        with run.trainer.group.local_main_first():
            path = checkpoint_file(name, Store(options.cache_dir, options.offline, note))
        first = load_checkpoint(path)
    if first is None or name is None:
        return
    run.trainer.start_from(first_weights(first.model, model))
    trainings = first.provenance.trainings
    run.progress.init = FirstWeights(source_of(name), first.sha256, first.weights_sha256, trainings)
    more = model.count_parameters() - first.model.count_parameters()
    note(f"started from the weights of {name}" + (f" and {more:,} new ones" if more else ""))


def _describe(run: Run) -> None:
    """Write `config.toml`, `env.json` and `training-images.bin` into the folder of a run."""
    folder, trainer = run.folder, run.trainer
    command = [redacted(word) for word in sys.argv]
    machine = {"device": str(trainer.device), "threads": torch.get_num_threads(), "command": command}
    about = environment(index()) | machine | {"processes": trainer.group.size}
    write_atomic(folder / "env.json", (json.dumps(about, indent=2) + "\n").encode())
    write_seen(folder, run.image_hashes)
    write_atomic(folder / "config.toml", to_toml(trainer.model.config, trainer.config).encode())
