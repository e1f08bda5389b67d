r"""The model: a ladder of stochastic layers under a decoder that may be a PixelCNN.

    bottom-up (inference)              top-down (inference and generation share it)

    image x                            parameters of p(x | z, earlier pixels)
      |  stage 0                          ^  decoder <- image x (PixelCNN only)
      v                                   |
     d_0 --recognition-->  q(z_0) ----->  h_0 <-- z_0
      |                      ^ merge      ^  \__ prior p(z_0 | above)
      v  stage 1             |            |
     d_1 --recognition-->  q(z_1) ----->  h_1 <-- z_1
      |                                   ^
      v  ...                             ...   the top layer's prior is N(0, 1)

The features h depend on every layer above, so each layer sees all latents above it (skip connections). Below
the top the posterior is the precision-weighted product of the prior and of the recognition Gaussian.

A model with classes is p(x | y): the class y of an image adds a vector to the features of each stage, up and
down, and to the decoder's condition.

Source: ladder: arXiv:1602.02282; PixelCNN over latents: arXiv:1611.05013.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from famecli.config.schema import ModelConfig
from famecli.errors import ArgumentError
from famecli.model.decoder import Decoder, to_patches
from famecli.model.distributions import Bernoulli, Gaussian, make_likelihood, scale_levels
from famecli.model.layers import (
    FromLatents,
    LabelEmbedding,
    ResidualBlock,
    ToLatents,
    Upsample,
    normalise,
    scale_init,
    to_float32_or_wider,
    zero_init,
)
from famecli.rng import Noise

# Maps a stochastic layer's index (from the image upwards), prior and posterior to its latents.
Choose = Callable[[int, Gaussian, Gaussian | None], Tensor]


@dataclass(frozen=True)
class Draw:
    """Latents of a stochastic layer, their prior, and their posterior if they are inferred from an image.

    Args:
        z: Latents.
        prior: Prior given the layers above.
        posterior: Posterior given the layers above and the image; None if `z` comes from the prior.
        normals: Standard normals from which `top_down` drew `z`; None if `z` was chosen otherwise.
    """

    z: Tensor
    prior: Gaussian
    posterior: Gaussian | None
    normals: Tensor | None = None


@dataclass(frozen=True)
class NllTerms:
    """Terms of the NLL of each image, in nats.

    Args:
        distortion: `-log p(x | z)` for the latents drawn, `(B,)`.
        rate: KL divergence of each stochastic layer, from the image upwards, `(B, layers)`.
        log_weight: `log p(x, z) - log q(z | x)` for the latents drawn, `(B,)`. Its mean is the ELBO; its
            log-mean-exp over samples is the importance-weighted bound.
    """

    distortion: Tensor
    rate: Tensor
    log_weight: Tensor

    @property
    def negative_elbo(self) -> Tensor:
        """Distortion plus the rate of all layers, nats, `(B,)`."""
        return self.distortion + self.rate.sum(1)


class Stage(nn.Module):
    """One stage of the ladder: bottom-up path, stochastic layer if it has latents, top-down path.

    Args:
        model: Configuration of the whole model.
        index: Index of this stage, from the image upwards.
    """

    def __init__(self, model: ModelConfig, index: int) -> None:
        super().__init__()
        config, normalised = model.stages[index], model.normalised
        self.config, self.bounded = config, model.bounded_latents
        self.size = model.resolutions()[index]
        below = model.stages[index - 1].width if index else model.channels * model.decoder.patch**2
        down_width = below if index else model.decoder.condition
        down_size = model.resolutions()[index - 1] if index else model.grid
        width = config.width
        # The image is not an activation, so it is not normalised.
        self.normalises = normalised and index > 0
        self.up = nn.Conv2d(below, width, 3, config.stride, padding=1)
        self.up_blocks = self._blocks(normalised=normalised)
        self.down_blocks = self._blocks(normalised=normalised)
        self.down = Upsample(width, down_width, down_size, normalised=normalised)
        if model.classes:
            self.label_up = LabelEmbedding(len(model.classes), width)
            self.label_down = LabelEmbedding(len(model.classes), width)
        if config.latents:
            shape = (width, config.latents, self.size)
            self.recognition = ToLatents(*shape, dense=config.dense, normalised=normalised)
            self.expand = FromLatents(*shape, dense=config.dense)
            if index < len(model.stages) - 1:
                self.prior = ToLatents(*shape, dense=config.dense, normalised=normalised)

    def _blocks(self, *, normalised: bool) -> nn.Sequential:
        width, blocks = self.config.width, self.config.blocks
        return nn.Sequential(*(ResidualBlock(width, normalised=normalised) for _ in range(blocks)))

    def ascend(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Return this stage's bottom-up features `(B, width, H, W)`.

        Args:
            h: Features of the stage below, or the patches of the image.
            labels: Classes of the images; None for a model without classes.
        """
        h = self.up(normalise(h) if self.normalises else h)
        features: Tensor = self.up_blocks(h if labels is None else self.label_up(h, labels))
        return features

    def descend(self, h: Tensor, labels: Tensor | None) -> Tensor:
        """Return the top-down features for the stage below, or the decoder's condition.

        Args:
            h: Features from above and of this stage's latents, `(B, width, H, W)`.
            labels: Classes of the images; None for a model without classes.
        """
        features: Tensor = self.down(self.down_blocks(h if labels is None else self.label_down(h, labels)))
        return features

    def prior_and_posterior(
        self, h: Tensor | None, d: Tensor | None, batch: int
    ) -> tuple[Gaussian, Gaussian | None]:
        """Return this layer's prior, and its posterior where recognition features `d` are given.

        Args:
            h: Features from above, `(B, width, H, W)`; None at the top.
            d: Bottom-up features, `(B, width, H, W)`, or None.
            batch: Number of images.
        """
        seen = None if d is None else Gaussian.from_head(self.recognition(d), bounded=self.bounded)
        if h is None:
            maps = (self.config.latents,) if self.config.dense else (self.config.latents, *self.size)
            return Gaussian.standard(next(self.parameters()).new_empty(batch, *maps)), seen
        prior = Gaussian.from_head(self.prior(h), bounded=self.bounded)
        return prior, None if seen is None else prior.merge(seen)


class Fame(nn.Module):
    """FAME or a related model, as configured.

    Args:
        config: Sizes and switches of the model.

    While `decoder_only` is set, `forward` ignores the latents: all rates are 0, and the decoder's condition
    is the class vector, or 0 without classes.

    Shape: images are levels 0 to `levels - 1` in any dtype, `(B, channels, height, width)`. Labels are
    indices of `config.classes`, int64, `(B,)`; None for a model without classes.
    """

    decoder_only = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.likelihood = make_likelihood(config)
        self.stages: Sequence[Stage] = nn.ModuleList(  # type: ignore[assignment]
            Stage(config, index) for index in range(len(config.stages))
        )
        self.decoder = Decoder(config, self.likelihood.parameters)
        if config.classes:
            self.label = LabelEmbedding(len(config.classes), config.decoder.condition)
        scale_init(self.decoder.head2)
        assert self.decoder.head2.bias is not None
        with torch.no_grad():
            self.decoder.head2.bias.copy_(self.likelihood.initial_bias().repeat(self.decoder.pixels))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the decoder's weights."""
        return self.decoder.dtype

    @property
    def uniforms_shape(self) -> tuple[int, int, int]:
        """Shape of the uniform random numbers for the pixels of one image."""
        return self.likelihood.uniforms, self.config.height, self.config.width

    def on(self, device: torch.device | str) -> Self:
        """Move the weights to `device` in channels-last layout, the fastest for its convolutions."""
        return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _scaled(self, x: Tensor) -> Tensor:
        return scale_levels(x.to(self.device, self.dtype), self.config.levels)

    def _check_labels(self, labels: Tensor | None) -> None:
        if (labels is None) == bool(self.config.classes):
            kind = "classes: `labels` is missing" if labels is None else "no classes: leave `labels` out"
            raise ArgumentError(f"the model has {kind}")

    def bottom_up(self, image: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """Return each stage's features `(B, width, H, W)`, from the image upwards, for `image` in [-1, 1].

        Raises:
            ArgumentError: The model has classes and there are no labels, or the reverse.
        """
        self._check_labels(labels)
        features: list[Tensor] = []
        h = to_patches(image, self.config.decoder.patch)
        for stage in self.stages:
            h = stage.ascend(h, labels)
            features.append(h)
        return features

    def top_down(
        self,
        features: Sequence[Tensor] | None,
        noise: Noise,
        batch: int,
        *,
        labels: Tensor | None = None,
        keep_layers: int | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor | None, list[Draw]]:
        """Draw all latents from the top down, from the posterior where there is one, else from the prior.

        Args:
            features: Result of `bottom_up`; None draws all latents from the prior.
            noise: Source of standard normals; layers are numbered from the image upwards.
            batch: Number of images.
            labels: Classes of the images.
            keep_layers: Number of top stochastic layers drawn from the posterior; None for all.
            temperature: Factor on the standard deviation of sampled priors.

        Returns:
            The decoder's condition `(B, condition, rows, columns)` on the grid of patches, None without
            stages and classes; and a draw per stochastic layer, from the image upwards.

        Raises:
            ArgumentError: The model has classes and there are no labels, or the reverse.
        """
        normals: dict[int, Tensor] = {}

        def draw(layer: int, prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            source = posterior or prior
            normals[layer] = noise(layer, source.mean.shape).to(source.mean)
            return source.sample(normals[layer], 1.0 if posterior else temperature)

        condition, draws = self.descend(features, draw, batch, labels=labels, keep_layers=keep_layers)
        return condition, [replace(each, normals=normals[layer]) for layer, each in enumerate(draws)]

    def descend(
        self,
        features: Sequence[Tensor] | None,
        choose: Choose,
        batch: int,
        *,
        labels: Tensor | None = None,
        keep_layers: int | None = None,
    ) -> tuple[Tensor | None, list[Draw]]:
        """Return the result of `top_down`, with latents from `choose` and without `Draw.normals`."""
        self._check_labels(labels)
        total = self.config.stochastic_layers
        layer, h = total, None
        draws: list[Draw] = []
        for index in reversed(range(len(self.stages))):
            stage = self.stages[index]
            if stage.config.latents:
                layer -= 1
                kept = keep_layers is None or total - layer <= keep_layers
                d = features[index] if features is not None and kept else None
                prior, posterior = stage.prior_and_posterior(h, d, batch)
                draw = Draw(choose(layer, prior, posterior), prior, posterior)
                expanded = stage.expand(draw.z)
                h = expanded if h is None else h + expanded
                draws.insert(0, draw)
            assert h is not None
            h = stage.descend(h, labels)
        if labels is not None:
            h = self.label(self.decoder.no_condition(batch) if h is None else h, labels)
        return h, draws

    def start_without_latents(self) -> None:
        """Zero the ladder's last convolution, so that latents join a trained decoder without a jump."""
        if self.stages:
            zero_init(self.stages[0].down.conv)

    def forward(
        self, x: Tensor, noise: Noise, labels: Tensor | None = None, probabilities: Tensor | None = None
    ) -> NllTerms:
        """Return the terms of each image's NLL under one draw of the latents, given its class if any.

        Args:
            x: Levels `(B, C, H, W)`.
            noise: Source of standard normals.
            labels: Classes of the images, `(B,)`; None for a model without classes.
            probabilities: Probabilities with which the bits `x` were drawn, see `log_prob`; None to score
                `x` itself.
        """
        if self.decoder_only and self.stages:
            self._check_labels(labels)
            zeros = self.decoder.no_condition(len(x))
            log_px = self._log_px(x, zeros if labels is None else self.label(zeros, labels), probabilities)
            return NllTerms(-log_px, log_px.new_zeros(len(x), self.config.stochastic_layers), log_px)
        return self.terms(x, self.bottom_up(self._scaled(x), labels), noise, labels, probabilities)

    def _log_px(self, x: Tensor, condition: Tensor | None, probabilities: Tensor | None) -> Tensor:
        """Return log p(x | condition) of each image, nats, `(B,)`."""
        # Sums of a thousand terms: single precision would round differently by batch size.
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        return self.log_prob(x, condition, probabilities).flatten(1).sum(1, dtype=exact)

    def terms(
        self,
        x: Tensor,
        features: Sequence[Tensor],
        noise: Noise,
        labels: Tensor | None = None,
        probabilities: Tensor | None = None,
    ) -> NllTerms:
        """Return the result of `forward`, from the `features` that `bottom_up` returned."""
        condition, draws = self.top_down(features, noise, x.shape[0], labels=labels)
        log_px = self._log_px(x, condition, probabilities)
        rate, log_weight = [], log_px
        for draw in draws:
            assert draw.posterior is not None
            assert draw.normals is not None
            rate.append(draw.posterior.kl(draw.prior))
            ratio = draw.posterior.log_ratio(draw.prior, draw.normals)
            log_weight = log_weight + ratio.flatten(1).sum(1, dtype=log_px.dtype)
        rates = torch.stack(rate, dim=1) if rate else log_px.new_zeros(x.shape[0], 0)
        return NllTerms(-log_px, rates, log_weight)

    def log_prob(self, x: Tensor, condition: Tensor | None, probabilities: Tensor | None = None) -> Tensor:
        """Return log p(x | condition) in nats per pixel, channels summed: `(B, height, width)`.

        With `probabilities`, `(B, C, H, W)`, each pixel has its expected log-likelihood over its own bit,
        given the other bits of `x`. If the condition does not depend on `x`, gradients keep their mean, and
        have a smaller variance. If latents are inferred from `x`, gradients are biased.

        Source: Rao-Blackwellisation; Casella and Robert 1996, Biometrika 83(1), pages 81 to 94.
        """
        parameters = self.pixel_parameters(x, condition)
        if probabilities is not None:
            assert isinstance(self.likelihood, Bernoulli)
            return self.likelihood.expected_log_prob(probabilities, parameters)
        return self.likelihood.log_prob(x.to(self.device, self.dtype), parameters)

    def pixel_parameters(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return the likelihood's parameters at each pixel given the earlier pixels of `x`, in parallel."""
        return to_float32_or_wider(self.decoder(self._scaled(x), condition))

    def infer(
        self, x: Tensor, noise: Noise, keep_layers: int | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor | None, list[Draw]]:
        """Return `top_down` of images `x`; layers below the top `keep_layers` are drawn from the prior."""
        features = self.bottom_up(self._scaled(x), labels)
        return self.top_down(features, noise, x.shape[0], labels=labels, keep_layers=keep_layers)

    def prior_condition(
        self, batch: int, noise: Noise, temperature: float = 1.0, labels: Tensor | None = None
    ) -> Tensor | None:
        """Return the decoder's condition for `batch` images with latents from the prior."""
        return self.top_down(None, noise, batch, labels=labels, temperature=temperature)[0]

    def count_parameters(self) -> int:
        """Return the number of weights."""
        return sum(weight.numel() for weight in self.parameters())


def labels_on(
    model: Fame, labels: np.ndarray | None, rows: slice | np.ndarray = slice(None)
) -> Tensor | None:
    """Return the labels of some rows on the model's device, int64, `(B,)`; None if `labels` is None."""
    return None if labels is None else torch.from_numpy(labels[rows].astype(np.int64)).to(model.device)
