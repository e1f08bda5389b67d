"""Schedules of a training, as functions of the images seen."""

import dataclasses
import math
from collections.abc import Collection

from famecli.config.schema import TrainConfig

EMA_RAMP = 0.05
VALIDATIONS = 10
# Images from which on learning rates that fall from the start are better than those that stay high at first.
LONG_IMAGES = 250_000


def fit(config: TrainConfig, by_hand: Collection[str] = (), *, latents_wait: bool = True) -> TrainConfig:
    """Return `config` with warm-ups, averages and validations that fit its number of images.

    Each is its default, or in a short training a fraction of `config.total_images`: 1/64 for the warm-up of
    learning rates, a twentieth for the half-life of averages, a tenth between two validations. The warm-up
    of the KL divergence is at most a quarter of the images with latents. In a long training, of `LONG_IMAGES`
    or more, learning rates fall from the start.

    Args:
        config: Configuration with the final `total_images`.
        by_hand: Names of keys that the user set; these stay unchanged.
        latents_wait: Whether latents may wait for the decoder; if not, `decoder_only` becomes 0.
    """
    if not latents_wait and "decoder_only" not in by_hand:
        config = dataclasses.replace(config, decoder_only=0.0)
    images, default = config.total_images, TrainConfig()
    fitting: dict[str, float] = {
        "warmup_images": images // 64,
        "rate_warmup_images": int((1.0 - config.decoder_only) * images) // 4,
        "ema_halflife_images": -(-images // 20),
        "eval_every_images": -(-images // VALIDATIONS),
    }
    if images >= LONG_IMAGES:
        fitting["decay_start"] = 0.0
    changes = {
        name: min(getattr(default, name), value) for name, value in fitting.items() if name not in by_hand
    }
    return dataclasses.replace(config, **changes)


def learning_rate_factor(config: TrainConfig, images: int) -> float:
    """Return the factor on learning rates: a linear warm-up, a constant part, a fall to `config.final_lr`.

    Source: warmup-stable-decay: arXiv:2404.06395; linear, not cosine: arXiv:2502.15938.
    """
    warmup = min(1.0, (images + config.batch_size) / config.warmup_images) if config.warmup_images else 1.0
    falling = images / config.total_images - config.decay_start
    progress = min(1.0, max(0.0, falling / (1.0 - config.decay_start)))
    left = 1.0 - progress if config.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return warmup * (config.final_lr + (1.0 - config.final_lr) * left)


def rate_weight(config: TrainConfig, images: int) -> float:
    """Return the weight of the KL divergence: a linear warm-up from 0 to `config.beta`.

    It begins with the first step that has latents. With a beta below 1 latents carry more information than is
    optimal for the ELBO.

    Source: arXiv:1602.02282, section 2.3; beta: Higgins et al. 2017, "beta-VAE", section 2, equation 4.
    """
    seen = max(0, images - config.decoder_only_steps * config.batch_size)
    warmup = min(1.0, seen / config.rate_warmup_images) if config.rate_warmup_images else 1.0
    return config.beta * warmup


def ema_decay(config: TrainConfig, images: int) -> float:
    """Return the decay of averaged weights for one step; the half-life grows with the images seen.

    Source: the ramp-up of arXiv:2206.00364, appendix F.2.
    """
    halflife = min(config.ema_halflife_images, images * EMA_RAMP)
    return 0.5 ** (config.batch_size / halflife) if halflife else 0.0
