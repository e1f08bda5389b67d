"""One training: its state, its step, its validation. It yields nothing, prints nothing and writes no file."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from famecli.config import ModelConfig, TrainConfig
from famecli.data.dataset import ImageSplit, epoch_order, training_levels
from famecli.errors import InputError, NumericsError
from famecli.evaluation import ImageNlls, evaluate
from famecli.model.fame import Fame, NllTerms
from famecli.rng import BatchNoise, stream
from famecli.training.optim import check_tensors, make_optimizers, optimizer_tensors, restore_optimizers
from famecli.training.schedule import ema_decay, learning_rate_factor, rate_weight

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class StepRecord:
    """What one step measured; `nats` and `rate` are means over its images."""

    step: int
    images: int
    nats: float
    rate: tuple[float, ...]
    grad_norm: float
    lr_factor: float
    skipped: int


class Trainer:
    """A model in training.

    Everything random in step n comes from streams named after the seed and n, so weights, averages and the
    optimizers' state are all that a resumed training needs.

    Args:
        model_config: What to build.
        config: How to train it.
        split: Training images.
        device: Where to train.
        precision: "bf16" runs the forward pass under autocast.
        accumulate: Parts that a batch is split into, to save memory.

    Raises:
        InputError: The images are not those of `model_config`, or fewer than one batch.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        split: ImageSplit,
        device: torch.device,
        precision: Precision = "fp32",
        accumulate: int = 1,
    ) -> None:
        if split.info.shape != model_config.image_shape or split.info.levels != model_config.levels:
            raise InputError(
                f"the model is for {model_config.image_shape} images of {model_config.levels} levels, "
                f"{split.info.name} has {split.info.shape} of {split.info.levels}"
            )
        if len(split.pixels) < config.batch_size:
            raise InputError(
                f"{len(split.pixels)} training images are fewer than one batch of {config.batch_size}"
            )
        self.config, self.split, self.device = config, split, device
        self.precision, self.accumulate = precision, accumulate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(
                int.from_bytes(hashlib.sha256(repr(config.seed).encode()).digest()[:8], "little")
            )
            self.model = Fame(model_config).on(device)
        self.optimizers = make_optimizers(self.model, config)
        self.averaged = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.step_count = 0
        self.skipped = 0
        self.skipped_in_a_row = 0
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def images(self) -> int:
        """Images seen so far."""
        return self.step_count * self.config.batch_size

    @property
    def done(self) -> bool:
        """Whether all images of the schedule were seen."""
        return self.step_count >= self.config.total_steps

    def next_levels(self) -> np.ndarray:
        """Return the images of the next step, levels `(batch_size, C, H, W)`."""
        steps_per_epoch = len(self.split.pixels) // self.config.batch_size
        epoch, index = divmod(self.step_count, steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.config.seed, epoch, len(self.split.pixels)))
        start = index * self.config.batch_size
        chosen = self._order[1][start : start + self.config.batch_size]
        return training_levels(self.split, chosen, stream("bits", self.config.seed, self.step_count))

    def step(self) -> StepRecord:
        """Take one step.

        Raises:
            NumericsError: Too many steps in a row had a gradient that is not finite.
        """
        levels = torch.from_numpy(self.next_levels()).to(self.device)
        noise = BatchNoise(stream("latents", self.config.seed, self.step_count), self.device)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        nats, rate = 0.0, torch.zeros(self.model.config.stochastic_layers)
        parts = levels.chunk(self.accumulate)
        for part in parts:
            with self._autocast():
                terms = self.model(part, noise)
            (self._loss(terms) * (len(part) / len(levels))).backward()
            share = len(part) / len(levels)
            nats += float(terms.negative_elbo.mean().detach()) * share
            rate += terms.rate.mean(0).detach().float().cpu() * share
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        factor = learning_rate_factor(self.config, self.images)
        self._apply(factor, finite=bool(np.isfinite(norm) and np.isfinite(nats)))
        self.step_count += 1
        return StepRecord(
            self.step_count, self.images, nats, tuple(rate.tolist()), norm, factor, self.skipped
        )

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _loss(self, terms: NllTerms) -> Tensor:
        """Return nats per image with free nats and the warm-up of the KL divergence.

        Source: free bits: arXiv:1606.04934, section 3.2 of appendix C.
        """
        rate = terms.rate.mean(0).clamp(min=self.config.free_nats).sum()
        return terms.distortion.mean() + rate_weight(self.config, self.images) * rate

    def _apply(self, factor: float, *, finite: bool) -> None:
        """Let the optimizers step and move the averages, or count a step that is skipped."""
        if not finite:
            self.skipped += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row > self.config.max_skipped:
                raise NumericsError(
                    f"training diverged: {self.skipped_in_a_row} steps in a row had a gradient that is not "
                    f"finite (step {self.step_count})",
                    "start again with a lower --lr, or a larger --batch-size",
                )
            return
        self.skipped_in_a_row = 0
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.step()
        decay = ema_decay(self.config, self.images + self.config.batch_size)
        with torch.no_grad():
            current = self.model.state_dict()
            torch._foreach_lerp_(
                list(self.averaged.values()), [current[n] for n in self.averaged], 1.0 - decay
            )

    def averaged_model(self) -> Fame:
        """Return a copy of the model with the averaged weights, for evaluation."""
        copy = Fame(self.model.config).on(self.device)
        copy.load_state_dict(self.averaged)
        return copy.eval().requires_grad_(False)

    def validate(self, levels: np.ndarray) -> ImageNlls:
        """Return the averaged weights' NLL (ELBO) of `levels`."""
        return evaluate(self.averaged_model(), levels, seed=self.config.seed)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take over `weights` as first weights and averages.

        Raises:
            InputError: They are of a model of another configuration.
        """
        try:
            check_tensors(weights, self.averaged)
        except ValueError as error:
            raise InputError(
                f"the first weights are of another model: {error}",
                "start from a checkpoint of the same model and size",
            ) from error
        self.model.load_state_dict(weights)
        for name, value in self.model.state_dict().items():
            self.averaged[name].copy_(value)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all that `restore` needs."""
        groups = {
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimizer": optimizer_tensors(self.model, self.optimizers),
            "counters": {"steps": torch.tensor([self.step_count, self.skipped, self.skipped_in_a_row])},
        }
        return {f"{group}/{name}": value for group, table in groups.items() for name, value in table.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `state_tensors` returned.

        Raises:
            InputError: The tensors are not of this training.
        """
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "optimizer": {}, "counters": {}}
        try:
            for key, value in tensors.items():
                group, name = key.split("/", 1)
                groups[group][name] = value
            check_tensors(groups["model"], self.averaged)
            check_tensors(groups["averaged"], self.averaged)
            check_tensors(groups["counters"], {"steps": torch.zeros(3, dtype=torch.int64)})
            counters = groups["counters"]["steps"].tolist()
            if min(counters) < 0:
                raise ValueError(f"its counters are {counters}")
            restore_optimizers(self.model, self.optimizers, groups["optimizer"])
        except (KeyError, ValueError) as error:
            raise InputError(f"the saved training state is of another training: {error}") from error
        self.model.load_state_dict(groups["model"])
        for name, value in self.averaged.items():
            value.copy_(groups["averaged"][name])
        self.step_count, self.skipped, self.skipped_in_a_row = counters
