"""From presets, a configuration file and `--set` to the configurations of a training."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from famecli.config import ModelConfig, TrainConfig, to_dict
from famecli.errors import ConfigError, closest
from famecli.files import read_bytes

KEYS = "known keys"


def resolve(
    model: ModelConfig, train: TrainConfig, file: Path | None, assignments: Sequence[str]
) -> tuple[ModelConfig, TrainConfig]:
    """Return the defaults `model` and `train` with what the file and then `key=value` assignments change.

    A key is a path such as `model.decoder.width`, `model.stages.1.latents` or `train.lr`; without its first
    part it is looked up in both tables.

    Raises:
        ConfigError: A key is unknown or a value impossible; the message names it.
    """
    tables: dict[str, Any] = {"model": to_dict(model), "train": to_dict(train)}
    if file is not None:
        _merge(tables, _read_toml(file), str(file))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected key=value")
        _assign(tables, key.strip(), _parse(text.strip()), f"--set {key}")
    return ModelConfig.from_dict(tables["model"]), TrainConfig.from_dict(tables["train"])


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


def _assign(tables: dict[str, Any], key: str, value: object, where: str) -> None:
    parts = key.split(".")
    if parts[0] not in tables:
        homes = [name for name, table in tables.items() if parts[0] in table]
        if not homes:
            known = [name for table in tables.values() for name in table]
            raise ConfigError(f"{where}: unknown key {parts[0]!r}", closest(parts[0], known, KEYS))
        parts.insert(0, homes[-1])
    place: Any = tables
    for part in parts[:-1]:
        place = place[_index(place, part, where)]
    place[_index(place, parts[-1], where)] = value


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
