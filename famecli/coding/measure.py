"""How many bits images really take: with a model, and in image files for comparison."""

import copy
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from famecli.coding.codec import Codec
from famecli.errors import IntegrityError
from famecli.images import to_uint8
from famecli.model.fame import Fame
from famecli.nll.units import NATS_PER_BIT

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CodeLength:
    """What images cost as a code that was decoded again, and as image files; bits are those of all images.

    Args:
        images: How many.
        dimensions: Values of each.
        net_bits: Of the code, without initial bits.
        initial_bits: Random bits in the code, which a decoder has again when it is done.
        png_bits: Of PNG files, with one bit per pixel where there are two levels.
        webp_bits: Of lossless WebP files.
        encode_s: Seconds that encoding took.
        decode_s: Likewise.
    """

    images: int
    dimensions: int
    net_bits: int
    initial_bits: int
    png_bits: int
    webp_bits: int
    encode_s: float
    decode_s: float

    def per_dim(self, bits: int) -> float:
        """Return bits of all images as bits per pixel and channel."""
        return bits / (self.images * self.dimensions)

    def rows(self) -> Iterator[tuple[str, float]]:
        """Yield what images were stored as, and nats per image."""
        lengths = {"coded and decoded": self.net_bits, "PNG": self.png_bits, "WebP": self.webp_bits}
        for label, bits in lengths.items():
            yield label, bits / self.images * NATS_PER_BIT

    def remark(self) -> str:
        """Return a sentence on what is not in the bits, and on time."""
        return (
            f"all {self.images:,} images came back as they were; {self.initial_bits:,} initial bits beside; "
            f"{self._speed(self.encode_s)} images/s encoded, {self._speed(self.decode_s)} decoded"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a document of JSON; units are in the keys."""
        return {
            "images": self.images,
            "net_bits": self.net_bits,
            "initial_bits": self.initial_bits,
            "bits_per_dim": self.per_dim(self.net_bits),
            "png_bits_per_dim": self.per_dim(self.png_bits),
            "webp_bits_per_dim": self.per_dim(self.webp_bits),
            "encode_images_per_s": self._speed(self.encode_s),
            "decode_images_per_s": self._speed(self.decode_s),
        }

    def _speed(self, seconds: float) -> float:
        return round(self.images / max(seconds, 1e-9), 1)


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
    codec = Codec(copy.deepcopy(model).on("cpu").double())
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
        dimensions=model.config.dimensions,
        net_bits=coded.net_bits,
        initial_bits=coded.initial_bits,
        png_bits=png,
        webp_bits=webp,
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
