"""Image files as a model takes them: lossy only on request; sizes are checked before unpacking."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from famecli.data.listing import READABLE
from famecli.data.preparation import Preparation
from famecli.errors import InputError, truncate

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
GREY_MODES = ("1", "L", "LA", "La", "F")
LARGEST_SIDE = 1 << 14
LARGEST_PIXELS = 1 << 26
WHITE_PIXEL = (255, 255, 255, 255)
# Tag of the orientation in EXIF data: above 4 the image lies on its side.
ORIENTATION = 0x0112
# Factors by which Pillow turns greys of fewer bits into bytes, by the coder of a PNG.
GREY_STEPS = {"L;2": 85, "L;4": 17}
SAVE_A_COPY = "save a copy as 8-bit grey or RGB"


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image file.

    Args:
        shape: `(C, H, W)` of the upright image, one channel for greys.
        turned: Whether its EXIF data say that it is stored turned or mirrored.
    """

    shape: tuple[int, int, int]
    turned: bool = False


def image_header(
    name: str, content: bytes | np.ndarray, expected: tuple[int, int] | None = None
) -> ImageHeader:
    """Return the header of an image; Pillow unpacks a PNG, whose EXIF data may come last.

    Args:
        name: Name of the file, for errors.
        content: Content of the file, or pixels `(C, H, W)`.
        expected: The only size `(H, W)` that the caller takes; None for any. An image of another size is
            neither unpacked nor turned.

    Raises:
        InputError: The file is not an image, or is too large.
    """
    if isinstance(content, np.ndarray):
        channels, height, width = content.shape
        return ImageHeader((channels, height, width))
    from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

    with _opened(name, content) as image:
        width, height = image.size
        channels = 1 if image.mode in GREY_MODES or image.mode.startswith("I") else 3
        if expected is not None and sorted(image.size) != sorted(expected):
            return ImageHeader((channels, height, width))
        orientation = image.getexif().get(ORIENTATION, 1)
        if isinstance(image, TiffImageFile):
            # Pillow's size of a TIFF is that of the upright image.
            width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    if orientation in range(5, 9):
        width, height = height, width
    return ImageHeader((channels, height, width), orientation in range(2, 9))


def decode(
    name: str,
    content: bytes | np.ndarray,
    shape: tuple[int, int, int],
    preparation: Preparation | None = None,
    header: ImageHeader | None = None,
) -> np.ndarray:
    """Return the pixels of an image; its size is checked before its pixels are unpacked.

    Args:
        name: Name of the file, for errors.
        content: Content of the file, or pixels `(C, H, W)`.
        shape: `(C, H, W)` of the array.
        preparation: Preparation of the image; None where it must stay as it is.
        header: Header of the image, if it was read before.

    Shape:
        `(C, H, W)`, uint8, 0 to 255.

    Raises:
        InputError: The image has another height or width, is damaged, or has something that `shape` cannot
            hold: colours, 16 bits, transparency, several frames.
    """
    from PIL import Image

    channels, height, width = shape
    how = preparation or Preparation()
    if how.resize is None:
        _, *found = (header or image_header(name, content, (height, width))).shape
        if found != [height, width]:
            hint = "resize or crop a copy first"
            if preparation is not None and height == width:
                hint += f", or set `resize={width}`"
            raise InputError(f"{name}: {found[1]}x{found[0]} pixels, expected {width}x{height}", hint)
    pixels = whole(name, content, preparation)
    if how.resize is not None:
        image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
        pixels = _channels_first(how.resized(image))
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    if not is_grey(pixels):
        if not how.convert:
            raise InputError(f"{name} has colours, the model takes greys", _convert_hint(preparation))
        return _channels_first(Image.fromarray(pixels.transpose(1, 2, 0)).convert("L"))
    return pixels[:1]


def whole(name: str, content: bytes | np.ndarray, preparation: Preparation | None = None) -> np.ndarray:
    """Return the pixels of an image, upright, with as many channels as its file has.

    Args:
        name: Name of the file, for errors.
        content: Content of the file, or pixels `(C, H, W)`.
        preparation: Preparation, which may convert what is not grey or RGB of 8 bits; None to refuse it.

    Shape:
        `(1, H, W)` for greys or `(3, H, W)`, uint8.

    Raises:
        InputError: The image is damaged, or is not one of 8 bits of grey or RGB.
    """
    from PIL import ImageOps

    if isinstance(content, np.ndarray):
        return content
    with _opened(name, content) as image:
        if (problem := _beyond_bytes(image)) and not (preparation and preparation.convert):
            raise InputError(f"{name} {problem}", _convert_hint(preparation))
        return _channels_first(_opaque(name, ImageOps.exif_transpose(_in_bytes(name, image)), preparation))


def is_grey(pixels: np.ndarray) -> bool:
    """Return whether an image `(C, H, W)` has equal channels."""
    return bool((pixels == pixels[:1]).all())


def _convert_hint(preparation: Preparation | None) -> str:
    if preparation is None:
        return "make copies of 8-bit grey or RGB without transparency"
    return "add `convert=True`: 8-bit values, transparency on white, greys for a grey model, the first frame"


def _channels_first(image: "Image") -> np.ndarray:
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _beyond_bytes(image: "ImageFile") -> str:
    """Return what an image has that one frame of 8-bit grey or RGB cannot hold; empty for nothing."""
    if getattr(image, "is_animated", False):
        return "has several frames"
    if image.mode == "F":
        return "holds floats"
    # Pillow reads only the high bytes of colours of 16 bits. In BMP files, "BGR;16" means 5, 6 and 5 bits.
    coders = [str(tile[-1]) for tile in image.tile if "BGR;16" not in str(tile[-1])]
    large = [
        tile[-1] for tile in image.tile if tile[0] in ("ppm", "ppm_plain") and isinstance(tile[-1], tuple)
    ]
    if (
        image.mode.startswith("I")
        or any(";16" in each for each in coders)
        or any(top > 255 for _, top in large)
    ):
        return "has 16 bits for each value"
    return "" if image.mode in MODES else f"is not grey or RGB (mode {image.mode})"


def _in_bytes(name: str, image: "ImageFile") -> "Image":
    """Return an image with values of 8 bits, transparent where it was."""
    from PIL import Image

    if image.mode == "F":
        raise InputError(f"{name} holds floats, whose white is unknown", SAVE_A_COPY)
    if "transparency" in image.info:
        coder = str(image.tile[0][-1])
        if image.mode == "RGB" and ";16" in coder:
            raise InputError(f"{name} has a transparent colour of 16 bits", SAVE_A_COPY)
        # Pillow leaves the transparent grey as it is stored.
        image.info["transparency"] *= GREY_STEPS.get(coder, 1)
    if image.mode.startswith("I"):
        values, exif = np.asarray(image), image.getexif()
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{name} has values beyond 16 bits", SAVE_A_COPY)
        grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
        if "transparency" in image.info:
            opaque = values != image.info["transparency"]
            grey.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
        grey.getexif().update(exif)
        return grey
    return image if image.mode in MODES else image.convert("RGB")


def _opaque(name: str, image: "Image", preparation: Preparation | None) -> "Image":
    """Return an image as greys or RGB without transparency."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert("L" if image.mode in GREY_MODES else "RGB")
    layered = image.convert("RGBA")
    if layered.getchannel("A").getextrema() != (255, 255):
        if not (preparation and preparation.convert):
            raise InputError(f"{name} has transparent pixels", _convert_hint(preparation))
        layered = Image.alpha_composite(Image.new("RGBA", layered.size, WHITE_PIXEL), layered)
    grey = image.mode in GREY_MODES
    return layered.getchannel("R") if grey else layered.convert("RGB")


@contextmanager
def _opened(name: str, content: bytes) -> "Iterator[ImageFile]":
    """Yield an image that is not too large and whose pixels are not yet unpacked.

    Raises:
        InputError: The image is too large, or damaged; damage may show only during unpacking.
    """
    from PIL import Image, UnidentifiedImageError

    kinds = ", ".join(READABLE)
    try:
        with warnings.catch_warnings():
            # The limit below is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=list(READABLE))
        width, height = image.size
        if max(image.size) > LARGEST_SIDE or width * height > LARGEST_PIXELS:
            limits = f"at most {LARGEST_SIDE:,} pixels a side and {LARGEST_PIXELS:,} in all"
            raise InputError(f"{name}: {width}x{height} is too large, {limits}")
        yield image
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a readable image ({kinds})") from error
    # Pillow's decoders answer damaged files with a dozen kinds of exceptions, SyntaxError among them.
    except Exception as error:
        raise InputError(f"{name}: not a readable image ({kinds}): {truncate(error)}") from error


def nearest_levels(levels: int) -> np.ndarray:
    """Return the level that is nearest to each byte, where the highest level stands for 255.

    Shape:
        `(256,)`, uint8.
    """
    return np.asarray(np.rint(np.arange(256) * ((levels - 1) / 255)).astype(np.uint8))
