"""Compression: images to a file and back with a checkpoint's model, and the size of the code.

Images must be restored exactly, so images that a model cannot represent in full are refused.
"""

import copy
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from famecli.checkpoints.checkpoint import Checkpoint
from famecli.checkpoints.store import RUN_FILES
from famecli.coding.codec import Codec
from famecli.coding.container import (
    LARGEST_GROUP,
    SCHEMA,
    CodedFile,
    FileHeader,
    Machine,
    hash_levels,
    invalid_names_reason,
    most_images,
    png_names,
    run_lengths,
)
from famecli.config.schema import ModelConfig
from famecli.data.dataset import ImageSplit, read_files
from famecli.data.fetch import say_nothing
from famecli.data.image_writers import to_uint8, write_png
from famecli.data.listing import is_array
from famecli.data.preparation import AS_THEY_ARE, Preparation
from famecli.errors import InputError, IntegrityError, UsageError
from famecli.escape import counted
from famecli.model.fame import Fame
from famecli.nll.record import NATS_PER_BIT
from famecli.sampling.sampler import CHUNK

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_NAME = 100


def read_originals(
    config: ModelConfig,
    files: Sequence[str],
    preparation: Preparation = AS_THEY_ARE,
    report: Callable[[str], None] = say_nothing,
) -> tuple[list[str] | None, ImageSplit]:
    """Return PNG names of the images (None for numbered images), and the images as levels of a model.

    Args:
        config: Configuration of the model that will code them.
        files: Image files, folders and archives; or one array file, whose images are numbered.
        preparation: Preparation of the images; that of the model's training images is not used.
        report: Called with one line about the images.

    Raises:
        UsageError: A file is stdin, which has no name, or an array is not the only file.
        InputError: A name is not valid on every system, or two images would have the same name; see
            `read_files` for other errors.
    """
    if "-" in files:
        raise UsageError("an image on stdin has no name to be restored under", "name files or folders")
    arrays = [name for name in files if is_array(name)]
    if arrays and len(files) > 1:
        raise UsageError(
            f"{arrays[0]} holds numbered images and must be the only input", "write several files"
        )
    images = read_files(config, files, preparation, report)
    if arrays:
        return None, images
    # An image of an array is called by the array's file and its number.
    sources = [name.rpartition(": image ")[0] for name in images.files or ()]
    if inside := next(filter(is_array, sources), None):
        raise UsageError(
            f"{inside} holds numbered images and must be the only input",
            "name the array file itself, outside of folders and archives",
        )
    names = png_names(images.files or (), files)
    if reason := invalid_names_reason(names):
        raise InputError(f"these images cannot be in one file: {reason}", "rename it, or write several files")
    return names, images


def encode_images(
    checkpoint: Checkpoint,
    levels: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    names: Sequence[str] | None = None,
    first: int = 0,
    group: int = CHUNK,
    advance: Callable[[int], None] = lambda images: None,
) -> CodedFile:
    """Return images as a file; they are encoded on the CPU, in double precision.

    Args:
        checkpoint: Checkpoint of the model, which is not changed.
        levels: Integer levels, uint8, `(N, C, H, W)`, at least one image.
        labels: Class of each image, `(N,)`, which the file holds; None for a model without classes.
        names: Names of the images' files; None for numbered images.
        first: Number of the first image, for numbered images.
        group: Largest number of images that are coded at once, at most `LARGEST_GROUP`.
        advance: Called with the number of images just done.

    Raises:
        InputError: There are too many images for one file.
    """
    config = checkpoint.model.config
    if len(levels) > (most := most_images(config.image_shape)):
        raise InputError(
            f"{len(levels):,} images are too many for one file, which holds up to {most:,}",
            "write several files",
        )
    codec = _portable_codec(checkpoint.model, min(group, LARGEST_GROUP))
    coded = codec.encode(levels, advance=advance, labels=labels)
    header = FileHeader(
        schema=SCHEMA,
        name=_name(Path(checkpoint.source))[-LONGEST_NAME:],
        weights=checkpoint.weights,
        weights_sha256=checkpoint.weights_sha256,
        shape=config.image_shape,
        levels=config.levels,
        names=None if names is None else tuple(names),
        first=first,
        levels_sha256=hash_levels(levels),
        initial_bits=coded.initial_bits,
        bits=coded.bits,
        groups=run_lengths(coded.groups),
        machine=Machine.here(),
        labels=None if labels is None else tuple(labels.tolist()),
    )
    return CodedFile(header, coded.payload)


def _name(path: Path) -> str:
    """Return the name of a checkpoint, with the folder of a run, all of whose files are named alike."""
    return f"{path.parent.name}/{path.stem}" if path.name in RUN_FILES and path.parent.name else path.stem


def decode_images(
    checkpoint: Checkpoint, file: CodedFile, advance: Callable[[int], None] = lambda images: None
) -> np.ndarray:
    """Return the levels of the images in a file, `(N, C, H, W)`, uint8, checked against their hash.

    Args:
        checkpoint: Checkpoint of the model, which is not changed; see `check_model`.
        file: File of coded images.
        advance: Called with the number of images just done.

    Raises:
        IntegrityError: The decoded images are not the ones that were coded.
        InputError: The file has labels that are not classes of the model.
    """
    codec, classes = _portable_codec(checkpoint.model), len(checkpoint.model.config.classes)
    labels = None if file.header.labels is None else np.array(file.header.labels, np.int64)
    if (labels is None) == bool(classes) or (labels is not None and labels.max() >= classes):
        raise InputError("the labels of the file are not classes of the model")
    try:
        levels = codec.decode(file.coded(), advance, labels)
    except IntegrityError as error:
        # The checksum of the file was right, so another machine is the likely reason.
        raise IntegrityError(str(error), file.header.machine.advice()) from error
    file.check(levels)
    return levels


def _portable_codec(model: Fame, group: int = CHUNK) -> Codec:
    """Return the codec of a copy of `model` on the CPU in double precision."""
    return Codec(copy.deepcopy(model).on("cpu").double(), group)


def check_model(checkpoint: Checkpoint, header: FileHeader, source: str, hint: str = "") -> None:
    """Check that a file was written with a model.

    Args:
        checkpoint: Checkpoint of the model.
        header: Header of the file.
        source: Name of the file in errors.
        hint: Advice in case the file was written with another model.

    Raises:
        IntegrityError: The file was written with another model.
        InputError: The file was written with this model, but for images of another shape or number of levels.
    """
    if checkpoint.weights_sha256 != header.weights_sha256:
        raise IntegrityError(
            f"{source} was written with weights {header.weights_sha256[:12]} ({header.name}), "
            f"not with {checkpoint.weights_sha256[:12]} of {checkpoint.source}",
            hint,
        )
    config = checkpoint.model.config
    if (config.image_shape, config.levels) != (header.shape, header.levels):
        raise InputError(
            f"{source} has images of {header.shape} with {header.levels} levels, "
            f"its model {config.image_shape} with {config.levels}"
        )


@dataclass(frozen=True)
class CodeLength:
    """Size of images as a verified code and as image files; bits are totals over images.

    Args:
        images: Number of images.
        dimensions: Number of values of an image.
        net_bits: Size of the code, without initial bits.
        initial_bits: Random bits in the code, which the decoder recovers in the end.
        png_bits: Size as PNG files, with one bit per pixel for images of two levels.
        webp_bits: Size as lossless WebP files.
        encode_s: Seconds spent encoding.
        decode_s: Seconds spent decoding.
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
        """Yield each kind of storage and its nats per image."""
        lengths = {"coded and decoded": self.net_bits, "PNG": self.png_bits, "WebP": self.webp_bits}
        for label, bits in lengths.items():
            yield label, bits / self.images * NATS_PER_BIT

    def remark(self) -> str:
        """Return a sentence on initial bits and speed."""
        return (
            f"{counted(self.images)} restored exactly; {self.initial_bits:,} initial bits not counted; "
            f"{self._speed(self.encode_s)} images/s encoded, {self._speed(self.decode_s)} decoded"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; units are in the keys."""
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
    model: Fame,
    levels: np.ndarray,
    advance: Callable[[int], None] = lambda images: None,
    labels: np.ndarray | None = None,
) -> CodeLength:
    """Encode images as `encode_images` does, decode them, and return their size.

    Args:
        model: Model on any device, which is not changed.
        levels: Integer levels, uint8, `(N, C, H, W)`, at least one image.
        advance: Called with the number of images just encoded, then just decoded: `2 * N` in total.
        labels: Class of each image, `(N,)`; None for a model without classes.

    Raises:
        IntegrityError: The decoded images are not the ones that were coded.
    """
    codec = _portable_codec(model)
    started_s = time.monotonic()
    coded = codec.encode(levels, advance=advance, labels=labels)
    encoded_s = time.monotonic()
    again = codec.decode(coded, advance, labels)
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


def file_bits(levels: np.ndarray, num_levels: int) -> tuple[int, int]:
    """Return the bits of images as PNG files, with one bit per pixel for two levels, and as WebP files.

    Args:
        levels: Integer levels, uint8, `(N, C, H, W)`.
        num_levels: Number of values that a channel can take.
    """
    from PIL import Image

    png_bytes, webp_bytes = 0, 0
    for pixels in to_uint8(levels, num_levels):
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        png = image.convert("1") if num_levels == 2 and image.mode == "L" else image
        png_bytes += _size_bytes(png, "PNG", optimize=True)
        webp_bytes += _size_bytes(image.convert("RGB"), "WEBP", lossless=True, quality=100, method=6)
    return 8 * png_bytes, 8 * webp_bytes


def _size_bytes(image: "Image", format: str, **options: object) -> int:
    content = io.BytesIO()
    image.save(content, format, **options)
    return len(content.getvalue())


def write_named(levels: np.ndarray, header: FileHeader, folder: Path, *, replace: bool = True) -> None:
    """Write images as PNG files under their names, which were checked when their file was read.

    Args:
        levels: Levels of the images, `(N, C, H, W)`.
        header: Header of the file of coded images.
        folder: Folder, created if missing.
        replace: Whether existing files are replaced.

    Raises:
        InputError: The folder or a file in it cannot be written, or a name is that of a link.
    """
    names = header.file_names()
    below = {part for name in names for part in (Path(name), *Path(name).parents[:-1])}
    if links := sorted(folder / part for part in below if (folder / part).is_symlink()):
        raise InputError(f"{links[0]} is a link", "choose another folder")
    for parent in sorted({(folder / name).parent for name in names}):
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make folder {parent}: {error.strerror}") from error
    for name, image in zip(names, to_uint8(levels, header.levels), strict=True):
        write_png(folder / name, image, {}, sync=False, replace=replace)
