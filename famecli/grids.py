"""Images side by side in one picture: grids, their groups and their scale."""

import math
from dataclasses import dataclass

import numpy as np

# Largest width to which a small image is enlarged.
VISIBLE_PX = 64
# Gap between two groups of a grid, in paddings.
GAPS = 3


def with_three_channels(images: np.ndarray) -> np.ndarray:
    """Return `(N, H, W, C)` with greys as RGB."""
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def grid(images: np.ndarray, columns: int | None = None, padding: int = 2, group: int = 1) -> np.ndarray:
    """Return the images side by side, row by row, on black.

    Args:
        images: `(N, H, W, C)`.
        columns: Images in a row; None for a nearly square grid.
        padding: Pixels between images and around the grid.
        group: Number of neighbours in a row that belong together; a wider gap follows each group.
    """
    count, height, width, channels = images.shape
    columns = min(columns or max(1, math.ceil(math.sqrt(count))), max(1, count))
    rows, gap = math.ceil(count / columns), GAPS * padding if group > 1 else 0
    gaps = (columns - 1) // group * gap
    shape = (rows * (height + padding) + padding, columns * (width + padding) + padding + gaps, channels)
    canvas = np.zeros(shape, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top = padding + row * (height + padding)
        left = padding + column * (width + padding) + column // group * gap
        canvas[top : top + height, left : left + width] = image
    return canvas


def enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    """Return `(H, W, C)` with `scale` by `scale` pixels for each pixel: viewers would blur small pictures."""
    return pixels.repeat(scale, 0).repeat(scale, 1)


def visible_scale(height: int, width: int) -> int:
    """Return the largest whole scale that keeps both sides of an image within `VISIBLE_PX`; at least 1."""
    return max(1, VISIBLE_PX // max(height, width))


@dataclass(frozen=True)
class Layout:
    """Layout of a grid.

    Args:
        columns: Images in a row; None for a nearly square grid.
        scale: Side of a pixel in the picture; None for images that are large enough to see.
        group: Number of neighbours in a row that belong together.
        above: Images in a row of their own above the others, `(n, H, W, C)`; None for no such row.
    """

    columns: int | None = None
    scale: int | None = None
    group: int = 1
    above: np.ndarray | None = None

    def picture(self, images: np.ndarray) -> np.ndarray:
        """Return the grid of `images` `(N, H, W, C)`."""
        canvas = grid(images, self.columns, group=self.group)
        if self.above is not None:
            above = with_three_channels(self.above) if images.shape[3] == 3 else self.above
            top = grid(above, len(above))
            width = max(canvas.shape[1], top.shape[1])
            parts = [np.pad(each, ((0, 4), (0, width - each.shape[1]), (0, 0))) for each in (top, canvas)]
            canvas = np.concatenate(parts)[:-4]
        return enlarged(canvas, self.scale or visible_scale(*images.shape[1:3]))
