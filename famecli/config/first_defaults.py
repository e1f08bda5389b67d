"""Frozen defaults from when run folders were named after whole configurations.

With them an old command still finds its run, even if defaults and keys have changed since.
"""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

SIZE = "tiny"
# Width, blocks, stride and latents of each stage.
STAGES = {
    "tiny": ((16, 0, 2, 0), (24, 1, 2, 4), (24, 1, 2, 4)),
    "small": ((48, 1, 2, 0), (64, 1, 2, 8), (64, 2, 1, 8), (64, 2, 2, 12)),
    "paper": ((96, 2, 2, 8), (128, 2, 2, 16), (128, 2, 1, 16), (128, 2, 2, 24), (128, 2, 1, 24)),
}
STAGE_KEYS = ("width", "blocks", "stride", "latents", "dense")
DENSE = 4
# Kind of latents, whether each stage keeps its own, and whether the decoder is a PixelCNN.
PRESETS = {
    "fame": ("maps", True, True),
    "fame-no-concat": ("maps", True, False),
    "fame-dense": ("dense", True, True),
    "lvae": ("dense", True, False),
    "pixelvae": ("dense", False, True),
    "pixelcnn": ("none", False, True),
    "vae": ("dense", False, False),
}
# Width, layers, first kernel and condition.
DECODERS = {"tiny": (12, 2, 7, 12), "small": (24, 6, 15, 24), "paper": (96, 12, 15, 64)}
DATA_KEYS = ("preset", "likelihood", "channels", "height", "width", "levels")
DECODER_KEYS = ("autoregressive", "width", "layers", "kernel", "first_kernel", "condition", "lag")
MODEL_KEYS = (*DATA_KEYS, "decoder", "stages", "mixtures")
TRAIN = {
    "optimizer": "muon",
    "lr": 2e-3,
    "muon_lr": 1e-2,
    "final_lr": 0.02,
    "weight_decay": 0.0,
    "batch_size": 32,
    "total_images": 500_000,
    "warmup_images": 6_400,
    "rate_warmup_images": 38_400,
    "beta": 1.0,
    "free_nats": 1.0,
    "ema_halflife_images": 20_000,
    "clip_norm": 50.0,
    "max_skipped": 5,
    "eval_every_images": 25_600,
    "valid_images": 1_000,
    "seed": 0,
}
KEYS = {*MODEL_KEYS, *STAGE_KEYS, *DECODER_KEYS, *TRAIN}


def first_digest(
    preset: str, size: str, data: Mapping[str, Any], typed: Mapping[tuple[str, ...], Any]
) -> str | None:
    """Return the digest in the folder name of an old command's run.

    Args:
        preset: Name of the preset.
        size: Size of the preset.
        data: Values of `DATA_KEYS`.
        typed: Other values of the command, by key path.

    Returns:
        Eight hexadecimal digits; None if the command has a name or key that did not exist then.
    """
    import tomli_w

    if preset not in PRESETS or size not in STAGES:
        return None
    tables: dict[str, Any] = {"model": _model(preset, size, data), "train": dict(TRAIN)}
    for path, value in typed.items():
        place: Any = tables
        for part in path[:-1]:
            place = _entry(place, part)
        if _entry(place, path[-1]) is None:
            return None
        place[int(path[-1]) if isinstance(place, list) else path[-1]] = _known(value)
    return hashlib.sha256(tomli_w.dumps(tables).encode()).hexdigest()[:8]


def _model(preset: str, size: str, data: Mapping[str, Any]) -> dict[str, Any]:
    latents, ladder, autoregressive = PRESETS[preset]
    rows = [] if latents == "none" else STAGES[size]
    stages = [dict(zip(STAGE_KEYS, (*row, False), strict=True)) for row in rows]
    for index, stage in enumerate(stages):
        if not ladder and index < len(stages) - 1:
            stage["latents"] = 0
        elif latents == "dense":
            stage |= {"dense": True, "latents": DENSE * stage["latents"]}
    width, layers, first_kernel, condition = DECODERS[size]
    values = (autoregressive, width, layers, 3, first_kernel, condition if stages else 0, 2)
    decoder = dict(zip(DECODER_KEYS, values, strict=True))
    return {**{key: data[key] for key in DATA_KEYS}, "decoder": decoder, "stages": stages, "mixtures": 10}


def _entry(place: Any, part: str) -> Any:  # noqa: ANN401
    """Return the entry of a table or list by key or index; None if it is missing."""
    if isinstance(place, dict):
        return place.get(part)
    if isinstance(place, list) and part in map(str, range(len(place))):
        return place[int(part)]
    return None


def _known(value: Any) -> Any:  # noqa: ANN401
    """Return `value` without keys that did not exist then."""
    if isinstance(value, dict):
        return {key: _known(entry) for key, entry in value.items() if key in KEYS}
    return [_known(entry) for entry in value] if isinstance(value, list) else copy.copy(value)


def whole(model: object) -> bool:
    """Return whether a model's table has all keys of the first runs; config.toml of any run does."""
    if not isinstance(model, dict) or not isinstance(model.get("decoder"), dict):
        return False
    return model.keys() >= set(MODEL_KEYS) and model["decoder"].keys() >= set(DECODER_KEYS)


def whole_training(train: object) -> bool:
    """Return whether a training's table has all keys of the first runs; config.toml of any run does."""
    return isinstance(train, dict) and train.keys() >= TRAIN.keys()
