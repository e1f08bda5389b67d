"""From presets, a configuration file and `--set` to the configurations of a training."""

import copy
import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from famecli.config.first_defaults import whole
from famecli.config.schema import DecoderConfig, ModelConfig, TrainConfig, to_dict
from famecli.errors import ConfigError, closest
from famecli.files import read_bytes

KEYS = "known keys"


def resolve(
    model: ModelConfig,
    train: TrainConfig,
    file: Path | None,
    assignments: Sequence[str],
    *,
    presets: bool = True,
    word: str = "--set",
) -> tuple[ModelConfig, TrainConfig]:
    """Return the defaults `model` and `train` with what the file and then `key=value` assignments change.

    A key is a path such as `model.decoder.width`, `model.stages.1.latents` or `train.lr`; without its first
    part it is looked up in both tables. A file that has a whole model, as that of a run has, may be older
    than some keys; these then have the defaults of their classes.

    Args:
        model: Defaults.
        train: Defaults.
        file: TOML.
        assignments: `key=value`, later ones ranking higher.
        presets: Whether `model` is a preset, rather than that of a run.
        word: What an assignment is called in errors.

    Raises:
        ConfigError: A key is unknown or a value impossible; the message names it.
    """
    tables: dict[str, Any] = {"model": to_dict(model), "train": to_dict(train)}
    if file is not None:
        changes = _read_toml(file)
        if presets and whole(changes.get("model")):
            _reset(tables["model"], ModelConfig)
            _reset(tables["model"]["decoder"], DecoderConfig)
        _merge(tables, changes, str(file))
    for assignment in assignments:
        key, text = _split(assignment)
        _assign(tables, key, _parse(text), f"{word} {key}")
    return ModelConfig.from_dict(tables["model"]), TrainConfig.from_dict(tables["train"])


def typed(
    model: ModelConfig, train: TrainConfig, file: Path | None, assignments: Sequence[str]
) -> dict[tuple[str, ...], Any]:
    """Return the values of all keys that a file and assignments name, by their paths.

    Args:
        model: What `resolve` made of them.
        train: Likewise.
        file: As in `resolve`.
        assignments: As in `resolve`.
    """
    tables = {"model": to_dict(model), "train": to_dict(train)}
    paths = [] if file is None else list(_leaves(_read_toml(file)))
    paths += [tuple(_path(tables, _split(each)[0], each)) for each in assignments]
    found = {}
    for path in paths:
        place: Any = tables
        for part in path:
            place = place[_index(place, part, ".".join(path))]
        found[path] = place
    return found


def to_toml(model: ModelConfig, train: TrainConfig) -> str:
    """Return both configurations as the TOML that `--config` reads."""
    import tomli_w

    return tomli_w.dumps({"model": to_dict(model), "train": to_dict(train)})


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(file, "configuration").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error


def _merge(table: dict[str, Any], changes: Mapping[str, Any], where: str) -> None:
    for key, value in changes.items():
        if key not in table:
            raise ConfigError(f"{where}: unknown key {key!r}", closest(key, table, KEYS))
        if isinstance(value, dict) and isinstance(table[key], dict):
            _merge(table[key], value, f"{where}: {key}")
        else:
            table[key] = copy.deepcopy(value)


def _leaves(table: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of what is no table itself."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((key, *path) for path in _leaves(value))
        else:
            yield (key,)


def _reset(table: dict[str, Any], cls: type) -> None:
    """Give all keys that have a default in `cls` this one."""
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            table[item.name] = list(item.default) if isinstance(item.default, tuple) else item.default


def _split(assignment: str) -> tuple[str, str]:
    key, equals, text = assignment.partition("=")
    if not equals:
        raise ConfigError(f"--set {assignment}: expected key=value")
    return key.strip(), text.strip()


def _assign(tables: dict[str, Any], key: str, value: object, where: str) -> None:
    parts = _path(tables, key, where)
    place: Any = tables
    for part in parts[:-1]:
        place = place[_index(place, part, where)]
    place[_index(place, parts[-1], where)] = value


def _path(tables: Mapping[str, Any], key: str, where: str) -> list[str]:
    """Return the parts of a key, the table that has it first."""
    parts = key.split(".")
    if parts[0] not in tables:
        homes = [name for name, table in tables.items() if parts[0] in table]
        if not homes:
            known = [name for table in tables.values() for name in table]
            raise ConfigError(f"{where}: unknown key {parts[0]!r}", closest(parts[0], known, KEYS))
        parts.insert(0, homes[-1])
    return parts


def _index(place: object, part: str, where: str) -> str | int:
    """Return the key or list index of `place` that `part` names."""
    if isinstance(place, dict) and part in place:
        return part
    if isinstance(place, list | tuple) and part.isdecimal() and int(part) < len(place):
        return int(part)
    known = list(place) if isinstance(place, dict) else []
    raise ConfigError(f"{where}: unknown key {part!r}", closest(part, known, KEYS))


def _parse(text: str) -> object:
    """Return `text` as a TOML value, or as it is where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
