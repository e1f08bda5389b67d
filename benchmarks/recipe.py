"""Ablations of the recipe: paired short runs with one change each, at equal images and at equal time.

    python -m benchmarks.recipe --images 51200
    python -m benchmarks.recipe --only "batch 32" "decoder width 32" --seeds 0 1 2

Each variation is trained like the base command, with the same seeds, one run after the other. At equal time
it is trained again, on the number of images that it sees in the time of the base, so that its schedule ends
there too. The same command resumes an interrupted experiment. Prints one Markdown table.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import run
from benchmarks.tables import Cell, Table
from benchmarks.trainings import (
    Runner,
    Trained,
    Training,
    add_training_options,
    fame,
    image_estimate,
    paired_difference,
    parse_training_options,
    publish_trainings,
    rate_text,
    run_words,
    set_words,
    shared_words,
    train,
    validations,
)
from famecli.config.costs import count_parameters
from famecli.config.resolve import Setting
from famecli.config.schema import leaves, to_dict
from famecli.errors import ConfigError, UsageError, did_you_mean
from famecli.training.options import NEVER, TrainOptions
from famecli.training.plan import make_plan

SCHEMA = "famecli/recipe/1"
BASE = "base"
VALIDATIONS = 5
QUICK_IMAGES = 1280
# Speeds that differ by less count as equal: other load on the machine changes them by as much.
EQUAL_SPEED = 0.1
LOWER = "{{width=48,blocks=1,stride=2,latents=8}}"
UPPER = "{{width=64,blocks=1,stride=2,latents=16}}"
# Settings KEY=VALUE for `fame train --set`, after those of the base.
VARIATIONS: Mapping[str, tuple[str, ...]] = {
    "pixels": ("decoder.patch=1", "decoder.first_kernel=15"),
    "patches of 4": ("decoder.patch=4",),
    "no attention": ("decoder.attention=[]",),
    "two blocks of attention": ("decoder.attention=[3,6]",),
    "four heads, 64 features": ("decoder.heads=4", "decoder.attention_width=64"),
    "not normalised": ("normalised=false",),
    "not normalised, Muon rate 0.01": ("normalised=false", "train.muon_lr=0.01"),
    "latents not bounded": ("bounded_latents=false",),
    "lag 2": ("decoder.lag=2",),
    "lag 4": ("decoder.lag=4",),
    "decoder width 48": ("decoder.width=48",),
    "decoder width 80": ("decoder.width=80",),
    "decoder of 6 layers": ("decoder.layers=6", "decoder.attention=[2,4,6]"),
    "first kernel 5": ("decoder.first_kernel=5",),
    "three layers of latents": (f"model.stages=[{LOWER},{UPPER},{UPPER}]",),
    "latents at the top alone": ("stages.0.latents=0",),
    "a quarter of the latents": ("stages.0.latents=2", "stages.1.latents=4"),
    "condition of 32 maps": ("decoder.condition=32",),
    "batch 8": ("train.batch_size=8",),
    "batch 32": ("train.batch_size=32",),
    "AdamW alone": ("train.optimizer=adamw",),
    "Muon rate 0.01": ("train.muon_lr=0.01",),
    "Muon rate 0.03": ("train.muon_lr=0.03",),
    "cosine to 2 %": ("train.decay=cosine", "train.final_lr=0.02"),
    "bits by their mean": ("train.expected_bits=always",),
    "bits as drawn": ("train.expected_bits=never",),
    "weight decay 0.05": ("train.weight_decay=0.05",),
    "free nats 0": ("train.free_nats=0",),
    "free nats 0.25": ("train.free_nats=0.25",),
    "beta 0.9": ("train.beta=0.9",),
    "no warm-up of the KL": ("train.rate_warmup_images=0",),
    "long warm-up of the KL": ("train.rate_warmup_images={half}",),
    "latents from the start": ("train.decoder_only=0",),
}
# Keys without effect in a model without attention, or without latents.
OF_ATTENTION = {"heads", "attention_width"}
OF_LATENTS = {"bounded_latents", "condition", "beta", "free_nats", "rate_warmup_images", "decoder_only"}


@dataclass(frozen=True)
class Variation:
    """One change of the recipe, with its runs, one per seed."""

    name: str
    changes: tuple[str, ...]
    equal_images: list[Trained] = dataclasses.field(default_factory=list)
    equal_seconds: list[Trained] = dataclasses.field(default_factory=list)


def main() -> None:
    options = parse_options()
    publish_trainings([explore(options)], SCHEMA, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=f"variations: {', '.join(VARIATIONS)}"
    )
    parser.add_argument("--model", default="fame", help="preset; default: fame")
    parser.add_argument("--size", default="small", help="size of the model; default: small")
    parser.add_argument("--images", type=int, default=51_200, help="images per run; default: 51200")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="variations; default: all that change the training"
    )
    parser.add_argument(
        "--equal", nargs="+", choices=("images", "seconds"), default=["images", "seconds"],
        help="what is held equal; images alone takes half the time; default: both",
    )  # fmt: skip
    add_training_options(parser, "runs/recipe")
    options = parse_training_options(parser, QUICK_IMAGES)
    options.only = options.only or names_of_changes(options)
    return options


def names_of_changes(options: argparse.Namespace) -> list[str]:
    """Return the names of the variations that the model can have, and that change its training."""
    base = effective_values((), options)
    found = []
    for name, changes in VARIATIONS.items():
        with suppress(ConfigError):
            if effective_values(changes, options) != base:
                found.append(name)
    return found


def effective_values(changes: Sequence[str], options: argparse.Namespace) -> dict[tuple[str, ...], Any]:
    """Return the values of all keys with an effect on the training of the base with `changes`, by path.

    Raises:
        ConfigError: The model cannot have the changes.
    """
    plan = make_plan(
        TrainOptions(
            preset=options.model,
            dataset=options.dataset,
            data=None if options.data is None else Path(options.data),
            size=options.size,
            settings=[Setting.parse(text) for text in (*options.set, *texts_of(changes, options.images))],
            images=options.images,
            resume=NEVER,
        ),
        blank=True,
    )
    bits, latents = plan.config.expected_bits, plan.model.stochastic_layers
    if bits == "auto" and not (latents and plan.config.decoder_only):
        bits = "never" if latents else "always"
    tables = {"model": to_dict(plan.model), "train": to_dict(plan.config) | {"expected_bits": bits}}
    idle = (set() if plan.model.decoder.attention else OF_ATTENTION) | (set() if latents else OF_LATENTS)
    return {path: value for path, value in leaves(tables) if path[-1] not in idle}


def texts_of(changes: Sequence[str], images: int) -> list[str]:
    """Return changes of a training on a number of images, each KEY=VALUE."""
    return [each.format(half=images // 2) for each in changes]


def chosen(names: Sequence[str]) -> list[Variation]:
    """Return the base and the variations called `names`.

    Raises:
        UsageError: A name is unknown.
    """
    for name in names:
        if name not in VARIATIONS:
            raise UsageError(f"unknown variation {name!r}", did_you_mean(name, VARIATIONS, "variations"))
    wanted = [name for name in VARIATIONS if name in names]
    return [Variation(BASE, ()), *(Variation(name, VARIATIONS[name]) for name in wanted)]


def training_of(variation: Variation, images: int, seed: int, options: argparse.Namespace) -> Training:
    """Return the training of a variation on a number of images."""
    changes = (validations(images, VALIDATIONS), *options.set, *texts_of(variation.changes, images))
    words = (*run_words(options.model, images, seed, options), *set_words(changes))
    name = f"{variation.name.replace(' ', '-')}-{options.size}-{images}-seed{seed}"
    return Training(name, words, options.dataset, "valid", shared_words(options))


def explore(options: argparse.Namespace, run: Runner = fame) -> Table:
    """Train all variations with all seeds and return their table."""
    variations = chosen(options.only)
    base = variations[0]
    for seed in options.seeds:
        for each in variations:
            found = train(training_of(each, options.images, seed, options), options.out, run)
            each.equal_images.append(found)
            if "seconds" in options.equal:
                images = images_in_time(found, base.equal_images[-1])
                if images != found.images:
                    found = train(training_of(each, images, seed, options), options.out, run)
                each.equal_seconds.append(found)
    return _table(variations, options)


def images_in_time(found: Trained, base: Trained) -> int:
    """Return the images that a variation sees in the time of `base`, in hundreds unless speeds are equal."""
    factor = (base.seconds / base.images) / (found.seconds / found.images)
    if abs(factor - 1) < EQUAL_SPEED:
        return found.images
    return max(100, round(found.images * factor / 100) * 100)


COLUMNS = (
    "variation",
    "parameters",
    "NLL, nats",
    "less the base, nats",
    "KL per layer, nats",
    "images/s",
    "images in equal time",
    "NLL in equal time, nats",
    "less the base in equal time, nats",
)


def _table(variations: Sequence[Variation], options: argparse.Namespace) -> Table:
    base = variations[0]
    rows: list[tuple[Cell, ...]] = []
    for each in variations:
        found, timed = each.equal_images, each.equal_seconds
        other = each is not base
        rows.append(
            (
                each.name,
                count_parameters(found[0].config),
                image_estimate(found),
                paired_difference(found, base.equal_images) if other else None,
                rate_text(found),
                float(np.mean([run.images / run.seconds for run in found])),
                round(float(np.mean([run.images for run in timed]))) if timed else None,
                image_estimate(timed) if timed else None,
                paired_difference(timed, base.equal_seconds) if timed and other else None,
            )
        )
    count = len(base.equal_images[0].nats)
    note = (
        f"`{options.model}`, size `{options.size}`, {options.images:,} images, seeds "
        f"{', '.join(map(str, options.seeds))}: NLL (-ELBO, one draw) of {count:,} validation images, with "
        "the standard error over images. Differences are between runs of equal seed, with the standard error "
        "over seeds if there are several, else over images. Layers are counted from the image upwards. In "
        "equal time each variation has its own schedule; speeds within 10 % count as equal."
    )
    return Table("recipe", "Variations of the recipe", COLUMNS, rows, note)


if __name__ == "__main__":
    run(main)
