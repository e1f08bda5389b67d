"""Settings of annealed importance sampling. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal, get_args

Start = Literal["posterior", "prior"]
STARTS = get_args(Start)


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Args:
        steps: Steps from the start to the target; 1 is plain importance sampling.
        chains: Chains per image.
        leapfrog: Leapfrog steps, and so gradients, of a transition.
        start: Distribution of the first latents: the approximate posterior q(z | x), or the prior p(z).
    """

    steps: int
    chains: int = 1
    leapfrog: int = 5
    start: Start = "posterior"
