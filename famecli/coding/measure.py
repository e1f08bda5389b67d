"""How many bits images really take: with a model, and in image files for comparison."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from famecli.coding.codec import Codec
from famecli.images import to_uint8
from famecli.model.fame import Fame
from famecli.sampling.wavefront import CHUNK

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CodeLength:
    """What images cost as a code.

    Args:
        images: How many.
        dimensions: Values of each.
        net_bits: Of all images, without initial bits.
        initial_bits: Random bits in the payload, which a decoder has again when it is done.
        encode_s: Seconds that encoding took.
        decode_s: Likewise; None where it was not done.
        exact: Whether the images came back as they were; None where they were not decoded.
    """

    images: int
    dimensions: int
    net_bits: int
    initial_bits: int
    encode_s: float
    decode_s: float | None
    exact: bool | None

    @property
    def bits_per_image(self) -> float:
        """Net, mean over images."""
        return self.net_bits / self.images

    @property
    def bits_per_dim(self) -> float:
        """Net, mean over images and values."""
        return self.bits_per_image / self.dimensions

    @property
    def payload_bytes(self) -> int:
        """With initial bits, without header."""
        return (self.net_bits + self.initial_bits) // 8


def measure_code(
    model: Fame,
    levels: np.ndarray,
    *,
    group: int = CHUNK,
    verify: bool = False,
    advance: Callable[[int], None] = lambda images: None,
) -> CodeLength:
    """Return what images cost.

    Args:
        model: On its device.
        levels: Integer levels, uint8, `(N, C, H, W)`, at least one image.
        group: Most images that are coded at once.
        verify: Whether to decode them too.
        advance: Called with the number of images just encoded.
    """
    codec = Codec(model, group)
    started_s = time.monotonic()
    coded = codec.encode(levels, advance=advance)
    encoded_s = time.monotonic()
    exact, decode_s = None, None
    if verify:
        exact = bool(np.array_equal(codec.decode(coded), levels))
        decode_s = time.monotonic() - encoded_s
    return CodeLength(
        len(levels),
        model.config.dimensions,
        coded.net_bits,
        coded.initial_bits,
        encoded_s - started_s,
        decode_s,
        exact,
    )


@dataclass(frozen=True)
class FileLength:
    """Bits per dimension of images as files of their own, mean over images."""

    png: float
    webp: float


def png_webp_bits(levels: np.ndarray, levels_count: int) -> FileLength:
    """Return what images cost as PNG files, of one bit per pixel where there are two levels, and as WebP.

    Args:
        levels: Integer levels, uint8, `(N, C, H, W)`, at least one image.
        levels_count: Values that a channel can take.
    """
    from PIL import Image

    sizes = {"PNG": 0, "WEBP": 0}
    for pixels in to_uint8(levels, levels_count):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        png = image.convert("1") if levels_count == 2 and image.mode == "L" else image
        sizes["PNG"] += _size(png, "PNG", optimize=True)
        sizes["WEBP"] += _size(image.convert("RGB"), "WEBP", lossless=True, quality=100, method=6)
    return FileLength(*(8 * size / levels.size for size in sizes.values()))


def _size(image: "Image", format: str, **options: object) -> int:
    content = io.BytesIO()
    image.save(content, format, **options)
    return len(content.getvalue())
