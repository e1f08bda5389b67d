"""OMNIGLOT's archives of drawings: reading, shrinking, and a hash of the pixels alone."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from famecli.data.archive import ends_with, opened, zip_members
from famecli.data.image_files import decode
from famecli.errors import InputError

SIDE = 28
DRAWING_SIZE = (105, 105)
LARGEST_DRAWING_BYTES = 1 << 16
# (28, 105): number of quarters by which a row of the image overlaps a row of the drawing.
SHARES = np.repeat(np.eye(SIDE, dtype=np.float32), 15, axis=1).reshape(SIDE, 105, 4).sum(2)


@dataclass(frozen=True)
class Drawing:
    """A drawing of a character.

    Args:
        name: Path without the archive's folder, `Alphabet/character01/0001_16.png`.
        drawer: Number of the drawer, 1 to 20.
        ink: Pixels, `(105, 105)`, bool.
    """

    name: str
    drawer: int
    ink: np.ndarray


def drawings(path: Path, drawers: range = range(1, 21)) -> Iterator[Drawing]:
    """Yield the drawings of an archive by some of its drawers, by name.

    Raises:
        InputError: The archive is damaged, or holds other images.
    """
    with opened(path) as file:
        for member, size, content in zip_members(file, str(path), ends_with(".png"), LARGEST_DRAWING_BYTES):
            match = re.search(r"([^/]+/[^/]+/\d+_(\d\d)\.png)$", member)
            if match is None:
                raise InputError(f"{path}: {member} is not Alphabet/character/number_drawer.png")
            if int(match[2]) in drawers:
                pixels = decode(f"{path}: {member}", content.read(size + 1), (1, *DRAWING_SIZE))
                yield Drawing(match[1], int(match[2]), pixels[0] < 128)


def drawings_sha256(path: Path) -> str:
    """Return the SHA-256 of the names and pixels of an archive's drawings, however they are packed.

    The hash is over all drawings by name: name, a zero byte, and `numpy.packbits` of the pixels, ink as 1.
    """
    found = hashlib.sha256()
    for each in sorted(drawings(path), key=lambda drawing: drawing.name):
        found.update(each.name.encode() + b"\0" + np.packbits(each.ink).tobytes())
    return found.hexdigest()


def shrink(ink: np.ndarray) -> np.ndarray:
    """Return a drawing shrunk by exact area averages: 255 where all is ink, rounded to the nearest.

    105 / 28 = 15 / 4: a pixel covers 15x15 quarters of the drawing's pixels. All sums are of small integers,
    which floats hold exactly, so that no version of any library changes a value.

    Shape:
        `(105, 105)`, bool, to `(28, 28)`, uint8.
    """
    areas = (SHARES @ ink.astype(np.float32) @ SHARES.T).astype(np.int64)
    return np.asarray(((areas * 255 * 2 + 225) // (225 * 2)).astype(np.uint8))
