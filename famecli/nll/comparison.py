"""Two NLLs of the same images, compared image by image. The schema `famecli/compare/1`. No torch here."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from famecli.config.schema import build
from famecli.errors import InputError, UsageError, brief
from famecli.files import read_bytes
from famecli.nll.notebook import html_table
from famecli.nll.settings import Annealing
from famecli.nll.student_t import two_sided_p, two_sided_quantile
from famecli.nll.units import bits_per_dim
from famecli.report.metrics import LARGEST_NUMBER, known_keys

SCHEMA = "famecli/compare/1"
# What may differ, if it is said.
Waiver = Literal["estimator", "names"]
WAIVERS: tuple[Waiver, ...] = get_args(Waiver)
CHANCE_OUTSIDE = 0.05
RESAMPLES = 10_000
RESAMPLED_AT_ONCE = 1 << 22
HASH_LETTERS = 16
LARGEST_SIDE = 1 << 16


@dataclass(frozen=True)
class Weights:
    """What was scored: its name, and the hash of its weights."""

    name: str
    weights_sha256: str


@dataclass(frozen=True)
class Images:
    """The images that were scored, by the keys of `famecli/nll/1`."""

    dataset_id: str
    split: str
    images: int
    pixels_sha256: str
    shape: tuple[int, ...]
    levels: int
    binarization: str


@dataclass(frozen=True)
class Scores:
    """What `fame evaluate-nll --json --with-images` printed, by the keys of `famecli/nll/1`."""

    schema: Literal["famecli/nll/1"]
    checkpoint: Weights
    data: Images
    bound: Literal["exact", "elbo", "iwae", "ais"]
    importance_samples: int
    nats_per_image: float
    image_nats: tuple[float, ...]
    seed: int
    annealing: Annealing | None = None

    @property
    def estimator(self) -> str:
        """The estimator in words."""
        if self.annealing is not None:
            each = self.annealing
            return (
                f"AIS, {each.steps} steps of {each.leapfrog} leapfrog steps from the {each.start}, "
                f"chains = {self.importance_samples}"
            )
        return {"exact": "exact", "elbo": "-ELBO"}.get(self.bound, f"IWAE, K = {self.importance_samples}")


@dataclass(frozen=True)
class Paired:
    """What the differences of pairs say of their mean; nats.

    Args:
        mean: Over images.
        stderr: Of it, from the deviation over images; what draws of latents add is in it.
        interval: 95 %, by Student's t distribution.
        bootstrap: 95 %, from means of images drawn with replacement: supposes no distribution.
        t: `mean / stderr`; None where no difference deviates from another.
        p_value: Chance of such a t or a larger one, of either sign, if there were no difference.
    """

    mean: float
    stderr: float
    interval: tuple[float, float]
    bootstrap: tuple[float, float]
    t: float | None
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Two scores of the same images; differences are `a - b`, so that below 0 `a` is the better one.

    Args:
        a: One.
        b: The other.
        paired: Of their differences.
        allowed: In what they differ all the same.
    """

    a: Scores
    b: Scores
    paired: Paired
    allowed: tuple[Waiver, ...]

    @property
    def lower_in_a(self) -> int:
        """Images that cost less in `a`."""
        return int((np.array(self.a.image_nats) < np.array(self.b.image_nats)).sum())

    def per_dim(self, nats: float) -> float:
        """Return nats of such an image as bits per pixel and channel."""
        return bits_per_dim(nats, self.a.data.shape)

    def remark(self) -> str:
        """Return what the difference means for log p(x); empty where both are exact."""
        bounds = [scores.bound != "exact" for scores in (self.a, self.b)]
        if not any(bounds):
            return ""
        if all(bounds):
            return "both are upper bounds: the difference is one of bounds, and gaps are part of it"
        bound_is_lower = (self.paired.mean < 0) == bounds[0]
        if bound_is_lower:
            return "the lower one is an upper bound and the other is exact: the true difference is larger yet"
        return "the higher one is an upper bound: its NLL may be lower, and the true difference is unknown"

    def to_dict(self) -> dict[str, Any]:
        """Return the document of schema `famecli/compare/1`; units are in the keys."""
        paired, data = self.paired, self.a.data
        return {
            "schema": SCHEMA,
            "a": self._side(self.a),
            "b": self._side(self.b),
            "images": data.images,
            "pixels_sha256": data.pixels_sha256,
            "difference_nats_per_image": paired.mean,
            "stderr_nats_per_image": paired.stderr,
            "interval_nats_per_image": list(paired.interval),
            "bootstrap_interval_nats_per_image": list(paired.bootstrap),
            "difference_bits_per_dim": self.per_dim(paired.mean),
            "stderr_bits_per_dim": self.per_dim(paired.stderr),
            "interval_bits_per_dim": [self.per_dim(each) for each in paired.interval],
            "bootstrap_interval_bits_per_dim": [self.per_dim(each) for each in paired.bootstrap],
            "interval_level": 1.0 - CHANCE_OUTSIDE,
            "t": paired.t,
            "degrees_of_freedom": data.images - 1,
            "p_value": paired.p_value,
            "images_lower_in_a": self.lower_in_a,
            "allowed": list(self.allowed),
            "remark": self.remark(),
        }

    @property
    def record(self) -> dict[str, Any]:
        """The document of `to_dict`, which `fame compare --json` prints."""
        return self.to_dict()

    def _repr_html_(self) -> str:
        paired = self.paired
        rows = [
            (f"{letter}, {scores.checkpoint.name}, {scores.estimator}", f"{scores.nats_per_image:.5g}", "")
            for letter, scores in (("A", self.a), ("B", self.b))
        ]
        low, high = paired.interval
        rows.append(("A - B", f"{paired.mean:+.5g}", f"{low:+.4g} to {high:+.4g}"))
        caption = f"{self.a.data.dataset_id}, {self.a.data.images:,} images, p = {paired.p_value:.2g}"
        return html_table(caption, ["", "nats/image", "95 % interval"], rows)

    def _side(self, scores: Scores) -> dict[str, Any]:
        return {
            "checkpoint": {
                "name": scores.checkpoint.name,
                "weights_sha256": scores.checkpoint.weights_sha256,
            },
            "dataset_id": scores.data.dataset_id,
            "split": scores.data.split,
            "binarization": scores.data.binarization,
            "bound": scores.bound,
            "importance_samples": scores.importance_samples,
            "estimator": scores.estimator,
            "seed": scores.seed,
            "nats_per_image": scores.nats_per_image,
            "bits_per_dim": self.per_dim(scores.nats_per_image),
        }


def read_scores(path: Path) -> Scores:
    """Return the scores in the file `path`, or on stdin if it is `-`.

    Raises:
        InputError: It is not what `fame evaluate-nll --json --with-images` printed.
    """
    hint = "make it with fame evaluate-nll --json --with-images > FILE"
    try:
        document = json.loads(read_bytes(path, "scores"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON document: {brief(error)}", hint) from error
    return scores_in(document, str(path), hint)


def scores_in(document: object, source: str, hint: str = "") -> Scores:
    """Return the scores in a document of schema `famecli/nll/1` with the key `image_nats`.

    Args:
        document: The document.
        source: What it is called in errors.
        hint: How to make one.

    Raises:
        InputError: It is no such document.
    """
    if not isinstance(document, dict) or "image_nats" not in document:
        raise InputError(f"{source} has no NLL of each image", hint)
    kinds = {"checkpoint": Weights, "data": Images, "annealing": Annealing}
    tables = {key: known_keys(kind, document.get(key)) for key, kind in kinds.items()}
    try:
        scores = build(Scores, known_keys(Scores, document | tables), source)
    except OverflowError as error:
        raise InputError(f"{source} has a number that is out of range", hint) from error
    _check(scores, source)
    return scores


def _check(scores: Scores, source: str) -> None:
    """Check that scores agree with themselves.

    Raises:
        InputError: They do not, or there is one image alone.
    """
    nats, data = np.array(scores.image_nats), scores.data
    if len(nats) != data.images:
        raise InputError(f"{source} is of {data.images} images, but has the NLLs of {len(nats)}")
    if not (np.abs(nats) < LARGEST_NUMBER).all() or not all(1 <= side <= LARGEST_SIDE for side in data.shape):
        raise InputError(f"{source} has an NLL or a side of its images that is out of range")
    if len(nats) < 2:
        raise InputError(f"{source} is of {len(nats)} image: a mean of one has no error", "score more images")
    if not math.isclose(scores.nats_per_image, nats.mean(), rel_tol=1e-9, abs_tol=1e-9):
        raise InputError(
            f"{source} says {scores.nats_per_image} nats, but the mean of its images is {nats.mean()}"
        )


def differences(a: Scores, b: Scores) -> Iterator[tuple[Waiver | None, str]]:
    """Yield in what two scores differ: what waives it, None if nothing does, and both values in words."""
    ours, others = a.data, b.data
    both: tuple[tuple[Waiver | None, str, object, object], ...] = (
        (None, "images", ours.images, others.images),
        (None, "shape and levels", (*ours.shape, ours.levels), (*others.shape, others.levels)),
        (None, "pixels", ours.pixels_sha256[:HASH_LETTERS], others.pixels_sha256[:HASH_LETTERS]),
        ("names", "data set", ours.dataset_id, others.dataset_id),
        ("names", "split", ours.split, others.split),
        ("names", "binarization", ours.binarization, others.binarization),
        ("estimator", "estimator", a.estimator, b.estimator),
    )
    for waiver, what, own, other in both:
        if own != other:
            yield waiver, f"{what} ({brief(own, 60)}; {brief(other, 60)})"


def compare(a: Scores, b: Scores, allow: frozenset[Waiver] = frozenset()) -> Comparison:
    """Return how two models compare on the same images.

    Args:
        a: One.
        b: The other.
        allow: In what they may differ: `estimator`, such as an exact NLL and a bound; or `names` of data set,
            split and binarization, as the pixels that were scored have to be equal in any case.

    Raises:
        UsageError: They differ in something else, so that no pairs can be made of them.
    """
    found = list(differences(a, b))
    if refused := [(waiver, words) for waiver, words in found if waiver not in allow]:
        waivers = {waiver for waiver, _ in refused}
        hint = "score both on the same images: the same --dataset, --split and --limit"
        if None not in waivers:
            hint = f"to compare them all the same: --allow {' --allow '.join(sorted(map(str, waivers)))}"
        raise UsageError(f"the two differ in {', '.join(words for _, words in refused)}", hint)
    allowed = tuple(sorted({waiver for waiver, _ in found if waiver is not None}))
    return Comparison(a, b, paired(np.array(a.image_nats) - np.array(b.image_nats)), allowed)


def paired(nats: np.ndarray) -> Paired:
    """Return what the differences of pairs, `(N,)` with N at least 2, say of their mean.

    Source: the paired t test; the percentile bootstrap: Efron and Tibshirani, An introduction to the
    bootstrap, 1993, chapter 13.
    """
    mean, degrees = float(nats.mean()), len(nats) - 1
    stderr = float(nats.std(ddof=1) / math.sqrt(len(nats)))
    t = mean / stderr if stderr > 0 else None
    p_value = float(mean == 0) if t is None else two_sided_p(t, degrees)
    reach = stderr * two_sided_quantile(CHANCE_OUTSIDE, degrees)
    low, high = np.quantile(_resampled_means(nats), [CHANCE_OUTSIDE / 2, 1 - CHANCE_OUTSIDE / 2])
    return Paired(mean, stderr, (mean - reach, mean + reach), (float(low), float(high)), t, p_value)


def _resampled_means(nats: np.ndarray) -> np.ndarray:
    """Return the means of as many images drawn with replacement, `(RESAMPLES,)`, the same each time."""
    generator = np.random.Generator(np.random.Philox(key=0))
    rows = max(1, RESAMPLED_AT_ONCE // len(nats))
    parts = []
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), len(nats))
        parts.append(nats[generator.integers(len(nats), size=shape)].mean(1))
    return np.concatenate(parts)
