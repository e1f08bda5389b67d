"""Plan of a training: data set, model and configuration, resolved from parameters. No torch here."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famecli.checkpoints.description import model_in, weights_hash_in
from famecli.checkpoints.header import read_header
from famecli.checkpoints.index import DEFAULT_DATASET, DEFAULT_MODEL
from famecli.checkpoints.provenance import FirstWeights, parse_provenance
from famecli.checkpoints.store import Store, checkpoint_file
from famecli.config.presets import DEFAULT_SIZE, Size, model_config, with_ladder_of
from famecli.config.resolve import Resolved, Setting, resolve
from famecli.config.schema import LARGEST_COUNT, ModelConfig, TrainConfig
from famecli.data.cache import locate
from famecli.data.fetch import say_nothing
from famecli.data.folder import describe, seen_with
from famecli.data.preparation import PIXELS, SplitRule
from famecli.data.registry import DATASETS, FOLDER, DatasetInfo
from famecli.errors import ArgumentError, FameError, InputError
from famecli.files import STDIN
from famecli.training.lock import check_unlocked
from famecli.training.options import AUTO, NEVER, TrainOptions
from famecli.training.resume import (
    Begun,
    begun_with,
    check_first,
    check_folder,
    check_kind,
    check_values,
    default_folder,
    sizes_like,
    source_of,
    state_of,
)
from famecli.training.schedule import fit

if TYPE_CHECKING:
    from famecli.checkpoints.checkpoint import Checkpoint

LENGTHS = ("images", "epochs", "steps", "budget_s")
# Feature maps of the condition where it holds the class alone.
CONDITION = 32
TOTAL_IMAGES, BATCH_SIZE = ("train", "total_images"), ("train", "batch_size")


@dataclass(frozen=True)
class Plan:
    """A training with resolved parameters.

    Args:
        options: Parameters of the training.
        info: Data set.
        model: Configuration of the model.
        given: Configuration of the training, before its schedule is fitted.
        config: Configuration of the training, with a schedule that fits the number of images.
        folder: Folder of the run.
        named: Given values of keys, by path.
        size: Size of the preset; None where first weights or a file set the model.
        begun: Run to resume; None for a new run.
        first: Model with the first weights, in place of the file that the parameters name.
        deadline_s: Time of `time.monotonic` after which the training saves and stops; None for never.
    """

    options: TrainOptions
    info: DatasetInfo
    model: ModelConfig
    given: TrainConfig
    config: TrainConfig
    folder: Path
    named: dict[tuple[str, ...], Any]
    size: Size | None = None
    begun: Begun | None = None
    first: "Checkpoint | None" = None
    deadline_s: float | None = None

    @property
    def state(self) -> Path:
        """State file to resume from, if it exists."""
        return state_of(self.folder, self.options.resume)

    @property
    def open_batch_size(self) -> bool:
        """Whether the batch size is still to be chosen."""
        return self.begun is None and BATCH_SIZE not in self.named

    @property
    def open_budget_s(self) -> float | None:
        """Seconds from which the number of images is still to be chosen; None if it is known."""
        return self.options.budget_s if self.begun is None else None

    def fitted(self, **changes: Any) -> "Plan":  # noqa: ANN401
        """Return the plan with changes of the configuration of the training, and a schedule that fits it."""
        given = dataclasses.replace(self.given, **changes)
        images = _total_images(self.options, self.info, given)
        if images is not None:
            given = dataclasses.replace(given, total_images=images)
        by_hand = {path[1] for path in self.named if path[0] == "train"}
        trained = self.first is not None or self.options.init is not None
        wait = self.model.decoder.autoregressive and bool(self.model.stages) and not trained
        return dataclasses.replace(self, given=given, config=fit(given, by_hand, latents_wait=wait))


def make_plan(
    options: TrainOptions,
    first: "Checkpoint | None" = None,
    *,
    blank: bool = False,
    report: Callable[[str], None] = say_nothing,
) -> Plan:
    """Return the plan of a training.

    Parameters outrank the file, the file outranks the first weights, and these outrank preset and defaults. A
    run to resume takes the place of preset and defaults.

    Args:
        options: Parameters of the training.
        first: Model with the first weights, in place of the file that the parameters name.
        blank: Whether nothing is written, so that neither a lock nor images matter.
        report: Called with one line when first weights are downloaded.

    Raises:
        ArgumentError: A preset or data set is unknown, or two parameters contradict each other.
        ConfigError: A key is unknown or a value impossible.
        InputError: The existing run began with other values, or the user's own images are too few.
        UnavailableError: Another training is running in the folder, or the files of the data set are missing.
    """
    deadline_s = None if options.max_time_s is None else time.monotonic() + options.max_time_s
    _check_length(options)
    if options.out is not None and not blank:
        check_unlocked(options.out)
    first = _on_stdin() if options.init == str(STDIN) else first
    base, weights, options = _with_first(options, first, report)
    info, settings = _described(options, PIXELS), _settings(options)

    def resolved(info: DatasetInfo) -> Resolved:
        size = options.size or DEFAULT_SIZE
        name = options.preset or (base.preset if base is not None else DEFAULT_MODEL)
        preset = _kept(base, options, info) or model_config(name, size, info.shape, info.levels)
        if options.conditional:
            preset = with_classes(preset, info)
        return resolve(preset, TrainConfig(), options.config, settings)

    found = resolved(info)
    if info.family == FOLDER:
        # The model chooses levels and channels of a user's own images, and presets depend on them.
        info = _seen_by(info, found.model)
        found = resolved(info)
    _check_model(options, found)
    _check_conditional(options, found.model, str(options.config or weights or "`settings`"))
    if base is not None:
        _check_images(base, str(weights), found.model, info.name)
    if options.data is not None and info.family != FOLDER and not blank:
        locate(info, options.data)
    images = _total_images(options, info, found.train)
    named = found.named | ({} if images is None else {TOTAL_IMAGES: images})
    folder = options.out or default_folder(options, found.model, info.name, named, weights)
    size = options.size or (None if found.whole or _kept(base, options, info) else DEFAULT_SIZE)
    plan = Plan(
        options,
        info,
        found.model,
        found.train,
        found.train,
        folder,
        named,
        size,
        first=first,
        deadline_s=deadline_s,
    ).fitted()
    begun = None if options.resume == NEVER else begun_with(plan.state)
    if begun is not None:
        check_folder(plan.folder, options, begun)
        check_first(begun, weights)
        return _continued(plan, begun, settings)
    if not blank or options.resume not in (AUTO, NEVER):
        check_folder(plan.folder, options)
    if not blank:
        _check_counts(plan)
    return plan


def _on_stdin() -> "Checkpoint":
    """Return the model on stdin, which can be read only once."""
    # Deferred: torch takes seconds to load.
    from famecli.checkpoints.checkpoint import load_checkpoint

    return load_checkpoint(STDIN)


def _check_counts(plan: Plan) -> None:
    """Check that the user's own images are enough for a batch and for a validation.

    Raises:
        InputError: They are too few.
    """
    train, valid, least = plan.info.splits["train"], plan.info.splits["valid"], plan.config.batch_size
    if plan.info.family == FOLDER and (train < least or not valid):
        raise InputError(
            f"{plan.options.data} has {train:,} training and {valid:,} validation images: a training "
            f"needs at least {least:,} and 1",
            "add images; `batch_size` takes fewer training images; folders train and valid choose the parts",
        )


def _with_first(
    options: TrainOptions, first: "Checkpoint | None", report: Callable[[str], None]
) -> tuple[ModelConfig | None, FirstWeights | None, TrainOptions]:
    """Return the model of the first weights, their source and hash, and completed parameters.

    Data set and preparation of the user's images, where they are open, are those of the model's training. A
    run that has begun does not need the file of its first weights any more; there is no model then.

    Raises:
        ArgumentError: The first weights are of another preset.
        FameError: Any error of `checkpoint_file` and `read_header`.
    """
    if first is not None:
        source, metadata, sha256 = first.source, first.metadata, first.weights_sha256
        name = source
    elif options.init is not None:
        name = options.init
        try:
            path = checkpoint_file(name, Store(options.cache_dir, options.offline, report))
        except FameError:
            if options.out is None or not state_of(options.out, options.resume).exists():
                raise
            return None, FirstWeights(source_of(name)), options
        source, metadata = str(path), read_header(path).metadata
        sha256 = weights_hash_in(metadata) or ""
    else:
        return None, None, options
    past = parse_provenance(metadata, source)
    dataset = options.dataset or past.dataset
    prepared = past.prepared(options.preparing, dataset or DEFAULT_DATASET)
    completed = dataclasses.replace(options, dataset=dataset, preparing=prepared)
    base = model_in(metadata, source)
    if options.preset is not None:
        like = model_config(options.preset, options.size or DEFAULT_SIZE, base.image_shape, base.levels)
        base = with_ladder_of(like, base)
    if options.preset not in (None, base.preset):
        raise ArgumentError(
            f"{name} is a {base.preset}, not a {options.preset}",
            "leave the name of the model out, or `init`",
        )
    return base, FirstWeights(source_of(name), weights_sha256=sha256), completed


def _kept(base: ModelConfig | None, options: TrainOptions, info: DatasetInfo) -> ModelConfig | None:
    """Return the model of the first weights if it fits the images and no other is named, else None."""
    if base is None or options.size is not None or options.config is not None:
        return None
    same_sides = (base.height, base.width) == info.shape[1:]
    same_values = (base.channels, base.levels) == (info.shape[0], info.levels)
    return base if same_sides and (same_values or info.family == FOLDER) else None


def with_classes(model: ModelConfig, info: DatasetInfo) -> ModelConfig:
    """Return a model that is given the class of an image, with the classes of a data set.

    Raises:
        ArgumentError: The data set has no labels.
    """
    if not info.classes:
        names = ", ".join(name for name, each in DATASETS.items() if each.classes)
        own = (
            "folders with a folder for each class; npz files with labels" if info.family == FOLDER else names
        )
        raise ArgumentError(f"{info.name} has no labels, which `conditional` needs", f"labels: {own}")
    condition = model.decoder.condition or CONDITION
    decoder = dataclasses.replace(model.decoder, condition=condition)
    return dataclasses.replace(model, classes=info.classes, decoder=decoder)


def _check_conditional(options: TrainOptions, model: ModelConfig, source: str) -> None:
    if options.conditional not in (None, bool(model.classes)):
        kind, asked = ("classes", "off") if model.classes else ("no classes", "on")
        raise ArgumentError(
            f"the model of {source} has {kind}, and `conditional` is {asked}", "leave one out"
        )


def _check_images(base: ModelConfig, source: str, model: ModelConfig, dataset: str) -> None:
    """Check that the first weights are for images of the same shape and levels.

    Raises:
        ArgumentError: They are for other images.
    """
    had, has = (f"images {each.image_shape} of {each.levels} levels" for each in (base, model))
    if had != has:
        hint = "leave `init` out: first weights keep the shape of their images"
        raise ArgumentError(f"{source} is for {had}; {dataset} has {has}", hint)


def _check_model(options: TrainOptions, found: Resolved) -> None:
    """Check that file and settings do not replace a model or a size that was asked for.

    Raises:
        ArgumentError: One of them does; the message names both.
    """
    preset, told = options.preset, found.model.preset
    if preset is not None and preset != told:
        source = options.config or "`settings`"
        hint = "leave the name of the model out, or `config`"
        raise ArgumentError(f"{source} has model.preset = {told!r}, not {preset}", hint)
    if found.whole and options.size is not None and options.size not in (sizes := sizes_like(found.model)):
        told = " or ".join(sizes)
        raise ArgumentError(
            f"{options.config} has a model of size {told}, not {options.size}", "leave out `size` or `config`"
        )


def _continued(plan: Plan, begun: Begun, settings: list[Setting]) -> Plan:
    """Return the plan of a resumed run, after checking that it began with all given values."""
    options, info = plan.options, plan.info
    check_kind(begun, options, plan.model, info)
    _check_conditional(options, begun.model, str(begun.state))
    if info.family == FOLDER:
        if begun.progress.rule != PIXELS:
            info = _described(options, begun.progress.rule)
        info = _seen_by(info, begun.model)
    found = resolve(begun.model, begun.config, options.config, settings, presets=False)
    images = _total_images(options, info, found.train)
    config = found.train if images is None else dataclasses.replace(found.train, total_images=images)
    check_values(begun, found.model, config, options.budget_s)
    return dataclasses.replace(plan, info=info, model=found.model, config=config, begun=begun)


def _described(options: TrainOptions, rule: SplitRule) -> DatasetInfo:
    name = options.dataset or DEFAULT_DATASET
    if options.dataset is None and str(options.preparing):
        raise ArgumentError(
            f"images of {name}, the default data set, are taken as they are",
            f"add `dataset={FOLDER}` for your own images",
        )
    return describe(name, options.data, preparation=dataclasses.replace(options.preparing, rule=rule))


def _seen_by(info: DatasetInfo, model: ModelConfig) -> DatasetInfo:
    """Return a data set of the user's images with the levels and channels of a model."""
    return dataclasses.replace(seen_with(info, model.levels), shape=(model.channels, *info.shape[1:]))


def _check_length(options: TrainOptions) -> None:
    given = {name: value for name in LENGTHS if (value := getattr(options, name)) is not None}
    if len(given) > 1:
        raise ArgumentError(
            f"{' and '.join(f'`{name}`' for name in given)} exclude each other: give one of them"
        )
    if options.budget_s == 0:
        raise ArgumentError("`budget_s=0` leaves no time for a step", "for example `budget_s=600`")
    for name, value in given.items():
        if not 0 < value <= LARGEST_COUNT:
            raise ArgumentError(f"`{name}={value}` is not a valid length")


def _total_images(options: TrainOptions, info: DatasetInfo, config: TrainConfig) -> int | None:
    """Return the length of a training in images; None if it is still to be chosen."""
    units = {"images": 1, "epochs": info.splits["train"], "steps": config.batch_size}
    lengths = {name: getattr(options, name) for name in units}
    found = [max(1, round(value * units[name])) for name, value in lengths.items() if value is not None]
    return found[0] if found else None


def _settings(options: TrainOptions) -> list[Setting]:
    """Return all given values of keys, those of parameters last."""
    named = {
        "lr": options.lr,
        "ema_halflife_images": options.ema,
        "eval_every_images": options.eval_every,
        "seed": options.seed,
        "batch_size": options.batch_size,
    }
    own = [Setting(f"train.{name}", value) for name, value in named.items() if value is not None]
    return [*(options.settings or ()), *own]
