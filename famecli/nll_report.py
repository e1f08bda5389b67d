"""An NLL with all that makes it comparable: protocol, data, weights, error. The schema `famecli/nll/1`."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from famecli import __version__
from famecli.checkpoint import Checkpoint
from famecli.data.dataset import FixedLevels, ImageSplit
from famecli.evaluation import ImageNlls, bits_per_dim
from famecli.weights_claims import FIRST_IMAGES, FIRST_KEY

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
    """

    checkpoint: Checkpoint
    split: ImageSplit
    scored: FixedLevels
    bits_seed: int
    nlls: ImageNlls
    seed: int
    seconds: float

    def _per_dim(self, nats: float) -> float:
        return bits_per_dim(nats, self.split.info.shape)

    @property
    def _stderr(self) -> float | None:
        """Nats; None for one image, which has no deviation: JSON knows no NaN."""
        return self.nlls.stderr if len(self.nlls.nats) > 1 else None

    @property
    def bits_per_dim(self) -> float:
        """Mean over images."""
        return self._per_dim(self.nlls.mean)

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

    def to_dict(self) -> dict[str, Any]:
        """Return the document of schema `famecli/nll/1`; units are in the keys."""
        checkpoint, nlls = self.checkpoint, self.nlls
        rate = [float(each) for each in nlls.rate.mean(0)]
        claim, stderr = checkpoint.claim or {}, self._stderr
        return {
            "schema": SCHEMA,
            "checkpoint": self._checkpoint(),
            "data": self._data(),
            "bound": nlls.bound,
            "importance_samples": nlls.importance_samples,
            "nats_per_image": nlls.mean,
            "stderr_nats_per_image": stderr,
            "bits_per_dim": self.bits_per_dim,
            "stderr_bits_per_dim": None if stderr is None else self._per_dim(stderr),
            "terms_nats_per_image": {"decoder": float(nlls.distortion.mean()), "kl": rate},
            "terms_bits_per_dim": {
                "decoder": self._per_dim(float(nlls.distortion.mean())),
                "kl": [self._per_dim(each) for each in rate],
            },
            "claimed_nats_per_image": claim.get("nats_per_image"),
            "claimed_bits_per_dim": claim.get("bits_per_dim"),
            "seed": self.seed,
            "device": checkpoint.model.device.type,
            "precision": "float32",
            "seconds": round(self.seconds, 2),
            "versions": {"famecli": __version__, "torch": str(torch.__version__)},
        }

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
                "bits_per_dim": self._per_dim(float(nlls.nats[index])),
                "nats": float(nlls.nats[index]),
                "decoder_nats": float(nlls.distortion[index]),
                **{f"kl_nats_{layer}": float(each) for layer, each in enumerate(nlls.rate[index])},
            }


def per_image_text(report: NllReport, *, lines: bool) -> str:
    """Return the rows of `report` as CSV with a header, or with `lines` as one JSON object per line."""
    rows = list(report.per_image())
    if lines:
        return "".join(json.dumps(row) + "\n" for row in rows)
    head = ",".join(rows[0]) + "\n"
    return head + "".join(",".join(str(value) for value in row.values()) + "\n" for row in rows)
