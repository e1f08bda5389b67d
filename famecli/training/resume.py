"""The run that a training resumes: its files, and whether it began with the same values. No torch here."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famecli.checkpoints.header import canonical_json, read_header
from famecli.checkpoints.index import DEFAULT_MODEL
from famecli.checkpoints.provenance import FirstWeights
from famecli.checkpoints.store import STATE
from famecli.config import first_defaults
from famecli.config.presets import DEFAULT_SIZE, SIZES, Size, model_config
from famecli.config.schema import ModelConfig, TrainConfig, differences, leaves, to_dict
from famecli.data.registry import FOLDER, DatasetInfo
from famecli.errors import ConfigError, InputError
from famecli.escape import redacted
from famecli.files import check_named, write_atomic
from famecli.training.options import AUTO, NEVER, TrainOptions
from famecli.training.progress import Progress

if TYPE_CHECKING:
    from famecli.runtime.distributed import Group

RUNS = Path("runs")
# Names of numbered checkpoints and of grids of samples: a user's own files beside them stay.
NUMBERED = f"images-{12 * '[0-9]'}.safetensors"
GRIDS = f"{12 * '[0-9]'}.png"
SAMPLES_FOLDER = "samples"
# Files that a run writes.
OWN_FILES = (
    "metrics.jsonl",
    "last.safetensors",
    "best.safetensors",
    STATE,
    "config.toml",
    "env.json",
    NUMBERED,
    f"{SAMPLES_FOLDER}/{GRIDS}",
)
STATE_SCHEMA = "famecli/state/1"
ANOTHER_RUN = "choose another `out`, or `resume=False` to start over"


@dataclass(frozen=True)
class Begun:
    """A run to resume.

    Args:
        state: State file.
        model: Configuration of the model.
        config: Configuration of the training.
        progress: Progress of the run, with the options that it began with.
    """

    state: Path
    model: ModelConfig
    config: TrainConfig
    progress: Progress

    def started_from(self, first: FirstWeights | None) -> bool:
        """Return whether the run began with `first`; True if `first` is None."""
        return first is None or (self.progress.init is not None and self.progress.init.same_as(first))


def default_folder(
    options: TrainOptions,
    model: ModelConfig,
    dataset: str,
    named: Mapping[tuple[str, ...], Any],
    first: FirstWeights | None = None,
) -> Path:
    """Return the default folder of a run; it depends on the given values, but not on defaults.

    Its name has a digest of all given values. Older runs, named without their first weights or by a digest of
    the whole configuration, are still found.

    Args:
        options: Parameters of the training.
        model: Configuration of the model.
        dataset: Name of the data set.
        named: Given values of keys, by path.
        first: First weights; None for random ones.
    """
    table: dict[str, Any] = {
        "size": options.size or DEFAULT_SIZE,
        "images": [*model.image_shape, model.levels],
        "keys": {".".join(path): value for path, value in named.items()},
        "budget_s": options.budget_s,
    }
    stem = f"{model.preset}-{dataset}" + ("-conditional" if model.classes else "")
    without = RUNS / f"{stem}-{_digest(table)}"
    folder = without if options.init is None else RUNS / f"{stem}-{_digest(table | {'init': options.init})}"
    if options.resume != AUTO or (folder / STATE).exists():
        return folder
    former = [without]
    if options.budget_s is None:
        data = {name: getattr(model, name) for name in first_defaults.DATA_KEYS}
        size = options.size or first_defaults.SIZE
        digest = first_defaults.first_digest(options.preset or DEFAULT_MODEL, size, data, named)
        former += [] if digest is None else [RUNS / f"{stem}-{digest}"]
    found = [each for each in former if (begun := begun_with(each / STATE)) and begun.started_from(first)]
    return found[0] if found else folder


def _digest(table: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(table).encode()).hexdigest()[:8]


def source_of(name: str) -> str:
    """Return the source of first weights as it is recorded: the end of their path, without secrets.

    Names of other folders may be private, and checkpoints are shared.
    """
    return "/".join(Path(redacted(name)).parts[-2:])


def state_of(folder: Path, resume: str) -> Path:
    """Return the state file that `resume` names: by default the one in the folder of the run."""
    return folder / STATE if resume in (AUTO, NEVER) else Path(resume)


def check_folder(folder: Path, options: TrainOptions, begun: Begun | None = None) -> None:
    """Check that the folder of a run has a name, and no files of others that the run would replace unasked.

    Args:
        folder: Folder of the run.
        options: Parameters of the training; with `never` for `resume` files are replaced.
        begun: Run to resume; None for a new one.

    Raises:
        ArgumentError: The folder is `-`.
        InputError: There is such a file, or no state file where one was asked for.
    """
    check_named(folder)
    if options.resume == NEVER or (begun is not None and _is_of(begun, folder)):
        return
    if options.resume != AUTO and begun is None:
        state = state_of(folder, options.resume)
        raise InputError(f"no saved state {state}", "`resume` takes auto, never, or a state.safetensors")
    given = None if options.config is None else options.config.resolve()
    for pattern in OWN_FILES:
        for path in folder.glob(pattern):
            if path.resolve() != given:
                raise InputError(f"{path} is not of this run, which would replace it", ANOTHER_RUN)


def _is_of(begun: Begun, folder: Path) -> bool:
    """Return whether a folder holds a run to resume, or one with the same model, configuration and data."""
    if begun.state == folder / STATE:
        return True
    here = begun_with(folder / STATE)
    if here is None:
        return False
    same_data = here.progress.data == begun.progress.data
    return same_data and (here.model, here.config) == (begun.model, begun.config)


def begun_with(state: Path) -> Begun | None:
    """Return what a run began with; None if the file is missing or holds no state.

    A key that the state lacks is newer than the run and gets the default of its class.

    Raises:
        InputError: The file is damaged.
    """
    if not os.path.exists(state):
        return None
    told = read_header(state).metadata
    if told.get("schema") != STATE_SCHEMA:
        return None
    try:
        model = ModelConfig.from_dict(told.get("model"))
        config = TrainConfig.from_dict(told.get("train"))
        progress = Progress.of(told.get("progress"))
    except ConfigError as error:
        raise InputError(f"{state}: {error}", error.hint) from error
    return Begun(state, model, config, progress)


def check_kind(begun: Begun, options: TrainOptions, fresh: ModelConfig, info: DatasetInfo) -> None:
    """Check that a run has the requested preset, data set and size, and images of the same shape.

    Args:
        begun: Run to resume.
        options: Parameters of the training.
        fresh: Model that a new run would have.
        info: Data set.

    Raises:
        InputError: Something differs; the message names both values.
    """
    # The model chooses the levels and channels of a user's own images.
    names = ["height", "width", *(["channels", "levels"] if info.family != FOLDER else [])]
    if options.preset is not None:
        refuse(begun.state, differences(begun.model.preset, fresh.preset, "model.preset"))
    data = begun.progress.data
    if data is not None and data.dataset != info.name:
        hint = ANOTHER_RUN if options.dataset else f"add `dataset={data.dataset}`, or {ANOTHER_RUN}"
        refuse(begun.state, [f"dataset = {data.dataset}, now it is {info.name}"], hint)
    told = options.data if info.family == FOLDER else info.name
    for name in names:
        before, now = getattr(begun.model, name), getattr(fresh, name)
        if before != now:
            refuse(begun.state, [f"images of {name} {before}, those of {told} have {now}"])
    size = begun.progress.size
    if (
        options.size is not None
        and begun.model != fresh
        and options.size not in (sizes := [size] if size is not None else sizes_like(begun.model))
    ):
        refuse(begun.state, [f"size = {' or '.join(sizes)}, now it is {options.size}"])


def check_first(begun: Begun, first: FirstWeights | None) -> None:
    """Check that a run began with the first weights, if they are given.

    Raises:
        InputError: It began with others; the message names both.
    """
    if not begun.started_from(first):
        refuse(begun.state, [f"init = {begun.progress.init or 'none'}, now it is {first}"])


def check_values(begun: Begun, model: ModelConfig, config: TrainConfig, budget_s: float | None) -> None:
    """Check that the requested values are those that a run began with.

    Args:
        begun: Run to resume.
        model: Model of the run, with the requested values.
        config: Training of the run, with the requested values.
        budget_s: Requested budget in seconds; None for none.

    Raises:
        InputError: A value differs; the message names the key and both values.
    """
    refuse(begun.state, differences(to_dict(begun.model), to_dict(model), "model"))
    train_on = f"continue with `init={begun.state.parent}` and another `out`; or `resume=False` to start over"
    hint = train_on if config.total_images > begun.config.total_images else ANOTHER_RUN
    refuse(begun.state, differences(to_dict(begun.config), to_dict(config), "train"), hint)
    began_s = begun.progress.budget_s
    if budget_s not in (None, began_s):
        before = "none" if began_s is None else f"{began_s:g} s"
        refuse(begun.state, [f"budget = {before}, now it is {budget_s:g} s"], train_on)


def check_same(stored: object, now: dict[str, Any], name: str) -> None:
    """Check that a run began with the configuration `now` of its model or its training.

    Args:
        stored: Configuration in the state of the run.
        now: Configuration of this training.
        name: `model` or `train`.

    Raises:
        InputError: A value differs; the message names it.
    """
    cls = ModelConfig if name == "model" else TrainConfig
    for difference in differences(to_dict(cls.from_dict(stored)), now, name):
        raise InputError(f"this run began with {difference}", ANOTHER_RUN)


def refuse(state: Path, found: Iterator[str] | Sequence[str], hint: str = ANOTHER_RUN) -> None:
    """Raise an error with `hint` for the first difference, if there is one.

    Raises:
        InputError: There is a difference.
    """
    for difference in found:
        raise InputError(f"{state}: this run began with {difference}", hint)


def sizes_like(model: ModelConfig) -> Sequence[Size]:
    """Return the sizes whose presets are nearest to a model."""

    def distance(size: Size) -> int:
        preset = model_config(model.preset, size, model.image_shape, model.levels)
        return len(set(leaves(to_dict(model))) ^ set(leaves(to_dict(preset))))

    distances = {size: distance(size) for size in SIZES}
    return [size for size, found in distances.items() if found == min(distances.values())]


def take_along(former: Path, folder: Path) -> None:
    """Copy the best model and the metrics of the run in `former`, which goes on in another folder."""
    for name in ("best.safetensors", "metrics.jsonl"):
        if (former / name).is_file():
            write_atomic(folder / name, (former / name).read_bytes())


def check_shared(group: "Group", folder: Path, value: int) -> None:
    """Check that all processes found the same value in the folder of a run.

    Raises:
        InputError: Their values differ.
    """
    if group.all_reduce_max(value) != -group.all_reduce_max(-value):
        raise InputError(
            f"the processes do not all see the same files in {folder}",
            "choose an `out` on a file system that all machines share",
        )
