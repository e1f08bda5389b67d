"""Golden files: stored tiny models, and the results of the code that wrote them.

Later code must give the same results. `FAME_REGENERATE_GOLDEN=1 pytest tests/test_golden*.py` rewrites all
figures; do so only after an intended change, and check `git diff tests/golden`. Existing checkpoints, coded
images and the run are never rewritten, because later code must read old files; only missing ones are written.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.config.presets import model_config
from famecli.model.fame import Fame, labels_on
from famecli.nll.evaluate import evaluate
from famecli.rng import ImageNoise, image_uniforms
from famecli.sampling.generate import complete_batches, generate
from famecli.sampling.reconstruction import Settings, reconstruct
from support.golden_samples import Drawn
from support.models import random_images, randomise

# Read at import, because fixtures remove such variables.
REGENERATE = os.environ.get("FAME_REGENERATE_GOLDEN") == "1"
FOLDER = Path(__file__).parents[1] / "golden"
FACTS = {
    "training": {"lr": 0.5, "batch_size": 6},
    "provenance": {
        "dataset": "golden",
        "images_seen": 640,
        "steps": 10,
        "seconds": 1.5,
        "device": "cpu",
        "versions": {"famecli": "0", "torch": "0"},
    },
    "claim": None,
}
IMAGES = 4
SEEDS = range(4)
SAMPLES = 5


@dataclass(frozen=True)
class Case:
    """A tiny model with random weights.

    Args:
        preset: Name of the preset.
        shape: Channels, height and width of an image.
        levels: Number of values of a channel.
        half: Whether weights are rounded to and stored in half precision.
        lag: Lag of the decoder; None for the preset's.
        patches: Whether the decoder has 2x2 patches, attention, and normalised windows.
        positions: Whether the decoder has positions.
        classes: Names of the classes.
    """

    preset: str
    shape: tuple[int, int, int]
    levels: int = 2
    half: bool = True
    lag: int | None = None
    patches: bool = False
    positions: bool = False
    classes: tuple[str, ...] = ()

    def build(self, seed: int) -> Fame:
        config = model_config(self.preset, "tiny", self.shape, self.levels)
        if self.lag is not None:
            config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, lag=self.lag))
        if self.patches:
            decoder = dataclasses.replace(
                config.decoder, layers=3, patch=2, attention=(1, 3), heads=2, attention_width=8
            )
            config = dataclasses.replace(config, decoder=decoder, normalised=True, bounded_latents=True)
        decoder = dataclasses.replace(config.decoder, positions=self.positions)
        config = dataclasses.replace(config, decoder=decoder, classes=self.classes)
        model = randomise(Fame(config), seed, torch.float32)
        return model.half().float() if self.half else model


CASES = {
    "fame": Case("fame", (1, 12, 12), half=False),
    "fame-rgb-lag4": Case("fame", (3, 8, 8), 256, lag=4),
    "fame-no-concat": Case("fame-no-concat", (1, 12, 12)),
    "fame-dense": Case("fame-dense", (1, 8, 8)),
    "lvae": Case("lvae", (1, 8, 8)),
    "pixelvae": Case("pixelvae", (1, 8, 8)),
    "vae": Case("vae", (1, 8, 8)),
    "pixelcnn": Case("pixelcnn", (1, 12, 12), half=False),
    "pixelcnn-rgb": Case("pixelcnn", (3, 8, 8), 256, half=False),
    "pixelcnn-odd": Case("pixelcnn", (1, 7, 9), half=False),
    "fame-patches": Case("fame", (1, 12, 12), half=False, patches=True),
    "pixelcnn-positions": Case("pixelcnn", (1, 7, 9), patches=True, positions=True),
    "fame-classes": Case("fame", (1, 8, 8), classes=("cat", "dog", "7")),
}


def checkpoint_path(name: str) -> Path:
    return FOLDER / f"{name}.safetensors"


@functools.cache
def write_all_checkpoints() -> None:
    FOLDER.mkdir(exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        if not checkpoint_path(name).exists():
            write_checkpoint(case.build(seed), checkpoint_path(name))


def write_checkpoint(model: Fame, path: Path) -> None:
    save_checkpoint(path, model.config, model.state_dict(), None, FACTS)


def load(name: str) -> Fame:
    """Return a new copy of the golden model in single precision; callers may change it."""
    return load_checkpoint(checkpoint_path(name)).model


def recorded(name: str, found: Any) -> Any:
    """Return the record of a name; when regenerating, store `found` first."""
    path = FOLDER / f"{name}.json"
    if REGENERATE:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def to_hex(images: np.ndarray) -> list[str]:
    return [np.ascontiguousarray(image, np.uint8).tobytes().hex() for image in images]


def from_hex(texts: list[str], shape: tuple[int, int, int]) -> np.ndarray:
    return np.stack([np.frombuffer(bytes.fromhex(text), np.uint8).reshape(shape) for text in texts])


def images_of(name: str) -> np.ndarray:
    """Return the test images of a case, uint8, `(4, C, H, W)`."""
    case, place = CASES[name], FOLDER / "images.json"
    if REGENERATE:
        every = {
            each: to_hex(random_images(IMAGES, row.shape, row.levels, seed=seed).numpy())
            for seed, (each, row) in enumerate(CASES.items())
        }
        return from_hex(recorded("images", every)[name], case.shape)
    return from_hex(json.loads(place.read_text(encoding="utf-8"))[name], case.shape)


def labels_of(name: str) -> np.ndarray | None:
    """Return the class of each test image of a case; None without classes."""
    classes = len(CASES[name].classes)
    return np.arange(IMAGES) % classes if classes else None


def known_rows(shape: tuple[int, int, int]) -> np.ndarray:
    """Return the mask of an image whose upper half is known, `(H, W)`."""
    mask = np.zeros(shape[1:], bool)
    mask[: shape[1] // 2] = True
    return mask


def measure_nll(model: Fame, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, Any]:
    """Return -ELBO or exact NLL of each image and its terms, nats, with the noise of `fame evaluate-nll`."""
    found = evaluate(model, images, labels=labels)
    return {
        "bound": found.bound,
        "nats": found.nats.tolist(),
        "distortion": found.distortion.tolist(),
        "rate": found.rate.tolist(),
    }


def measure(name: str) -> dict[str, Any]:
    """Return all figures of a case."""
    model, images, labels = load(name), images_of(name), labels_of(name)
    single = measure_nll(model, images, labels)
    importance = evaluate(model, images, labels=labels, importance_samples=SAMPLES).nats.tolist()
    return {
        "shapes": {key: list(value.shape) for key, value in model.state_dict().items()},
        "float32": single,
        "importance": importance,
        "float64": measure_nll(load(name).double(), images, labels),
    }


def draw_all(name: str) -> dict[str, np.ndarray]:
    """Return the samples of a case by sampling method, each `(4, C, H, W)`, uint8."""
    model, images, labels = load(name), images_of(name), labels_of(name)
    mask, latents = known_rows(CASES[name].shape), model.config.stochastic_layers
    found = {"samples": generate(model, SEEDS, labels)}
    for sweeps in (0, 1) if latents else (0,):
        batches = complete_batches(model, images, mask, SEEDS, labels, sweeps=sweeps)
        found[f"completions {sweeps}"] = np.concatenate(list(batches))
    if latents:
        rebuilt = reconstruct(model, images, Settings(), labels=labels)
        found["reconstructions"] = rebuilt[:, 0].astype(np.uint8)
    return found


def drawn_by(name: str, stored: dict[str, np.ndarray]) -> Iterator[tuple[str, Drawn]]:
    """Yield the float64 pixel parameters from which the `stored` images of a case were drawn."""
    model, images, labels = load(name).double(), images_of(name), labels_of(name)
    known = known_rows(CASES[name].shape)
    for kind, levels in stored.items():
        names, source = _streams(kind), _source(kind, images, stored)
        yield kind, _drawn(model, levels, names, source, known if "completions" in kind else None, labels)


def _streams(kind: str) -> list[tuple[str | int, ...]]:
    if kind == "samples":
        return [("sample", seed) for seed in SEEDS]
    if kind == "reconstructions":
        return [("reconstruct", 0, 0, index) for index in range(IMAGES)]
    return [("complete", seed, int(kind.split()[1])) for seed in SEEDS]


def _source(kind: str, images: np.ndarray, stored: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return the images from which latents are inferred; None if latents come from the prior."""
    return {"reconstructions": images, "completions 1": stored["completions 0"]}.get(kind)


@torch.no_grad()
def _drawn(
    model: Fame,
    levels: np.ndarray,
    names: list[tuple[str | int, ...]],
    source: np.ndarray | None,
    known: np.ndarray | None,
    labels: np.ndarray | None,
) -> Drawn:
    noise, classes = ImageNoise(names), labels_on(model, labels)
    if source is None:
        condition = model.prior_condition(len(names), noise, labels=classes)
    else:
        condition = model.infer(_tensor(source), noise, labels=classes)[0]
    parameters = model.pixel_parameters(_tensor(levels), condition)
    uniforms = image_uniforms(names, model.uniforms_shape).double()
    config = model.config
    free = np.ones((config.height, config.width), bool) if known is None else ~known
    return Drawn(
        levels, parameters.numpy(), uniforms.numpy(), free, config.levels, config.decoder.autoregressive
    )


def _tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.copy()).double()
