"""Random decoders and models to sample from."""

import dataclasses
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from famecli.config.presets import model_config
from famecli.config.schema import DecoderConfig
from famecli.model.decoder import Decoder
from famecli.model.distributions import Likelihood, make_likelihood
from famecli.model.fame import Fame
from famecli.sampling.plan import Plan, Step
from famecli.sampling.sampler import Sampler, sample_naive
from support.models import make_decoder, model_around

SEEDS = 60


SAMPLED_PRESETS = ["fame", "fame-no-concat", "fame-dense", "lvae", "pixelvae", "pixelcnn", "vae"]


@dataclass(frozen=True)
class Case:
    """A random decoder and all arguments of one sampler call."""

    decoder: Decoder
    likelihood: Likelihood
    levels: int
    condition: Tensor | None
    uniforms: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.uniforms.shape[2], self.uniforms.shape[3]

    def sampler(self, chunk: int = 64) -> Sampler:
        return Sampler(self.decoder, self.likelihood, self.levels, chunk)

    def naive(
        self, temperature: float = 1.0, known: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return sample_naive(
            self.decoder,
            self.likelihood,
            self.levels,
            self.condition,
            self.uniforms,
            temperature,
            known=known,
            mask=mask,
        )


def make_case(seed: int, dtype: torch.dtype = torch.float64, batch: int | None = None) -> Case:
    pick = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    channels, condition = pick.choice([1, 3]), pick.choice([0, 3])
    layers, lag = pick.randint(0, 4), pick.choice([1, 2, 2, 3, 5, 9])
    sizes = DecoderConfig(
        autoregressive=True,
        width=pick.choice([2, 5, 8]),
        layers=layers,
        kernel=pick.choice([1, 3, 5, 7]),
        first_kernel=pick.choice([3, 5, 7]),
        condition=condition,
        lag=lag,
        patch=pick.choice([1, 2, 2, 4]),
        attention=tuple(layer + 1 for layer in range(layers) if pick.random() < 0.4),
        heads=pick.choice([1, 2]),
        attention_width=pick.choice([2, 6]),
        positions=bool(seed % 2),
    )
    height, width = pick.sample({1: range(1, 6), 2: range(1, 8), 4: (3, 5, 6, 7, 9)}[sizes.patch], 2)
    batch = batch or pick.randint(1, 3)
    levels = 2 if pick.random() < 0.5 else pick.choice([5, 256])
    config = dataclasses.replace(
        model_around(sizes, (height, width), channels, levels), normalised=pick.random() < 0.5
    )
    likelihood = make_likelihood(config)
    decoder = make_decoder(config).to(dtype).requires_grad_(False)
    for weight in decoder.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator, dtype=dtype) * 0.3)
    uniforms = torch.rand(batch, likelihood.uniforms, height, width, generator=generator, dtype=dtype)
    features = torch.randn(batch, condition, *config.grid, generator=generator, dtype=dtype)
    return Case(decoder, likelihood, levels, features if condition else None, uniforms)


def pixels(images: Tensor, plan: Plan, step: Step) -> Tensor:
    """Return the pixels of one step, `(B, channels, n)`."""
    chosen = plan.order[step.offset : step.offset + step.count]
    return images.flatten(2)[:, :, list(chosen)]


def kinds(case: Case) -> set[str]:
    """Return which features a case has."""
    sizes, (height, width), (rows, columns) = case.decoder.config, case.size, case.decoder.grid
    attention, patch, places = sizes.attention, sizes.patch, rows * columns
    found = {
        f"patch {patch}": True,
        f"patch {patch}, several": min(rows, columns) > 1,
        f"patch {patch}, attention": bool(attention) and places > 1,
        "several blocks of attention": len(attention) > 1 and places > 1,
        "attention after the last layer": sizes.layers in attention and places > 1,
        "RGB": case.decoder.channels == 3,
        "RGB in patches": case.decoder.channels == 3 and patch > 1,
        "normalised": case.decoder.normalised,
        "padding below": height < rows * patch,
        "padding right": width < columns * patch,
        "condition": case.condition is not None,
        "no layers": sizes.layers == 0,
        f"lag {min(sizes.lag, 4)}": True,
    }
    return {name for name, here in found.items() if here}


def make_model(preset: str, channels: int = 1, levels: int = 2) -> Fame:
    torch.manual_seed(0)
    model = Fame(model_config(preset, "tiny", (channels, 9, 7), levels)).eval().requires_grad_(False)
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight) * 0.1)
    return model
