"""What a run that is there was begun with, and whether that is what is asked for now. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famecli.checkpoints.header import read_header
from famecli.cli.train_options import Asked
from famecli.config.presets import SIZES, model_config
from famecli.config.schema import ModelConfig, TrainConfig, differences, to_dict
from famecli.data.registry import FOLDER, DatasetInfo
from famecli.errors import ANOTHER_RUN, ConfigError, InputError

if TYPE_CHECKING:
    from famecli.runtime.distributed import Group

STATE = "state.safetensors"
# As `famecli.training.run` has it, which needs torch.
STATE_SCHEMA = "famecli/state/1"


@dataclass(frozen=True)
class Begun:
    """A run to resume.

    Args:
        state: Its file.
        model: Its model.
        config: How it is trained.
        size: As typed when it began; None where that is not recorded.
        budget_s: Budget of time in seconds, as typed when it began; None without one.
    """

    state: Path
    model: ModelConfig
    config: TrainConfig
    size: str | None
    budget_s: float | None


def state_of(folder: Path, resume: str) -> Path:
    """Return the state that `--resume` names, by default that in the folder of the run."""
    return folder / STATE if resume in ("auto", "never") else Path(resume)


def begun_with(state: Path) -> Begun | None:
    """Return what a run began with; None where there is no state of a run, for whoever resumes to say so.

    A key that its state lacks has the default of its class: the key is younger than the run.

    Raises:
        InputError: The file is damaged.
    """
    if not state.exists():
        return None
    told = read_header(state).metadata
    if told.get("schema") != STATE_SCHEMA:
        return None
    try:
        model = ModelConfig.from_dict(told.get("model"))
        config = TrainConfig.from_dict(told.get("train"))
    except ConfigError as error:
        raise InputError(f"{state}: {error}", error.hint) from error
    progress = told.get("progress")
    progress = progress if isinstance(progress, dict) else {}
    size, budget_s = progress.get("size"), progress.get("budget_s")
    return Begun(
        state,
        model,
        config,
        size if isinstance(size, str) else None,
        budget_s if isinstance(budget_s, float) else None,
    )


def check_kind(begun: Begun, fresh: ModelConfig, asked: Asked, info: DatasetInfo) -> None:
    """Check that a run is of the preset, the size and the kind of images that were typed.

    Args:
        begun: The run.
        fresh: The model that a new run would have.
        asked: The options.
        info: The data set.

    Raises:
        InputError: It is of others; the message names both.
    """
    _refuse(begun, _kind_differences(begun, fresh, asked, info))


def check_values(begun: Begun, now: Begun) -> None:
    """Check that the keys that were typed have the values that a run began with.

    Args:
        begun: The run.
        now: Configuration of the run with the typed values in place of its own.

    Raises:
        InputError: A value differs; the message names the key and both values.
    """
    _refuse(begun, _value_differences(begun, now))


def _refuse(begun: Begun, found: Iterator[str]) -> None:
    for difference in found:
        raise InputError(f"{begun.state}: this run began with {difference}", ANOTHER_RUN)


def _kind_differences(begun: Begun, fresh: ModelConfig, asked: Asked, info: DatasetInfo) -> Iterator[str]:
    if asked.typed("model"):
        yield from differences(begun.model.preset, fresh.preset, "model.preset")
    # Levels of one's own images are the model's to choose.
    names = ("channels", "height", "width", *(() if info.family == FOLDER else ("levels",)))
    for name in names:
        yield from differences(getattr(begun.model, name), getattr(fresh, name), f"model.{name}")
    if asked.typed("size") and begun.model != fresh and asked.size not in (sizes := _sizes(begun)):
        yield f"size = {' or '.join(sizes)}, now it is {asked.size}"


def _value_differences(begun: Begun, now: Begun) -> Iterator[str]:
    yield from differences(to_dict(begun.model), to_dict(now.model), "model")
    yield from differences(to_dict(begun.config), to_dict(now.config), "train")
    if now.budget_s is not None and now.budget_s != begun.budget_s:
        before = "none" if begun.budget_s is None else f"{begun.budget_s:g} s"
        yield f"budget = {before}, now it is {now.budget_s:g} s"


def _sizes(begun: Begun) -> Sequence[str]:
    """Return the size of a run; where it is not recorded, those that its model is nearest to."""
    if begun.size is not None:
        return (begun.size,)
    model = begun.model

    def distance(size: Any) -> int:  # noqa: ANN401
        preset = model_config(model.preset, size, model.image_shape, model.levels)
        return len(set(_leaves(to_dict(model))) ^ set(_leaves(to_dict(preset))))

    distances = {size: distance(size) for size in SIZES}
    return [size for size, found in distances.items() if found == min(distances.values())]


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:  # noqa: ANN401
    """Yield path and value of whatever is neither a table nor a list."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if entries is None:
        yield path, value
        return
    for key, entry in entries:
        yield from _leaves(entry, (*path, key))


def check_shared(group: "Group", folder: Path, value: int) -> None:
    """Check that all processes found the same in the folder of a run.

    Raises:
        InputError: Their values differ.
    """
    if group.largest(value) != -group.largest(-value):
        raise InputError(
            f"the processes do not all see the same files in {folder}",
            "choose an --out on a file system that all machines share",
        )
