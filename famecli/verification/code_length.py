"""Images become as many bits as their NLL says, and the bits become the images again."""

import math

import numpy as np
import torch

from famecli.coding.codec import Codec
from famecli.coding.stack import STATE_WORDS, WORD_BITS
from famecli.model.fame import Fame
from famecli.nll.evaluate import evaluate
from famecli.nll.units import NATS_PER_BIT
from famecli.rng import ImageNoise
from famecli.verification.findings import Finding, Measurement

EXACT_LIMIT = 0.01
LATENTS_LIMIT = 0.02
# Of each latent: so fine that its bins cost next to nothing. They cost initial bits, which do not count here.
LATENT_BITS = 10
# What a coder's state takes beyond what it says.
STATE_BITS = WORD_BITS * STATE_WORDS
STANDARD_ERRORS = 4.0
DRAWS = 4
BATCH = 64
SENTENCE = "Images can be coded in as many bits as their NLL says, and decoded again."


def check_code(model: Fame, levels: np.ndarray, source: str) -> Finding:
    """Code images and decode them, and compare the length with the bound that an evaluation gives.

    A decoder knows nothing but bits and model: that it finds the images proves that probabilities depend on
    what came before alone, and that they are as large as the length says. With latents, a coder draws its own
    ones, and the bound holds on average: the limit allows for that.

    Args:
        model: In its own precision.
        levels: Images, uint8, `(N, C, H, W)`.
        source: What the images are, in words.
    """
    # Not rounded, so that nothing that decoder and encoder differ by is hidden.
    codec = Codec(model, rounding=False)
    latents = [stage.latents for stage in model.config.stages if stage.latents]
    coded = codec.encode(levels, [[LATENT_BITS] * maps for maps in latents])
    again = codec.decode(coded)
    wrong = int((again != levels).sum()) if again.shape == levels.shape else levels.size
    nlls = evaluate(model, levels, importance_samples=DRAWS)
    bound = float(nlls.distortion.sum() + nlls.rate.sum()) / NATS_PER_BIT
    allowed = STATE_BITS + STANDARD_ERRORS * _chance_bits(model, levels)
    return Finding.of(
        SENTENCE,
        Measurement(f"values of {len(levels)} {source} that are decoded wrong", wrong, 0),
        Measurement(
            f"code length of {len(levels)} {source} minus the bound, relative",
            abs(coded.net_bits - bound) / bound,
            (LATENTS_LIMIT if latents else EXACT_LIMIT) + allowed / bound,
        ),
    )


def _chance_bits(model: Fame, levels: np.ndarray) -> float:
    """Return the standard deviation of the difference that is due to the latents drawn, bits.

    That of one draw, the coder's, and of the mean of `DRAWS` in the bound; from two draws for each image.
    """
    variance = 0.0
    for first in range(0, len(levels), BATCH):
        part = torch.from_numpy(levels[first : first + BATCH]).to(model.device)
        names = [("verify", "code", first + index) for index in range(len(part))]
        terms = model(part.repeat_interleave(2, dim=0), ImageNoise(names, 2, model.device))
        one, two = terms.log_weight.double().view(-1, 2).unbind(1)
        variance += float((one - two).square().sum()) / 2
    return math.sqrt(variance * (1 + 1 / DRAWS)) / NATS_PER_BIT
