"""An NLL with all that makes it comparable: protocol, data, weights, error. The schema `famecli/nll/1`."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from famecli import __version__
from famecli.checkpoints.checkpoint import Checkpoint
from famecli.checkpoints.claims import FIRST_IMAGES, FIRST_KEY, Claim, readable_claims
from famecli.coding.compress import CodeLength
from famecli.data.dataset import FixedLevels, ImageSplit
from famecli.data.registry import FOLDER
from famecli.nll.ais import AnnealedNlls
from famecli.nll.evaluate import ImageNlls, stderr_over_images
from famecli.nll.notebook import html_table
from famecli.nll.units import bits_per_dim

SCHEMA = "famecli/nll/1"
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


@dataclass(frozen=True)
class NllReport:
    """One evaluation.

    Args:
        checkpoint: The model.
        split: Where the images came from.
        scored: The levels that were scored, with their hash.
        bits_seed: Chose the bits, where the data set's are random.
        nlls: What each image costs.
        seed: Of the latents.
        seconds: That it took.
        coded: What the images cost as a code; None if they were not coded.
    """

    checkpoint: Checkpoint
    split: ImageSplit
    scored: FixedLevels
    bits_seed: int
    nlls: ImageNlls
    seed: int
    seconds: float
    coded: CodeLength | None = None

    def per_dim(self, nats: float) -> float:
        """Return nats of such an image as bits per pixel and channel."""
        return bits_per_dim(nats, self.split.info.shape)

    @property
    def bits_per_dim(self) -> float:
        """Mean over images."""
        return self.per_dim(self.nlls.mean)

    @property
    def bound(self) -> str:
        """What was measured, in words."""
        nlls = self.nlls
        if isinstance(nlls, AnnealedNlls):
            settings = nlls.settings
            return f"AIS, {settings.steps} steps from the {settings.start}, chains = {settings.chains}"
        words = {"exact": "exact", "elbo": "-ELBO", "iwae": f"IWAE, K = {nlls.importance_samples}"}
        return words[nlls.bound]

    @property
    def binarization(self) -> str:
        """How bits were made, in words."""
        if self.split.info.binarization == "dynamic":
            return f"dynamic, bits of seed {self.bits_seed}"
        return self.split.info.binarization

    def _checkpoint(self) -> dict[str, Any]:
        return {
            "name": self.checkpoint.source,
            "sha256": self.checkpoint.sha256,
            "weights": self.checkpoint.weights,
            "weights_sha256": self.checkpoint.weights_sha256,
            "step": self.checkpoint.provenance.get("steps"),
            "images_seen": self.checkpoint.provenance.get("images_seen"),
        }

    def _data(self) -> dict[str, Any]:
        info = self.split.info
        return {
            "dataset_id": info.name,
            "split": self.split.split,
            "images": len(self.nlls.nats),
            "pixels_sha256": self.scored.sha256,
            "shape": list(info.shape),
            "levels": info.levels,
            "binarization": self.binarization,
        }

    @property
    def claims(self) -> list[Claim]:
        """What the checkpoint claims; the first is the NLL of most images."""
        return readable_claims(self.checkpoint.metadata)

    def has_pixels_of(self, claim: Claim) -> bool:
        """Whether the very images were scored that a claim is about."""
        return claim.pixels_sha256 == self.scored.sha256

    def comparable(self, claim: Claim) -> bool:
        """Whether a claim is about the same data set, split, bits and bound, be it of more or fewer images.

        Images of one's own are the same data set where their pixels are the same: their name says nothing.
        """
        info, nlls = self.split.info, self.nlls
        own = (info.name, self.split.split, nlls.bound, nlls.importance_samples, self.binarization)
        known = info.family != FOLDER or self.has_pixels_of(claim)
        return known and own == (*claim.estimator, claim.binarization)

    def _claimed(self, claim: Claim) -> dict[str, Any]:
        """Return a claim with its protocol, and in what it agrees with this evaluation."""
        scored = ("dataset_id", "split", "images", "pixels_sha256", "binarization")
        return {
            "nats_per_image": claim.nats_per_image,
            "bits_per_dim": self.per_dim(claim.nats_per_image),
            "data": {key: getattr(claim, key) for key in scored},
            "bound": claim.bound,
            "importance_samples": claim.importance_samples,
            "seed": claim.seed,
            "weights_sha256": claim.weights_sha256,
            "comparable": self.comparable(claim),
            "same_pixels": self.has_pixels_of(claim),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the document of schema `famecli/nll/1`; units are in the keys."""
        checkpoint, nlls = self.checkpoint, self.nlls
        rate = [float(each) for each in nlls.rate.mean(0)]
        claims, stderr = [self._claimed(claim) for claim in self.claims], _number(nlls.stderr)
        return {
            "schema": SCHEMA,
            "checkpoint": self._checkpoint(),
            "data": self._data(),
            "bound": nlls.bound,
            "importance_samples": nlls.importance_samples,
            "nats_per_image": nlls.mean,
            "stderr_nats_per_image": stderr,
            "bits_per_dim": self.bits_per_dim,
            "stderr_bits_per_dim": None if stderr is None else self.per_dim(stderr),
            **self._importance(),
            "annealing": self._annealing(),
            "terms_nats_per_image": {"decoder": float(nlls.distortion.mean()), "kl": rate},
            "terms_bits_per_dim": {
                "decoder": self.per_dim(float(nlls.distortion.mean())),
                "kl": [self.per_dim(each) for each in rate],
            },
            "claimed_nats_per_image": claims[0]["nats_per_image"] if claims else None,
            "claimed_bits_per_dim": claims[0]["bits_per_dim"] if claims else None,
            "claims": claims,
            "seed": self.seed,
            "device": checkpoint.model.device.type,
            "precision": self._precision,
            "seconds": round(self.seconds, 2),
            "versions": {"famecli": __version__, "torch": str(torch.__version__)},
        }

    @property
    def _precision(self) -> str:
        double = isinstance(self.nlls, AnnealedNlls) and self.checkpoint.model.device.type != "mps"
        return "float64" if double else "float32"

    @property
    def record(self) -> dict[str, Any]:
        """The document of `to_dict`, which `fame evaluate-nll --json` prints."""
        return self.to_dict()

    def _repr_html_(self) -> str:
        nlls, images = self.nlls, f"{len(self.nlls.nats):,} images"
        caption = f"{self.checkpoint.source}: {self.split.info.name}, {self.split.split}, {images}"
        figures = (nlls.mean, nlls.stderr, self.bits_per_dim, self.per_dim(nlls.stderr))
        row = (f"NLL ({self.bound})", *(f"{figure:.5g}" for figure in figures))
        return html_table(caption, ["", "nats/image", "±", "bits/dim", "±"], [row])

    def _importance(self) -> dict[str, Any]:
        """Return what several weights say beyond; nulls and an empty curve for one."""
        importance = self.nlls.importance
        if importance is None:
            return {"stderr_latents_nats_per_image": None, "effective_samples": None, "curve": []}
        effective = importance.effective
        curve = [
            {
                "importance_samples": samples,
                "nats_per_image": float(nats.mean()),
                "stderr_nats_per_image": _number(stderr_over_images(nats)),
                "stderr_latents_nats_per_image": float(stderr),
                "bits_per_dim": self.per_dim(float(nats.mean())),
            }
            for samples, nats, stderr in zip(
                importance.samples, importance.curve.T, importance.stderr_of_means, strict=True
            )
        ]
        return {
            "stderr_latents_nats_per_image": float(importance.stderr_of_means[-1]),
            "effective_samples": {"mean": float(effective.mean()), "least": float(effective.min())},
            "curve": curve,
        }

    def _annealing(self) -> dict[str, Any] | None:
        """Return how the latents were annealed, and with what outcome; None if they were not."""
        nlls = self.nlls
        if not isinstance(nlls, AnnealedNlls):
            return None
        found = {
            **dataclasses.asdict(nlls.settings),
            "acceptance": _number(float(nlls.acceptance.mean())),
            "step_size": _number(float(nlls.step.mean())),
            "elbo_nats_per_image": float(nlls.elbo.mean()),
            "stderr_elbo_nats_per_image": _number(stderr_over_images(nlls.elbo)),
        }
        for name, nats in self._sandwich(nlls).items():
            found[f"{name}_nats_per_image"] = None if nats is None else float(nats.mean())
            stderr = None if nats is None else _number(stderr_over_images(nats))
            found[f"stderr_{name}_nats_per_image"] = stderr
        return found

    @staticmethod
    def _sandwich(nlls: AnnealedNlls) -> dict[str, np.ndarray | None]:
        """Return the lower bounds of simulated images' NLLs, and what is between both bounds, `(N,)` each."""
        return {"lower": nlls.lower, "gap": None if nlls.lower is None else nlls.nats - nlls.lower}

    def beside(self) -> Iterator[tuple[str, float, float]]:
        """Yield other figures of the same images: what they are, nats and standard error over images."""
        nlls = self.nlls
        if isinstance(nlls, AnnealedNlls):
            words = {"lower": "lower bound (reverse AIS)", "gap": "between both bounds"}
            for name, nats in self._sandwich(nlls).items():
                if nats is not None:
                    yield words[name], float(nats.mean()), stderr_over_images(nats)
            yield "-ELBO", float(nlls.elbo.mean()), stderr_over_images(nlls.elbo)
        if nlls.importance is not None:
            what = "chains" if nlls.bound == "ais" else "K"
            # The last is the NLL itself.
            rows = list(zip(nlls.importance.samples, nlls.importance.curve.T, strict=True))[:-1]
            for samples, nats in rows:
                yield f"with {what} = {samples}", float(nats.mean()), stderr_over_images(nats)

    def remarks(self) -> Iterator[str]:
        """Yield sentences on how sure the estimator is."""
        nlls = self.nlls
        if nlls.importance is not None:
            effective, stderr = nlls.importance.effective, nlls.importance.stderr_of_means[-1]
            yield (
                f"over draws of the latents alone: +- {stderr:.3f} nats; effective samples "
                f"{effective.mean():.1f} of {nlls.importance_samples}, at least {effective.min():.1f}"
            )
        if isinstance(nlls, AnnealedNlls) and nlls.settings.steps > 1:
            yield (
                f"{nlls.settings.leapfrog} leapfrog steps of {nlls.step.mean():.3f} on average, "
                f"{nlls.acceptance.mean():.0%} accepted"
            )

    def claim(self) -> dict[str, Any]:
        """Return the part of `to_dict` that a checkpoint carries as its claimed NLL.

        With it goes the mean of the first images, which `fame weights verify --claims` measures anew: an
        image's NLL depends on its index and the seed alone, so it is that of an evaluation of these alone.
        """
        report = self.to_dict()
        return {key: report[key] for key in CLAIM_KEYS} | {
            FIRST_KEY: float(self.nlls.nats[:FIRST_IMAGES].mean()),
            "weights_sha256": self.checkpoint.weights_sha256,
        }

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
        return "\n".join(
            (
                f"{lines[nlls.bound]} = {nlls.mean:.4f}",
                f"standard error = deviation over images / sqrt({len(nlls.nats)}) = {nlls.stderr:.4f} nats",
                f"bits/dim = nats / (ln 2 * {channels} * {height} * {width}) = {self.bits_per_dim:.5f}",
            )
        )

    def per_image(self) -> Iterator[dict[str, Any]]:
        """Yield a row per image: its index, the start of its hash, and what it costs."""
        nlls = self.nlls
        for index, levels in enumerate(self.scored.levels):
            yield {
                "index": index,
                "sha8": hashlib.sha256(levels.tobytes()).hexdigest()[:8],
                "bits_per_dim": self.per_dim(float(nlls.nats[index])),
                "nats": float(nlls.nats[index]),
                "decoder_nats": float(nlls.distortion[index]),
                **{f"kl_nats_{layer}": float(each) for layer, each in enumerate(nlls.rate[index])},
                **self._per_image(index),
            }

    def _per_image(self, index: int) -> dict[str, Any]:
        """Return what else is known of an image."""
        nlls, found = self.nlls, {}
        if nlls.importance is not None:
            found["stderr_latents_nats"] = float(nlls.importance.stderr[index, -1])
            found["effective_samples"] = float(nlls.importance.effective[index])
        if isinstance(nlls, AnnealedNlls):
            found["elbo_nats"] = float(nlls.elbo[index])
            if nlls.lower is not None:
                found["lower_nats"] = float(nlls.lower[index])
        return found


def _number(value: float) -> float | None:
    """Return `value`; None for NaN, such as the deviation of one image: JSON knows none."""
    return None if math.isnan(value) else value


def per_image_text(report: NllReport, *, lines: bool) -> str:
    """Return the rows of `report` as CSV with a header, or with `lines` as one JSON object per line."""
    rows = list(report.per_image())
    if lines:
        return "".join(json.dumps(row) + "\n" for row in rows)
    head = ",".join(rows[0]) + "\n"
    return head + "".join(",".join(str(value) for value in row.values()) + "\n" for row in rows)
