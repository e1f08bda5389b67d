"""Keys of the configurations: their table, and how files and settings change values. No torch here."""

import contextlib
import copy
import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from famecli.config.first_defaults import whole, whole_training
from famecli.config.schema import (
    FORMER_TRAINING,
    DecoderConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
    leaves,
    to_dict,
)
from famecli.errors import ConfigError, did_you_mean, truncate
from famecli.files import read_bytes

LARGEST_FILE_BYTES = 1 << 20
# N is the index of a stage, from 0.
TABLES = {
    "model": ModelConfig,
    "model.decoder": DecoderConfig,
    "model.stages.N": StageConfig,
    "train": TrainConfig,
}
TYPES = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "text",
    tuple[int, ...]: "list of integers",
    tuple[str, ...]: "list of texts",
}


class Key(NamedTuple):
    """A key of a configuration.

    Args:
        key: Path of the key.
        type: Type of the value.
        range: Smallest and largest value, or the words to choose from; empty if any value is allowed.
        default: Default value; empty if the preset sets it.
        meaning: Meaning of the value.
    """

    key: str
    type: str
    range: str
    default: str
    meaning: str


class Setting(NamedTuple):
    """A value for a key, such as `model.decoder.width`, `decoder.width`, `stages.1.latents` or `train.lr`."""

    key: str
    value: object

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `KEY=VALUE`; a value that is not TOML is a string.

        Raises:
            ConfigError: There is no `=`.
        """
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"setting {text!r}: expected key=value")
        try:
            return cls(key.strip(), _parse(f"value = {value.strip()}")["value"])
        except (ValueError, RecursionError):
            return cls(key.strip(), value.strip())


class Resolved(NamedTuple):
    """Resolved configurations.

    Args:
        model: Configuration of the model.
        train: Configuration of the training.
        named: Values that the file and the settings set, by key path.
        whole: Whether the file has a whole model, so that no size is left to choose.
    """

    model: ModelConfig
    train: TrainConfig
    named: dict[tuple[str, ...], Any]
    whole: bool = False


def keys() -> list[Key]:
    """Return all keys of both configurations."""
    return [
        _described(table, item)
        for table, cls in TABLES.items()
        for item in dataclasses.fields(cls)
        if "meaning" in item.metadata
    ]


def _described(table: str, item: dataclasses.Field[Any]) -> Key:
    kind = get_type_hints(TABLES[table])[item.name]
    words = get_args(kind) if get_origin(kind) is Literal else ()
    told = item.metadata
    limits = f"{told['minimum']:,} to {told['maximum']:,}" if "minimum" in told else ", ".join(words)
    default = "" if item.default is dataclasses.MISSING or table != "train" else str(item.default)
    return Key(
        f"{table}.{item.name}",
        TYPES[str if words else kind],
        limits,
        default,
        told["meaning"],
    )


def keys_as_markdown() -> str:
    """Return the table of `docs/settings.md`."""
    rows = [Key._fields, ("---",) * len(Key._fields), *((f"`{each.key}`", *each[1:]) for each in keys())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def resolve(
    model: ModelConfig,
    train: TrainConfig,
    file: Path | None,
    settings: Sequence[Setting],
    *,
    presets: bool = True,
) -> Resolved:
    """Return the defaults `model` and `train`, changed by a file and then by settings.

    The key of a setting may lack its first part: it is looked up in both tables. A value that is a table sets
    only the keys in it. A file with a whole model or a whole training, such as that of a run, may be older
    than some keys; these get the values that the run had.

    Args:
        model: Default configuration of the model.
        train: Default configuration of the training.
        file: TOML file with the tables `model` and `train`; None for no file.
        settings: Values for keys; later ones outrank earlier ones.
        presets: Whether `model` is a preset, rather than the model of a run.

    Raises:
        ConfigError: A key is unknown or a value impossible; the message names the key.
        InputError: The file cannot be read.
    """
    tables: dict[str, Any] = {"model": to_dict(model), "train": to_dict(train)}
    changes: list[tuple[str, tuple[str, ...], Any]] = []
    is_whole = False
    if file is not None:
        told = _read_toml(file)
        is_whole = whole(told.get("model"))
        if presets and is_whole:
            _reset(tables["model"], ModelConfig)
            _reset(tables["model"]["decoder"], DecoderConfig)
        if presets and whole_training(told.get("train")):
            tables["train"] |= FORMER_TRAINING
        changes += [(f"{file}: {'.'.join(path)}", path, value) for path, value in leaves(told, (dict,))]
    for key, value in settings:
        where = f"`settings` {key}"
        path = _path(tables, key, where)
        changes += [(".".join((where, *rest)), (*path, *rest), leaf) for rest, leaf in leaves(value, (dict,))]
    for where, path, value in changes:
        place, last = _entry(tables, path, where)
        try:
            place[last] = copy.deepcopy(value)
        except TypeError as error:
            raise ConfigError(f"{where}: a {type(value).__name__} is no value of a key") from error
    model, train = ModelConfig.from_dict(tables["model"]), TrainConfig.from_dict(tables["train"])
    tables = {"model": to_dict(model), "train": to_dict(train)}
    named = {}
    for where, path, _ in changes:
        # A later value, such as fewer stages, may have replaced the table of an earlier one.
        with contextlib.suppress(ConfigError):
            place, last = _entry(tables, path, where)
            named[path] = place[last]
    return Resolved(model, train, named, is_whole)


def to_toml(model: ModelConfig, train: TrainConfig) -> str:
    """Return both configurations as the TOML that `resolve` reads."""
    import tomli_w

    return tomli_w.dumps({"model": to_dict(model), "train": to_dict(train)})


def _parse(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text; integers have at most 64 bits, as the format says.

    Raises:
        ValueError: The text is not TOML.
    """
    tables = tomllib.loads(text)
    if any(type(value) is int and value.bit_length() > 64 for _, value in leaves(tables)):
        raise ValueError("an integer of more than 64 bits")
    return tables


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return _parse(read_bytes(file, "a configuration", LARGEST_FILE_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {truncate(error)}") from error


def _reset(table: dict[str, Any], cls: type) -> None:
    """Reset all keys that have a default in `cls`."""
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            table[item.name] = list(item.default) if isinstance(item.default, tuple) else item.default


def _path(tables: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return the parts of the key of a setting, the name of its table first."""
    parts = tuple(key.split("."))
    if parts[0] in tables:
        return parts
    homes = [name for name, table in tables.items() if parts[0] in table]
    if not homes:
        known = [name for table in tables.values() for name in table]
        raise _unknown(where, parts[0], known)
    return (homes[-1], *parts)


def _entry(tables: dict[str, Any], path: Sequence[str], where: str) -> tuple[Any, str | int]:
    """Return the table or list that holds the value at `path`, and the value's key or index there."""
    place: Any = {"": tables}
    index: str | int = ""
    for part in path:
        place = place[index]
        if isinstance(place, dict) and part in place:
            index = part
        elif isinstance(place, list) and part in map(str, range(len(place))):
            index = int(part)
        else:
            known = place if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else ()
            raise _unknown(where, part, list(map(str, known)))
    return place, index


def _unknown(where: str, part: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(f"{where}: unknown key {part!r}", did_you_mean(part, known, "known keys"))
