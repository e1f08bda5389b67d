"""Classes of images as indices of a model's classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famecli.data.dataset import ImageSplit
from famecli.errors import ArgumentError, ArgumentTypeError, did_you_mean, truncate
from famecli.rng import stream

# What callers may pass as the classes of images: names or indices, one for all images or one for each.
Labels = int | str | Sequence[int] | Sequence[str] | np.ndarray


def labels_of(classes: Sequence[str], labels: Labels | None, images: int) -> np.ndarray | None:
    """Return the classes of images as indices, int64, `(images,)`; None for a model without classes.

    Args:
        classes: Names of the model's classes.
        labels: Name or index of the class of all images, or one for each image; None for none.
        images: Number of images.

    Raises:
        ArgumentError: The model has classes and there are no labels, or the reverse; a class is unknown, or
            there are not as many labels as images.
        ArgumentTypeError: A label is neither a name nor a whole number.
    """
    if labels is None:
        if classes:
            raise ArgumentError(
                "the model has classes, and `labels` is missing", f"classes: {_listed(classes)}"
            )
        return None
    if not classes:
        raise ArgumentError("the model has no classes, so `labels` has no meaning", "leave it out")
    # Tensors are listed, too, without an import of torch.
    listed = labels.tolist() if hasattr(labels, "tolist") else labels
    each = list(listed) if isinstance(listed, list | tuple | range) else [listed]
    found = np.array([index_of(classes, label) for label in each], np.int64)
    if not isinstance(listed, list | tuple | range):
        found = found.repeat(images)
    if len(found) != images:
        raise ArgumentError(f"{len(found)} labels for {images} images", "pass one label, or one for each")
    return found


def index_of(classes: Sequence[str], label: object) -> int:
    """Return the index of a class, given its name or its index; a text that is a name counts as the name.

    Raises:
        ArgumentError: There is no such class.
        ArgumentTypeError: `label` is neither a name nor a whole number.
    """
    if isinstance(label, bool | np.bool_) or not isinstance(label, int | np.integer | str):
        raise ArgumentTypeError(f"label {truncate(repr(label))} is neither a name nor a whole number")
    if label in classes:
        return classes.index(str(label))
    number = int(label) if not isinstance(label, str) or (label.isdecimal() and len(label) < 9) else -1
    if 0 <= number < len(classes):
        return number
    raise _unknown(classes, str(label))


def labels_in(
    classes: Sequence[str], images: ImageSplit, numbers: Sequence[int] | None = None
) -> np.ndarray | None:
    """Return the classes of a data set's images as indices of a model's, int64, `(n,)`; None without labels.

    Args:
        classes: Names of the model's classes.
        images: Split of a data set, whose classes are matched by name; or files, see `labels_by_folder`.
        numbers: Numbers of the images in the split; None for all.

    Raises:
        ArgumentError: The model does not have one of the classes.
    """
    if images.labels is None and images.files is not None:
        files = images.files if numbers is None else [images.files[number] for number in numbers]
        return labels_by_folder(classes, files)
    if images.labels is None or not classes:
        return None
    own = images.labels if numbers is None else images.labels[list(numbers)]
    table = np.zeros(len(images.info.classes), np.int64)
    for label in np.unique(own):
        # By name alone: a class called 0 is not the first one of a model that lacks it.
        if (name := images.info.classes[label]) not in classes:
            raise _unknown(classes, name)
        table[label] = classes.index(name)
    return np.asarray(table[own])


def labels_by_folder(classes: Sequence[str], files: Sequence[str]) -> np.ndarray | None:
    """Return the classes of image files by the innermost folders that are named like a class, int64, `(n,)`.

    Args:
        classes: Names of the model's classes.
        files: Paths of the images; the result is None if a path has no folder that is named like a class.
    """
    found = [[part for part in Path(file).parts[:-1] if part in classes] for file in files]
    return np.array([classes.index(each[-1]) for each in found], np.int64) if all(found) else None


def labels_or_random(
    classes: Sequence[str], labels: Labels | None, seeds: Sequence[int]
) -> np.ndarray | None:
    """Return the result of `labels_of`, also for errors, or random classes where `labels` is None."""
    if classes and labels is None:
        return random_labels(classes, seeds)
    return labels_of(classes, labels, len(seeds))


def random_labels(classes: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """Return a random class for each seed, all classes equally likely, int64, `(n,)`."""
    drawn = [int(stream("class", seed).integers(len(classes))) for seed in seeds]
    return np.array(drawn, np.int64)


def _unknown(classes: Sequence[str], name: str) -> ArgumentError:
    return ArgumentError(f"no class {truncate(name)!r}", did_you_mean(name, classes, "classes"))


def _listed(classes: Sequence[str]) -> str:
    return truncate(", ".join(classes), 200)
