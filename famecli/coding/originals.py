"""Image files that are to come back pixel for pixel: what a model would not see of them is refused."""

from collections.abc import Sequence

import numpy as np

from famecli.coding.names import png_name, problem
from famecli.config import ModelConfig
from famecli.data.image_files import READABLE, read_images
from famecli.data.levels import exact_levels
from famecli.errors import InputError, UsageError

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def read_originals(config: ModelConfig, files: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return names for the images in PNG files, and their levels `(N, C, H, W)`.

    Args:
        config: Of the model that is to code them.
        files: Image files, and folders of them.

    Raises:
        UsageError: One is stdin, which has no name.
        InputError: One is not an image of the model's size, or has what the model's images have not:
            colours, greys, transparency, 16 bits, several frames; or two would have the same name.
    """
    if "-" in files:
        raise UsageError("an image on stdin has no name to be restored under", "name files or folders")
    found = read_images(files, config.image_shape)
    for path, pixels in found:
        _check_same(path, pixels)
    names = [png_name(path) for path, _ in found]
    if reason := problem(names):
        raise InputError(f"these images cannot be in one file: {reason}", "rename it, or write several files")
    levels = exact_levels(
        np.stack([pixels for _, pixels in found]), config.levels, lambda index: found[index][0]
    )
    return names, levels


def _check_same(path: str, pixels: np.ndarray) -> None:
    """Check that `pixels` `(C, H, W)` are all that there is in an image that could be read."""
    from PIL import Image

    with Image.open(path, formats=list(READABLE)) as image:
        if image.mode not in MODES or any(";16" in str(tile[-1]) for tile in image.tile):
            raise InputError(
                f"{path} has other values than 0 to 255", "convert it to 8 bits per channel first"
            )
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path} has several frames", "split it first")
        shown = np.asarray(image.convert("RGBA"))
    if (shown[:, :, 3] != 255).any():
        raise InputError(f"{path} is transparent in places", "flatten it first")
    if (shown[:, :, :3] != pixels.transpose(1, 2, 0)).any():
        raise InputError(f"{path} has colours, the model is for greys", "convert it to greys first")
