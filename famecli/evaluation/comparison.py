"""Two NLLs of the same images, compared image by image. The schema `famecli/compare/1`. No torch here."""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from famecli.config.schema import LARGEST_NUMBER
from famecli.data.preparation import AS_THEY_ARE
from famecli.errors import ArgumentError, InputError, truncate
from famecli.files import read_bytes
from famecli.nll.record import SCHEMA as SCORES_SCHEMA
from famecli.nll.record import NllRecord, bits_per_dim, parse_nll
from famecli.output import html_table

SCHEMA = "famecli/compare/1"
# Parts of the protocol that may differ on request.
Waiver = Literal["estimator", "names"]
WAIVERS: tuple[Waiver, ...] = get_args(Waiver)
CHANCE_OUTSIDE = 0.05
RESAMPLES = 10_000
RESAMPLED_AT_ONCE = 1 << 22
HASH_LETTERS = 16
LARGEST_SIDE = 1 << 16
# The exponential of minus this is 0 in double precision.
UNDERFLOW = 800.0


@dataclass(frozen=True)
class Paired:
    """Mean of paired differences with its errors; nats.

    Args:
        mean: Mean over images.
        stderr: Standard error of `mean` over images; includes Monte Carlo noise of the latents.
        interval: 95 % interval of `mean`, by Student's t distribution.
        bootstrap: 95 % bootstrap interval of `mean`, over images.
        t: `mean / stderr`; None if all differences are equal.
        p_value: Two-sided p value of `t`, for a true mean of 0.
    """

    mean: float
    stderr: float
    interval: tuple[float, float]
    bootstrap: tuple[float, float]
    t: float | None
    p_value: float


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two NLLs of the same images; differences are `a - b`, so `a` is better if they are below 0.

    Args:
        a: First NLL.
        b: Second NLL.
        paired: Mean of the differences, with its errors.
        allowed: Waivers that the differences in protocol needed.
    """

    a: NllRecord
    b: NllRecord
    paired: Paired
    allowed: tuple[Waiver, ...]

    @property
    def lower_in_a(self) -> int:
        """Number of images with a lower NLL in `a`."""
        return int((np.array(self.a.image_nats) < np.array(self.b.image_nats)).sum())

    def per_dim(self, nats: float) -> float:
        """Convert nats per image to bits per pixel and channel."""
        return bits_per_dim(nats, self.a.data.shape)

    def remark(self) -> str:
        """Return what the difference says about log p(x); empty if both NLLs are exact."""
        if self.a.given != self.b.given and "label" in (self.a.given, self.b.given):
            return "one is p(x|y), which knows the class of an image, the other is p(x)"
        bounds = [nll.bound != "exact" for nll in (self.a, self.b)]
        if not any(bounds):
            return ""
        if all(bounds):
            return "both are upper bounds: their gaps to -log p(x) are part of the difference"
        bound_is_lower = (self.paired.mean < 0) == bounds[0]
        better, worse = "AB" if self.paired.mean < 0 else "BA"
        if bound_is_lower:
            return (
                f"{better} is better by at least {abs(self.paired.mean):,.3f} nats/image: its NLL is an "
                f"upper bound, and that of {worse} is exact"
            )
        return f"the NLL of {worse} is an upper bound, and that of {better} is exact: {worse} may be better"

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
            "degrees_of_freedom": len(self.a.image_nats) - 1,
            "p_value": paired.p_value,
            "images_lower_in_a": self.lower_in_a,
            "allowed": list(self.allowed),
            "remark": self.remark(),
        }

    @property
    def record(self) -> dict[str, Any]:
        """The document of `to_dict`, which `fame compare --json` prints."""
        return self.to_dict()

    def __repr__(self) -> str:
        names = " - ".join(str(nll.name) for nll in (self.a, self.b))
        return f"<{names}: {self.paired.mean:+.3f} +- {self.paired.stderr:.3f} nats/image>"

    def _repr_html_(self) -> str:
        paired = self.paired
        rows = [
            (f"{letter}, {nll.name}, {nll.estimator}", f"{nll.nats_per_image:.5g}", "")
            for letter, nll in (("A", self.a), ("B", self.b))
        ]
        low, high = paired.interval
        rows.append(("A - B", f"{paired.mean:+.5g}", f"{low:+.4g} to {high:+.4g}"))
        caption = f"{self.a.data.dataset_id}, {len(self.a.image_nats):,} images, p = {paired.p_value:.2g}"
        return html_table(caption, ["", "nats/image", "95 % interval"], rows)

    def _side(self, nll: NllRecord) -> dict[str, Any]:
        data = nll.data
        return {
            "checkpoint": {"name": nll.name, "weights_sha256": nll.weights_sha256},
            "dataset_id": data.dataset_id,
            "split": data.split,
            "binarization": data.binarization,
            "bound": nll.bound,
            "importance_samples": nll.importance_samples,
            "estimator": str(nll.estimator),
            "seed": nll.seed,
            "nats_per_image": nll.nats_per_image,
            "bits_per_dim": self.per_dim(nll.nats_per_image),
        }


def read_scores(path: Path) -> NllRecord:
    """Return the record in the file `path`, or on stdin if it is `-`.

    Raises:
        InputError: The file is not what `fame evaluate-nll --json --with-images` printed.
    """
    hint = "make it with fame evaluate-nll --json --with-images > FILE"
    try:
        document = json.loads(read_bytes(path, "scores"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON document: {truncate(error)}", hint) from error
    if not isinstance(document, dict) or "image_nats" not in document:
        raise InputError(f"{path} has no NLL of each image", hint)
    if (schema := document.get("schema")) != SCORES_SCHEMA:
        raise InputError(f"{path}: schema = {truncate(repr(schema))}, expected {SCORES_SCHEMA}")
    checkpoint = document.get("checkpoint")
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: checkpoint: expected a table of keys")
    told = {key: checkpoint.get(key) for key in ("name", "weights_sha256")}
    found = parse_nll(document | told, str(path), "measured")
    check_scores(found, str(path))
    return found


def check_scores(nll: NllRecord, source: str) -> None:
    """Check that a record has the NLLs of its images, and can be compared.

    Raises:
        InputError: A key is missing, numbers contradict each other, or there is only one image.
    """
    nats, data = np.array(nll.image_nats), nll.data
    # Older files record neither part nor preparation; equal pixels say enough.
    full = dataclasses.replace(data, part="all", preparation=AS_THEY_ARE)
    needed = (nll.seed, nll.weights_sha256, *dataclasses.astuple(full))
    if None in needed or not data.shape:
        raise InputError(f"{source} does not record seed, weights and images in full")
    if len(nats) != data.images:
        raise InputError(f"{source} is of {data.images} images, but has the NLLs of {len(nats)}")
    if not (np.abs(nats) < LARGEST_NUMBER).all() or not all(1 <= side <= LARGEST_SIDE for side in data.shape):
        raise InputError(f"{source} has an NLL or a side of its images that is out of range")
    if len(nats) < 2:
        raise InputError(f"{source} is of {len(nats)} image: a mean of one has no error", "score more images")
    if not math.isclose(nll.nats_per_image, nats.mean(), rel_tol=1e-9, abs_tol=1e-9):
        raise InputError(
            f"{source} says {nll.nats_per_image} nats, but the mean of its images is {nats.mean()}"
        )


def differences(a: NllRecord, b: NllRecord) -> Iterator[tuple[Waiver | None, str]]:
    """Yield each difference in protocol: its waiver, or None if there is none, and both values in words."""
    ours, others = a.data, b.data
    pixels = [str(each.pixels_sha256)[:HASH_LETTERS] for each in (ours, others)]
    both: tuple[tuple[Waiver | None, str, object, object], ...] = (
        (None, "images", ours.images, others.images),
        (None, "shape and levels", (*ours.shape, ours.levels), (*others.shape, others.levels)),
        (None, "pixels", pixels[0], pixels[1]),
        ("names", "data set", ours.dataset_id, others.dataset_id),
        ("names", "split", ours.split, others.split),
        ("names", "binarization", ours.binarization, others.binarization),
        ("estimator", "estimator", a.estimator, b.estimator),
    )
    for waiver, what, own, other in both:
        if own != other:
            yield waiver, f"{what} ({truncate(own, 60)}; {truncate(other, 60)})"


def compare(a: NllRecord, b: NllRecord, allow: frozenset[Waiver] = frozenset()) -> Comparison:
    """Return the comparison of two NLLs of the same images.

    Args:
        a: First NLL, with the NLL of each image.
        b: Second NLL, with the NLL of each image.
        allow: Permitted differences: `estimator`, such as an exact NLL and a bound; `names` of data set,
            split and binarization. The pixels must always be equal.

    Raises:
        ArgumentError: Another part of the protocols differs.
    """
    found = list(differences(a, b))
    if refused := [(waiver, words) for waiver, words in found if waiver not in allow]:
        waivers = {waiver for waiver, _ in refused}
        hint = "score both on the same images: the same `dataset`, `split` and `limit`"
        if None not in waivers:
            hint = (
                f"to compare them anyway: {' '.join(f'`allow={each}`' for each in sorted(map(str, waivers)))}"
            )
        raise ArgumentError(f"the two differ in {', '.join(words for _, words in refused)}", hint)
    allowed = tuple(sorted({waiver for waiver, _ in found if waiver is not None}))
    return Comparison(a, b, paired(np.array(a.image_nats) - np.array(b.image_nats)), allowed)


def paired(nats: np.ndarray) -> Paired:
    """Return the mean of paired differences, `(N,)` with N at least 2, with its errors.

    Source: the paired t test; the percentile bootstrap: Efron and Tibshirani, An introduction to the
    bootstrap, 1993, chapter 13.
    """
    # Rounding would give equal differences a deviation.
    equal, degrees = bool(np.ptp(nats) == 0), len(nats) - 1
    mean = float(nats[0] if equal else nats.mean())
    stderr = 0.0 if equal else float(nats.std(ddof=1) / math.sqrt(len(nats)))
    t = mean / stderr if stderr > 0 else None
    p_value = float(mean == 0) if t is None else two_sided_p(t, degrees)
    reach = stderr * two_sided_quantile(CHANCE_OUTSIDE, degrees)
    low, high = np.quantile(_resampled_means(nats), [CHANCE_OUTSIDE / 2, 1 - CHANCE_OUTSIDE / 2])
    return Paired(mean, stderr, (mean - reach, mean + reach), (float(low), float(high)), t, p_value)


def two_sided_p(t: float, degrees: int) -> float:
    """Return the two-sided p value of Student's `t` with `degrees` degrees of freedom.

    Source: DLMF, 8.17 (incomplete beta function), of `degrees / (degrees + t^2)`.
    """
    # Deferred: slow to import. mpmath comes with torch.
    from mpmath import betainc

    # p is less than the exponential of minus this, and mpmath does not converge where p is 0.
    if 0.5 * degrees * math.log1p(t * t / degrees) > UNDERFLOW:
        return 0.0
    return float(betainc(0.5 * degrees, 0.5, 0.0, degrees / (degrees + t * t), regularized=True))


def two_sided_quantile(p: float, degrees: int) -> float:
    """Return the t for which `two_sided_p` is `p`, 0 < `p` < 1."""
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees) > p:
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if two_sided_p(middle, degrees) > p else (low, middle)
    return high


def _resampled_means(nats: np.ndarray) -> np.ndarray:
    """Return bootstrap means of N images, `(RESAMPLES,)`, with a fixed seed."""
    generator = np.random.Generator(np.random.Philox(key=0))
    rows = max(1, RESAMPLED_AT_ONCE // len(nats))
    parts = []
    for start in range(0, RESAMPLES, rows):
        shape = (min(rows, RESAMPLES - start), len(nats))
        parts.append(nats[generator.integers(len(nats), size=shape)].mean(1))
    return np.concatenate(parts)
