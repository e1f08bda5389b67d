"""Scores of models on data sets, and new measurements of claimed NLLs."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from torch import Tensor

from famecli.checkpoints.checkpoint import Checkpoint, save_checkpoint
from famecli.checkpoints.description import with_claim
from famecli.checkpoints.header import read_header
from famecli.checkpoints.provenance import parse_provenance
from famecli.checkpoints.store import LAST
from famecli.config.costs import images_at_once
from famecli.data.dataset import FixedLevels, ImageSplit, Split, count_seen, fixed_levels
from famecli.data.folder import seen_with
from famecli.data.image_writers import bits_to_uint8, levels_to_bytes, open_writer
from famecli.data.labels import Labels, labels_in, labels_of, labels_or_random
from famecli.data.registry import DATASETS, FOLDER, dataset_info
from famecli.errors import ArgumentError, FameError, InputError, truncate
from famecli.evaluation.report import NllReport, part_numbers
from famecli.model.fame import Fame
from famecli.nll.ais import Simulated, double, evaluate_ais, simulate
from famecli.nll.evaluate import ImageNlls, evaluate, evaluate_marginal, pixel_bits
from famecli.nll.record import BITS_SEED, FIRST_IMAGES, NATS_PER_BIT, Annealing, NllRecord, bits_per_dim
from famecli.runtime.distributed import ALONE, Group

# Name of a data set of simulated images, and of its only split.
SIMULATED, ALL = "simulated", "all"
WHOLE_BYTE = 256
AUTOMATIC_BATCH, GPU_BATCH = 128, 2048
# Chains keep gradients, which take more memory.
AUTOMATIC_CHAINS = 32


@dataclass(frozen=True)
class EstimatorSettings:
    """Estimator of the NLL of images.

    Args:
        importance_samples: Draws of the latents per image: 1 for the ELBO, more for a tighter bound.
        annealing: Settings of annealed importance sampling; None for draws from q(z | x).
        seed: Seed of the latents.
        batch_size: Images times samples, or chains, in one forward pass; None for a default.
        marginal: Whether a model with classes is scored by the mean of p(x|y) over classes, without labels.
    """

    importance_samples: int = 1
    annealing: Annealing | None = None
    seed: int = 0
    batch_size: int | None = None
    marginal: bool = False

    def passes(self, model: Fame) -> int:
        """Return how often each image is evaluated: once, or once for each class."""
        return len(model.config.classes) if self.marginal else 1

    def nlls(
        self,
        model: Fame,
        levels: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        numbers: Sequence[int] | None = None,
        normals: Sequence[Tensor] | None = None,
        advance: Callable[[int], None] = lambda images: None,
        group: Group = ALONE,
        report: Callable[[str], None] = lambda text: None,
    ) -> ImageNlls:
        """Return the NLL of each image; exact without latents, whatever the estimator.

        Args:
            model: Model on its device.
            levels: Integer levels `(N, C, H, W)`.
            labels: Class of each image, `(N,)`; None without classes, or for their mean.
            numbers: Number of each image, which names the streams of its latents; None for 0 to N - 1.
            normals: Normals from which the images were drawn, for reverse annealing; see `evaluate_ais`.
            advance: Called with the number of images just done, once for each of `passes`.
            group: Processes that share the batches; each gets the NLLs of all images.
            report: Called with one line when memory runs out.

        Raises:
            ArgumentError: The model has classes, and there are no labels; or `marginal` is set for a model
                without classes, or together with `annealing`.
            NumericsError: An NLL is not finite, or implies a probability above one.
        """
        self._check(model, labels)
        common: dict[str, Any] = {"seed": self.seed, "numbers": numbers, "advance": advance}
        common |= {"group": group, "report": report}
        if self.annealing is not None and model.config.stochastic_layers:
            batch = self.batch_size or images_at_once(model.config, AUTOMATIC_CHAINS)
            common |= {"normals": normals, "batch_size": batch}
            return evaluate_ais(model, levels, self.annealing, labels=labels, **common)
        most = GPU_BATCH if model.device.type == "cuda" else AUTOMATIC_BATCH
        common["importance_samples"] = self.importance_samples
        common["batch_size"] = self.batch_size or images_at_once(model.config, most)
        if self.marginal:
            return evaluate_marginal(model, levels, **common)
        return evaluate(model, levels, labels=labels, **common)

    def _check(self, model: Fame, labels: np.ndarray | None) -> None:
        if self.marginal and (self.annealing is not None or not model.config.classes):
            why = "excludes `annealing`" if model.config.classes else "is for a model with classes"
            raise ArgumentError(f"`marginal` {why}", "leave it out")
        if model.config.classes and labels is None and not self.marginal:
            raise ArgumentError(
                "the model has classes, and the images have no labels",
                "pass `labels`, or `marginal` for the mean over classes; folders may be named like classes",
            )


def scored_levels(
    checkpoint: Checkpoint,
    images: ImageSplit,
    numbers: Sequence[int] | None = None,
    labels: Labels | None = None,
    *,
    marginal: bool = False,
) -> FixedLevels:
    """Return the levels of images that a model is scored on.

    Args:
        checkpoint: Checkpoint of the scored model.
        images: Split of a data set.
        numbers: Ascending numbers of the images in the split, such as an `even_part`; None for all.
        labels: Class of all images of the split, or of each; None for the labels of the split.
        marginal: Whether the model is scored without labels; then labels that it does not know are dropped.

    Raises:
        ArgumentError: The model is for other images, or there is no such class.
    """
    check_fits(checkpoint, images.info.shape, images.info.levels, images.info.name)
    found = fixed_levels(images, BITS_SEED, numbers)
    classes = checkpoint.model.config.classes
    if labels is not None:
        every = labels_of(classes, labels, len(images.pixels))
        return dataclasses.replace(found, labels=None if every is None else every[list(found.numbers)])
    try:
        return dataclasses.replace(found, labels=labels_in(classes, images, found.numbers))
    except ArgumentError:
        if not marginal:
            raise
        return found


def score(
    checkpoint: Checkpoint,
    images: ImageSplit,
    scored: FixedLevels,
    estimator: EstimatorSettings,
    *,
    normals: Sequence[Tensor] | None = None,
    advance: Callable[[int], None] = lambda images: None,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> NllReport:
    """Return the NLL of a model on images, with its protocol.

    Args:
        checkpoint: Checkpoint of the scored model.
        images: Split of a data set, or `simulated` images.
        scored: Levels of these images, from `scored_levels` or `simulated`.
        estimator: Estimator of the NLL.
        normals: Normals of the images; see `EstimatorSettings.nlls`, also for errors.
        advance: Called with the number of images just done.
        group: Processes that share the batches.
        report: Called with one line when memory runs out.
    """
    started_s = time.monotonic()
    nlls = estimator.nlls(
        checkpoint.model,
        scored.levels,
        labels=scored.labels,
        numbers=scored.numbers,
        normals=normals,
        advance=advance,
        group=group,
        report=report,
    )
    seen = _seen(checkpoint, images, scored.numbers)
    seconds = time.monotonic() - started_s
    return NllReport(checkpoint, images, scored, nlls, estimator.seed, seconds, trained_on=seen)


def _seen(checkpoint: Checkpoint, images: ImageSplit, numbers: Sequence[int]) -> int | None:
    """Return how many images the model was trained on; None unless its file lies in the folder of its run."""
    folder = Path(checkpoint.source).parent
    if images.info.name not in DATASETS and images.info.levels < WHOLE_BYTE:
        return None  # The list has hashes of bytes, and these are levels.
    with suppress(FameError):
        of_run = parse_provenance(read_header(folder / LAST).metadata).data
        if of_run is not None and of_run == checkpoint.provenance.data:
            return count_seen(folder, images.pixels[list(numbers)])
    return None


def simulated(
    checkpoint: Checkpoint, images: int, seed: int = 0
) -> tuple[ImageSplit, FixedLevels, Sequence[Tensor]]:
    """Draw images from a model; return them, their levels and their normals: the arguments of `score`.

    Args:
        checkpoint: Checkpoint of the model to draw from.
        images: Number of images.
        seed: Seed of latents and pixels.

    Raises:
        ArgumentError: The model has no latents, so that its NLL is exact.
    """
    if not checkpoint.model.config.stochastic_layers:
        raise ArgumentError(
            f"{checkpoint.source} has no latents: its NLL is exact, and there is no gap to bound"
        )
    labels = labels_or_random(checkpoint.model.config.classes, None, range(seed, seed + images))
    drawn = simulate(double(checkpoint.model), images, seed, labels)
    split = as_split(checkpoint.model, drawn)
    return split, dataclasses.replace(fixed_levels(split), labels=labels), drawn.normals


def as_split(model: Fame, simulated: Simulated) -> ImageSplit:
    """Return simulated images as a split of a data set."""
    info = dataclasses.replace(
        seen_with(dataset_info(FOLDER), model.config.levels),
        name=SIMULATED,
        family=SIMULATED,
        title="Images drawn from the model",
        shape=model.config.image_shape,
        splits={ALL: len(simulated.levels)},
        rule="all of them",
    )
    return ImageSplit(info, ALL, simulated.levels)


def check_fits(checkpoint: Checkpoint, shape: tuple[int, int, int], levels: int, name: str) -> None:
    """Check that a model is for images such as those of `name`.

    Raises:
        ArgumentError: The model is for other images.
    """
    config = checkpoint.model.config
    if (config.image_shape, config.levels) != (shape, levels):
        own, square = name == FOLDER or name not in DATASETS, config.height == config.width
        fits = own and square and shape[1:] != config.image_shape[1:]
        hint = f"`resize={config.width}` fits your own images to this model" if fits else ""
        raise ArgumentError(
            f"{checkpoint.source} is a model of {config.image_shape} images with {config.levels} levels, "
            f"{name} has {shape} with {levels}",
            hint,
        )


def measure_again(
    checkpoint: Checkpoint,
    claim: NllRecord,
    images: Callable[[str, Split], ImageSplit],
    *,
    name: str,
    limit: int = FIRST_IMAGES,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda images: None,
    report: Callable[[str], None] = lambda text: None,
) -> NllRecord:
    """Measure a claim again, with its estimator and seed.

    Args:
        checkpoint: Model with its averaged weights.
        claim: Claim of the checkpoint.
        images: Function from the names of a data set and a split to the split.
        name: Name of the weights in errors.
        limit: Number of images: 256; or a number not below that of the claim, for all of its images.
        batch_size: Images times samples in one forward pass; see `EstimatorSettings`.
        advance: Called with the number of images just done.
        report: Called with one line when memory runs out.

    Raises:
        InputError: The claim does not record its data set, its images or its seed, is about a split or images
            that do not exist, is by annealing, or is a mean over classes that the model does not have.
        FameError: Any error of `NllRecord.expected`, `images`, `scored_levels` and `score`.
    """
    data, seed = claim.data, claim.seed
    if data.dataset_id is None or data.images is None or seed is None:
        raise InputError(f"{name}: its claim does not record data set, images and seed")
    if data.split not in get_args(Split):
        raise InputError(
            f"{name}: its claim is about a split {truncate(repr(data.split))}, which does not exist"
        )
    count, _ = claim.expected(name, limit)
    split = images(data.dataset_id, cast(Split, data.split))
    marginal = claim.given == "marginal"
    if claim.bound == "ais":
        raise InputError(f"{name}: its claim is by annealing, which is not measured again")
    if marginal and not checkpoint.model.config.classes:
        raise InputError(f"{name}: its claim is a mean over classes, and the model has none")
    if data.images > len(split.pixels):
        raise InputError(
            f"{name}: its claim is about {data.images:,} images, {data.dataset_id} has {len(split.pixels):,} "
            f"in {data.split}"
        )
    estimator = EstimatorSettings(claim.importance_samples, None, seed, batch_size, marginal)
    numbers = part_numbers(data.part, data.images, len(split.pixels))[:count]
    scored = scored_levels(checkpoint, split, numbers, marginal=marginal)
    return score(checkpoint, split, scored, estimator, advance=advance, report=report).nll


def save_claim(report: NllReport, path: Path, *, replace: bool = True) -> None:
    """Write the weights of a report with its NLL as a further claim; see `with_claim`, `save_checkpoint`."""
    checkpoint = report.checkpoint
    facts = {key: checkpoint.metadata.get(key) for key in ("training", "provenance")}
    claims = with_claim(checkpoint.metadata, report.claim())
    weights = checkpoint.model.state_dict()
    save_checkpoint(path, checkpoint.model.config, weights, None, facts | claims, replace=replace)


def write_heatmaps(
    report: NllReport,
    folder: Path,
    batch_size: int | None = None,
    *,
    force: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> None:
    """Write a PNG per image with the bits of each pixel; white is 8 bits or more per channel.

    Args:
        report: NLL of the images.
        folder: Folder of the PNGs.
        batch_size: Number of images in one forward pass; None for a default.
        force: Whether files that exist are replaced.
        note: Called with one line when memory runs out.

    Raises:
        InputError: A file cannot be written.
    """
    model, scored, channels = report.checkpoint.model, report.scored, report.split.info.shape[0]
    at_once = batch_size or images_at_once(model.config, AUTOMATIC_BATCH)
    with open_writer(folder, len(report.nlls.nats), format="png", force=force) as writer:
        maps = pixel_bits(
            model, scored.levels, report.seed, at_once, scored.numbers, scored.labels, report=note
        )
        for start, bits in maps:
            indices = scored.numbers[start : start + len(bits)]
            rows = [
                {"index": index, "bits": float(each.sum())} for index, each in zip(indices, bits, strict=True)
            ]
            writer.add(bits_to_uint8(bits / channels), rows)


def mean_square(image: np.ndarray, other: np.ndarray) -> float:
    """Return the mean squared difference of two uint8 images."""
    return float(np.mean((image.astype(np.float64) - other) ** 2))


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images in dB; infinite if they are equal."""
    error = mean_square(image, other)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def fidelity(
    model: Fame,
    levels: np.ndarray,
    images: np.ndarray,
    sources: Sequence[str],
    seed: int = 0,
    labels: np.ndarray | None = None,
    numbers: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Return PSNR (dB), squared error and NLL of each image, for JSON; units are in the keys.

    Args:
        model: Model with latents.
        levels: Originals, integer levels `(N, C, H, W)`.
        images: One reconstruction per original, uint8 `(N, H, W, C)`.
        sources: Name of each original.
        seed: Seed of the latents of the NLL.
        labels: Class of each image; None for a model without classes.
        numbers: Number of each image, which names the streams of its latents; None for 0 to N - 1.
    """
    nlls = evaluate(model, levels, labels=labels, seed=seed, numbers=numbers)
    rows = []
    for index, before in enumerate(levels_to_bytes(levels, model.config.levels)):
        decibels, nats = psnr(before, images[index]), float(nlls.nats[index])
        rows.append(
            {
                "index": index,
                "source": sources[index],
                "psnr": decibels if math.isfinite(decibels) else None,
                "mse": mean_square(before, images[index]),
                "nats": nats,
                "bits_per_dim": bits_per_dim(nats, model.config.image_shape),
                "kl_bits": [float(each) / NATS_PER_BIT for each in nlls.rate[index]],
            }
        )
    return rows
