"""Accuracy of linear classifiers on a model's latents, with many labels and with few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.checkpoints import NamedModel
from benchmarks.estimates import Estimate, mean_of, share_of
from benchmarks.global_modelling.features import model_features, pixel_features
from benchmarks.tables import Cell, Table
from famecli.output import Output
from famecli.rng import stream

# Penalties on half of the squared norm of the weights, relative to nats per image; from strong to weak.
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
STEPS = 200
SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Labelled:
    """Images `(N, C, H, W)` with their classes `(N,)`."""

    levels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Material:
    """Training, validation (for the penalty) and test images of probes."""

    train: Labelled
    valid: Labelled
    test: Labelled

    @property
    def all(self) -> tuple[Labelled, Labelled, Labelled]:
        """The three, in that order."""
        return self.train, self.valid, self.test


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of one kind of features with a number of labels."""

    model: str
    features: str
    size: int
    labels: int
    share: Estimate
    penalty: float


def fit(features: Tensor, labels: Tensor, penalty: float, start: Tensor) -> Tensor:
    """Return the weights `(D + 1, classes)` of multinomial logistic regression; the last row is the bias.

    Args:
        features: Features, `(N, D)`.
        labels: Classes, `(N,)`.
        penalty: Factor of half the squared norm of the weights without biases; above 0, for a unique optimum.
        start: Initial weights.

    Source: L-BFGS with the strong Wolfe conditions, as torch.optim has it.
    """
    weights = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=STEPS, history_size=20, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        nats = F.cross_entropy(scores(features, weights), labels) + penalty / 2 * weights[:-1].square().sum()
        nats.backward()
        return nats

    optimizer.step(loss)
    return weights.detach()


def scores(features: Tensor, weights: Tensor) -> Tensor:
    """Return logits `(N, classes)`."""
    return torch.addmm(weights[-1], features, weights[:-1])


def standardised(parts: Sequence[np.ndarray]) -> list[Tensor]:
    """Return features standardised by the first of `parts`; constant features become 0."""
    mean, deviation = parts[0].mean(0), parts[0].std(0)
    factor = np.where(deviation > SMALLEST_DEVIATION, 1.0 / np.maximum(deviation, SMALLEST_DEVIATION), 0.0)
    # Single precision is twice as fast, and errors of a hundredth of a per cent do not matter.
    return [torch.from_numpy((part - mean) * factor).float() for part in parts]


def balanced(labels: np.ndarray, count: int, draw: int) -> np.ndarray:
    """Return indices of `count` images, with classes as balanced as possible."""
    order = stream("labels", count, draw).permutation(len(labels))
    turns = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        members = labels[order] == label
        turns[members] = np.arange(members.sum())
    return order[np.argsort(turns, kind="stable")[:count]]


def predict(features: Sequence[Tensor], labels: Sequence[Tensor], chosen: np.ndarray) -> tuple[Tensor, float]:
    """Return whether each test image was classified correctly, `(N,)`, and the penalty.

    Args:
        features: Features of training, validation and test images.
        labels: Classes of training, validation and test images.
        chosen: Indices of the training images whose labels are used.
    """
    train, valid, test = features
    classes = 1 + int(max(each.max() for each in labels))
    weights = train.new_zeros(train.shape[1] + 1, classes)
    best, best_nats, best_penalty = weights, float("inf"), PENALTIES[0]
    for penalty in PENALTIES:
        weights = fit(train[chosen], labels[0][chosen], penalty, weights)
        nats = float(F.cross_entropy(scores(valid, weights), labels[1]))
        if nats < best_nats:
            best, best_nats, best_penalty = weights, nats, penalty
    return scores(test, best).argmax(1) == labels[2], best_penalty


def probe(
    models: Sequence[NamedModel], material: Material, counts: Sequence[int], draws: int
) -> list[Accuracy]:
    """Return the accuracy of all features of pixels and models for each number of labels.

    With all labels there is one probe, and the error is binomial over test images. With fewer labels there
    are `draws` probes on different labels, and the error is over these draws.
    """
    labels = [torch.from_numpy(each.labels.astype(np.int64)) for each in material.all]
    found = []
    with Output().progress("probes", 1 + len(models)) as advance:
        for named in (None, *models):
            parts = [
                pixel_features(each.levels) if named is None else model_features(named.model, each.levels)
                for each in material.all
            ]
            for name in parts[0]:
                inputs = standardised([part[name] for part in parts])
                for count in counts:
                    share, penalty = _accuracy(inputs, labels, material.train.labels, count, draws)
                    who = "" if named is None else named.name
                    found.append(Accuracy(who, name, inputs[0].shape[1], count, share, penalty))
            advance(1, "")
    return found


def _accuracy(
    features: Sequence[Tensor], labels: Sequence[Tensor], classes: np.ndarray, count: int, draws: int
) -> tuple[Estimate, float]:
    """Return the accuracy, and the penalty chosen by the first probe."""
    if count >= len(classes):
        hits, penalty = predict(features, labels, np.arange(len(classes)))
        return share_of(hits.numpy()), penalty
    made = [predict(features, labels, balanced(classes, count, draw)) for draw in range(draws)]
    return mean_of(np.array([float(hits.double().mean()) for hits, _ in made])), made[0][1]


def tables(found: Sequence[Accuracy], material: Material, draws: int) -> list[Table]:
    """Return a row per kind of features, a column per number of labels."""
    counts = sorted({each.labels for each in found}, reverse=True)
    kinds = dict.fromkeys((each.model, each.features, each.size) for each in found)
    share = {(each.model, each.features, each.labels): each.share.times(100) for each in found}
    rows: list[tuple[Cell, ...]] = [
        (model, features, size, *(share[model, features, count] for count in counts))
        for model, features, size in kinds
    ]
    train, valid, test = (len(each.labels) for each in material.all)
    note = (
        f"Multinomial logistic regression on standardised features, fitted by L-BFGS to {train:,} training "
        f"images; {valid:,} validation images choose the penalty out of {', '.join(map(str, PENALTIES))}; "
        f"accuracy on {test:,} test images, with the binomial standard error. Fewer labels are balanced over "
        f"classes: accuracy is the mean over {draws} draws of labels, with its standard error. Latents are "
        "posterior means, or a draw from the posterior; layer 0 is nearest to the image. The posterior of a "
        "layer depends on the layers above it. A PixelCNN has no latents: features of its layers stand in."
    )
    columns = ("model", "features", "dimensions", *(f"accuracy with {count:,} labels, %" for count in counts))
    return [Table("probe", "Linear probes of the class", columns, rows, note)]
