"""Pictures in the terminal."""

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from famecli.images import grid


def preview(images: np.ndarray, width_chars: int) -> str:
    """Return the images as text for a terminal with 24-bit colour, two pixels in each character.

    Args:
        images: `(N, H, W, C)`.
        width_chars: Of the terminal; images wider than it are thinned out.
    """
    columns = max(1, min(len(images), (width_chars - 1) // (images.shape[2] + 1)))
    canvas = grid(images, columns, padding=1)
    stride = math.ceil(canvas.shape[1] / max(1, width_chars))
    canvas = np.broadcast_to(canvas, (*canvas.shape[:2], 3))[::stride, ::stride]
    lines = []
    for top in range(0, len(canvas), 2):
        upper = canvas[top].tolist()
        lower = canvas[top + 1].tolist() if top + 1 < len(canvas) else [[0, 0, 0]] * len(upper)
        runs = groupby(zip(upper, lower, strict=True))
        cells = (_colours(*pair) + "▀" * len(list(run)) for pair, run in runs)
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _colours(foreground: Sequence[int], background: Sequence[int]) -> str:
    red, green, blue = foreground
    return f"\x1b[38;2;{red};{green};{blue};48;2;{';'.join(map(str, background))}m"
