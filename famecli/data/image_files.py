"""Image files as a model takes them; sizes are checked before pixels are unpacked."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from famecli.config.schema import ModelConfig
from famecli.errors import InputError, truncate
from famecli.files import open_input, read_up_to

if TYPE_CHECKING:
    from PIL.Image import Image

READABLE = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "BMP": (".bmp",)}
SUFFIXES = frozenset(suffix for group in READABLE.values() for suffix in group)
GREY_MODES = ("1", "L", "LA", "La", "F")
LARGEST_SIDE = 8192
LARGEST_PIXELS = 1 << 24
LARGEST_FILE_BYTES = 128 << 20
# Least byte of a mask's image that counts as white.
WHITE = 128


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


def read_images(paths: Sequence[Path | str], shape: tuple[int, int, int]) -> list[tuple[str, np.ndarray]]:
    """Return names and pixels of the images in `paths`.

    Colours become greys for a model of one channel, and greys become RGB for three; transparency is ignored.

    Args:
        paths: Image files, folders (all image files in them, sorted), or `-` for one image on stdin.
        shape: `(C, H, W)` of the model.

    Shape:
        Each `(C, H, W)`, uint8, 0 to 255.

    Raises:
        InputError: A file is not an image of that height and width, or is damaged, or a folder has none.
    """
    names = [name for path in paths for name in _expand(str(path))]
    return [(name, decode(name, _content(name), shape)) for name in names]


def read_levels(config: ModelConfig, files: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the names of image files, and the nearest levels of their bytes, `(N, C, H, W)`, uint8.

    Args:
        config: Configuration of the model that takes the images.
        files: Image files, folders of them, or `-` for one image on stdin.

    Raises:
        InputError: A file is not an image of the model's size.
    """
    names, pixels = zip(*read_images(files, config.image_shape), strict=True)
    return list(names), nearest_levels(config.levels)[np.stack(pixels)]


def read_known(config: ModelConfig, image: str, rows: int | None, mask: str | None) -> KnownPixels:
    """Return the known pixels of an image: its first rows, or those where a mask is white.

    Args:
        config: Configuration of the model that takes the image.
        image: File of the image, `-` for stdin.
        rows: Number of known rows from the top, used without a mask.
        mask: File of the mask; None for `rows`.

    Raises:
        InputError: A file is not an image of the model's size.
    """
    (name,), (levels,) = read_levels(config, [image])
    keep = np.zeros((config.height, config.width), bool)
    if mask is None:
        keep[:rows] = True
    else:
        ((_, shape),) = read_images([mask], (1, config.height, config.width))
        keep = shape[0] >= WHITE
    return KnownPixels(name, levels, keep)


def has_image_suffix(name: str) -> bool:
    """Return whether `name` ends like an image file that `read_images` takes."""
    return Path(name).suffix.lower() in SUFFIXES


def image_shape(path: Path) -> tuple[int, int, int]:
    """Return the shape `(C, H, W)` of an image file, one channel for greys; only the header is parsed.

    Raises:
        InputError: The file cannot be read, is not an image, or is too large.
    """
    with _opened(str(path), _content(str(path))) as image:
        width, height = image.size
    return (1 if image.mode in GREY_MODES or image.mode.startswith("I") else 3), height, width


def _expand(name: str) -> list[str]:
    """Return `name`, or the image files in the folder of that name."""
    if name == "-" or not os.path.isdir(name):
        return [name]
    try:
        found = sorted(path for path in Path(name).iterdir() if has_image_suffix(path.name))
    except OSError as error:
        raise InputError(f"cannot read folder {name}: {error.strerror}") from error
    if not found:
        raise InputError(f"no images in folder {name}", f"it may hold {', '.join(sorted(SUFFIXES))}")
    return [str(path) for path in found]


def _content(name: str) -> bytes:
    with open_input(Path(name), "image") as file:
        content = read_up_to(file, LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise InputError(f"{name}: more than {LARGEST_FILE_BYTES >> 20} MiB, too large for an image")
    return content


def decode(name: str, content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the pixels of an image file; its size is checked before its pixels are unpacked.

    Args:
        name: Name of the file, for errors.
        content: Content of the file.
        shape: `(C, H, W)` of the array; one channel makes colours grey.

    Shape:
        `(C, H, W)`, uint8, 0 to 255.

    Raises:
        InputError: The image has another height or width, or is damaged.
    """
    from PIL import Image

    channels, height, width = shape
    with _opened(name, content, f", expected {width}x{height}") as image:
        if image.size != (width, height):
            raise InputError(
                f"{name}: {image.size[0]}x{image.size[1]} pixels, expected {width}x{height}",
                "resize or crop it first",
            )
        if image.mode.startswith("I"):
            # convert() would clip 16 bits instead of scaling them.
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


@contextmanager
def _opened(name: str, content: bytes, expected: str = "") -> "Iterator[Image]":
    """Yield an image that is not too large and whose pixels are not yet unpacked.

    Raises:
        InputError: The image is too large, or damaged; damage may show only during unpacking.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # The limit below is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content), formats=list(READABLE))
        width, height = image.size
        if max(image.size) > LARGEST_SIDE or width * height > LARGEST_PIXELS:
            raise InputError(f"{name}: {width}x{height} is too large{expected}")
        yield image
    except InputError:
        raise
    # Pillow's decoders answer damaged files with a dozen kinds of exceptions, SyntaxError among them.
    except Exception as error:
        kinds = ", ".join(READABLE)
        raise InputError(f"{name}: not a readable image ({kinds}): {truncate(error)}") from error


def nearest_levels(levels: int) -> np.ndarray:
    """Return the level that is nearest to each byte, where the highest level stands for 255.

    Shape:
        `(256,)`, uint8.
    """
    return np.asarray(np.rint(np.arange(256) * ((levels - 1) / 255)).astype(np.uint8))


def exact_levels(pixels: np.ndarray, levels: int, name_of: Callable[[int], str]) -> np.ndarray:
    """Return the levels that `famecli.images.to_uint8` turns into these bytes.

    Args:
        pixels: Bytes, `(N, C, H, W)`.
        levels: Number of values of a pixel in the model; with two, 0 is black and 1 is white.
        name_of: Function that returns the name of the image at an index, for errors.

    Shape:
        `(N, C, H, W)`, uint8.

    Raises:
        InputError: A pixel stands for no level; the message names its image.
    """
    if levels == 256:
        return pixels
    nearest = nearest_levels(levels)
    strange = np.rint(nearest.astype(np.int64) * 255 / (levels - 1)) != np.arange(256)
    for index, image in enumerate(pixels):
        found = strange[image]
        if found.any():
            expected = "0 and 255" if levels == 2 else f"multiples of 255 / {levels - 1}, rounded,"
            raise InputError(
                f"{name_of(index)} has a pixel of {image[found][0]}, "
                f"a model of {levels} levels takes {expected} alone",
                "make the images black and white first, or choose a model of 256 levels",
            )
    return np.asarray(nearest[pixels])
