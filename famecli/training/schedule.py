"""What changes in the course of a training, as functions of the images seen."""

import math

from famecli.config import TrainConfig

EMA_RAMP = 0.05


def learning_rate_factor(config: TrainConfig, images: int) -> float:
    """Return the factor on learning rates: a linear warm-up, then a cosine down to `config.final_lr`."""
    warmup = min(1.0, (images + config.batch_size) / config.warmup_images) if config.warmup_images else 1.0
    progress = min(1.0, images / config.total_images)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return warmup * (config.final_lr + (1.0 - config.final_lr) * cosine)


def rate_weight(config: TrainConfig, images: int) -> float:
    """Return the weight of the KL divergence: a linear warm-up from 0 to `config.beta`.

    With a beta below 1 latents carry more than is best for the bound.

    Source: arXiv:1602.02282, section 2.3; beta: Higgins et al. 2017, "beta-VAE", section 2, equation 4.
    """
    warmup = min(1.0, images / config.rate_warmup_images) if config.rate_warmup_images else 1.0
    return config.beta * warmup


def ema_decay(config: TrainConfig, images: int) -> float:
    """Return the decay of averaged weights for one step; the half-life grows with the images seen.

    Source: the ramp-up of arXiv:2206.00364, appendix F.2.
    """
    halflife = min(config.ema_halflife_images, images * EMA_RAMP)
    return 0.5 ** (config.batch_size / halflife) if halflife else 0.0
