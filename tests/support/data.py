"""Small data sets and image files, written without famecli's own code."""

import dataclasses
import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from famecli.data.registry import DataFile, DatasetInfo, dataset_info

FOLDER_IMAGES = np.random.default_rng(8).integers(0, 256, (23, 6, 5, 3), np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    """Write IDX from its specification, without famecli's own code."""
    return (
        bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">i", n) for n in array.shape) + array.tobytes()
    )


def small_mnist(folder: Path, *, zipped: bool = True) -> DatasetInfo:
    """Put a tiny data set of MNIST's layout (30 train, 12 of them valid, 7 test) in `folder`."""
    source = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 30), ("t10k", 7)):
        labels = np.arange(count, dtype=np.uint8)
        pixels = source.integers(0, 256, (count, 28, 28), np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{part}-{kind}-ubyte.gz"
            stored = gzip.compress(content, mtime=0)
            (folder / (name if zipped else name[:-3])).write_bytes(stored if zipped else content)
            hashes = [hashlib.sha256(text).hexdigest() for text in (stored, content)]
            files[name] = DataFile(hashes[0], len(stored), hashes[1])
    splits = {"train": 18, "valid": 12, "test": 7}
    return dataclasses.replace(dataset_info("mnist"), files=files, splits=splits)


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield, for each bit, the index of its byte and the content with that bit flipped."""
    for position in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            yield position, bytes(changed)


def amat(bits: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + "\n" for row in bits.reshape(len(bits), -1).tolist()).encode()


def write_images(folder: Path, images: np.ndarray) -> Path:
    """Write images whose names sort in image order, every other one in a subfolder."""
    for number, image in enumerate(images):
        path = folder / (f"{number:03}" if number % 2 else f"{number:03}/inner") / "image.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    (folder / "notes.txt").write_text("not an image")
    return folder


def split_by_pixels(images: np.ndarray) -> dict[str, list[int]]:
    """Return the numbers of the images `(N, C, H, W)` in each split, by the documented hash."""
    splits: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for number, image in enumerate(images):
        text = "x".join(map(str, image.shape)).encode() + bytes(1) + image.tobytes()
        remainder = int(hashlib.sha256(text).hexdigest()[:16], 16) % 10
        splits[{8: "valid", 9: "test"}.get(remainder, "train")].append(number)
    return splits


def random_pixels(count: int, channels: int = 1, side: int = 6) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, channels), np.uint8)


def image_bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png_claiming(
    width: int, height: int, data: bytes = b"", *, depth: int = 8, colour: int = 0, clear: bytes = b""
) -> bytes:
    """Return a PNG, grey unless told otherwise, whose header claims a size that its data may not match."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    header += chunk(b"tRNS", clear) if clear else b""
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
