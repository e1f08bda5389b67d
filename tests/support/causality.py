"""Dependence of outputs on pixels: measured by gradients, and allowed by the model."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from famecli.model.decoder import Decoder

HEIGHT, WIDTH = 5, 7
PIXELS = list(itertools.product(range(HEIGHT), range(WIDTH)))


def dependence(
    network: Callable[[Tensor], Tensor], channels: int, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Tensor:
    """Return whether the output at pixel p depends on the input at pixel q, `(p, q)`, by exact gradients.

    The batch has one copy of the image per output pixel, so one backward pass gives every row. Random weights
    on the outputs of a pixel keep their gradients from cancelling.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = list(itertools.product(range(size[0]), range(size[1])))
    image = torch.randn(1, channels, *size, generator=generator, dtype=torch.float64)
    copies = image.repeat(len(pixels), 1, 1, 1).requires_grad_()
    outputs = network(copies)
    own = torch.stack([outputs[index, :, y, x] for index, (y, x) in enumerate(pixels)])
    weights = torch.randn(own.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((own * weights).sum(), copies)
    return (gradient != 0).any(1).flatten(1)


def promised(
    kernel: int, *, own_wavefront: bool, lag: int, pixels: Sequence[tuple[int, int]] = PIXELS
) -> Tensor:
    """Return the inputs that one causal convolution may read, `(p, q)`."""
    reach = kernel // 2
    reads = torch.zeros(len(pixels), len(pixels), dtype=torch.bool)
    for (p, (y, x)), (q, (row, column)) in itertools.product(enumerate(pixels), repeat=2):
        dy, dx = row - y, column - x
        in_window = -reach <= dy <= 0 and abs(dx) <= reach
        reads[p, q] = in_window and dx + lag * dy <= (0 if own_wavefront else -1)
    return reads


def conditioned(decoder: Decoder, seed: int = 1) -> Callable[[Tensor], Tensor]:
    """Return the decoder as a function of the image alone, with a random condition."""
    generator = torch.Generator().manual_seed(seed)
    maps = decoder.config.condition
    condition = torch.randn(1, maps, *decoder.grid, generator=generator, dtype=torch.float64)
    return lambda image: decoder(image, condition.expand(len(image), -1, -1, -1) if maps else None)
