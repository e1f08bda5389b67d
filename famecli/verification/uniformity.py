"""Whether numbers are as evenly spread as independent uniforms are."""

import math

import torch
from torch import Tensor

# Exceeded by chance in one of 130,000 cases: 2 exp(-2 * 2.5**2).
MOST_DISTANCE = 2.5


def distance(uniforms: Tensor) -> float:
    """Return Kolmogorov's distance of numbers in [0, 1] to the uniform distribution, times root of n.

    That is the largest difference of the share of numbers below a point from the point itself. Numbers that
    come in copies, one for each image for example, are farther from it as well.
    """
    ordered = uniforms.double().flatten().sort().values
    steps = torch.arange(len(ordered) + 1, dtype=torch.float64, device=ordered.device) / len(ordered)
    largest = torch.maximum((steps[1:] - ordered).amax(), (ordered - steps[:-1]).amax())
    return float(largest) * math.sqrt(len(ordered))
