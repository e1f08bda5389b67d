"""Images to a whole file of coded images and back, with the model of a checkpoint."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from famecli.checkpoints.checkpoint import Checkpoint
from famecli.coding.codec import Codec
from famecli.coding.container import SCHEMA, CodedFile, FileHeader, hash_levels, run_lengths
from famecli.coding.machine import Machine
from famecli.errors import InputError, IntegrityError
from famecli.images import to_uint8, write_png
from famecli.sampling.sampler import CHUNK


def encode_images(
    checkpoint: Checkpoint,
    levels: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    first: int = 0,
    group: int = CHUNK,
    advance: Callable[[int], None] = lambda images: None,
) -> CodedFile:
    """Return images as a file; they are encoded on the CPU, in double precision.

    Args:
        checkpoint: The model, which stays as it is.
        levels: Integer levels, uint8, `(N, C, H, W)`, at least one image.
        names: Names of the images' files; None where they are numbered.
        first: Number of the first image, where they are.
        group: Most images that are coded at once.
        advance: Called with the number of images just done.
    """
    coded = Codec(copy.deepcopy(checkpoint.model).on("cpu").double(), group).encode(levels, advance=advance)
    config = checkpoint.model.config
    header = FileHeader(
        schema=SCHEMA,
        name=Path(checkpoint.source).stem[:100],
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
    )
    return CodedFile(header, coded.payload)


def decode_images(
    checkpoint: Checkpoint, file: CodedFile, advance: Callable[[int], None] = lambda images: None
) -> np.ndarray:
    """Return the levels of the images in a file, `(N, C, H, W)`, uint8, checked against their hash.

    Args:
        checkpoint: The model, which stays as it is; see `check_model`.
        file: The file.
        advance: Called with the number of images just done.

    Raises:
        IntegrityError: Other images came out than those that were coded.
    """
    codec = Codec(copy.deepcopy(checkpoint.model).on("cpu").double())
    try:
        levels = codec.decode(file.coded(), advance)
    except IntegrityError as error:
        # Its checksum was right: it is more likely that numbers came out otherwise here.
        raise IntegrityError(str(error), file.header.machine.advice()) from error
    file.check(levels)
    return levels


def write_named(levels: np.ndarray, header: FileHeader, folder: Path) -> None:
    """Write images as PNG files under their names, which were checked when their file was read.

    Args:
        levels: Levels of the images, `(N, C, H, W)`.
        header: Header of the file of coded images.
        folder: Folder, which is made if there is none.

    Raises:
        InputError: The folder or a file in it cannot be written, or a name is that of a link.
    """
    names = header.file_names()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}") from error
    if links := [name for name in names if (folder / name).is_symlink()]:
        raise InputError(f"{folder / links[0]} is a link", "choose another folder")
    for name, image in zip(names, to_uint8(levels, header.levels), strict=True):
        write_png(folder / name, image, {}, sync=False)


def check_model(checkpoint: Checkpoint, header: FileHeader, source: str, hint: str = "") -> None:
    """Check that a file was written with a model.

    Args:
        checkpoint: The model.
        header: The file's.
        source: What the file is called.
        hint: What to do where it was written with another model.

    Raises:
        IntegrityError: It was written with another model.
        InputError: It was written with this one, and yet is for other images.
    """
    if checkpoint.weights_sha256 != header.weights_sha256:
        raise IntegrityError(
            f"{source} was written with weights {header.weights_sha256[:12]} ({header.name}), "
            f"not with {checkpoint.weights_sha256[:12]} of {checkpoint.source}",
            hint,
        )
    config = checkpoint.model.config
    if (config.image_shape, config.levels) != (header.shape, header.levels):
        raise InputError(f"{source} has images of {header.shape}, its model {config.image_shape}")
