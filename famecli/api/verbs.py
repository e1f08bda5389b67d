"""The library's verbs: `load`, `evaluate`, `train`, `compare`. docs/api.md has examples.

Nothing is printed, and the settings of torch stay as they are.
"""

from collections.abc import Callable, Collection, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from famecli.api.handle import Model as Model
from famecli.api.handle import Progress, counted
from famecli.api.pixels import LARGEST_SEED, Array, choice, levels_of, number, whole
from famecli.checkpoints.checkpoint import WeightsKind, load_checkpoint
from famecli.checkpoints.source import checkpoint_file
from famecli.checkpoints.store import Store
from famecli.config.presets import SIZES, Size
from famecli.config.schema import Precision
from famecli.data.dataset import ImageSplit, Split, load_split
from famecli.data.stdin import own_images
from famecli.errors import ArgumentError, ArgumentTypeError
from famecli.nll import comparison
from famecli.nll.comparison import WAIVERS, Comparison, Scores, Waiver
from famecli.nll.evaluate import evaluate as evaluate_levels
from famecli.nll.report import NllReport
from famecli.nll.score import AUTOMATIC_BATCH, score
from famecli.runtime.devices import device_named, undisturbed
from famecli.training.failures import explain_failed_steps
from famecli.training.setup import Plan, begin

AnyPath = str | PathLike[str]
AnyPrecision = Precision | Literal["auto"]
OWN_IMAGES = "own"


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
        cache_dir: Folder of fetched files; None for the user's cache.

    Raises:
        UsageError: Nothing is called that, or the file has no raw weights.
        UnavailableError: The weights are not here and cannot be had, or the device is not here.
        InputError: The file is damaged or no checkpoint.
        IntegrityError: The file does not have its hash.
    """
    choice("weights", weights, get_args(WeightsKind))
    if not isinstance(source, str | PathLike):
        raise ArgumentTypeError(f"source is of type {type(source).__name__}, expected a name or a path")
    place = device_named(str(device))
    with undisturbed():
        path = checkpoint_file(str(source), Store(_path(cache_dir), offline))
        loaded = load_checkpoint(path, weights)
        loaded.model.on(place)
    return Model(loaded)


def evaluate(
    model: Model | AnyPath,
    dataset: str | Array | Tensor,
    *,
    split: Split = "test",
    limit: int | None = None,
    importance_samples: int = 1,
    seed: int = 0,
    batch_size: int = AUTOMATIC_BATCH,
    data: AnyPath | None = None,
    offline: bool = False,
    cache_dir: AnyPath | None = None,
    progress: Progress | None = None,
) -> NllReport:
    """Return the NLL of a model on images, with its protocol.

    Its `record` is the document that `fame evaluate-nll --json` prints.

    Args:
        model: Model, or what `load` takes.
        dataset: Name of a data set, or images of one's own: levels `(N, C, H, W)`.
        split: Part of a data set with a name: `train`, `valid` or `test`.
        limit: Number of images, the first ones; None for all.
        importance_samples: Draws of the latents per image; see `Model.nll`.
        seed: Seed of the latents.
        batch_size: Images times samples in one forward pass.
        data: Folder with the data set's files; None for `FAME_DATA` or the cache.
        offline: Whether downloads are forbidden.
        cache_dir: Folder of fetched files; None for the user's cache.
        progress: Called with the images done and those in all.

    Raises:
        ArgumentError: The model is for other images, or a number is out of range.
        FameError: As `load`, or the data set is unknown, not here, or damaged.
    """
    handle = _model(model, offline, cache_dir)
    draws, own_seed = whole("importance_samples", importance_samples, 1), whole("seed", seed, 0, LARGEST_SEED)
    most = None if limit is None else whole("limit", limit, 1)
    batch = whole("batch_size", batch_size, 1)
    if isinstance(dataset, str):
        choice("split", split, get_args(Split))
        images = load_split(
            dataset,
            split,
            data=_path(data),
            cache_dir=_path(cache_dir),
            offline=offline,
            levels=handle.config.levels,
        )
    else:
        images = _own(handle, dataset)

    def scored(levels: Array) -> Any:  # noqa: ANN401
        return evaluate_levels(
            handle.checkpoint.model,
            levels,
            importance_samples=draws,
            seed=own_seed,
            batch_size=batch,
            advance=counted(progress, len(levels)),
        )

    with undisturbed():
        return score(handle.checkpoint, images, scored, limit=most, seed=own_seed)


def train(
    preset: str,
    dataset: str,
    *,
    out: AnyPath,
    size: Size = "tiny",
    images: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    settings: Mapping[str, object] | None = None,
    init: Model | AnyPath | None = None,
    resume: bool = True,
    save_every_s: float = 600.0,
    device: str | torch.device = "cpu",
    precision: AnyPrecision = "auto",
    data: AnyPath | None = None,
    offline: bool = False,
    cache_dir: AnyPath | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Model:
    """Train a model and return it as it was at the lowest validation NLL.

    Weights are those of `fame train` with the same settings. A run that is in `out` already goes on.

    Args:
        preset: Name of the model; see `famecli.presets`.
        dataset: Name of the data set.
        out: Folder of the run.
        size: `tiny`, `small` or `paper`.
        images: Images to see in all; None for what the configuration says, as for the next three.
        batch_size: Images per step.
        lr: Learning rate of AdamW's part.
        seed: Seed of weights, order, bits and latents.
        settings: Values of further keys of the configuration, such as `decoder.width` or `train.beta`.
        init: Model whose weights the training begins with, or what `load` takes; None for random weights.
        resume: Whether a run in `out` goes on; else it is removed.
        save_every_s: Seconds between two saves.
        device: As for `load`.
        precision: `fp32`, `bf16`, or `auto` for bf16 where the hardware multiplies it.
        data: As for `evaluate`, as the next two.
        offline: Whether downloads are forbidden.
        cache_dir: Folder of fetched files.
        progress: Called with each line of metrics.jsonl, a dictionary with `images` and `nats_per_image`.

    Raises:
        ConfigError: A key is unknown or a value impossible.
        InputError: The run in `out` has another configuration.
        NumericsError: The training diverged.
        FameError: As `load`, or the data set is unknown, not here, or damaged.
    """
    choice("size", size, SIZES)
    choice("precision", precision, (*get_args(Precision), "auto"))
    every_s = number("save_every_s", save_every_s, 0.0, float("inf"))
    typed = {"total_images": images, "batch_size": batch_size, "lr": lr, "seed": seed}
    changes = {f"train.{key}": value for key, value in typed.items() if value is not None}
    changed = {**(settings or {}), **changes}
    plan = Plan(preset, size, dataset, changed, _path(data), _path(cache_dir), offline)
    place = device_named(str(device))
    first = None if init is None else _model(init, offline, cache_dir)
    with undisturbed():
        run = plan.run(Path(out), place, None if precision == "auto" else precision, every_s)
        begin(run, resume=resume, init=None if first is None else first.checkpoint)
        with explain_failed_steps(run.trainer):
            for record in run.records(lambda: None):
                if progress is not None:
                    progress(record)
    best = run.best()
    return load(run.folder / "last.safetensors" if best is None else best.path, device=place)


def compare(a: NllReport | AnyPath, b: NllReport | AnyPath, *, allow: Collection[Waiver] = ()) -> Comparison:
    """Return how two models compare on the same images, image by image; differences are `a - b` in nats.

    Args:
        a: What `evaluate` returned, or a file that `fame evaluate-nll --json --with-images` wrote.
        b: The other one.
        allow: What may differ: `estimator`, `names`, or both.

    Raises:
        ArgumentError: They differ in something else, or `allow` has another word.
        InputError: A file is no such document, or there is one image alone.

    Source: the paired t test, and the percentile bootstrap; see `famecli.nll.comparison.paired`.
    """
    waived = frozenset(allow)
    for word in waived:
        choice("allow", word, WAIVERS)
    first, second = _scores(a, "a"), _scores(b, "b")
    found = [(waiver, words) for waiver, words in comparison.differences(first, second)]
    if refused := [words for waiver, words in found if waiver not in waived]:
        hint = "score both on the same images by the same estimator, or see allow"
        raise ArgumentError(f"a and b differ in {', '.join(refused)}", hint)
    return comparison.compare(first, second, waived)


def _scores(scored: NllReport | AnyPath, name: str) -> Scores:
    if isinstance(scored, NllReport):
        return comparison.scores_in(scored.record | {"image_nats": scored.nlls.nats.tolist()}, name)
    if isinstance(scored, str | PathLike):
        return comparison.read_scores(Path(scored))
    raise ArgumentTypeError(f"{name} is of type {type(scored).__name__}, expected what evaluate returns")


def _model(model: Model | AnyPath, offline: bool, cache_dir: AnyPath | None) -> Model:
    return model if isinstance(model, Model) else load(model, offline=offline, cache_dir=cache_dir)


def _own(model: Model, x: Array | Tensor) -> ImageSplit:
    """Return images of the caller as a data set; errors are those of `levels_of`."""
    config = model.config
    return own_images(levels_of(x, config), config.levels, OWN_IMAGES, "Images of one's own")


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else Path(path)
