"""Images that come through stdin, as `fame sample -o -` writes them."""

import dataclasses

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
    info = dataclasses.replace(
        seen_with(dataset_info(FOLDER), levels),
        name=NAME,
        family=NAME,
        title="Images on stdin",
        shape=shape,
        splits={ALL: len(found)},
        rule="all of them",
    )
    return ImageSplit(info, ALL, found)


def _words(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{channels}x{height}x{width}"
