"""Images as grids of square patches: the pixels of a patch become channels of one place."""

from torch import Tensor
from torch.nn import functional as F


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Return rows and columns of the patches that cover an image; the last ones may reach beyond it."""
    return -(-height // patch), -(-width // patch)


def to_patches(image: Tensor, patch: int) -> Tensor:
    """Return the patches of images; what reaches beyond the image at the bottom and the right is zero.

    Args:
        image: Pixels, `(B, C, H, W)`.
        patch: Side of a patch in pixels.

    Shape: `(B, patch * patch * C, rows, columns)`. Channels are ordered pixel by pixel, in raster order.
    """
    if patch == 1:
        return image
    batch, channels, height, width = image.shape
    rows, columns = grid_of(height, width, patch)
    image = F.pad(image, (0, columns * patch - width, 0, rows * patch - height))
    cells = image.reshape(batch, channels, rows, patch, columns, patch).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(batch, patch * patch * channels, rows, columns)


def from_patches(maps: Tensor, patch: int, height: int, width: int) -> Tensor:
    """Return `(B, C, height, width)`, of which `to_patches` makes `maps`, without what reaches beyond."""
    if patch == 1:
        return maps
    batch, _, rows, columns = maps.shape
    cells = maps.reshape(batch, patch, patch, -1, rows, columns).permute(0, 3, 4, 1, 5, 2)
    return cells.reshape(batch, -1, rows * patch, columns * patch)[:, :, :height, :width]
