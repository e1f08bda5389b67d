"""The file of coded images, `x.fame`; its format is documented in docs/coding.md."""

import hashlib
import json
import math
import os
import platform
import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, Self

import numpy as np
import torch

from famecli import __version__
from famecli.checkpoints.header import canonical_json
from famecli.coding.bits_back import MOST_BITS
from famecli.coding.codec import Coded
from famecli.coding.stack import WORD_BITS
from famecli.config.schema import MOST_CLASSES, build
from famecli.errors import InputError, IntegrityError, truncate
from famecli.files import open_input, read_up_to

MAGIC = b"\x89fame\r\n\x1a"
# Version 2 has folders in names, version 3 has labels. Files with neither are version 1, for older readers.
FLAT, NESTED, LABELLED = 1, 2, 3
SCHEMA = "famecli/coded/1"
PREFIX_BYTES = len(MAGIC) + 8
CHECK_BYTES = 4
WORD_BYTES = WORD_BITS // 8
LARGEST_FILE_BYTES = 4 << 30
LARGEST_HEADER_BYTES = 8 << 20
LARGEST_IMAGES = 1 << 22
LARGEST_FIRST = 1 << 40
LARGEST_VALUES = 4 << 30
LARGEST_GROUP = 1024
LARGEST_SIDE = 1024
SHA256 = re.compile(r"[0-9a-f]{64}")
LONGEST_TEXT = 100
SUFFIX = ".png"
LARGEST_NAME_BYTES = 200
LARGEST_PATH_BYTES = 1000
# A path separator, and characters that are forbidden or special on Windows.
FORBIDDEN = re.compile(r'[\\:*?"<>|]')
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])", re.IGNORECASE)


@dataclass(frozen=True)
class Machine:
    """Versions and hardware of the encoder: only an identical machine surely computes the same numbers.

    Args:
        famecli_version: Version of famecli.
        torch_version: Version of torch, with its build.
        constriction_version: Version of the coder.
        processor: Architecture, and instructions that torch uses.
    """

    famecli_version: str
    torch_version: str
    constriction_version: str
    processor: str

    @classmethod
    def here(cls) -> Self:
        """Return the current machine."""
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        return cls(__version__, str(torch.__version__), version("constriction"), processor)

    def invalid_reason(self) -> str:
        """Return why these values are invalid; empty if they are valid."""
        fits = all(len(text) <= LONGEST_TEXT for text in asdict(self).values())
        return "" if fits else f"a machine described in more than {LONGEST_TEXT} characters"

    def advice(self) -> str:
        """Return how the current machine differs, as a hint when wrong images were decoded."""
        theirs, ours = asdict(self), asdict(Machine.here())
        differences = [
            f"{key.removesuffix('_version')} {theirs[key]} (here {ours[key]})"
            for key in theirs
            if theirs[key] != ours[key]
        ]
        if not differences:
            return "the file is damaged, or the processor differs"
        return f"it was written with {', '.join(differences)}"


@dataclass(frozen=True)
class FileHeader:
    """Header of a file of coded images.

    Args:
        schema: Schema of this header.
        name: Readable name of the weights.
        weights: Kind of the checkpoint's weights.
        weights_sha256: Hash of the weights, see `famecli.checkpoints.checkpoint.hash_weights`.
        shape: Channels, height and width of an image.
        levels: Number of values that a channel can take.
        names: Names of the images' files; None for numbered images.
        first: Number of the first image, for numbered images.
        levels_sha256: SHA-256 of the images' levels, `(N, C, H, W)`.
        initial_bits: See `Coded`.
        bits: See `Coded`.
        groups: Run-length encoding of `Coded.groups`: pairs of a size and a count.
        machine: Machine that computed the code.
        labels: Class of each image, an index of the model's classes; None for a model without classes.
    """

    schema: str
    name: str
    weights: Literal["ema", "raw"]
    weights_sha256: str
    shape: tuple[int, ...]
    levels: int
    names: tuple[str, ...] | None
    first: int
    levels_sha256: str
    initial_bits: int
    bits: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    machine: Machine
    labels: tuple[int, ...] | None = None

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(size * count for size, count in self.groups)

    def file_names(self) -> list[str]:
        """Return the name of each image's file."""
        if self.names is not None:
            return list(self.names)
        return [f"{number:06d}.png" for number in range(self.first, self.first + self.images)]


@dataclass(frozen=True)
class CodedFile:
    """Content of a file.

    Args:
        header: Description of the images and of the model.
        payload: See `Coded`.
    """

    header: FileHeader
    payload: np.ndarray

    def coded(self) -> Coded:
        """Return the code for `Codec.decode`."""
        groups = tuple(size for size, count in self.header.groups for _ in range(count))
        return Coded(self.payload, self.header.initial_bits, self.header.bits, groups)

    def check(self, levels: np.ndarray) -> None:
        """Check that decoded images are the ones that were coded.

        Raises:
            IntegrityError: The hash of the levels is not the one in the header.
        """
        if hash_levels(levels) != self.header.levels_sha256:
            raise IntegrityError(
                "the images that were decoded are not those that were coded", self.header.machine.advice()
            )


def run_lengths(groups: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the run-length encoding of group sizes: pairs of a size and a count."""
    return tuple((size, len(list(run))) for size, run in groupby(groups))


def hash_levels(levels: np.ndarray) -> str:
    """Return the SHA-256 of levels, uint8."""
    return hashlib.sha256(np.ascontiguousarray(levels).data).hexdigest()


def most_images(shape: tuple[int, ...]) -> int:
    """Return the largest number of images of a shape, `(C, H, W)`, in one file."""
    return min(LARGEST_IMAGES, LARGEST_VALUES // math.prod(shape))


def to_bytes(file: CodedFile) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: `from_bytes` would refuse the file, or `read_file` its length.
    """
    table = asdict(file.header)
    if file.header.labels is None:
        # Older readers do not know the key.
        del table["labels"]
    text = canonical_json(table).encode()
    if len(text) > LARGEST_HEADER_BYTES:
        raise InputError(
            f"names and labels of {file.header.images} images are too long for one file",
            "write several files",
        )
    if reason := _invalid_reason(file.header):
        raise InputError(f"these images cannot be in one file: {truncate(reason, 300)}")
    header = zlib.compress(text, 9)
    nested = NESTED if any("/" in name for name in file.header.names or ()) else FLAT
    version = nested if file.header.labels is None else LABELLED
    numbers = version.to_bytes(4, "little") + len(header).to_bytes(4, "little")
    content = MAGIC + numbers + header + file.payload.astype("<u4").tobytes()
    if len(content) + CHECK_BYTES > LARGEST_FILE_BYTES:
        raise InputError(f"these images take more than {LARGEST_FILE_BYTES:,} bytes", "write several files")
    return content + zlib.crc32(content).to_bytes(CHECK_BYTES, "little")


def read_file(path: Path) -> CodedFile:
    """Return the file at `path`, or on stdin for `-`; errors are those of `read_bytes` and `from_bytes`."""
    with open_input(path, "coded images") as file:
        start = read_up_to(file, PREFIX_BYTES)
        _check_prefix(start, str(path))
        rest = read_up_to(file, LARGEST_FILE_BYTES + 1)
    if len(rest) > LARGEST_FILE_BYTES:
        raise InputError(f"{path}: larger than {LARGEST_FILE_BYTES:,} bytes")
    return from_bytes(start + rest, str(path))


def from_bytes(content: bytes, source: str) -> CodedFile:
    """Return the content of a file, parsed and checked.

    Args:
        content: Bytes of the file.
        source: Name of the file in errors.

    Raises:
        InputError: The content is not a file of coded images, or its header is invalid.
        IntegrityError: The file is damaged or cut off.
    """
    _check_prefix(content, source)
    length = int.from_bytes(content[PREFIX_BYTES - 4 : PREFIX_BYTES], "little")
    start, end = PREFIX_BYTES + length, len(content) - CHECK_BYTES
    if start > end or zlib.crc32(content[:end]).to_bytes(CHECK_BYTES, "little") != content[end:]:
        raise IntegrityError(f"{source}: damaged or cut off ({len(content)} bytes)", "copy it again")
    header = _header(content[PREFIX_BYTES:start], source)
    if _version(content) == FLAT and any("/" in name for name in header.names or ()):
        raise InputError(f"{source}: version {FLAT} of the format has no folders in names")
    if (header.labels is None) == (_version(content) == LABELLED):
        raise InputError(f"{source}: version {LABELLED} of the format has labels, others have none")
    if (end - start) % WORD_BYTES:
        raise InputError(f"{source}: its payload is not a whole number of words")
    payload = np.frombuffer(content[start:end], "<u4").astype(np.uint32)
    if header.initial_bits > WORD_BITS * len(payload):
        raise InputError(f"{source}: more initial bits than payload bits")
    return CodedFile(header, payload)


def _check_prefix(content: bytes, source: str) -> None:
    if not content.startswith(MAGIC):
        raise InputError(f"{source}: not a file of coded images", "fame compress writes them")
    if len(content) < PREFIX_BYTES:
        raise IntegrityError(f"{source}: cut off ({len(content)} bytes)", "copy it again")
    if (version := _version(content)) not in (FLAT, NESTED, LABELLED):
        known = f"{FLAT} to {LABELLED}"
        raise InputError(f"{source}: version {version} of the format, this famecli reads {known}")


def _version(content: bytes) -> int:
    return int.from_bytes(content[len(MAGIC) : len(MAGIC) + 4], "little")


def _header(content: bytes, source: str) -> FileHeader:
    """Return the header in its compressed bytes, checked."""
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(content, LARGEST_HEADER_BYTES)
        if not unpacker.eof or unpacker.unused_data:
            raise ValueError("its header does not have its stated length")
        data = json.loads(text)
        if canonical_json(data).encode() != text:
            raise ValueError("its header is not canonical")
        header = build(FileHeader, data, "header")
    except (ValueError, RecursionError, zlib.error, InputError) as error:
        raise InputError(f"{source}: no header of coded images ({truncate(error)})") from error
    if reason := _invalid_reason(header):
        raise InputError(f"{source}: {truncate(reason, 300)}")
    return header


def _invalid_reason(header: FileHeader) -> str:
    """Return why a header is invalid, before its numbers are used; empty if it is valid."""
    hashes = (header.weights_sha256, header.levels_sha256)
    if header.schema != SCHEMA:
        return f"header of schema {header.schema!r}, expected {SCHEMA}"
    if len(header.name) > 200 or not all(SHA256.fullmatch(each) for each in hashes):
        return "no name or hashes in its header"
    if len(header.shape) != 3 or not all(1 <= side <= LARGEST_SIDE for side in header.shape):
        return f"images of shape {header.shape}"
    if not 2 <= header.levels <= 256 or header.initial_bits < 0:
        return f"{header.levels} levels, {header.initial_bits} initial bits"
    if not all(0 <= each <= MOST_BITS for maps in header.bits for each in maps):
        return f"latents of more than {MOST_BITS} bits"
    if not all(len(run) == 2 and 1 <= run[0] <= LARGEST_GROUP and run[1] >= 1 for run in header.groups):
        return "invalid groups of images"
    if not 1 <= header.images <= most_images(header.shape):
        return f"{header.images} images of shape {header.shape}"
    if not 0 <= header.first <= LARGEST_FIRST:
        return f"images from number {header.first} on"
    if header.names is not None and len(header.names) != header.images:
        return f"{len(header.names)} names for {header.images} images"
    if header.labels is not None and len(header.labels) != header.images:
        return f"{len(header.labels)} labels for {header.images} images"
    if not all(0 <= label < MOST_CLASSES for label in header.labels or ()):
        return "labels of impossible classes"
    return header.machine.invalid_reason() or invalid_names_reason(header.names or ())


def png_names(paths: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the names under which images are stored: paths below the folder that all sources share.

    Args:
        paths: Files of the images.
        sources: Files and folders that the user named, in which these files were found.

    >>> png_names(["a/1.jpg", "2.png"], ["."]), png_names(["a/1.png", "a/b/2.png"], ["a/1.png", "a/b/2.png"])
    (['a/1.png', '2.png'], ['1.png', 'b/2.png'])
    """
    named = [os.path.abspath(source) for source in sources]
    root = os.path.commonpath([each if os.path.isdir(each) else os.path.dirname(each) for each in named])
    relative = (PurePath(os.path.relpath(os.path.abspath(path), root)) for path in paths)
    return [(each.parent / (each.stem + SUFFIX)).as_posix() for each in relative]


def invalid_names_reason(names: Sequence[str]) -> str:
    """Return why stored names are not distinct, plain PNG files below one folder on every system.

    Args:
        names: Untrusted names of the images' files, with `/` between folders.

    Returns:
        Reason to refuse them; empty for none.
    """
    seen: set[str] = set()
    folders: set[str] = set()
    for name in names:
        if reason := _invalid_name_reason(name):
            return f"{name!a:.80} {reason}"
        # Some systems ignore the case and the Unicode composition of names.
        plain = unicodedata.normalize("NFC", name).casefold()
        if plain in seen:
            return f"{name!a:.80} appears twice"
        seen.add(plain)
        folders.update(str(folder) for folder in PurePosixPath(plain).parents)
    if both := sorted(seen & folders):
        return f"{both[0]!a:.80} is a file and a folder"
    return ""


def _invalid_name_reason(path: str) -> str:
    *folders, name = path.split("/")
    if not name.endswith(SUFFIX):
        return f"is not a plain name that ends in {SUFFIX}"
    if len(path.encode("utf-8", "surrogatepass")) > LARGEST_PATH_BYTES:
        return f"is longer than {LARGEST_PATH_BYTES} bytes"
    return next(filter(None, map(_invalid_part_reason, [*folders, name])), "")


def _invalid_part_reason(name: str) -> str:
    """Return why a folder or a file cannot have a name on every system; empty if it can."""
    if not name.isprintable():
        return "has unprintable characters"
    if FORBIDDEN.search(name):
        return "has characters that some systems forbid in file names"
    if not name or name.startswith((".", " ", "-", "~")) or name.endswith((".", " ")):
        return "is not a plain name, or has a folder that is not"
    if len(name.encode()) > LARGEST_NAME_BYTES:
        return f"is longer than {LARGEST_NAME_BYTES} bytes"
    if DEVICES.fullmatch(name.split(".")[0].rstrip()):
        return "is a device name on Windows"
    return ""
