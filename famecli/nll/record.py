"""The record of an NLL: its value with data set, estimator, seed, weights and precision. No torch here."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from famecli.config.schema import LARGEST_NUMBER, build_known, known_keys
from famecli.data.preparation import Preparation
from famecli.errors import ConfigError, GateError, IntegrityError, UnavailableError, UsageError
from famecli.escape import counted

SCHEMA = "famecli/nll/1"
# The bits of binarized test sets are part of the protocol: they do not follow the seed of the latents.
BITS_SEED = 0
FIRST_IMAGES = 256
TOLERANCE_NATS = 1e-3
# Files may hold bits/dim as they are printed, with five digits.
TOLERANCE_BITS = 1e-5
# Version 2 computes the densities of latents from their noise. Version 1 divided float32 latents by their
# scale again, which moved a weight by up to 7e-3 nats.
ESTIMATOR_VERSION = 2
OLDER_TOLERANCE_NATS = 0.01

Bound = Literal["exact", "elbo", "iwae", "ais"]
Part = Literal["all", "even", "first"]
Origin = Literal["measured", "claim", "validation"]
Given = Literal["label", "marginal"]
Start = Literal["posterior", "prior"]
STARTS = get_args(Start)
# Parts of a split in words; most records are about all of it, or do not say.
PARTS: Mapping[Part | None, str] = {"even": " spread evenly", "first": " from the first on"}
# Kinds of likelihood of models with classes.
LIKELIHOODS: Mapping[Given | None, str] = {"label": ", p(x|y)", "marginal": ", p(x), mean over classes"}
NAMES: Mapping[Bound, str] = {"exact": "exact", "elbo": "-ELBO", "iwae": "IWAE", "ais": "AIS"}
T = TypeVar("T")
NATS_PER_BIT = math.log(2.0)


def binarization_words(binarization: str) -> str:
    """Return a data set's kind of binarization, as named in the registry, in words."""
    return f"dynamic, bits of seed {BITS_SEED}" if binarization == "dynamic" else binarization


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Args:
        steps: Steps from the start to the target; 1 is plain importance sampling.
        chains: Chains per image.
        leapfrog: Leapfrog steps per transition, one gradient each.
        start: Source of the first latents: the approximate posterior q(z | x), or the prior p(z).
    """

    steps: int
    chains: int = 1
    leapfrog: int = 5
    start: Start = "posterior"


@dataclass(frozen=True)
class Estimator:
    """Estimator of an NLL.

    Args:
        bound: `exact`, or the kind of upper bound.
        importance_samples: Draws of the latents per image; chains per image for `ais`.
        annealing: Settings of annealed importance sampling; None for other bounds.
        given: `label` for p(x|y) with the class of each image, `marginal` for the mean of p(x|y) over
            classes; None for models without classes.
    """

    bound: Bound
    importance_samples: int
    annealing: Annealing | None = None
    given: Given | None = None

    @property
    def name(self) -> str:
        """Name without settings."""
        return NAMES[self.bound] + LIKELIHOODS.get(self.given, "")

    def __str__(self) -> str:
        """Return the estimator with its settings, for people."""
        return self._words() + LIKELIHOODS.get(self.given, "")

    def _words(self) -> str:
        if self.annealing is not None:
            each = self.annealing
            return (
                f"AIS, {each.steps} steps of {each.leapfrog} leapfrog steps from the {each.start}, "
                f"chains = {self.importance_samples}"
            )
        return f"IWAE, K = {self.importance_samples}" if self.bound == "iwae" else NAMES[self.bound]


@dataclass(frozen=True)
class ScoredImages:
    """Scored images of an NLL; unrecorded fields are None or empty.

    Args:
        dataset_id: Name of the data set.
        split: Split of the data set.
        images: Number of images.
        pixels_sha256: SHA-256 of the levels.
        shape: Channels, height and width.
        levels: Number of values of a pixel.
        binarization: Kind of binarization, in words.
        part: Part of the split: `all`, the `first` images, or an `even` part, see
            `famecli.data.dataset.even_part`. None in older records; older claims are about the first images.
        preparation: Preparation of a user's images; None for other data sets, and in older records.
    """

    dataset_id: str | None
    split: str
    images: int | None = None
    pixels_sha256: str | None = None
    shape: tuple[int, ...] = ()
    levels: int | None = None
    binarization: str | None = None
    part: Part | None = None
    preparation: Preparation | None = None

    @property
    def prepared(self) -> str:
        """Preparation in words that follow others; empty for images as they are."""
        words = str(self.preparation or "")
        return words and f", {words}"

    def __str__(self) -> str:
        """Return data set, split, number and bits of the images, for people."""
        count = "" if self.images is None else f", {counted(self.images)}{PARTS.get(self.part, '')}"
        return f"{self.dataset_id}, {self.split}{count}{self.prepared}, binarization: {self.binarization}"


@dataclass(frozen=True)
class Terms:
    """Parts of an NLL, nats per image: the decoder's, and the KL divergence of each layer, lowest first."""

    decoder: float
    kl: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """NLL of the same images with another number of draws, nats per image."""

    importance_samples: int
    nats_per_image: float


@dataclass(frozen=True)
class NllRecord:
    """An NLL with its protocol; fields have the names of the schema `famecli/nll/1`.

    Args:
        data: Images that were scored.
        bound: `exact`, or the kind of upper bound.
        importance_samples: Draws of the latents per image; chains per image for `ais`.
        nats_per_image: Mean over images.
        stderr_nats_per_image: Standard error over images; None for one image.
        bits_per_dim: Mean in bits per pixel and channel; None where it is not recorded.
        stderr_bits_per_dim: Standard error in bits per pixel and channel.
        curve: NLLs of the same images with fewer draws.
        annealing: Settings of annealed importance sampling; None for other bounds.
        given: Role of the classes in the likelihood, see `Estimator`; None for models without classes.
        class_prior: Probability of each class, for a `marginal` likelihood.
        accuracy: Fraction of images whose most probable class is theirs; None if it was not measured.
        terms_nats_per_image: Parts of the NLL; None where they are not recorded.
        seed: Seed of the latents; None where it is not recorded.
        precision: Floating-point type of the arithmetic; None where it is not recorded.
        weights_sha256: SHA-256 of the weights; None where it is not recorded.
        first_256_nats_per_image: Mean over the first 256 scored images, or over all if there are fewer; None
            in older claims.
        first_256_accuracy: Accuracy on the same images; None if it was not measured, and in older claims.
        accuracy_tolerance: Fraction of images whose two most probable classes are so close that rounding may
            swap them; not recorded in claims.
        estimator_version: Version of the arithmetic of importance weights; None in older claims.
        image_nats: NLL of each image; empty where it is not recorded.
        name: Name or file of the checkpoint.
        origin: Source: an evaluation just done, a checkpoint, or a validation in training.
    """

    data: ScoredImages
    bound: Bound
    importance_samples: int
    nats_per_image: float
    stderr_nats_per_image: float | None = None
    bits_per_dim: float | None = None
    stderr_bits_per_dim: float | None = None
    curve: tuple[Point, ...] = ()
    annealing: Annealing | None = None
    given: Given | None = None
    class_prior: tuple[float, ...] = ()
    accuracy: float | None = None
    terms_nats_per_image: Terms | None = None
    seed: int | None = None
    precision: str | None = None
    weights_sha256: str | None = None
    first_256_nats_per_image: float | None = None
    first_256_accuracy: float | None = None
    accuracy_tolerance: float = 0.0
    estimator_version: int | None = None
    image_nats: tuple[float, ...] = ()
    name: str | None = None
    origin: Origin = "claim"

    @property
    def estimator(self) -> Estimator:
        """Estimator with its settings."""
        return Estimator(self.bound, self.importance_samples, self.annealing, self.given)

    @property
    def tolerance_nats(self) -> float:
        """Largest allowed difference between this claim and a new measurement, nats per image."""
        older = self.bound == "iwae" and self.estimator_version != ESTIMATOR_VERSION
        return OLDER_TOLERANCE_NATS if older else TOLERANCE_NATS

    @property
    def one_draw_nats(self) -> float | None:
        """NLL of the same images with one draw of the latents, nats; None where it is not recorded."""
        found = (point.nats_per_image for point in self.curve if point.importance_samples == 1)
        return next((nats for nats in found if abs(nats) < LARGEST_NUMBER), None)

    def __str__(self) -> str:
        """Return the NLL with its protocol, for people."""
        return f"{self.nats_per_image:.3f} nats/image ({self.estimator}; {self.data})"

    def same_kind(self, other: "NllRecord") -> bool:
        """Return whether data set, split and estimator equal those of `other`."""
        one, two = self.data, other.data
        return (one.dataset_id, one.split, self.estimator) == (two.dataset_id, two.split, other.estimator)

    def expected(self, name: str, limit: int) -> tuple[int, float]:
        """Return the number of images to score, and the claimed mean over that many first images.

        Args:
            name: Name of the weights, for the error.
            limit: Number of images to score; the claim's own number or more means all.

        Raises:
            UsageError: No NLL is recorded for that many images.
            UnavailableError: The claim does not record the mean over the first 256 images.
        """
        images = self.data.images or 0
        if limit >= images:
            return images, self.nats_per_image
        if limit != FIRST_IMAGES:
            recorded = f"{FIRST_IMAGES} or {images}"
            raise UsageError(
                f"{name} records no NLL of its first {limit} images", f"choose a `limit` of {recorded}"
            )
        if self.first_256_nats_per_image is None:
            raise UnavailableError(
                f"{name} records no NLL of its first {FIRST_IMAGES} images: only a full evaluation checks it",
                f"fame weights verify {name} --claims --limit {images}",
            )
        return FIRST_IMAGES, self.first_256_nats_per_image

    def expected_accuracy(self, images: int) -> float | None:
        """Return the claimed accuracy on all images or on the first 256; None if it is not recorded."""
        return self.accuracy if images == self.data.images else self.first_256_accuracy

    def check(self, name: str, measured: "NllRecord") -> None:
        """Check a measurement of all images, or of the first 256, against this claim.

        Args:
            name: Name of the weights, for errors.
            measured: New measurement.

        Raises:
            UsageError: No NLL is recorded for the measured number of images.
            UnavailableError: The claim does not record the mean over the first 256 images.
            IntegrityError: All images were scored, but their pixels are not those of the claim.
            GateError: The estimators or the priors over classes differ, the means differ by more than
                `tolerance_nats`, or the accuracies by more than rounding explains; or the claim's own numbers
                contradict each other.
        """
        ours, theirs = self.data, measured.data
        if theirs.images == ours.images and theirs.pixels_sha256 != ours.pixels_sha256:
            found, claimed = (str(each.pixels_sha256)[:12] for each in (theirs, ours))
            raise IntegrityError(f"{ours.dataset_id} has pixels {found}, the claim is about {claimed}")
        _, nats = self.expected(name, theirs.images or 0)
        # A comparison with NaN is false: NaN must not pass.
        same = measured.estimator == self.estimator
        if not same or not abs(measured.nats_per_image - nats) <= self.tolerance_nats:
            raise GateError(
                f"{name} claims {nats:.4f} nats/image ({self.estimator}), has "
                f"{measured.nats_per_image:.4f} ({measured.estimator})"
            )
        if found := self._contradiction(theirs.shape, theirs.images or 0, nats):
            raise GateError(f"{name} claims {found}")
        if self.class_prior not in ((), measured.class_prior):
            raise GateError(f"{name} claims another prior over classes than it has")
        accuracy, own = self.expected_accuracy(theirs.images or 0), measured.accuracy
        # Less than an image, since fractions are rounded.
        most = measured.accuracy_tolerance + 0.01 / (theirs.images or 1)
        if accuracy is not None and (own is None or not abs(own - accuracy) <= most):
            has = "none" if own is None else f"{own:.2%}"
            raise GateError(f"{name} claims an accuracy of {accuracy:.2%}, has {has}")

    def _contradiction(self, shape: Sequence[int], first: int, first_nats: float) -> str:
        """Return which of the claim's numbers cannot be true at once, in words; empty if they can.

        An NLL is at least 0, unless importance weights estimate it. So the sum over the first images is a
        lower bound of the sum over all. The standard error gives the variance over all images, which limits
        how far the mean of a part can be from the mean of all.

        Args:
            shape: Channels, height and width of an image.
            first: Number of first images.
            first_nats: Mean over these, nats per image.
        """
        nats, stderr, images = self.nats_per_image, self.stderr_nats_per_image, self.data.images or 0
        for bits, each in ((self.bits_per_dim, nats), (self.stderr_bits_per_dim, stderr)):
            if bits is None or each is None:
                continue
            if not abs(bits - bits_per_dim(each, shape)) <= TOLERANCE_BITS:
                return f"{bits:.5f} bits/dim and {each:.4f} nats/image, which differ"
        if first >= images:
            return ""
        least = -math.inf if self.bound in ("iwae", "ais") else first_nats * first / images
        most = math.inf if stderr is None else stderr * math.sqrt((images - 1) * (images - first) / first)
        if not (nats >= least - self.tolerance_nats and abs(nats - first_nats) <= most + self.tolerance_nats):
            return f"{nats:.4f} nats/image, which {first_nats:.4f} on the first {first} images rule out"
        return ""


def parse_nll(table: object, where: str, origin: Origin = "claim") -> NllRecord:
    """Return the record in an untrusted table: a claim, or a document of schema `famecli/nll/1`.

    Args:
        table: Keys of `famecli/nll/1`; keys that a record does not have are ignored.
        where: Name of the table for errors.
        origin: Source of the record, whatever the table says.

    Raises:
        ConfigError: The table is malformed; the message begins with `where`.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table of keys, got {type(table).__name__}")
    curve, data = table.get("curve", []), known_keys(ScoredImages, table.get("data"))
    if isinstance(data, dict) and "preparation" in data:
        data["preparation"] = known_keys(Preparation, data["preparation"])
    known: dict[str, Any] = {
        "data": data,
        "annealing": known_keys(Annealing, table.get("annealing")),
        "terms_nats_per_image": known_keys(Terms, table.get("terms_nats_per_image")),
        "curve": [known_keys(Point, point) for point in curve] if isinstance(curve, list) else curve,
        "origin": origin,
    }
    try:
        found = build_known(NllRecord, table | known, where)
    except UsageError as error:
        raise ConfigError(f"{where}: {error}") from error
    counts = (found.importance_samples, 1 if found.data.images is None else found.data.images)
    if min(counts) < 1 or (found.seed or 0) < 0:
        raise ConfigError(f"{where}: a count or the seed is out of range")
    return found


def bits_per_dim(nats: float, shape: Sequence[int]) -> float:
    """Return nats per image of `shape` (channels, height, width) as bits per pixel and channel."""
    return nats / (NATS_PER_BIT * math.prod(shape))


def unit_of(levels: int) -> Literal["nats/image", "bits/dim"]:
    """Return the unit in which papers report the NLL of images with a number of levels."""
    return "nats/image" if levels == 2 else "bits/dim"
