"""Images of the user that are to come back pixel for pixel: what a model would not see of them is refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famecli.coding.names import png_name, problem
from famecli.config.schema import ModelConfig
from famecli.data.arrays import images_of, read_array
from famecli.data.folder import is_array
from famecli.data.image_files import READABLE, exact_levels, read_images
from famecli.errors import InputError, UsageError

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def read_originals(config: ModelConfig, files: Sequence[str]) -> tuple[list[str] | None, np.ndarray]:
    """Return names for the images in PNG files, None if they have none, and their levels `(N, C, H, W)`.

    Args:
        config: Of the model that is to code them.
        files: Image files, and folders of them; or one npy or npz file, whose images have numbers for names.

    Raises:
        UsageError: One is stdin, which has no name, or an array is not the only one.
        InputError: One is not an image of the model's size, or has what the model's images have not:
            colours, greys, transparency, 16 bits, several frames; or two would have the same name.
    """
    if "-" in files:
        raise UsageError("an image on stdin has no name to be restored under", "name files or folders")
    if arrays := [name for name in files if is_array(name)]:
        if len(files) > 1:
            raise UsageError(f"{arrays[0]} has numbers for names: it goes alone", "write several files")
        return None, _read_array(config, arrays[0])
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


def _read_array(config: ModelConfig, name: str) -> np.ndarray:
    if not Path(name).exists():
        raise InputError(f"cannot read {name}: no such file")
    pixels = images_of(read_array(Path(name)), name)
    if pixels.shape[1:] != config.image_shape:
        raise InputError(f"{name} has images of {pixels.shape[1:]}, the model takes {config.image_shape}")
    return exact_levels(pixels, config.levels, lambda index: f"{name}: image {index}")


def _check_same(path: str, pixels: np.ndarray) -> None:
    """Check that `pixels` `(C, H, W)` are all that there is in an image that could be read."""
    from PIL import Image

    with Image.open(path, formats=list(READABLE)) as image:
        if image.mode not in MODES or any(";16" in str(tile[-1]) for tile in image.tile):
            raise InputError(
                f"{path} is no image of 8 bits in greys or RGB (mode {image.mode})",
                "convert it to greys or RGB of 8 bits per channel first",
            )
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{path} has several frames", "split it first")
        shown = np.asarray(image.convert("RGBA"))
    if (shown[:, :, 3] != 255).any():
        raise InputError(f"{path} is transparent in places", "flatten it first")
    if (shown[:, :, :3] != pixels.transpose(1, 2, 0)).any():
        raise InputError(f"{path} has colours, the model is for greys", "convert it to greys first")
