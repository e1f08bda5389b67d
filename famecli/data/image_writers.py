"""Image output: PNG folders named by seed, grids, arrays.

Images here are uint8 `(N, H, W, C)`, as in image files; models take `(N, C, H, W)`.
"""

import io
import json
import os
import re
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Self

import numpy as np

from famecli.errors import InputError, UsageError
from famecli.files import check_writable, partial_file, unwritable
from famecli.grids import Layout, with_three_channels

Format = Literal["auto", "grid", "png", "npz", "npy", "zip"]
Metadata = Mapping[str, str | int | float]

SUFFIXES: Mapping[str, Format] = {".png": "grid", ".npz": "npz", ".npy": "npy", ".zip": "zip"}
# Suffixes of formats that cannot be written; no new folder gets such a name by default.
OTHER_SUFFIXES = {".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pdf", ".svg", ".tar", ".fame"}
MANIFEST = "manifest.jsonl"
NUMBERED = re.compile(r"[0-9]{6,20}\.png")


def to_uint8(levels: np.ndarray, levels_count: int) -> np.ndarray:
    """Return pixel levels as image bytes: the highest level becomes 255.

    Shape:
        `(N, C, H, W)` to `(N, H, W, C)`.
    """
    table: np.ndarray = np.rint(np.arange(levels_count) * 255 / (levels_count - 1)).astype(np.uint8)
    return np.asarray(table[levels]).transpose(0, 2, 3, 1)


def mean_to_uint8(means: np.ndarray) -> np.ndarray:
    """Return means in 0 to 1 as image bytes.

    Shape:
        `(N, C, H, W)` to `(N, H, W, C)`.
    """
    return np.asarray(np.rint(np.clip(means, 0, 1) * 255).astype(np.uint8)).transpose(0, 2, 3, 1)


def levels_to_bytes(levels: np.ndarray, levels_count: int) -> np.ndarray:
    """Return levels, or expected levels (floats), as image bytes; see `to_uint8` and `mean_to_uint8`."""
    if levels.dtype.kind == "f":
        return mean_to_uint8(levels / (levels_count - 1))
    return to_uint8(levels, levels_count)


def bits_to_uint8(bits: np.ndarray) -> np.ndarray:
    """Return information per pixel as image bytes: black is none, white 8 bits or more.

    Shape:
        `(N, H, W)` to `(N, H, W, 1)`.
    """
    return mean_to_uint8(bits[:, None] / 8)


def write_png(
    path: Path, image: np.ndarray, text: Metadata, *, sync: bool = True, replace: bool = True
) -> None:
    """Write one image `(H, W, C)` as a PNG with `text` in its text chunks; options: see `partial_file`.

    Raises:
        InputError: The file cannot be written.
    """
    with _write_errors(str(path)), partial_file(path, sync=sync, replace=replace) as partial:
        partial.write_bytes(png_bytes(image, text))


class ImageWriter(ABC):
    """A writer that takes images in pieces; the file gets its name only when it is complete.

    Use it in a `with` statement: an exception inside leaves no unfinished file behind.

    Args:
        target: Path, or `-` for stdout.
        count: Total number of images.
        rgb: Whether grey images are written with three channels.
        layout: Layout of a grid; other formats have none.
        replace: Whether files are replaced that exist, or that appear in the meantime.
    """

    def __init__(
        self, target: str, count: int, rgb: bool, layout: Layout | None = None, replace: bool = False
    ) -> None:
        self.target, self.count, self.rgb, self.layout = target, count, rgb, layout or Layout()
        self.replace, self.written = replace, 0
        with _write_errors(target), ExitStack() as self.resources:
            self._open()
            self.resources = self.resources.pop_all()

    def add(self, images: np.ndarray, metadata: Sequence[Metadata]) -> None:
        """Append `images` `(n, H, W, C)` with one entry of `metadata` each.

        Raises:
            InputError: The output cannot be written.
        """
        assert len(images) == len(metadata)
        with _write_errors(self.target):
            self._add(with_three_channels(images) if self.rgb else images, metadata)
        self.written += len(images)

    def close(self) -> None:
        """Finish the output; see `add` for errors."""
        with _write_errors(self.target), self.resources:
            self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with _write_errors(self.target):
                self.resources.__exit__(kind, error, trace)

    def _open_sink(self) -> IO[bytes]:
        if self.target == "-":
            self.resources.callback(sys.stdout.buffer.flush)
            return sys.stdout.buffer
        partial = self.resources.enter_context(partial_file(Path(self.target), replace=self.replace))
        return self.resources.enter_context(partial.open("wb"))

    @abstractmethod
    def _open(self) -> None:
        """Open the output; whatever must be closed goes into `resources`."""

    @abstractmethod
    def _add(self, images: np.ndarray, metadata: Sequence[Metadata]) -> None:
        """Write images with their final number of channels."""

    def _finish(self) -> None:
        """Write the end of the output, before files are closed and renamed."""
        assert self.written == self.count


class FolderWriter(ImageWriter):
    """A folder of `000042.png`, numbered by seed or index, with a line per file in `manifest.jsonl`."""

    manifest: IO[str]

    def _open(self) -> None:
        folder = Path(self.target)
        folder.mkdir(parents=True, exist_ok=True)
        self.former = self._listed(folder) if self.replace else set[str]()
        partial = self.resources.enter_context(partial_file(folder / MANIFEST, replace=self.replace))
        self.manifest = self.resources.enter_context(partial.open("w", encoding="utf-8"))

    def _add(self, images: np.ndarray, metadata: Sequence[Metadata]) -> None:
        for position, (image, entry) in enumerate(zip(images, metadata, strict=True)):
            number = entry.get("seed", entry.get("index", self.written + position))
            name = f"{int(number):06d}.png"
            self.former.discard(name)
            self._write(name, png_bytes(image, entry))
            self.manifest.write(json.dumps({"file": name, **entry}) + "\n")

    def _finish(self) -> None:
        super()._finish()
        for name in self.former:
            (Path(self.target) / name).unlink(missing_ok=True)

    def _listed(self, folder: Path) -> set[str]:
        """Return the names of images in the manifest of an earlier writer, which this one may replace."""
        found = set()
        with (
            suppress(OSError, ValueError, KeyError, TypeError),
            (folder / MANIFEST).open(encoding="utf-8") as lines,
        ):
            for line in lines:
                name = str(json.loads(line)["file"])
                found |= {name} if NUMBERED.fullmatch(name) else set()
        return found

    def _write(self, name: str, content: bytes) -> None:
        with partial_file(Path(self.target) / name, sync=False, replace=self.replace) as partial:
            partial.write_bytes(content)


class ZipWriter(FolderWriter):
    """The files of `FolderWriter` in one zip."""

    def _open(self) -> None:
        self.archive = self.resources.enter_context(zipfile.ZipFile(self._open_sink(), "w"))
        self.former = set()
        self.manifest = self.lines = io.StringIO()

    def _write(self, name: str, content: bytes) -> None:
        self.archive.writestr(zipfile.ZipInfo(name), content)

    def _finish(self) -> None:
        super()._finish()
        self._write(MANIFEST, self.lines.getvalue().encode())


class NpyWriter(ImageWriter):
    """One uint8 array `(N, H, W, C)`; the header is written with the first images, for readers of a pipe."""

    sink: IO[bytes]

    def _open(self) -> None:
        self.sink = self._open_sink()

    def _add(self, images: np.ndarray, metadata: Sequence[Metadata]) -> None:
        if not self.written:
            shape = (self.count, *images.shape[1:])
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self.sink, header)
        self.sink.write(np.ascontiguousarray(images).data)
        self.sink.flush()


class NpzWriter(NpyWriter):
    """The array of `NpyWriter` as `arr_0` of a compressed `.npz`, the input of FID tools."""

    def _open(self) -> None:
        archive = self.resources.enter_context(zipfile.ZipFile(self._open_sink(), "w"))
        # ZipInfo's own date is fixed, so that equal images make equal files.
        member = zipfile.ZipInfo("arr_0.npy")
        member.compress_type = zipfile.ZIP_DEFLATED
        self.sink = self.resources.enter_context(archive.open(member, "w", force_zip64=True))


class GridWriter(ImageWriter):
    """One PNG of all images, written at the end; its text is the metadata that all images share."""

    def _open(self) -> None:
        self.sink = self._open_sink()
        self.images: list[np.ndarray] = []
        self.common: dict[str, str | int | float] | None = None

    def _add(self, images: np.ndarray, metadata: Sequence[Metadata]) -> None:
        self.images.extend(images)
        for entry in metadata:
            known = entry if self.common is None else self.common
            self.common = {key: value for key, value in known.items() if entry.get(key) == value}

    def _finish(self) -> None:
        super()._finish()
        self.sink.write(png_bytes(self.layout.picture(np.stack(self.images)), self.common or {}))


WRITERS: Mapping[str, type[ImageWriter]] = {
    "grid": GridWriter,
    "png": FolderWriter,
    "npz": NpzWriter,
    "npy": NpyWriter,
    "zip": ZipWriter,
}


@dataclass(frozen=True)
class ImageTarget:
    """An image output, checked before any image is made.

    Args:
        name: Path, or `-` for stdout.
        format: Key of `WRITERS`.
        rgb: Whether grey images are written with three channels.
        force: Whether an existing output is overwritten.
    """

    name: str
    format: str
    rgb: bool = False
    force: bool = False

    @classmethod
    def of(
        cls, target: Path | str, format: Format = "auto", *, rgb: bool = False, force: bool = False
    ) -> Self:
        """Return a target.

        Args:
            target: Path, or `-` for stdout.
            format: `auto` follows the name: `.png` is a grid, `.npz`, `.npy` and `.zip` are these formats,
                `-` is npy and anything else a folder of PNG files.
            rgb: Whether grey images are written with three channels.
            force: Whether to overwrite an existing output; other files in a folder stay.

        Raises:
            UsageError: The target cannot take the format.
            InputError: The output exists or cannot be written.
        """
        name, suffix = str(target), Path(target).suffix.lower()
        if suffix in OTHER_SUFFIXES and not os.path.isdir(target):
            raise UsageError(f"{name}: no {suffix[1:]} files are written", f"endings: {', '.join(SUFFIXES)}")
        if format == "auto":
            format = "npy" if name == "-" else SUFFIXES.get(suffix, "png")
        if format not in WRITERS:
            raise UsageError(f"unknown image format {format!r}", f"formats: auto, {', '.join(WRITERS)}")
        fitting = ("png",) if name.endswith(os.sep) else (SUFFIXES.get(suffix, format), suffix[1:])
        if format not in fitting and not os.path.isdir(target):
            hint = "choose another name, or leave `format` out"
            raise UsageError(f"{name} does not fit format {format}", hint)
        if name == "-":
            _check_stdout(format)
        else:
            _check_target(Path(target), format, force)
        return cls(name, format, rgb, force)

    def open(self, count: int, layout: Layout | None = None) -> ImageWriter:
        """Return a writer.

        Args:
            count: Total number of images.
            layout: Layout of a grid; other formats have none.

        Raises:
            InputError: The output cannot be made.
        """
        return WRITERS[self.format](self.name, count, self.rgb, layout, self.force)


def open_writer(
    target: Path | str,
    count: int,
    *,
    format: Format = "auto",
    rgb: bool = False,
    force: bool = False,
) -> ImageWriter:
    """Return a writer of `count` images; arguments and errors are those of `ImageTarget`."""
    return ImageTarget.of(target, format, rgb=rgb, force=force).open(count)


def write_images(
    images: np.ndarray,
    metadata: Sequence[Metadata],
    target: Path | str,
    *,
    format: Format = "auto",
    rgb: bool = False,
    force: bool = False,
) -> None:
    """Write `images` `(N, H, W, C)` at once; arguments and errors are those of `open_writer`."""
    with open_writer(target, len(images), format=format, rgb=rgb, force=force) as writer:
        writer.add(images, metadata)


def _check_stdout(format: str) -> None:
    if format == "png":
        raise UsageError(
            "a folder of PNG files does not fit in stdout", "choose the `format` zip, npy, npz or grid"
        )
    if sys.stdout.isatty():
        raise UsageError("image data would go to the terminal", "redirect it: > samples.npy, or name a file")


def _check_target(path: Path, format: str, force: bool) -> None:
    """Check that nothing is overwritten without `force`, and that no file replaces a folder."""
    if os.path.exists(path) and os.path.isdir(path) != (format == "png"):
        kind = "a folder" if os.path.isdir(path) else "a file"
        raise InputError(f"{path} is {kind}", "choose another name")
    check_writable(path, folder=format == "png")
    if not os.path.exists(path):
        return
    with _write_errors(str(path)):
        fresh = format == "png" and not any(path.iterdir())
    if not force and not fresh:
        raise InputError(f"{path} exists", "add `force` to overwrite it, or choose another name")


def png_bytes(image: np.ndarray, text: Metadata) -> bytes:
    """Return one image `(H, W, C)` as a PNG with `text` in its text chunks."""
    from PIL import Image, PngImagePlugin

    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_text(key, str(value))
    content = io.BytesIO()
    flat = image[:, :, 0] if image.shape[2] == 1 else image
    Image.fromarray(np.ascontiguousarray(flat)).save(content, "PNG", pnginfo=chunks)
    return content.getvalue()


@contextmanager
def _write_errors(target: str) -> Iterator[None]:
    """Turn a failed write into an InputError, but leave a closed pipe to the caller."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(target, error) from error
