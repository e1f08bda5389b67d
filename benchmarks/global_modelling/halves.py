"""NLL gap between images with halves from two digits and real images.

Images are taken in disjoint pairs, and both ways of joining their halves are scored. So the mixed images use
each half of the real ones exactly once, and a model that scores halves independently has no gap. Standard
errors assume independent pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from benchmarks.checkpoints import NamedModel, reference_of
from benchmarks.estimates import (
    Estimate,
    area_of,
    difference_of,
    mean_of,
    over_repeats,
    share_of,
    spread_of,
)
from benchmarks.tables import Cell, Table
from famecli.data.dataset import ImageSplit, fixed_levels
from famecli.errors import InputError
from famecli.nll.evaluate import evaluate
from famecli.output import Output
from famecli.rng import stream

Cut = Literal["top-bottom", "left-right"]
Partner = Literal["other", "same"]
CUTS: tuple[Cut, ...] = get_args(Cut)
PARTNERS: tuple[Partner, ...] = get_args(Partner)
PARTNER_WORDS = {"other": "a digit of another class", "same": "another digit of the class"}
ATTEMPTS = 1000


@dataclass(frozen=True)
class Costs:
    """NLLs of each pair in nats, of its real and of its mixed images, `(pairs, 2)` each."""

    real: np.ndarray
    mixed: np.ndarray

    @property
    def gaps(self) -> np.ndarray:
        """NLL of a mixed minus that of a real image, nats, mean of each pair, `(pairs,)`."""
        gaps: np.ndarray = self.mixed.mean(1) - self.real.mean(1)
        return gaps


@dataclass(frozen=True)
class Case:
    """One kind of mixed images under one model: the costs with each seed."""

    cut: Cut
    partner: Partner
    model: NamedModel
    costs: list[Costs]

    def gap(self) -> Estimate:
        """Mean gap, nats per image."""
        return over_repeats([mean_of(each.gaps) for each in self.costs])

    def less(self, other: "Case") -> Estimate:
        """Gap minus that of another model on the same pairs."""
        both = zip(self.costs, other.costs, strict=True)
        return over_repeats([mean_of(one.gaps - two.gaps) for one, two in both])


def pair_up(labels: np.ndarray, partner: Partner, seed: int) -> np.ndarray:
    """Return disjoint pairs of indices `(pairs, 2)`, of equal or of different `labels`.

    Raises:
        InputError: One class has more images than all others together.
    """
    generator = stream("halves", partner, seed)
    order = generator.permutation(len(labels))
    if partner == "same":
        ordered = order[np.argsort(labels[order], kind="stable")]
        classes = [ordered[labels[ordered] == label] for label in np.unique(labels)]
        return np.concatenate([members[: len(members) // 2 * 2].reshape(-1, 2) for members in classes])
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    for _ in range(ATTEMPTS):
        equal = np.flatnonzero(labels[pairs[:, 0]] == labels[pairs[:, 1]])
        if not len(equal):
            return pairs
        # Unsuitable pairs swap partners with as many others.
        taken = np.union1d(equal, generator.integers(0, len(pairs), len(equal)))
        pairs[taken, 1] = generator.permutation(pairs[taken, 1])
    raise InputError("these images do not go in pairs of different classes", "take more of them")


def mix(levels: np.ndarray, pairs: np.ndarray, cut: Cut) -> np.ndarray:
    """Return the mixed images of each pair, `(2 * pairs, C, H, W)`.

    A pair `(a, b)` gives two consecutive images: a's first half with b's second, then b's first with a's.
    """
    first, second = levels[pairs.reshape(-1)], levels[pairs[:, ::-1].reshape(-1)]
    height, width = levels.shape[2:]
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    keep = (rows < height // 2) if cut == "top-bottom" else (columns < width // 2)
    mixed: np.ndarray = np.where(keep, first, second)
    return mixed


def score(
    models: Sequence[NamedModel],
    split: ImageSplit,
    labels: np.ndarray,
    limit: int | None,
    repeats: int,
    importance_samples: int,
) -> list[Case]:
    """Return the costs of all cuts and partners under all models; repeats redraw bits, pairs and latents."""
    found = {(c, p, m.name): Case(c, p, m, []) for c in CUTS for p in PARTNERS for m in models}
    work = repeats * len(models) * (1 + len(CUTS) * len(PARTNERS))
    with Output().progress("halves", work) as advance:
        for seed in range(repeats):
            levels = fixed_levels(split, seed, range(len(split.pixels))[:limit]).levels
            real = {}
            for each in models:
                real[each.name] = _nats(each, levels, seed, importance_samples)
                advance(1, each.name)
            for partner in PARTNERS:
                pairs = pair_up(labels[: len(levels)], partner, seed)
                for cut in CUTS:
                    mixed = mix(levels, pairs, cut)
                    for each in models:
                        nats = _nats(each, mixed, seed, importance_samples).reshape(-1, 2)
                        found[cut, partner, each.name].costs.append(Costs(real[each.name][pairs], nats))
                        advance(1, each.name)
    return list(found.values())


def _nats(named: NamedModel, levels: np.ndarray, seed: int, importance_samples: int) -> np.ndarray:
    return evaluate(named.model, levels, seed=seed, importance_samples=importance_samples).nats


COLUMNS = (
    "cut",
    "other half from",
    "model",
    "gap, nats",
    "less that of the reference, nats",
    "deviation over repeats, nats",
    "AUC",
    "pairs, %",
)
CLASS_COLUMNS = ("cut", "model", "gap of another class less that of the same, nats")


def tables(cases: Sequence[Case], importance_samples: int) -> list[Table]:
    """Return the gaps in NLL, by the given number of draws, and the share due to the class."""
    reference = reference_of([case.model for case in cases])
    by_key = {(case.cut, case.partner, case.model.name): case for case in cases}
    rows: list[tuple[Cell, ...]] = []
    classes: list[tuple[Cell, ...]] = []
    for case in cases:
        base = by_key[case.cut, case.partner, reference.name]
        rows.append(_row(case, None if case is base else case.less(base)))
        if case.partner == "other":
            same = by_key[case.cut, "same", case.model.name]
            classes.append((case.cut, case.model.name, difference_of(case.gap(), same.gap())))
    note = (
        f"NLLs use K = {importance_samples} draws where there are latents. Means over {len(cases[0].costs)} "
        "repeats of the same models, each with new bits, pairs and latents. Standard errors are over the "
        f"pairs of one repeat. The reference is {reference.name}, on the same pairs. A mixed image has the "
        "first half of one test image and the second half of another. AUC is the probability that its NLL is "
        "above that of a real image. The last column is the percentage of pairs whose mixed images have a "
        "higher mean NLL than their real images."
    )
    class_note = "Errors are those of two independent means."
    return [
        Table("halves", "Real images against images of two halves", COLUMNS, rows, note),
        Table("halves_by_class", "How much of the gap is the class", CLASS_COLUMNS, classes, class_note),
    ]


def _row(case: Case, less: Estimate | None) -> tuple[Cell, ...]:
    costs = case.costs
    return (
        case.cut,
        PARTNER_WORDS[case.partner],
        case.model.name,
        case.gap(),
        less,
        spread_of([float(np.mean(each.gaps)) for each in costs]),
        over_repeats([area_of(each.mixed, each.real) for each in costs]),
        over_repeats([share_of(each.gaps > 0) for each in costs]).times(100),
    )
