"""A larger model that starts as a smaller one: every image has the same NLL under both."""

import dataclasses
import re
from typing import Any

import torch
from torch import Tensor

from famecli.config.presets import with_ladder_of
from famecli.config.schema import ModelConfig, to_dict
from famecli.errors import InputError
from famecli.model.fame import Fame
from famecli.model.layers import CausalConv2d

SAME = "start from a checkpoint of the same preset, latents and images, with no larger size, or a pixelcnn"
# Sizes that may grow; all else has to be equal.
STAGE_SIZES = ("width", "blocks")
DECODER_SIZES = ("width", "layers", "first_kernel", "condition", "lag")
# Layers by which the latents reach the decoder.
CONDITIONS = re.compile(r"decoder\.layers\.\d+\.condition\.")
# Layers whose outputs are the two halves of a gated linear unit.
GATED = re.compile(r"decoder\.layers\.\d+\.(conv|condition)\.")
# Layers whose outputs are features of each pixel of a patch.
BY_PIXEL = re.compile(r"decoder\.(head1|earlier)\.")


@torch.no_grad()
def first_weights(source: Fame, target: Fame) -> dict[str, Tensor]:
    """Return weights with which `target` computes the same function as `source`.

    Feature maps of `source` come first and do not depend on the new ones. New taps are zero: those of larger
    windows, and those that only the lag of `target` unmasks. New gated layers, residual blocks, attention
    blocks, positions and classes add nothing. New feature maps keep the random weights of `target`, so that
    training can use them. Equal models get the weights unchanged.

    A PixelCNN without latents becomes the decoder of a model with latents, which it does not read yet: the
    distortion is the NLL of `source`, to which the KL divergence of the new latents is added.

    Args:
        source: Trained model.
        target: Fresh model with equal or larger sizes.

    Raises:
        InputError: The models differ in something that cannot grow.

    Source: arXiv:1511.05641, section 2.
    Differs: new feature maps are read with weights of zero, in place of copies that share their weights. So
    a width cannot grow where features are divided by their root mean square.
    """
    _check(with_ladder_of(target.config, source.config), target.config)
    new_latents = bool(target.config.stages) and not source.config.stages
    old = source.state_dict()
    if source.config.decoder.lag != target.config.decoder.lag:
        old |= _without_masked_taps(source)
    found = {}
    for name, fresh in target.state_dict().items():
        if name in old:
            parts = 2 if GATED.match(name) else source.decoder.pixels if BY_PIXEL.match(name) else 1
            found[name] = _placed(fresh, old[name].to(fresh), parts)
        elif (name.startswith("decoder.layers.") and ".out." in name) or (
            new_latents and CONDITIONS.match(name)
        ):
            found[name] = torch.zeros_like(fresh)
        else:
            found[name] = fresh.clone()
    return found


def _without_masked_taps(model: Fame) -> dict[str, Tensor]:
    """Return the weights of causal layers, multiplied by their masks."""
    return {
        f"{name}.weight": module.weight * module.mask
        for name, module in model.named_modules()
        if isinstance(module, CausalConv2d)
    }


def _placed(fresh: Tensor, old: Tensor, parts: int) -> Tensor:
    """Return `fresh` with `old` in its place, and zeros where old outputs read new inputs.

    The old window lies in the middle columns and the last rows, as in causal layers.

    Args:
        fresh: Weights of the larger model.
        old: Weights of the smaller model.
        parts: Number of equal parts of the outputs, each of which grows by itself.
    """
    count = len(old) // parts
    rows = torch.cat([part * (len(fresh) // parts) + torch.arange(count) for part in range(parts)])
    part = torch.zeros_like(fresh[rows])
    inside = part[:, : old.shape[1]] if old.dim() > 1 else part
    if old.dim() == 3:
        inside = inside[:, :, : old.shape[2]]
    if old.dim() == 4:
        left = (fresh.shape[3] - old.shape[3]) // 2
        inside = inside[:, :, fresh.shape[2] - old.shape[2] :, left : left + old.shape[3]]
    inside.copy_(old)
    result = fresh.clone()
    result[rows] = part
    return result


def _check(source: ModelConfig, target: ModelConfig) -> None:
    """Check that `target` differs from `source` only by larger sizes, and can compute the same function."""
    if reason := _other_function(source, target):
        raise InputError(f"the first weights cannot grow into this model: {reason}", SAME)
    smaller = [name for name, old, new in _sizes(source, target) if new < old]
    same = _without_sizes(source) == _without_sizes(target)
    if smaller or not same:
        what = f"{', '.join(smaller)} would shrink" if smaller else "they differ in more than sizes"
        raise InputError(
            f"the first weights are of another model: {what}",
            SAME,
        )


def _other_function(source: ModelConfig, target: ModelConfig) -> str:
    """Return why no weights of `target` compute the function of `source`; empty if some do."""
    old, new = source.decoder, target.decoder
    if source.classes not in ((), target.classes):
        return "the first weights have other classes"
    if old.patch != new.patch:
        return f"decoder.patch is {old.patch} in the first weights and {new.patch} here"
    if old.positions and not new.positions:
        return "decoder.positions is on in the first weights and off here"
    if not set(old.attention) <= set(new.attention):
        return f"decoder.attention lacks layers of {list(old.attention)}, which the first weights have"
    if old.attention and old.lag != new.lag:
        return f"decoder.lag is {old.lag} in the first weights, and decoder.attention depends on it"
    if old.attention and old.heads != new.heads:
        return f"decoder.heads is {old.heads} in the first weights and {new.heads} here"
    if old.attention and old.attention_features != new.attention_features:
        features = f"{old.attention_features} features in the first weights and {new.attention_features} here"
        return f"decoder.attention has {features}; decoder.attention_width sets them"
    return _other_mean_square(source, target)


def _other_mean_square(source: ModelConfig, target: ModelConfig) -> str:
    """Return why a root mean square over feature maps would change; empty if it would not."""
    widths = [("decoder", source.decoder.width, target.decoder.width)]
    stages = enumerate(zip(source.stages, target.stages, strict=False))
    widths += [(f"stages.{index}", old.width, new.width) for index, (old, new) in stages]
    for key, old, new in widths:
        attends = key == "decoder" and source.decoder.attention
        if old != new and (source.normalised or attends):
            cause = "normalised = true" if source.normalised else "decoder.attention"
            return f"{key}.width is {old} in the first weights and {new} here, which {cause} forbids"
    return ""


def _sizes(source: ModelConfig, target: ModelConfig) -> list[tuple[str, int, int]]:
    """Return the key, old value and new value of each size that may grow."""
    found = [
        (f"decoder.{name}", getattr(source.decoder, name), getattr(target.decoder, name))
        for name in DECODER_SIZES
    ]
    for index, (old, new) in enumerate(zip(source.stages, target.stages, strict=False)):
        found += [(f"stages.{index}.{name}", getattr(old, name), getattr(new, name)) for name in STAGE_SIZES]
    return found


def _without_sizes(config: ModelConfig) -> dict[str, Any]:
    """Return a configuration with all sizes that may grow set to fixed values."""
    stages = tuple(dataclasses.replace(stage, width=1, blocks=1) for stage in config.stages)
    decoder = dataclasses.replace(
        config.decoder,
        width=1,
        layers=1,
        first_kernel=1,
        condition=int(bool(config.stages)),
        lag=1,
        attention=(),
        heads=1,
        attention_width=0,
        positions=False,
    )
    return to_dict(dataclasses.replace(config, decoder=decoder, stages=stages, classes=()))
