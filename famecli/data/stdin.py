"""Images that come through stdin, as `fame sample -o -` writes them."""

import dataclasses

import numpy as np

from famecli.data.arrays import image_shape_of, images_of, read_stream
from famecli.data.dataset import ImageSplit
from famecli.data.folder import seen_with
from famecli.data.levels import exact_levels
from famecli.data.registry import FOLDER, dataset_info
from famecli.errors import InputError
from famecli.files import STDIN, open_input

NAME = "stdin"
ALL = "all"


def read_stdin(shape: tuple[int, int, int], levels: int) -> ImageSplit:
    """Return all images on stdin, in their order, as a model takes them.

    Args:
        shape: `(C, H, W)` of the model; other images are refused before their pixels are read.
        levels: Of the model.

    Raises:
        InputError: stdin is not one whole npy or npz array of such images.
    """

    def accept(found: tuple[int, ...]) -> None:
        if (actual := image_shape_of(found, NAME)) != shape:
            raise InputError(
                f"{NAME} has images of {_words(actual)}, the model takes {_words(shape)}",
                "leave --rgb out of fame sample" if actual == (3, *shape[1:]) else "",
            )

    with open_input(STDIN, "images") as file:
        pixels = images_of(read_stream(file, NAME, accept), NAME)
    found = exact_levels(pixels, levels, lambda index: f"{NAME}: image {index}")
    return own_images(found, levels, NAME, "Images on stdin")


def own_images(pixels: np.ndarray, levels: int, name: str, title: str) -> ImageSplit:
    """Return images of the user's own as the one split of a data set.

    Args:
        pixels: Integer levels, uint8, `(N, C, H, W)`.
        levels: Values that a pixel can take.
        name: Name of the data set, and of its family.
        title: Its title.
    """
    info = dataclasses.replace(
        seen_with(dataset_info(FOLDER), levels),
        name=name,
        family=name,
        title=title,
        shape=pixels.shape[1:],
        splits={ALL: len(pixels)},
        rule="all of them",
    )
    return ImageSplit(info, ALL, pixels)


def _words(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{channels}x{height}x{width}"
