"""How many bits images really take: with a model, and in image files for comparison."""

import copy
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from famecli.coding.codec import Codec
from famecli.errors import IntegrityError
from famecli.images import to_uint8
from famecli.model.fame import Fame

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CodeLength:
    """What images cost as a code that was decoded again, and as image files.

    Args:
        images: How many.
        net_bits: Of all images, without initial bits.
        initial_bits: Random bits in the code, which a decoder has again when it is done.
        bits_per_dim: Net, mean over images and values.
        png_bits_per_dim: As PNG files, with one bit per pixel where there are two levels.
        webp_bits_per_dim: As lossless WebP files.
        encode_s: Seconds that encoding took.
        decode_s: Likewise.
    """

    images: int
    net_bits: int
    initial_bits: int
    bits_per_dim: float
    png_bits_per_dim: float
    webp_bits_per_dim: float
    encode_s: float
    decode_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a document of JSON; units are in the keys."""
        return {
            "images": self.images,
            "net_bits": self.net_bits,
            "initial_bits": self.initial_bits,
            "bits_per_dim": self.bits_per_dim,
            "png_bits_per_dim": self.png_bits_per_dim,
            "webp_bits_per_dim": self.webp_bits_per_dim,
            "encode_images_per_s": round(self.images / max(self.encode_s, 1e-9), 2),
            "decode_images_per_s": round(self.images / max(self.decode_s, 1e-9), 2),
        }


def measure_code(
    model: Fame, levels: np.ndarray, advance: Callable[[int], None] = lambda images: None
) -> CodeLength:
    """Return what images cost: they are encoded as `fame compress` does, on the CPU, and decoded again.

    Args:
        model: On any device.
        levels: Integer levels, uint8, `(N, C, H, W)`, at least one image.
        advance: Called with the number of images just encoded, and again just decoded: in all twice `N`.

    Raises:
        IntegrityError: Other images came back.
    """
    # Laid out as on the way from a file, since that chooses how convolutions are computed.
    codec = Codec(copy.deepcopy(model).on("cpu"))
    started_s = time.monotonic()
    coded = codec.encode(levels, advance=advance)
    encoded_s = time.monotonic()
    again = codec.decode(coded, advance)
    decoded_s = time.monotonic()
    if not np.array_equal(again, levels):
        raise IntegrityError("the images that were decoded are not those that were coded")
    png, webp = file_bits(levels, model.config.levels)
    return CodeLength(
        images=len(levels),
        net_bits=coded.net_bits,
        initial_bits=coded.initial_bits,
        bits_per_dim=coded.net_bits / levels.size,
        png_bits_per_dim=png / levels.size,
        webp_bits_per_dim=webp / levels.size,
        encode_s=encoded_s - started_s,
        decode_s=decoded_s - encoded_s,
    )


def file_bits(levels: np.ndarray, levels_count: int) -> tuple[int, int]:
    """Return the bits of images as PNG files, of one bit per pixel where there are two levels, and as WebP.

    Args:
        levels: Integer levels, uint8, `(N, C, H, W)`.
        levels_count: Values that a channel can take.
    """
    from PIL import Image

    png_bytes, webp_bytes = 0, 0
    for pixels in to_uint8(levels, levels_count):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        png = image.convert("1") if levels_count == 2 and image.mode == "L" else image
        png_bytes += _size_bytes(png, "PNG", optimize=True)
        webp_bytes += _size_bytes(image.convert("RGB"), "WEBP", lossless=True, quality=100, method=6)
    return 8 * png_bytes, 8 * webp_bytes


def _size_bytes(image: "Image", format: str, **options: object) -> int:
    content = io.BytesIO()
    image.save(content, format, **options)
    return len(content.getvalue())
