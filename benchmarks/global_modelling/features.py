"""Inputs of a linear classifier: pixels, latents, or the hidden features of a PixelCNN."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.model.fame import Fame
from famecli.rng import ImageNoise

BATCH = 128
POOLED = 7


class AtMeans:
    """Zero noise: the latents of a layer are the mean of its posterior given the means above."""

    def __call__(self, layer: int, shape: torch.Size) -> Tensor:
        return torch.zeros(shape)


def pixel_features(levels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the pixels themselves, `(N, D)`, under their name."""
    return {"pixels": levels.reshape(len(levels), -1).astype(np.float64)}


def model_features(model: Fame, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features `(N, D)` of images `(N, C, H, W)` by name.

    With latents, the features are the posterior means of each stochastic layer (layer 0 is nearest to the
    image), those of all layers, and a draw of all layers. The draw matters because a mean can carry more than
    the decoder gets: noise hides the mean of a collapsed layer. A PixelCNN without latents has no summary of
    an image, so its hidden features stand in: those of the last layer averaged over all pixels, at the last
    pixel, and averaged over each square of a 7x7 grid, and those of every layer averaged over all pixels.
    """
    latent = model.config.stochastic_layers > 0
    found = []
    for start in range(0, len(levels), BATCH):
        batch = torch.from_numpy(levels[start : start + BATCH]).to(model.device)
        found.append(_latents(model, batch, start) if latent else _hidden(model, batch))
    return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


@torch.no_grad()
def _latents(model: Fame, batch: Tensor, start: int) -> dict[str, np.ndarray]:
    _, draws = model.infer(batch, AtMeans())
    found = {}
    for index, draw in enumerate(draws):
        shape = "x".join(map(str, draw.z.shape[1:]))
        found[f"latents of layer {index} ({shape})"] = _flat(draw.z)
    if len(draws) > 1:
        found["latents of all layers"] = np.concatenate(list(found.values()), axis=1)
    noise = ImageNoise([("probe", start + index) for index in range(len(batch))], device=batch.device)
    _, draws = model.infer(batch, noise)
    found["latents of all layers, drawn"] = np.concatenate([_flat(draw.z) for draw in draws], axis=1)
    return found


@torch.no_grad()
def _hidden(model: Fame, batch: Tensor) -> dict[str, np.ndarray]:
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    decoder = model.decoder
    hooks = [each.register_forward_hook(keep) for each in (decoder.first, *decoder.layers)]
    model.pixel_parameters(batch, None)
    for hook in hooks:
        hook.remove()
    last = outputs[-1]
    return {
        "hidden, mean over pixels": _flat(last.mean((2, 3))),
        "hidden, last pixel": _flat(last[:, :, -1, -1]),
        f"hidden, means over {POOLED}x{POOLED} squares": _flat(F.adaptive_avg_pool2d(last, POOLED)),
        "hidden of all layers, mean over pixels": _flat(torch.cat([h.mean((2, 3)) for h in outputs], dim=1)),
    }


def _flat(values: Tensor) -> np.ndarray:
    return values.flatten(1).cpu().double().numpy()
