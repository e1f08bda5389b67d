"""An evaluation: NLLs of images with the record of their mean. The schema `famecli/nll/1`."""

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from famecli import __version__
from famecli.checkpoints.checkpoint import Checkpoint
from famecli.coding.compress import CodeLength
from famecli.config.schema import to_dict
from famecli.data.dataset import FixedLevels, ImageSplit, even_part
from famecli.data.registry import FOLDER
from famecli.nll import record as protocol
from famecli.nll.ais import AnnealedNlls
from famecli.nll.evaluate import ImageNlls, stderr_over_images
from famecli.nll.record import ESTIMATOR_VERSION, NllRecord, Part, Point, ScoredImages, Terms, bits_per_dim
from famecli.output import html_table

CLAIM_KEYS = (
    "data",
    "bound",
    "importance_samples",
    "nats_per_image",
    "stderr_nats_per_image",
    "bits_per_dim",
    "stderr_bits_per_dim",
    "terms_nats_per_image",
    "curve",
    "seed",
    "precision",
    "versions",
)
# Keys of models with classes.
CLASS_KEYS = ("given", "class_prior", "accuracy")
# Two classes are close if errors within the tolerance could change which one is more probable.
CLOSE_NATS = 2 * protocol.TOLERANCE_NATS


@dataclass(frozen=True, repr=False)
class NllReport:
    """One evaluation.

    Args:
        checkpoint: Checkpoint of the scored model.
        split: Source of the images.
        scored: Levels that were scored, with their hash.
        nlls: NLL of each image.
        seed: Seed of the latents.
        seconds: Wall-clock seconds.
        coded: Length of the images as a code; None if they were not coded.
        trained_on: Number of scored images that the model was trained on; None where it is not known.
    """

    checkpoint: Checkpoint
    split: ImageSplit
    scored: FixedLevels
    nlls: ImageNlls
    seed: int
    seconds: float
    coded: CodeLength | None = None
    trained_on: int | None = None

    @cached_property
    def nll(self) -> NllRecord:
        """Mean NLL with its protocol, and the NLL of each image."""
        info, nlls, stderr = self.split.info, self.nlls, _number(self.nlls.stderr)
        weights = nlls.importance
        curve = [] if weights is None else zip(weights.samples, weights.curve.T, strict=True)
        double = self._annealed is not None and self.checkpoint.model.device.type != "mps"
        return NllRecord(
            data=ScoredImages(
                dataset_id=info.name,
                split=self.split.split,
                images=len(nlls.nats),
                pixels_sha256=self.scored.sha256,
                shape=info.shape,
                levels=info.levels,
                binarization=protocol.binarization_words(info.binarization),
                part=part_name(self.scored.numbers, len(self.split.pixels)),
                preparation=info.preparation,
            ),
            bound=nlls.bound,
            importance_samples=nlls.importance_samples,
            nats_per_image=nlls.mean,
            stderr_nats_per_image=stderr,
            bits_per_dim=self.per_dim(nlls.mean),
            stderr_bits_per_dim=None if stderr is None else self.per_dim(stderr),
            curve=tuple(Point(samples, float(nats.mean())) for samples, nats in curve),
            annealing=None if self._annealed is None else self._annealed.settings,
            given=nlls.given,
            class_prior=(1.0 / len(self.classes),) * len(self.classes) if nlls.given == "marginal" else (),
            accuracy=self._accuracy(),
            terms_nats_per_image=Terms(float(nlls.distortion.mean()), tuple(map(float, nlls.rate.mean(0)))),
            seed=self.seed,
            precision="float64" if double else "float32",
            weights_sha256=self.checkpoint.weights_sha256,
            first_256_nats_per_image=float(nlls.nats[: protocol.FIRST_IMAGES].mean()),
            first_256_accuracy=self._accuracy(protocol.FIRST_IMAGES),
            accuracy_tolerance=0.0 if nlls.lead is None else float((nlls.lead < CLOSE_NATS).mean()),
            image_nats=tuple(nlls.nats.tolist()),
            name=self.checkpoint.source,
            origin="measured",
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the model's classes; empty without."""
        return self.checkpoint.model.config.classes

    def _accuracy(self, first: int | None = None) -> float | None:
        if self.nlls.most_probable is None or self.scored.labels is None:
            return None
        return float((self.nlls.most_probable == self.scored.labels)[:first].mean())

    @property
    def _annealed(self) -> AnnealedNlls | None:
        return self.nlls if isinstance(self.nlls, AnnealedNlls) else None

    def per_dim(self, nats: float) -> float:
        """Convert nats per image to bits per pixel and channel."""
        return bits_per_dim(nats, self.split.info.shape)

    @property
    def bits_per_dim(self) -> float:
        """Mean NLL over images, in bits/dim."""
        return self.per_dim(self.nlls.mean)

    @property
    def claims(self) -> list[NllRecord]:
        """Claims of the checkpoint; the first is the one on most images."""
        return self.checkpoint.claims

    def has_pixels_of(self, claim: NllRecord) -> bool:
        """Return whether the scored images are exactly those of a claim."""
        return claim.data.pixels_sha256 == self.scored.sha256

    def comparable(self, claim: NllRecord) -> bool:
        """Return whether a claim has the same data set, split, bits and estimator, on any number of images.

        A user's own images are the same data set only if their pixels are equal.
        """
        known = self.split.info.family != FOLDER or self.has_pixels_of(claim)
        same_bits = claim.data.binarization == self.nll.data.binarization
        return known and same_bits and claim.same_kind(self.nll)

    def _claimed(self, claim: NllRecord) -> dict[str, Any]:
        """Return a claim with its protocol, and whether it can be compared with this evaluation."""
        scored = ("dataset_id", "split", "images", "pixels_sha256", "binarization", "part", "preparation")
        data = to_dict(claim.data)
        return {
            "nats_per_image": claim.nats_per_image,
            "bits_per_dim": self.per_dim(claim.nats_per_image),
            "data": {key: data[key] for key in scored},
            "bound": claim.bound,
            "importance_samples": claim.importance_samples,
            "seed": claim.seed,
            "weights_sha256": claim.weights_sha256,
            "comparable": self.comparable(claim),
            "same_pixels": self.has_pixels_of(claim),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the document of schema `famecli/nll/1`; units are in the keys."""
        checkpoint, nll = self.checkpoint, to_dict(self.nll)
        claims, terms = [self._claimed(claim) for claim in self.claims], nll["terms_nats_per_image"]
        past = checkpoint.provenance
        return {
            "schema": protocol.SCHEMA,
            "checkpoint": checkpoint.reference
            | {
                "weights_sha256": checkpoint.weights_sha256,
                "step": past.steps,
                "images_seen": past.images_seen or None,
            },
            **{key: nll[key] for key in CLAIM_KEYS[:7]},
            **({key: nll[key] for key in CLASS_KEYS} if self.classes else {}),
            **self._importance(),
            "annealing": self._annealing(),
            "terms_nats_per_image": terms,
            "terms_bits_per_dim": {
                "decoder": self.per_dim(terms["decoder"]),
                "kl": [self.per_dim(each) for each in terms["kl"]],
            },
            "claimed_nats_per_image": claims[0]["nats_per_image"] if claims else None,
            "claimed_bits_per_dim": claims[0]["bits_per_dim"] if claims else None,
            "claims": claims,
            "seed": self.seed,
            "trained_on_images": self.trained_on,
            "device": checkpoint.model.device.type,
            "precision": nll["precision"],
            "seconds": round(self.seconds, 2),
            "versions": {"famecli": __version__, "torch": str(torch.__version__)},
        }

    @property
    def record(self) -> dict[str, Any]:
        """The document of `to_dict`, which `fame evaluate-nll --json` prints."""
        return self.to_dict()

    def claim(self) -> dict[str, Any]:
        """Return the part of `to_dict` that a checkpoint stores as its claim.

        Mean and accuracy of the first scored images are added, which `fame weights verify --claims` measures
        again. An image's NLL depends only on its number and the seed, so scoring these alone gives the same.
        """
        document = self.to_dict()
        more = {key: getattr(self.nll, key) for key in ("first_256_nats_per_image", "weights_sha256")}
        if self.nlls.bound == "iwae":
            more["estimator_version"] = ESTIMATOR_VERSION
        if self.classes:
            more |= {key: document[key] for key in CLASS_KEYS}
            more["first_256_accuracy"] = self.nll.first_256_accuracy
        return {key: document[key] for key in CLAIM_KEYS} | more

    def __repr__(self) -> str:
        nlls = self.nlls
        nats = f"{nlls.mean:.3f}" + ("" if math.isnan(nlls.stderr) else f" +- {nlls.stderr:.3f}")
        return f"<{self.checkpoint.source}: {self.nll.data}: {nats} nats/image ({self.nll.estimator})>"

    def _repr_html_(self) -> str:
        nlls = self.nlls
        figures = (nlls.mean, nlls.stderr, self.bits_per_dim, self.per_dim(nlls.stderr))
        shown = ("" if math.isnan(figure) else f"{figure:.5g}" for figure in figures)
        row = (f"NLL ({self.nll.estimator})", *shown)
        return html_table(
            f"{self.checkpoint.source}: {self.nll.data}", ["", "nats/image", "±", "bits/dim", "±"], [row]
        )

    def _importance(self) -> dict[str, Any]:
        """Return the keys of importance weighting; nulls and an empty curve without its statistics."""
        importance = self.nlls.importance
        if importance is None:
            return {"stderr_latents_nats_per_image": None, "effective_samples": None, "curve": []}
        effective = importance.effective
        curve = [
            {
                **dataclasses.asdict(point),
                "stderr_nats_per_image": _number(stderr_over_images(nats)),
                "stderr_latents_nats_per_image": float(stderr),
                "bits_per_dim": self.per_dim(point.nats_per_image),
            }
            for point, nats, stderr in zip(
                self.nll.curve, importance.curve.T, importance.stderr_of_means, strict=True
            )
        ]
        return {
            "stderr_latents_nats_per_image": float(importance.stderr_of_means[-1]),
            "effective_samples": {"mean": float(effective.mean()), "least": float(effective.min())},
            "curve": curve,
        }

    def _annealing(self) -> dict[str, Any] | None:
        """Return settings and outcome of annealing; None without annealing."""
        if (nlls := self._annealed) is None:
            return None
        found = {
            **dataclasses.asdict(nlls.settings),
            "acceptance": _number(float(nlls.acceptance.mean())),
            "step_size": _number(float(nlls.step.mean())),
        }
        gap = None if nlls.lower is None else nlls.nats - nlls.lower
        for name, nats in (("elbo", nlls.elbo), ("lower", nlls.lower), ("gap", gap)):
            found[f"{name}_nats_per_image"] = None if nats is None else float(nats.mean())
            stderr = None if nats is None else _number(stderr_over_images(nats))
            found[f"stderr_{name}_nats_per_image"] = stderr
        return found

    def beside(self) -> Iterator[tuple[str, float, float]]:
        """Yield other figures of the same images: label, nats, and standard error over images."""
        nlls, annealed = self.nlls, self._annealed
        rows: list[tuple[str, np.ndarray]] = []
        if annealed is not None:
            if annealed.lower is not None:
                rows.append(("lower bound (reverse AIS)", annealed.lower))
                rows.append(("between both bounds", nlls.nats - annealed.lower))
            rows.append(("-ELBO", annealed.elbo))
        if nlls.importance is not None:
            what = "chains" if annealed is not None else "K"
            # The last point is the NLL itself.
            curve = list(zip(nlls.importance.samples, nlls.importance.curve.T, strict=True))[:-1]
            rows += [(f"with {what} = {samples}", nats) for samples, nats in curve]
        for label, nats in rows:
            yield label, float(nats.mean()), stderr_over_images(nats)

    def remarks(self) -> Iterator[str]:
        """Yield sentences on the precision of the estimator."""
        nlls, annealed = self.nlls, self._annealed
        if nlls.importance is not None:
            effective, stderr = nlls.importance.effective, nlls.importance.stderr_of_means[-1]
            yield (
                f"standard error over latents: {stderr:.3f} nats; effective samples "
                f"{effective.mean():.1f} of {nlls.importance_samples}, at least {effective.min():.1f}"
            )
        if annealed is not None and annealed.settings.steps > 1:
            yield (
                f"{annealed.settings.leapfrog} leapfrog steps of {annealed.step.mean():.3f} on average, "
                f"{annealed.acceptance.mean():.0%} accepted"
            )
        if self.nll.accuracy is not None:
            yield f"accuracy of the most probable class: {self.nll.accuracy:.2%} of {len(nlls.nats):,} images"

    def explain(self) -> str:
        """Return the formulas of the figures with this run's numbers in them."""
        nlls, info = self.nlls, self.split.info
        channels, height, width = info.shape
        terms = " + ".join(f"{value:.4f}" for value in [nlls.distortion.mean(), *nlls.rate.mean(0)])
        lines = {
            "exact": "nats/image = mean over images of -log p(x)",
            "elbo": f"nats/image = mean of -log p(x|z) + sum over layers of KL = {terms}, with one draw of z",
            "iwae": f"nats/image = mean of -log(1/{nlls.importance_samples} sum of p(x,z)/q(z|x))",
            "ais": f"nats/image = mean of -log(1/{nlls.importance_samples} sum of annealed weights)",
        }
        error = f"standard error = sd over images / sqrt({len(nlls.nats)}) = {nlls.stderr:.4f} nats"
        likelihood = {"label": "p(x) is p(x|y), given the class y", "marginal": "p(x) is the mean of p(x|y)"}
        return "\n".join(
            (
                f"{lines[nlls.bound]} = {nlls.mean:.4f}",
                *([] if nlls.given is None else [likelihood[nlls.given]]),
                "one image has no standard error" if math.isnan(nlls.stderr) else error,
                f"bits/dim = nats / (ln 2 * {channels} * {height} * {width}) = {self.bits_per_dim:.5f}",
            )
        )

    def per_image(self) -> Iterator[dict[str, Any]]:
        """Yield a row per image: number in the split, file, start of hash, classes, NLL with all terms."""
        nlls, annealed = self.nlls, self._annealed
        columns: dict[str, np.ndarray] = {
            "bits_per_dim": np.array([self.per_dim(nats) for nats in nlls.nats.tolist()]),
            "nats": nlls.nats,
            "decoder_nats": nlls.distortion,
            **{f"kl_nats_{layer}": rate for layer, rate in enumerate(nlls.rate.T)},
        }
        if nlls.importance is not None:
            columns["stderr_latents_nats"] = nlls.importance.stderr[:, -1]
            columns["effective_samples"] = nlls.importance.effective
        if annealed is not None:
            columns["elbo_nats"] = annealed.elbo
            columns |= {} if annealed.lower is None else {"lower_nats": annealed.lower}
        for index, levels in enumerate(self.scored.levels):
            sha8 = hashlib.sha256(levels.tobytes()).hexdigest()[:8]
            number = self.scored.numbers[index]
            file = {} if self.split.files is None else {"file": self.split.files[number]}
            figures = {key: float(each[index]) for key, each in columns.items()}
            yield {"index": number, **file, "sha8": sha8, **self._classes_of(index), **figures}

    def _classes_of(self, index: int) -> dict[str, str]:
        """Return the names of the given and of the most probable class of an image, where there are any."""
        found = {"class": self.scored.labels, "most_probable_class": self.nlls.most_probable}
        return {key: self.classes[each[index]] for key, each in found.items() if each is not None}


def part_numbers(part: Part | None, images: int, total: int) -> Sequence[int]:
    """Return the numbers of a record's images in their split.

    Args:
        part: Part in the record; None, in older records, for the first images.
        images: Number of images in the record.
        total: Number of images of the split.
    """
    return even_part(total, images) if part == "even" else range(min(images, total))


def part_name(numbers: Sequence[int], total: int) -> Part | None:
    """Return the name of the part of a split that images form; None if it has no name.

    Args:
        numbers: Numbers of the images in their split.
        total: Number of images of the split.
    """
    names: tuple[Part, ...] = ("first", "even")
    found = (part for part in names if list(part_numbers(part, len(numbers), total)) == list(numbers))
    return "all" if len(numbers) == total else next(found, None)


def _number(value: float) -> float | None:
    """Return `value`; None for NaN, such as the deviation of one image, since JSON has no NaN."""
    return None if math.isnan(value) else value


def per_image_text(report: NllReport, *, lines: bool) -> str:
    """Return the rows of `report` as CSV with a header, or with `lines` as one JSON object per line."""
    rows = list(report.per_image())
    if lines:
        return "".join(json.dumps(row) + "\n" for row in rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
