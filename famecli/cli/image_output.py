"""Images that commands write, and the parts of images that they are given."""

import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from famecli.config.schema import ModelConfig
from famecli.errors import UsageError
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.images import ImageWriter

MOST_PREVIEWED = 16
NO_TERMINAL = "--preview needs a terminal"
WHITE = 128
# Of outputs without a name; the format png is a folder.
SUFFIXES = {"auto": ".png", "grid": ".png", "png": ""}


class ImageOutput:
    """Where and how a command writes its images.

    Args:
        out: Path, or `-` for stdout; None for the first free name among `stem.png`, `stem-2.png`, ...
        stem: See `out`.
        format: See `famecli.images.open_writer`, as the next two.
        rgb: Write grey images with three channels.
        force: Write over what exists.
        preview: Show the first images in the terminal.
        output: The command's streams.

    Raises:
        UsageError: Both images and a JSON document are to go to stdout, or the target cannot take the format.
        InputError: The output exists.
    """

    def __init__(
        self, out: str | None, stem: str, format: str, rgb: bool, force: bool, preview: bool, output: Output
    ) -> None:
        if out == "-" and output.json:
            raise UsageError("--json and -o - both want stdout", "name a file for the images")
        self.target = free_name(stem, SUFFIXES.get(format, f".{format}")) if out is None else out
        self.format, self.rgb, self.force = format, rgb, force
        self.preview, self.output = preview, output
        self._check()

    def _check(self) -> None:
        """Raise the errors of `open` before any work is done."""
        from famecli.images import resolve_format

        resolve_format(self.target, self.format, self.force)

    def open(self, count: int, columns: int | None = None) -> "ImageWriter":
        """Return a writer of `count` images; errors are those of `famecli.images.open_writer`."""
        from famecli.images import open_writer

        return open_writer(
            self.target,
            count,
            format=self.format,  # type: ignore[arg-type]
            rgb=self.rgb,
            force=self.force,
            columns=columns,
        )

    def show(self, images: "np.ndarray") -> None:
        """Preview the first of `images` `(n, H, W, C)` on stderr, once, if asked for and on a terminal."""
        if not self.preview:
            return
        self.preview = False
        if self.output.errors.is_terminal:
            show(images, self.output)
        else:
            self.output.warn(NO_TERMINAL)


def show(images: "np.ndarray", output: Output) -> None:
    """Preview the first of `images` `(n, H, W, C)` on stderr, which is a terminal."""
    from famecli.cli.preview import preview

    output.errors.out(preview(images[:MOST_PREVIEWED], output.errors.width), highlight=False)


def free_name(stem: str, suffix: str) -> str:
    """Return the first name among `stem.png`, `stem-2.png`, ... that does not exist, for suffix `.png`."""
    names = (f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


@dataclass(frozen=True)
class KnownPixels:
    """A part of an image.

    Args:
        source: The image's file.
        levels: `(C, H, W)`.
        mask: True where a pixel is known, `(H, W)`.
    """

    source: str
    levels: "np.ndarray"
    mask: "np.ndarray"


def read_levels(config: ModelConfig, files: list[str]) -> "list[tuple[str, np.ndarray]]":
    """Return names and levels `(C, H, W)` of image files; the nearest level of each byte.

    Raises:
        InputError: A file is not an image of the model's size.
    """
    from famecli.data.image_files import nearest_levels
    from famecli.images import read_images

    found = read_images(files, config.image_shape)
    table = nearest_levels(config.levels)
    return [(name, table[pixels]) for name, pixels in found]


def read_known(
    config: ModelConfig, image: str | None, rows: int | None, mask: str | None
) -> KnownPixels | None:
    """Return the pixels that `--complete`, `--rows` and `--mask` give; None without them.

    Raises:
        UsageError: They do not go together.
        InputError: A file is not an image of the model's size.
    """
    import numpy as np

    from famecli.images import read_images

    if image is None:
        if rows is not None or mask is not None:
            raise UsageError("--rows and --mask say what to keep of an image", "add --complete IMAGE")
        return None
    if (rows is None) == (mask is None):
        raise UsageError("--complete needs to know what to keep", "add one of --rows R and --mask IMAGE")
    ((name, levels),) = read_levels(config, [image])
    keep = np.zeros((config.height, config.width), bool)
    if mask is None:
        keep[:rows] = True
    else:
        ((_, shape),) = read_images([mask], (1, config.height, config.width))
        keep = shape[0] >= WHITE
    return KnownPixels(name, levels, keep)
