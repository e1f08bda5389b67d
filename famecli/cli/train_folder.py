"""The folder of a run where `--out` names none: the same for the same command, whatever defaults become."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from famecli.checkpoints.header import canonical_json
from famecli.cli.train_options import Asked
from famecli.cli.train_resume import STATE
from famecli.config.first_defaults import DATA_KEYS, SIZE, first_digest
from famecli.config.schema import ModelConfig

RUNS = Path("runs")


def default_folder(
    asked: Asked,
    model: ModelConfig,
    dataset: str,
    typed: Mapping[tuple[str, ...], Any],
    budget_s: float | None,
) -> Path:
    """Return where the run of a command is.

    Its name is made of what was typed. Once it was made of the whole configuration: a run that the command
    began then is looked for where it was.

    Args:
        asked: The options.
        model: What is trained.
        dataset: Its images' name.
        typed: Values of the keys that options, `--set` and file name, by paths.
        budget_s: Seconds in place of a number of images; None without.
    """
    data = {name: getattr(model, name) for name in DATA_KEYS}
    keys = {".".join(path): value for path, value in typed.items()}
    images = [*model.image_shape, model.levels]
    told = canonical_json({"size": asked.size, "images": images, "keys": keys, "budget_s": budget_s})
    folder = _folder(model.preset, dataset, hashlib.sha256(told.encode()).hexdigest()[:8])
    size = asked.size if asked.typed("size") else SIZE
    first = None if budget_s is not None else first_digest(asked.model, size, data, typed)
    if first is None or (folder / STATE).exists():
        return folder
    before = _folder(model.preset, dataset, first)
    return before if (before / STATE).exists() and asked.resume == "auto" else folder


def _folder(preset: str, dataset: str, digest: str) -> Path:
    return RUNS / f"{preset}-{dataset}-{digest}"
