"""Images of the user as a data set: a folder or archive of image files, or arrays of images."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from famecli.config.schema import misfit_of_classes
from famecli.data.fetch import say_nothing
from famecli.data.image_files import image_header, is_grey, whole
from famecli.data.listing import WHAT_IS_READ, StoredImage, list_images
from famecli.data.preparation import AS_THEY_ARE, PIXELS, TENTH, Preparation
from famecli.data.reading import Findings, levels_of
from famecli.data.registry import FOLDER, DatasetInfo, dataset_info
from famecli.errors import ArgumentError, InputError
from famecli.escape import counted
from famecli.files import STDIN

SPLITS = ("train", "valid", "test")
# Names of folders and words of arrays' names, in small letters, that name a split.
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "testing": "test",
    "t10k": "test",
}
LARGEST_BYTES = 16 << 30
# Of ten hashes, or of ten images in order, the last is test and the one before it validation.
PERIOD = 10
REMAINDERS = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}
RULES = {
    PIXELS: "by a hash of the pixels, 8 : 1 : 1",
    TENTH: "of ten images in order the last is test, the one before it valid",
}
# How a rule chooses validation images among training images.
CUTS = {PIXELS: "by a hash of the pixels", TENTH: "as the ninth of ten images in order"}

Images = Sequence[StoredImage]


def describe(
    name: str,
    data: Path | None = None,
    levels: int | None = None,
    channels: int | None = None,
    preparation: Preparation | None = None,
) -> DatasetInfo:
    """Return the data set `name`; the shape and the splits of `folder` are those of the images in `data`.

    Args:
        name: Name of the data set.
        data: For `folder`, the images; see `famecli.data.listing.list_images`. Folders, or arrays, that are
            named like splits are the splits.
        levels: For `folder`, number of levels of the model; None for 256.
        channels: For `folder`, number of channels of the model; None for three if any image is stored with
            colours, else one.
        preparation: For `folder`, preparation of the images.

    Raises:
        ArgumentError: There is no such data set, `folder` comes without `data`, or `data` is stdin.
        InputError: The path or images are missing, sizes differ, or only some images are in folders named
            like splits.
    """
    info = dataset_info(name)
    if data == STDIN:
        raise ArgumentError(
            "only images to score or to reconstruct come through stdin", "name a file or folder"
        )
    if info.family != FOLDER:
        if preparation is not None and str(preparation):
            raise ArgumentError(
                f"images of {name} are taken as they are", f"only `dataset={FOLDER}` prepares images"
            )
        return info
    if data is None:
        raise ArgumentError(
            f"the images of the data set {FOLDER} were not given", "pass their folder or file as `data`"
        )
    how, listing = preparation or AS_THEY_ARE, list_images([data])
    if not listing.images:
        raise InputError(f"no images in {data}{listing.passed_over_words()}", WHAT_IS_READ)
    findings = Findings()
    shape, turned = _common_shape(listing.images, how, findings)
    shape = (channels or shape[0], *shape[1:])
    parts, rule = _parts(listing.images, str(data), how, findings)
    findings.check()
    sizes = {split: len(parts.get(split, ())) for split in SPLITS}
    if len(listing.images) * np.prod(shape, dtype=float) > LARGEST_BYTES:
        raise InputError(
            f"{data}: {len(listing.images):,} images of {shape} are more than {LARGEST_BYTES:,} bytes"
        )
    count, kind = counted(len(listing.images)), "grey" if shape[0] == 1 else "RGB"
    of_splits = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    told = [
        f"{data}: {count} of {shape[2]}x{shape[1]}, {kind}: {of_splits} ({rule}){listing.passed_over_words()}"
    ]
    if turned:
        told.append(f"turned by EXIF data: {counted(turned)}")
    if transposed := sum(each.transposed for each in listing.images):
        told.append(f"transposed, as in EMNIST's files: {counted(transposed)}")
    words = _class_words(listing.images)
    classes = classes_of(words.values())
    return dataclasses.replace(
        seen_with(info, levels or info.levels),
        shape=shape,
        splits=sizes,
        rule=rule,
        preparation=how,
        names={split: tuple(each.name for each in part) for split, part in parts.items()},
        classes=classes,
        labels={
            split: tuple(classes.index(words[each.name]) for each in part) for split, part in parts.items()
        }
        if classes
        else {},
        told=tuple(told),
    )


def seen_with(info: DatasetInfo, levels: int) -> DatasetInfo:
    """Return a data set of the user's images with the number of levels of a model."""
    if levels == 2:
        return dataclasses.replace(info, levels=levels, binarization="fixed", unit="nats")
    return dataclasses.replace(info, levels=levels)


def read_folder(
    info: DatasetInfo, path: Path, split: str, report: Callable[[str], None] = say_nothing
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a split, by their names or in the order of the arrays, and their classes.

    Args:
        info: Data set, from `describe`.
        path: Images, as for `describe`.
        split: `train`, `valid` or `test`.
        report: Called with one line about converted images.

    Shape:
        `(N, C, H, W)`, uint8, levels of `info`; and `(N,)`, int64, or no labels without classes.

    Raises:
        InputError: The split has no images; or an image cannot be read, needs a lossy conversion that is not
            allowed, or has a pixel that is no level.
    """
    if not info.splits[split]:
        others = ", ".join(f"{size:,} {name}" for name, size in info.splits.items() if size)
        raise InputError(
            f"{path} has no images for the split {split}, but {others}",
            f"`split=all` takes all images; or add images, or put them into folders {', '.join(SPLITS)}",
        )
    by_name = {each.name: each for each in list_images([path]).images}
    pixels = np.empty((info.splits[split], *info.shape), np.uint8)
    names, findings = info.names[split], Findings()
    for index, name in enumerate(names):
        if name not in by_name:
            raise InputError(f"{name} was removed while {path} was read")
        with findings.of(name):
            pixels[index] = findings.decode(name, by_name[name].content(), info.shape, info.preparation)
    findings.check()
    if told := findings.converted_words():
        report(f"{split}: {told}")
    labels = np.array(info.labels[split], np.int64) if info.labels else None
    return levels_of(pixels, info.levels, lambda index: names[index], info.preparation, report), labels


def _class_words(images: Images) -> dict[str, str]:
    """Return the class of each image by the image's name: label, else outermost folder; empty for none.

    Folders that are named like splits are no classes, and neither are those that hold all images.
    """
    within = [tuple(each for each in image.within if each.lower() not in SPLIT_NAMES) for image in images]
    differing = (index for index, parts in enumerate(zip(*within, strict=False)) if len(set(parts)) > 1)
    shared = next(differing, min(map(len, within), default=0))
    folders = (
        parts[shared] if len(parts) > shared and not image.array else ""
        for image, parts in zip(images, within, strict=True)
    )
    return {image.name: image.label or folder for image, folder in zip(images, folders, strict=True)}


def classes_of(words: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of images in order, numbers by their value; none if an image has no class.

    >>> classes_of(["10", "9", "10"]), classes_of(["cat", "", "dog"]), classes_of(["one", "one"])
    (('9', '10'), (), ())
    """
    found = set(words)
    if "" in found or misfit_of_classes(sorted(found)):
        return ()
    numbers = all(word.isdecimal() for word in found)
    return tuple(sorted(found, key=lambda word: (int(word) if numbers else 0, word)))


def _parts(
    images: Images, path: str, how: Preparation, findings: Findings
) -> tuple[dict[str, list[StoredImage]], str]:
    """Return the images of each split, and in words the rule that made them."""
    named = _named_splits(images, path)
    if not named:
        return _by_rule(images, how, findings), RULES[how.rule]
    if "valid" not in named and "train" in named:
        cut = _by_rule(named["train"], how, findings)
        named |= {"train": [*cut["train"], *cut["test"]], "valid": cut["valid"]}
        return named, f"as named, valid cut off train {CUTS[how.rule]}"
    return named, "as named"


def _named_splits(images: Images, path: str) -> dict[str, list[StoredImage]]:
    """Return the images of each split that a folder or an array is named after; nothing if none is.

    Raises:
        InputError: Only some images are in such folders, an image is in two, or a split has two names.
    """
    words = [[word for word in each.within if word.lower() in SPLIT_NAMES] for each in images]
    if not any(words):
        arrays = dict.fromkeys(each.array for each in images)
        if len(arrays) > 1:
            raise InputError(f"{path} has several arrays: {', '.join(arrays)}", "name one: FILE.npz::NAME")
        return {}
    found: dict[str, list[StoredImage]] = {}
    spellings: dict[str, tuple[str, str]] = {}
    for image, named in zip(images, words, strict=True):
        problem = ""
        if len(named) != 1:
            problem = f"{image.name} is in {' and '.join(named) or 'none of them'}"
        else:
            split, spelling = SPLIT_NAMES[named[0].lower()], (named[0], image.array)
            found.setdefault(split, []).append(image)
            if spellings.setdefault(split, spelling) != spelling:
                both = [word if array == "" else array for word, array in (spellings[split], spelling)]
                problem = f"{' and '.join(both)} are both {split}"
        if problem:
            raise InputError(
                f"{path} looks like splits that do not add up: {problem}",
                f"name one folder or array, or keep one for each of {', '.join(SPLITS)} and no others",
            )
    return found


def _by_rule(images: Images, how: Preparation, findings: Findings) -> dict[str, list[StoredImage]]:
    """Return the images of each split by a rule."""
    parts: dict[str, list[StoredImage]] = {split: [] for split in SPLITS}
    for index, image in enumerate(images):
        with findings.of(image.name):
            remainder = (_pixel_hash(image, how) if how.rule == PIXELS else index) % PERIOD
            parts[next(split for split, chosen in REMAINDERS.items() if remainder in chosen)].append(image)
    return parts


def _pixel_hash(image: StoredImage, how: Preparation) -> int:
    """Return the first 64 bits of the SHA-256 of an image before any resize.

    The hash is over `CxHxW`, a zero byte, and the pixels, channels first; grey that is stored as RGB has one
    channel.
    """
    pixels = whole(image.name, image.content(), how)
    if is_grey(pixels):
        pixels = pixels[:1]
    shape = "x".join(map(str, pixels.shape))
    digest = hashlib.sha256(shape.encode() + b"\0" + np.ascontiguousarray(pixels).data)
    return int.from_bytes(digest.digest()[:8], "big")


def _common_shape(images: Images, how: Preparation, findings: Findings) -> tuple[tuple[int, int, int], int]:
    """Return the shape `(C, H, W)` of images after their preparation, and how many of them are turned."""
    first, channels, turned = (0, 0), Counter[int](), 0
    for image in images:
        with findings.of(image.name):
            header = image_header(image.name, image.content())
            stored, *size = header.shape
            channels[stored] += 1
            turned += header.turned
            first = first if any(first) else (size[0], size[1])
            if how.resize is None and tuple(size) != first:
                raise InputError(
                    f"{image.name} has {size[1]}x{size[0]} pixels, the first image {first[1]}x{first[0]}",
                    "make all the same size, for example with `resize=32`",
                )
    height, width = first if how.resize is None else (how.resize, how.resize)
    return (max(channels, default=1), height, width), turned
