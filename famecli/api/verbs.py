"""The library's verbs: `load`, `evaluate`, `train`, `compare`. docs/api.md has examples.

Nothing is printed, and the settings of torch stay as they are.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from famecli.api.arguments import (
    Array,
    Progress,
    check_callback,
    choice,
    counted,
    estimator_of,
    levels_of,
    number,
    preparation_of,
    text_of,
    whole,
    words_of,
)
from famecli.api.handle import Model as Model
from famecli.checkpoints.checkpoint import WeightsKind, load_checkpoint
from famecli.checkpoints.store import Store, checkpoint_file
from famecli.config.presets import SIZES, Size
from famecli.config.resolve import Setting
from famecli.config.schema import LARGEST_COUNT, TrainConfig
from famecli.data.dataset import Split, even_part, load_split, own_images
from famecli.data.labels import Labels
from famecli.data.preparation import Preparation
from famecli.errors import ArgumentTypeError
from famecli.evaluation import comparison
from famecli.evaluation.comparison import WAIVERS, Comparison, Waiver
from famecli.evaluation.report import NllReport
from famecli.evaluation.score import score, scored_levels
from famecli.nll.record import Annealing, NllRecord
from famecli.runtime.devices import MOST_THREADS, device_named, undisturbed
from famecli.runtime.distributed import ALONE
from famecli.training.follow import finish_step_on_ctrl_c, follow
from famecli.training.lock import locked
from famecli.training.options import AUTO, NEVER, AnyPrecision, TrainOptions
from famecli.training.plan import make_plan
from famecli.training.setup import begin, make_run

AnyPath = str | PathLike[str]
OWN_IMAGES = "own"
# Least and largest values of keys.
RANGES = {
    item.name: (item.metadata["minimum"], item.metadata["maximum"])
    for item in dataclasses.fields(TrainConfig)
    if "minimum" in item.metadata
}
# Least and largest values of the numbers that `train` takes and that may be None.
WHOLE_NUMBERS: dict[str, tuple[int, int | None]] = {
    "images": (1, LARGEST_COUNT),
    "steps": (1, LARGEST_COUNT),
    "batch_size": RANGES["batch_size"],
    "ema": RANGES["ema_halflife_images"],
    "eval_every": RANGES["eval_every_images"],
    "seed": RANGES["seed"],
    "patience": (1, None),
    "sample_every": (1, None),
    "threads": (1, MOST_THREADS),
}
NUMBERS: dict[str, tuple[float, float]] = {
    "epochs": (0.0, LARGEST_COUNT),
    "budget_s": (0.0, LARGEST_COUNT),
    "lr": RANGES["lr"],
    "max_time_s": (0.0, math.inf),
}


def load(
    source: AnyPath,
    *,
    weights: WeightsKind = "ema",
    device: str | torch.device = "cpu",
    offline: bool = False,
    cache_dir: AnyPath | None = None,
) -> Model:
    """Return a model.

    Args:
        source: Name of weights, file, folder of a run, or URL with `#sha256=HEX`.
        weights: `ema` for averaged weights, `raw` for those of the last step.
        device: `cpu`, `cuda`, `cuda:0` and so on, `mps`, or `auto` for the fastest.
        offline: Whether downloads are forbidden.
        cache_dir: Folder of downloaded files; None for the user's cache.

    Raises:
        ArgumentError: No checkpoint has this name, or the file has no raw weights.
        UnavailableError: The weights are missing and cannot be downloaded, or the device is missing.
        InputError: The file is damaged or no checkpoint.
        IntegrityError: The hash of the file is wrong.
    """
    choice("weights", weights, get_args(WeightsKind))
    name, store = text_of("source", source), Store(_path("cache_dir", cache_dir), offline)
    with undisturbed():
        place = device_named(str(device))
        path = checkpoint_file(name, store)
        loaded = load_checkpoint(path, weights)
        loaded.model.on(place)
    return Model(loaded)


def evaluate(
    model: Model | AnyPath,
    dataset: str | Array | Tensor,
    *,
    split: Split = "test",
    limit: int | None = None,
    labels: Labels | None = None,
    marginal: bool = False,
    importance_samples: int = 1,
    annealing: Annealing | int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    data: AnyPath | None = None,
    preparation: Preparation | None = None,
    offline: bool = False,
    cache_dir: AnyPath | None = None,
    progress: Progress | None = None,
) -> NllReport:
    """Return the NLL of a model on images, with its protocol.

    Its `record` is the document that `fame evaluate-nll --json` prints.

    Args:
        model: Model, or its source for `load`.
        dataset: Name of a data set, `folder` for the images in `data`, or levels `(N, C, H, W)`.
        split: Split of a named data set: `train`, `valid`, `test`, or `all`.
        limit: Number of images, spread evenly over the split of N images: those of index
            `floor(i * N / limit)`, `i` from 0; None for all.
        labels: Class of all images of the split, or of each; None for the labels of the data set.
        marginal: Whether a model with classes is scored by the mean of p(x|y) over all classes.
        importance_samples: Draws of the latents per image; see `Model.nll`.
        annealing: Settings of annealed importance sampling; see `Model.nll`.
        seed: Seed of the latents.
        batch_size: Images times samples, or chains, in one forward pass; None for a default.
        data: Folder of the data set, None for `FAME_DATA` or the cache; for `folder` your own images.
        preparation: Preparation of your own images; what it leaves open is as for the training images.
        offline: Whether downloads are forbidden.
        cache_dir: Folder of downloaded files; None for the user's cache.
        progress: Called with the images done and their total; `marginal` counts an image once per class.

    Raises:
        ArgumentError: The model is for other images, or a number is out of range.
        FameError: The data set is unknown, missing or damaged; see `load` for errors of the model.
    """
    handle = _model(model, offline, cache_dir)
    estimator = estimator_of(importance_samples, annealing, seed, batch_size, marginal=marginal)
    most, asked = None if limit is None else whole("limit", limit, 1), preparation_of(preparation)
    choice("split", split, get_args(Split))
    if isinstance(dataset, str):
        images = load_split(
            dataset,
            split,
            data=_path("data", data),
            cache_dir=_path("cache_dir", cache_dir),
            offline=offline,
            levels=handle.config.levels,
            channels=handle.config.channels,
            preparation=handle.checkpoint.provenance.prepared(asked, dataset),
        )
    else:
        own = levels_of(dataset, handle.config)
        images = own_images(own, handle.config.levels, OWN_IMAGES, "Images of one's own")
    part = even_part(len(images.pixels), most)
    scored = scored_levels(handle.checkpoint, images, part, labels, marginal=marginal)
    advance = counted(progress, len(scored.levels) * estimator.passes(handle.checkpoint.model))
    with undisturbed():
        return score(handle.checkpoint, images, scored, estimator, advance=advance)


def train(
    preset: str,
    dataset: str,
    *,
    out: AnyPath,
    size: Size | None = None,
    conditional: bool | None = None,
    images: int | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    budget_s: float | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    lr: float | None = None,
    ema: int | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    init: Model | AnyPath | None = None,
    resume: bool | AnyPath = True,
    save_every_s: float = 600.0,
    eval_every: int | None = None,
    keep: int = 0,
    sample_every: int | None = None,
    patience: int | None = None,
    max_time_s: float | None = None,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    precision: AnyPrecision = "auto",
    compile: bool = False,
    data: AnyPath | None = None,
    preparation: Preparation | None = None,
    offline: bool = False,
    cache_dir: AnyPath | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Model:
    """Train a model and return it as it was at the lowest validation NLL.

    `fame train` with the same settings gives the same weights. An existing run in `out` is resumed; its own
    values replace the defaults. Call again to resume a training that stopped early. If it stopped before its
    first validation, or in its decoder-only part, whose latents are untrained, the last model is returned.

    Args:
        preset: Name of the model; see `famecli.presets`.
        dataset: Name of the data set; `folder` for the images in `data`.
        out: Folder of the run.
        size: `tiny`, `small` or `paper`; None for that of the run or of `init`, else `small`.
        conditional: Whether the model is given the class of each image: p(x|y); None for that of the run or
            of `init`, else False.
        images: Number of images to see; only one of `images`, `epochs`, `steps` and `budget_s` may be given.
        epochs: Length in epochs.
        steps: Length in steps.
        budget_s: Length in seconds of training steps; the measured speed fixes the number of images.
        batch_size: Images per step; None for 16 on a CPU, on a GPU what fits in memory.
        accumulate: Number of micro-batches per step, to save memory by gradient accumulation; same result.
        lr: Learning rate of AdamW.
        ema: Half-life of the averaged weights, in images.
        seed: Seed of weights, order, bits and latents.
        settings: Values of further keys, such as `decoder.width` or `train.beta`; see docs/settings.md.
        init: Model with the first weights, or its source for `load`; None for random weights.
        resume: True to resume a run in `out`, False to remove it; or the state file of a run to resume.
        save_every_s: Seconds between two saves.
        eval_every: Images between two validations.
        keep: Number of numbered checkpoints to keep; each validation writes one.
        sample_every: Images between two grids of samples in `samples/`; None for no grids.
        patience: Images without a lower validation NLL before the training stops; None for never.
        max_time_s: Seconds of this call after which the training saves and stops; None for never.
        device: Device; see `load`.
        threads: Number of CPU threads; None for torch's own.
        precision: `fp32`, `bf16`, or `auto` for bf16 where the hardware multiplies it.
        compile: Whether to compile the steps with `torch.compile`: faster, after minutes of compilation.
        data: Folder of the data set, None for `FAME_DATA` or the cache; for `folder` your own images.
        preparation: Preparation of your own images; what it leaves open is as for `init`, if that is given.
        offline: Whether downloads are forbidden.
        cache_dir: Folder of downloaded files; None for the user's cache.
        progress: Called with each line of metrics.jsonl, a dictionary with `images` and `nats_per_image`.

    Raises:
        ArgumentError: A number is out of range.
        ArgumentTypeError: An argument is of the wrong kind.
        ConfigError: A key of `settings` is unknown or its value impossible.
        InputError: The run in `out` began with other values.
        UnavailableError: Another training is running in `out`.
        NumericsError: The training diverged.
        OutOfMemoryError: A step does not fit in memory; the hint says what would.
        FameError: The data set is unknown, missing or damaged; see `load` for errors of `init` and `device`.
    """
    if size is not None:
        choice("size", size, SIZES)
    choice("precision", precision, get_args(AnyPrecision))
    check_callback(progress)
    if settings is not None and not isinstance(settings, Mapping):
        raise ArgumentTypeError(f"settings is of type {type(settings).__name__}, expected keys with values")
    options = TrainOptions(
        preset=text_of("preset", preset),
        dataset=text_of("dataset", dataset),
        data=_path("data", data),
        preparing=preparation_of(preparation),
        size=size,
        conditional=conditional,
        settings=[
            Setting(str(key), value.item() if isinstance(value, np.generic) else value)
            for key, value in (settings or {}).items()
        ],
        images=images,
        epochs=epochs,
        steps=steps,
        budget_s=budget_s,
        batch_size=batch_size,
        accumulate=whole("accumulate", accumulate, 1),
        lr=lr,
        ema=ema,
        precision=precision,
        compile=compile,
        out=Path(text_of("out", out)),
        resume=(AUTO if resume else NEVER) if isinstance(resume, bool) else text_of("resume", resume),
        init=None if init is None or isinstance(init, Model) else text_of("init", init),
        save_every_s=number("save_every_s", save_every_s, 0.0, math.inf),
        eval_every=eval_every,
        patience=patience,
        max_time_s=max_time_s,
        keep=whole("keep", keep, 0),
        sample_every=sample_every,
        seed=seed,
        device=str(device),
        threads=threads,
        offline=offline,
        cache_dir=_path("cache_dir", cache_dir),
    )
    options = dataclasses.replace(options, **_numbers(options))
    plan = make_plan(options, init.checkpoint if isinstance(init, Model) else None)
    with undisturbed(), locked(plan.folder, ALONE) as lock:
        run = make_run(plan)
        run.lock = lock
        begin(run, plan)
        with finish_step_on_ctrl_c() as interrupted, closing(follow(run, plan, interrupted)) as records:
            for record in records:
                if progress is not None:
                    progress(record)
    return load(run.checkpoint, device=run.trainer.device)


def compare(
    a: NllReport | AnyPath, b: NllReport | AnyPath, *, allow: Waiver | Collection[Waiver] = ()
) -> Comparison:
    """Compare two models on the same images, image by image; differences are `a - b` in nats.

    Args:
        a: Result of `evaluate`, or a file that `fame evaluate-nll --json --with-images` wrote.
        b: Second result or file, to compare with the first.
        allow: Permitted differences: `estimator`, `names`, or both.

    Raises:
        ArgumentError: The two differ in something else, or `allow` has an unknown word.
        InputError: A file is no such document, or there is only one image.

    Source: the paired t test, and the percentile bootstrap; see `famecli.evaluation.comparison.paired`.
    """
    allowed = words_of("allow", allow)
    for word in allowed:
        choice("allow", word, WAIVERS)
    waived = frozenset(waiver for waiver in WAIVERS if waiver in allowed)
    return comparison.compare(_scores(a, "a"), _scores(b, "b"), waived)


def _scores(scored: NllReport | AnyPath, name: str) -> NllRecord:
    if isinstance(scored, NllReport):
        comparison.check_scores(scored.nll, name)
        return scored.nll
    if isinstance(scored, str | PathLike):
        return comparison.read_scores(Path(scored))
    raise ArgumentTypeError(f"{name} is of type {type(scored).__name__}, expected what evaluate returns")


def _model(model: Model | AnyPath, offline: bool, cache_dir: AnyPath | None) -> Model:
    return model if isinstance(model, Model) else load(model, offline=offline, cache_dir=cache_dir)


def _path(name: str, path: AnyPath | None) -> Path | None:
    return None if path is None else Path(text_of(name, path))


def _numbers(options: TrainOptions) -> dict[str, Any]:
    """Return the numbers of a training that may be None and are not; errors are those of `whole`."""
    given = {name: getattr(options, name) for name in (*WHOLE_NUMBERS, *NUMBERS)}
    return {
        name: whole(name, value, *WHOLE_NUMBERS[name])
        if name in WHOLE_NUMBERS
        else number(name, value, *NUMBERS[name])
        for name, value in given.items()
        if value is not None
    }
