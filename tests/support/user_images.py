"""Inputs of users on which the tool once did the wrong thing without a word."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from famecli.errors import FameError, InputError

SOURCE = np.random.default_rng(0)
GREYS = SOURCE.integers(0, 256, (400, 8, 8), dtype=np.uint8)
GREYS[:, :4] //= 8
COLOURS = SOURCE.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def save_all(folder: Path, images: np.ndarray, first: int = 0, suffix: str = "png") -> Path:
    for number, image in enumerate(images, first):
        save(folder / f"{number:03}.{suffix}", image)
    return folder


def mixed(folder: Path) -> Path:
    """Write 40 images in several formats and folders, and files of other kinds."""
    save_all(folder, GREYS[:5])
    for number, suffix in enumerate(("tif", "gif", "pgm", "bmp", "TIFF"), 5):
        save_all(folder, GREYS[number : number + 1], number, suffix)
    save_all(folder / "sub/deeper", GREYS[10:40], 10)
    for name in ("notes.txt", "more.txt", "clip.mp4", "README", ".hidden.png"):
        (folder / name).write_text("not an image")
    save_all(folder / ".ipynb_checkpoints", GREYS[50:52])
    (folder / "again").symlink_to(folder.resolve(), target_is_directory=True)
    (folder / "twin.png").symlink_to(folder.resolve() / "000.png")
    return folder


def hint_of(call: Callable[[], object], kind: type[FameError] = InputError) -> str:
    """Return message and hint of the error of a call."""
    with pytest.raises(kind) as caught:
        call()
    return f"{caught.value} | {caught.value.hint}"
