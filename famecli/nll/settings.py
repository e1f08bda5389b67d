"""How annealed importance sampling is done. Nothing heavy here."""

from dataclasses import dataclass
from typing import Literal, get_args

Start = Literal["posterior", "prior"]
STARTS = get_args(Start)


@dataclass(frozen=True)
class Annealing:
    """How annealed importance sampling is done.

    Args:
        steps: From the start to the target; 1 is plain importance sampling.
        chains: Of each image.
        leapfrog: Gradients of a transition.
        start: What latents are first drawn from: the approximate posterior q(z | x), or the prior p(z).
    """

    steps: int
    chains: int = 1
    leapfrog: int = 5
    start: Start = "posterior"
