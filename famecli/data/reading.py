"""Reading of all images of a command: problems are collected in one error, conversions in one line."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from famecli.config.schema import ModelConfig
from famecli.data.fetch import say_nothing
from famecli.data.image_files import ImageHeader, decode, image_header, nearest_levels
from famecli.data.image_writers import to_uint8
from famecli.data.listing import WHAT_IS_READ, StoredImage, list_images
from famecli.data.preparation import Preparation
from famecli.errors import InputError, UsageError
from famecli.escape import counted

# Grey of unknown pixels.
UNKNOWN = np.uint8(112)
# Least byte of a mask's image that counts as white.
WHITE = 128
# Largest number of images that a line names.
MOST_NAMED = 3


@dataclass(frozen=True)
class KnownPixels:
    """Known part of an image.

    Args:
        source: Name of the image's file.
        levels: Levels of the whole image, `(C, H, W)`.
        mask: True where a pixel is known, `(H, W)`.
    """

    source: str
    levels: np.ndarray
    mask: np.ndarray

    def shown(self, num_levels: int) -> np.ndarray:
        """Return the image, and its known part on grey, as bytes `(2, H, W, C)`."""
        whole = to_uint8(self.levels[None], num_levels)[0]
        return np.stack([whole, np.where(self.mask[:, :, None], whole, UNKNOWN)])


@dataclass
class Findings:
    """Refused and converted images, collected so that one line names them all.

    Args:
        refused: Error of each image that cannot be taken, by name.
        converted: Names of converted images.
    """

    refused: dict[str, InputError] = field(default_factory=dict)
    converted: list[str] = field(default_factory=list)

    @contextmanager
    def of(self, name: str) -> "Iterator[None]":
        """Keep the error of an image for `check`; only the first one counts."""
        try:
            yield
        except InputError as error:
            self.refused.setdefault(name, error)

    def decode(
        self,
        name: str,
        content: bytes | np.ndarray,
        shape: tuple[int, int, int],
        preparation: Preparation | None,
        header: ImageHeader | None = None,
    ) -> np.ndarray:
        """Return the pixels of an image; see `image_files.decode`. Remember whether it was converted."""
        if preparation is None or not preparation.convert:
            return decode(name, content, shape, preparation, header)
        try:
            return decode(name, content, shape, dataclasses.replace(preparation, convert=False), header)
        except InputError:
            pixels = decode(name, content, shape, preparation, header)
            self.converted.append(name)
            return pixels

    def check(self) -> None:
        """Raise one error for all images that cannot be taken.

        Raises:
            InputError: There are some; the message names up to three.
        """
        errors = list(self.refused.values())
        if len(errors) > 1:
            hints = dict.fromkeys(each.hint for each in errors[:MOST_NAMED])
            raise InputError(listed(list(map(str, errors)), "; "), "; ".join(filter(None, hints)))
        if errors:
            raise errors[0]

    def converted_words(self) -> str:
        """Return which images were converted, in words; empty for none."""
        if not self.converted:
            return ""
        return f"converted: {counted(len(self.converted))}, {listed(self.converted)}"


def listed(words: Sequence[str], separator: str = ", ") -> str:
    """Return up to three words in one line, and how many more there are.

    >>> listed("abcde")
    'a, b, c and 2 more'
    """
    more = len(words) - MOST_NAMED
    return separator.join(words[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def read_images(
    paths: Sequence[Path | str],
    shape: tuple[int, int, int],
    preparation: Preparation | None = None,
    report: Callable[[str], None] = say_nothing,
) -> list[tuple[StoredImage, np.ndarray]]:
    """Return the images in `paths` with their pixels; greys become RGB for a model of three channels.

    Args:
        paths: Images, folders, archives and arrays; see `famecli.data.listing.list_images`.
        shape: `(C, H, W)` of the model.
        preparation: Preparation of the images; None where they must stay as they are.
        report: Called with one line about the images.

    Shape:
        Each `(C, H, W)`, uint8, 0 to 255.

    Raises:
        InputError: There is no image, or one has another height or width, is damaged, or needs a lossy
            conversion that `preparation` does not allow.
    """
    found = list_images(paths)
    if not found.images:
        raise InputError(
            f"no images in {', '.join(map(str, paths))}{found.passed_over_words()}", WHAT_IS_READ
        )
    images, turned, findings = [], 0, Findings()
    expected = None if preparation and preparation.resize else shape[1:]
    for each in found.images:
        with findings.of(each.name):
            content = each.content()
            header = image_header(each.name, content, expected)
            images.append((each, findings.decode(each.name, content, shape, preparation, header)))
            turned += header.turned
    findings.check()
    words = f"; {turned:,} turned as their EXIF data say" if turned else ""
    if len(images) > 1 or found.passed_over or turned:
        report(f"{counted(len(images))} of {shape[2]}x{shape[1]}{words}{found.passed_over_words()}")
    if told := findings.converted_words():
        report(told)
    return images


def read_one(
    path: str,
    shape: tuple[int, int, int],
    preparation: Preparation | None = None,
    report: Callable[[str], None] = say_nothing,
) -> tuple[StoredImage, np.ndarray]:
    """Return the only image in `path` with its pixels; see `read_images` for the rest.

    Raises:
        InputError: The path has no image or several; see `read_images` for other errors.
    """
    found = read_images([path], shape, preparation, report)
    if len(found) > 1:
        raise InputError(f"{path} has {len(found):,} images, expected one", "name one of its files")
    return found[0]


def read_known(
    config: ModelConfig,
    image: str,
    rows: int | None,
    mask: str | None,
    preparation: Preparation | None = None,
    report: Callable[[str], None] = say_nothing,
) -> KnownPixels:
    """Return the known pixels of an image: its first rows, or those where a mask is white.

    Args:
        config: Configuration of the model that takes the image.
        image: File of the image, `-` for stdin.
        rows: Number of known rows from the top, used without a mask.
        mask: File of the mask; None for `rows`.
        preparation: Preparation of image and mask; see `read_one`, also for errors.
        report: Called with one line if known pixels are rounded; see `levels_of`.

    Raises:
        UsageError: Nothing is left to draw.
    """
    if mask is None and rows is not None and rows >= config.height:
        raise UsageError(
            f"`rows={rows}` leaves nothing to draw: the model's images have {config.height} rows",
            f"for example `rows={config.height // 2}`",
        )

    stored, pixels = read_one(image, config.image_shape, preparation)
    keep = np.zeros((config.height, config.width), bool)
    if mask is None:
        keep[:rows] = True
    else:
        keep = read_one(mask, (1, *config.image_shape[1:]), preparation)[1][0] >= WHITE
        if keep.all():
            raise UsageError(f"{mask} is white everywhere: nothing is left to draw", "black pixels are drawn")
    known = np.where(keep, pixels, np.uint8(0))[None]
    exact = levels_of(known, config.levels, lambda _: stored.name, preparation, report)[0]
    # Unknown pixels are only shown.
    return KnownPixels(stored.name, np.where(keep, exact, nearest_levels(config.levels)[pixels]), keep)


def levels_of(
    pixels: np.ndarray,
    levels: int,
    name_of: Callable[[int], str],
    preparation: Preparation | None = None,
    report: Callable[[str], None] = say_nothing,
) -> np.ndarray:
    """Return the levels that `famecli.data.image_writers.to_uint8` turns into these bytes.

    Args:
        pixels: Bytes, `(N, C, H, W)`.
        levels: Number of values of a pixel in the model; with two, 0 is black and 1 is white.
        name_of: Function that returns the name of the image at an index.
        preparation: Preparation of the images; one that converts takes the nearest level of each byte.
        report: Called with one line about the images whose pixels are not levels.

    Shape:
        `(N, C, H, W)`, uint8.

    Raises:
        InputError: A pixel stands for no level; the message names its image.
    """
    if levels == 256:
        return pixels
    nearest = nearest_levels(levels)
    strange = np.rint(nearest.astype(np.int64) * 255 / (levels - 1)) != np.arange(256)
    changed = [index for index, image in enumerate(pixels) if strange[image].any()]
    if changed and preparation is not None and preparation.convert:
        count, names = counted(len(changed)), listed([name_of(index) for index in changed])
        report(f"rounded to {levels} levels: {count}, {names}")
    elif changed:
        image = pixels[changed[0]]
        expected = "0 and 255" if levels == 2 else f"multiples of 255 / {levels - 1}, rounded,"
        hint = "make the images black and white first, or choose a model of 256 levels"
        raise InputError(
            f"{name_of(changed[0])} has a pixel of {image[strange[image]][0]}, "
            f"a model of {levels} levels takes {expected} alone",
            hint if preparation is None else "`convert=True` takes the nearest levels",
        )
    return np.asarray(nearest[pixels])
