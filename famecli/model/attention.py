"""Causal self-attention over the places of a decoder's grid."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.model.pointwise import normalise


def sees(row: Tensor, column: Tensor, lag: int) -> Tensor:
    """Return which places see which: those of no later wavefront and no lower row, their own among them.

    Rows below are hidden, though some of their places belong to earlier wavefronts: so an image can be
    completed from its first rows, and any larger lag orders the same model.

    Args:
        row: Rows of places, `(N,)`.
        column: Columns of places, `(N,)`.
        lag: Columns by which a row is behind the row above it.

    Shape: `(N, N)`, True where the place of the row sees that of the column.
    """
    time = column + lag * row
    return (time[None, :] <= time[:, None]) & (row[None, :] <= row[:, None])


class CausalAttention(nn.Module):
    """Self-attention of places to those that `sees` allows, added to its input.

    Queries and keys are divided by their root mean square, so no logit exceeds the root of a head's features.

    Args:
        width: Feature maps of the input.
        inner: Features of the queries, of the keys and of the values, all heads together.
        heads: Number of heads; divides `inner`.
        grid: Rows and columns of places.

    Shape: `(B, width, rows, columns)` and a mask `(rows * columns, rows * columns)`, True where a query
    (row of the mask) sees a key, to `(B, width, rows, columns)`.

    Source: arXiv:1706.03762, section 3.2; attention in a PixelCNN: arXiv:1712.09763, section 2.2.
    Differs: one block without a feed-forward part; learned positions are added to the normalised input;
    queries and keys are normalised (arXiv:2010.04245, section 2).
    """

    def __init__(self, width: int, inner: int, heads: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.matrices = {"project.weight": 3}
        self.heads = heads
        # One row, so that it is no large matrix to an optimizer of such.
        self.position = nn.Parameter(torch.empty(1, width, *grid))
        nn.init.normal_(self.position, std=0.02)
        self.project = nn.Conv2d(width, 3 * inner, 1)
        self.out = nn.Conv2d(inner, width, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        rows, columns = h.shape[2:]
        projected: Tensor = self.project(normalise(h) + self.position.to(h.dtype))
        # (B, rows * columns, 3, heads, features), then one tensor (B, heads, rows * columns, features) each.
        places = projected.flatten(2).transpose(1, 2).unflatten(2, (3, self.heads, -1))
        query, key, value = places.permute(2, 0, 3, 1, 4)
        query, key = normalise(query, dim=-1), normalise(key, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed = mixed.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, (rows, columns))
        change: Tensor = self.out(mixed)
        return h + change
