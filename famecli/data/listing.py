"""Images in files, folders, archives and arrays: one way to list them, for every command."""

import contextlib
import functools
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from famecli.data.archive import opened, reading, tar_members, zip_members
from famecli.data.arrays import images_of, label_names, read_arrays, read_idx, read_idx_from, read_labels
from famecli.errors import InputError
from famecli.files import STDIN, read_bytes

# Formats that Pillow itself decodes, all of them of pixels; none starts another program.
READABLE = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
SUFFIXES = tuple(suffix for group in READABLE.values() for suffix in group)
ARRAY_SUFFIXES = (".npz", ".npy")
ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
CHECKPOINT_SUFFIX = ".safetensors"
IDX_NAME = re.compile(r"idx3-ubyte(\.gz)?$", re.IGNORECASE)
WHAT_IS_READ = (
    f"images are {', '.join(SUFFIXES)}; also folders, .zip, .tar and .tar.gz of them, .npy, .npz, IDX files"
)
# Separates a file from the name of an array in it.
ARRAY_MARK = "::"
LARGEST_FILE_BYTES = 128 << 20
LARGEST_TAR_BYTES = 64 << 30


@dataclass(frozen=True)
class StoredImage:
    """An image that is not decoded yet.

    Args:
        name: Path of its file, or of its archive with the path in it; or an array with a number.
        within: Folders on the way to it from the named folder or archive, or words of its array's name.
        content: Function that returns the content of its file, or pixels `(C, H, W)`.
        array: Name of its array; empty for a file.
        transposed: Whether its file holds it transposed, which `content` has undone.
        label: Class of the image in an array of labels; empty without one.
    """

    name: str
    within: tuple[str, ...]
    content: Callable[[], bytes | np.ndarray]
    array: str = ""
    transposed: bool = False
    label: str = ""


@dataclass
class Listing:
    """Images in order, and the number of files passed over, by suffix."""

    images: list[StoredImage] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def passed_over_words(self) -> str:
        """Return what was passed over, in words that follow a sentence; empty for nothing."""
        found = ", ".join(f"{count:,} {ending}" for ending, count in self.passed_over.most_common(8))
        return f"; passed over: {found}" if found else ""


def list_images(paths: Sequence[Path | str]) -> Listing:
    """Return the images in files, folders, archives and arrays.

    Folders are listed with all folders in them, by name. Hidden files and folders are passed over, and links
    are followed once.

    Args:
        paths: Paths; `-` is one image on stdin, `FILE.npz::NAME` one array of a file.

    Raises:
        InputError: A path does not exist, cannot be read, or is a checkpoint; an archive or array is damaged.
    """
    found = Listing()
    for path in map(str, paths):
        _list(path, found)
    return found


def holds_images(word: str, markers: Sequence[str] = ()) -> bool:
    """Return whether a word of a command names images, by its ending or by the files in its folder.

    Args:
        word: Word of a command.
        markers: Names of files that make a folder something else.
    """
    if not os.path.isdir(word):
        name = word.partition(ARRAY_MARK)[0].lower()
        return name.endswith((*SUFFIXES, *ZIP_SUFFIXES, *TAR_SUFFIXES)) or is_array(name)
    if any(os.path.exists(os.path.join(word, marker)) for marker in markers):
        return False
    return any(is_image(path.name) or is_idx(path.name) for path, _ in _walk(Path(word)))


def is_image(name: str) -> bool:
    """Return whether `name` ends like an image file."""
    return name.lower().endswith(SUFFIXES)


def is_array(path: Path | str) -> bool:
    """Return whether `path` ends like a file of arrays, with or without the name of one."""
    name = str(path).partition(ARRAY_MARK)[0].lower()
    return name.endswith(ARRAY_SUFFIXES) or is_idx(name)


def is_idx(name: str) -> bool:
    """Return whether `name` ends like the images of a data set in MNIST's format."""
    return IDX_NAME.search(name) is not None


def file_and_array(path: str) -> tuple[str, str]:
    """Return the file or folder of `FILE.npz::NAME` and the name after the colons, empty without one.

    Raises:
        InputError: There is no such file or folder.
    """
    file, _, array = (path, "", "") if os.path.exists(path) else path.partition(ARRAY_MARK)
    if not os.path.exists(file):
        raise InputError(f"cannot read images {file}: no such file or folder")
    return file, array


def _list(path: str, found: Listing) -> None:
    if path == str(STDIN):
        found.images.append(_stored(path))
        return
    file, array = file_and_array(path)
    name = file.lower()
    if os.path.isdir(file):
        _list_folder(Path(file), array, found)
    elif name.endswith(CHECKPOINT_SUFFIX):
        raise InputError(
            f"{file} is a checkpoint, not an image",
            "name the checkpoint first, then the images: one model at a time",
        )
    elif name.endswith(ARRAY_SUFFIXES):
        _list_arrays(read_arrays(Path(file), array), file, found)
    elif is_idx(name):
        _list_idx_file(Path(file), (), found)
    elif name.endswith(ZIP_SUFFIXES):
        _list_members(_zip(Path(file), array, found), file, found)
    elif name.endswith(TAR_SUFFIXES):
        _list_members(_tar(Path(file), array, found), file, found)
    elif array:
        raise InputError(f"{file} is no array, so it has no {array!r}", f"leave {ARRAY_MARK}{array} out")
    else:
        found.images.append(_stored(file))


def _stored(path: str, parts: tuple[str, ...] = ()) -> StoredImage:
    """Return the image that is a file, or stdin if it is `-`; `parts` are its folders."""
    read = functools.partial(read_bytes, Path(path), "an image", LARGEST_FILE_BYTES)
    return StoredImage(path, parts, read)


def _list_folder(folder: Path, prefix: str, found: Listing) -> None:
    """List a folder; with `prefix`, only the IDX files whose names begin with it."""
    for path, parts in sorted(_walk(folder), key=lambda each: each[0]):
        if is_image(path.name) and not prefix:
            found.images.append(_stored(str(path), parts))
        elif is_idx(path.name) and path.name.startswith(prefix):
            _list_idx_file(path, parts, found)
        else:
            found.passed_over[_ending(path.name)] += 1


def _walk(folder: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield each file below a folder, and the folders on the way to it; hidden ones are passed over."""
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise InputError(f"cannot read folder {error.filename}: {error.strerror}") from error

    def is_new(real: str) -> bool:
        return not (real in seen or seen.add(real))  # type: ignore[func-returns-value]

    for root, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if not is_new(real_root := os.path.realpath(root)):
            folders.clear()
            continue
        parts, links = Path(root).relative_to(folder).parts, []
        for name in names:
            path, real = Path(root, name), os.path.join(real_root, name)
            if name.startswith("."):
                continue
            if path.is_symlink():
                links.append(path)
            elif is_new(real):
                yield path, parts
        for path in sorted(links):
            if is_new(os.path.realpath(path)):
                yield path, parts


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "without ending"


def _wanted(prefix: str, found: Listing) -> Callable[[str], bool]:
    """Return a function that says whether a member of an archive has images, and counts the others.

    With `prefix`, only IDX files count whose names begin with it.
    """

    def wanted(name: str) -> bool:
        path = PurePosixPath(name)
        # Archives of macOS keep their hidden files in this folder.
        if name.endswith("/") or any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            return False
        taken = (is_image(name) and not prefix) or (is_idx(name) and path.name.startswith(prefix))
        if not taken:
            found.passed_over[_ending(name)] += 1
        return taken

    return wanted


def _zip(path: Path, prefix: str, found: Listing) -> Iterator[tuple[str, bytes]]:
    with opened(path) as file:
        for name, size, content in zip_members(file, str(path), _wanted(prefix, found), LARGEST_FILE_BYTES):
            yield name, content.read(size)


def _tar(path: Path, prefix: str, found: Listing) -> Iterator[tuple[str, bytes]]:
    wanted = _wanted(prefix, found)
    yield from tar_members(path, wanted, LARGEST_FILE_BYTES, limit_bytes=LARGEST_TAR_BYTES)


def _list_members(members: Iterator[tuple[str, bytes]], path: str, found: Listing) -> None:
    # Of members with one name the last counts, as when the archive is unpacked.
    for name, content in sorted(dict(members).items(), key=lambda each: PurePosixPath(each[0])):
        within, full = PurePosixPath(name).parts[:-1], f"{path}/{name}"
        if is_idx(name):
            with reading(full):
                _list_idx(io.BytesIO(content), full, within, found)
        else:
            found.images.append(StoredImage(full, within, functools.partial(bytes, content)))


def _list_arrays(arrays: dict[str, np.ndarray], path: str, found: Listing) -> None:
    wanted = {name for key in arrays for name in label_names(key)}
    labels = read_labels(Path(path), wanted) if path.lower().endswith(".npz") else {}
    for key, array in arrays.items():
        name = f"{path}{ARRAY_MARK}{key}" if key else path
        own = next((labels[each] for each in label_names(key) if each in labels), None)
        _list_array(images_of(array, name), name, _words(key), found, labels=own)


def _list_idx_file(path: Path, within: tuple[str, ...], found: Listing) -> None:
    labels, beside = None, path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    if beside != path and beside.is_file():
        # Images are worth reading without their labels.
        with contextlib.suppress(InputError):
            labels = read_idx(beside)
    with opened(path) as file:
        _list_idx(file, str(path), within, found, labels)


def _list_idx(
    file: BinaryIO,
    name: str,
    within: tuple[str, ...],
    found: Listing,
    labels: np.ndarray | None = None,
) -> None:
    images, last = images_of(read_idx_from(file, name), name), PurePosixPath(name).name
    transposed = "emnist" in last.lower()
    if transposed:
        images = images.transpose(0, 1, 3, 2)
    _list_array(images, name, (*within, *_words(last)), found, labels=labels, transposed=transposed)


def _list_array(
    images: np.ndarray,
    name: str,
    within: tuple[str, ...],
    found: Listing,
    *,
    labels: np.ndarray | None = None,
    transposed: bool = False,
) -> None:
    """List images `(N, C, H, W)` with their labels `(N,)`, if there are as many."""
    if labels is not None and labels.shape != (len(images),):
        labels = None
    for index, image in enumerate(images):
        content = functools.partial(np.ascontiguousarray, image)
        label = "" if labels is None else str(labels[index])
        found.images.append(StoredImage(f"{name}: image {index}", within, content, name, transposed, label))


def _words(name: str) -> tuple[str, ...]:
    return tuple(re.split(r"[^0-9A-Za-z]+", name))
