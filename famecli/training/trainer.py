"""One training: its state, its step, its validation. It yields nothing, prints nothing and writes no file."""

import dataclasses
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from famecli.config.schema import ModelConfig, Precision, TrainConfig
from famecli.data.augment import augmented
from famecli.data.dataset import ImageSplit, bit_probabilities, epoch_order, training_levels
from famecli.data.labels import labels_in
from famecli.errors import InputError, NumericsError
from famecli.model.fame import Fame, NllTerms, labels_on
from famecli.nll.evaluate import ImageNlls, evaluate
from famecli.rng import BatchNoise, PartNoise, Seeded, stream
from famecli.runtime.distributed import ALONE, Group, no_sync
from famecli.runtime.processor import multiplies_bf16
from famecli.training.optim import check_tensors, make_optimizers, optimizer_tensors, restore_optimizers
from famecli.training.schedule import ema_decay, learning_rate_factor, rate_weight


@dataclass(frozen=True)
class StepRecord:
    """Measurements of one step; `nats` and `rate` are means over its images."""

    step: int
    images: int
    nats: float
    rate: tuple[float, ...]
    grad_norm: float
    lr_factor: float
    skipped: int


@dataclass(frozen=True)
class Batch:
    """Images of a step.

    Args:
        levels: Levels `(B, C, H, W)`.
        labels: Class of each image; None for a model without classes.
        probabilities: Probabilities of random bits, `(B, C, H, W)`; None to train on the bits as drawn.
        noise: Noise of the latents.
    """

    levels: np.ndarray
    labels: np.ndarray | None
    probabilities: np.ndarray | None
    noise: PartNoise

    def part(self, rows: slice, model: Fame) -> tuple[Tensor, PartNoise, Tensor | None, Tensor | None]:
        """Return some rows as the arguments of a model, on its device."""
        self.noise.rows = rows
        x, chances = torch.from_numpy(self.levels[rows]).to(model.device), None
        if self.probabilities is not None:
            chances = torch.from_numpy(self.probabilities[rows]).to(model.device, torch.float32)
        return x, self.noise, labels_on(model, self.labels, rows), chances


class Trainer:
    """A model in training.

    All random numbers of step n come from streams named after the seed and n, so a resumed training needs
    only weights, averages and the optimizers' state. They are drawn for the whole batch, and each process and
    each part takes its rows, so that the number of processes and parts does not matter; see
    docs/distributed.md.

    Args:
        model_config: Configuration of the model.
        config: Configuration of the training.
        split: Training images.
        device: Device of the training.
        precision: "bf16" runs the forward pass under autocast.
        accumulate: Number of parts of each process's share of a batch, to save memory.
        group: Processes that train this model together; each has a trainer.
        compiled: Whether to compile the passes with `torch.compile`: faster, after minutes of compilation.

    Raises:
        InputError: The images do not fit `model_config`, are fewer than one batch, or lack labels.
        UsageError: A batch cannot be divided among the processes.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        split: ImageSplit,
        device: torch.device,
        precision: Precision = "fp32",
        accumulate: int = 1,
        group: Group = ALONE,
        compiled: bool = False,
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
        self.labels = labels_in(model_config.classes, split)
        if model_config.classes and self.labels is None:
            raise InputError(f"{split.info.name} has no labels, which a model with classes needs")
        self.config, self.split, self.device = config, split, device
        self.precision: Precision = precision
        self.accumulate = accumulate
        self.group, self.share = group, group.local_rows(config.batch_size)
        digest = hashlib.sha256(repr(config.seed).encode()).digest()
        with Seeded(int.from_bytes(digest[:8], "little")):
            self.model = Fame(model_config)
        self.model.on(device)
        if config.decoder_only:
            self.model.start_without_latents()
        if compiled:
            # A CUDA graph's gradients stay in place, so those of several parts cannot be summed.
            graphs = device.type == "cuda" and group.size == accumulate == 1
            self.model.compile(mode="reduce-overhead" if graphs else None)
        self._latents_wait = self.decoder_only_steps > 0
        self.network = group.parallel(self.model, some_unused=self._latents_wait)
        # All processes must round alike, else their weights drift apart.
        bf16 = group.all(multiplies_bf16(device.type))
        self.optimizers = make_optimizers(self.model, config, bf16=bf16)
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
    def images_at_once(self) -> int:
        """Images of a step that a process computes at once."""
        own = self.config.batch_size // self.group.size
        return -(-own // self.accumulate)

    @property
    def done(self) -> bool:
        """Whether all images of the schedule were seen."""
        return self.step_count >= self.config.total_steps

    @property
    def decoder_only_steps(self) -> int:
        """Number of first steps, which train the decoder without latents; 0 for a model without latents."""
        return self.config.decoder_only_steps if self.model.stages else 0

    @property
    def has_latents(self) -> bool:
        """Whether the model is scored with its latents: not while only its decoder has been trained."""
        return self.step_count > self.decoder_only_steps or not self.decoder_only_steps

    def next_images(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Return the next step's images: the first fields of `Batch`."""
        steps_per_epoch = len(self.split.pixels) // self.config.batch_size
        epoch, index = divmod(self.step_count, steps_per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, epoch_order(self.config.seed, epoch, len(self.split.pixels)))
        start = index * self.config.batch_size
        chosen = self._order[1][start : start + self.config.batch_size]
        split, every = self._changed(chosen), np.arange(len(chosen))
        levels = training_levels(split, every, stream("bits", self.config.seed, self.step_count))
        chances = bit_probabilities(split, every) if self._expects_bits else None
        return levels, None if self.labels is None else self.labels[chosen], chances

    def _changed(self, chosen: np.ndarray) -> ImageSplit:
        """Return the training images at `chosen`, augmented in the part of the training that does so."""
        config, split = self.config, dataclasses.replace(self.split, pixels=self.split.pixels[chosen])
        if config.augment != "none" and self.images < config.augment_part * config.total_images:
            return augmented(split, config.augment, stream("augment", config.seed, self.step_count))
        return split

    @property
    def _expects_bits(self) -> bool:
        """Whether bits are scored by their mean. This is biased where latents depend on the bits."""
        kind = self.config.expected_bits
        sees_bits = self.model.config.stochastic_layers and not self.model.decoder_only
        return kind == "always" or (kind == "auto" and not sees_bits)

    def step(self) -> StepRecord:
        """Take one step.

        Raises:
            NumericsError: Too many steps in a row had an NLL or a gradient that is not finite.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self._let_latents_join()
        batch, parts = self._batch(), self._parts()
        mean_rate = self._mean_rate(batch, parts) if len(parts) > 1 else None
        nats = 0.0
        for rows in parts:
            # Gradients of all parts are summed locally before they are summed over processes.
            with nullcontext() if rows == parts[-1] else no_sync(self.network):
                found, mean_rate = self._backward(batch, rows, mean_rate)
            nats += found
        assert mean_rate is not None
        nats = float(self.group.sum(torch.tensor(nats, dtype=torch.float64)))
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        factor = learning_rate_factor(self.config, self.images)
        self._apply(factor, finite=bool(np.isfinite(norm) and np.isfinite(nats)))
        self.step_count += 1
        rate = tuple(mean_rate.tolist())
        return StepRecord(self.step_count, self.images, nats, rate, norm, factor, self.skipped)

    def _let_latents_join(self) -> None:
        """Use latents from the step at which they join; until then some weights have no gradient."""
        waits = self.model.decoder_only = self.step_count < self.decoder_only_steps
        # Steps that only measure the speed take turns; they keep the network.
        if waits != self._latents_wait and self.decoder_only_steps:
            self._latents_wait = waits
            self.network = self.group.parallel(self.model, some_unused=waits)

    def _batch(self) -> Batch:
        """Return the next step's batch, for all processes."""
        draws = BatchNoise(stream("latents", self.config.seed, self.step_count))
        shapes = self.model.config.latent_shapes()
        return Batch(*self.next_images(), PartNoise(draws, self.config.batch_size, shapes, self.device))

    def _parts(self) -> list[slice]:
        """Return the rows of the batch that this process computes at once."""
        start, stop, size = self.share.start, self.share.stop, self.images_at_once
        return [slice(first, min(stop, first + size)) for first in range(start, stop, size)]

    def _backward(self, batch: Batch, rows: slice, mean_rate: Tensor | None) -> tuple[float, Tensor]:
        """Add the gradient of some rows of the batch.

        Args:
            batch: Batch, from `_batch`.
            rows: Rows of the batch.
            mean_rate: Mean rate from `_mean_rate`; None to compute it here, if each process has one part.

        Returns:
            The rows' contribution to the mean over the batch, in nats, and the mean rate.
        """
        share = (rows.stop - rows.start) / self.config.batch_size
        with self.autocast():
            terms: NllTerms = self.network(*batch.part(rows, self.model))
        if mean_rate is None:
            mean_rate = self.group.sum(terms.rate.detach().mean(0).float() * share)
        # Gradients are averaged over processes, but the loss is a mean over all images.
        (self._loss(terms, mean_rate) * (share * self.group.size)).backward()
        return float(terms.negative_elbo.mean().detach()) * share, mean_rate

    @torch.no_grad()
    def _mean_rate(self, batch: Batch, parts: list[slice]) -> Tensor:
        """Return each layer's rate, averaged over the whole batch, from a pass over the ladder alone.

        Free nats need this mean before the first part's gradient.
        """
        total = torch.zeros(self.model.config.stochastic_layers, device=self.device)
        for rows in parts if len(total) and not self.model.decoder_only else ():
            x, noise, labels, _ = batch.part(rows, self.model)
            with self.autocast():
                _, draws = self.model.infer(x, noise, labels=labels)
            rates = [draw.posterior.kl(draw.prior) for draw in draws if draw.posterior is not None]
            share = (rows.stop - rows.start) / self.config.batch_size
            total += torch.stack(rates, dim=1).mean(0).float() * share
        return self.group.sum(total)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of forward passes."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _loss(self, terms: NllTerms, mean_rate: Tensor) -> Tensor:
        """Return nats per image with free nats and the weight of the KL divergence, up to a constant.

        A layer's rate costs nothing while `mean_rate`, its mean over the whole batch, is below the free nats.
        With means over parts, the gradients of the parts would not add up to that of the batch.

        Source: free bits: arXiv:1606.04934, section 3.2 of appendix C.
        """
        costs = mean_rate >= self.config.free_nats
        rate = (terms.rate.mean(0) * costs).sum()
        return terms.distortion.mean() + rate_weight(self.config, self.images) * rate

    def _apply(self, factor: float, *, finite: bool) -> None:
        """Step the optimizers and move the averages, or count a skipped step."""
        if not finite:
            self.skipped += 1
            self.skipped_in_a_row += 1
            if self.skipped_in_a_row > self.config.max_skipped:
                raise NumericsError(
                    f"training diverged: {self.skipped_in_a_row} steps in a row had an NLL or a gradient "
                    f"that is not finite (step {self.step_count})",
                    "start again with a lower `lr`, or a larger `batch_size`",
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
        with Seeded(0):
            copy = Fame(self.model.config)
        copy.on(self.device).load_state_dict(self.averaged)
        copy.decoder_only = not self.has_latents
        return copy.eval().requires_grad_(False)

    def validate(self, levels: np.ndarray, labels: np.ndarray | None = None) -> ImageNlls:
        """Return the averaged weights' NLL (ELBO) of `levels`, given their classes if any."""
        return evaluate(self.averaged_model(), levels, labels=labels, seed=self.config.seed, group=self.group)

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Use `weights` as first weights and averages.

        Raises:
            InputError: The weights are of a model of another configuration.
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

    def start_again(self, config: TrainConfig, state: Mapping[str, Tensor]) -> None:
        """Go back to the state before the first step, for a training with another schedule.

        Args:
            config: Configuration that differs in its schedule alone.
            state: Copy of `state_tensors` from before the first step.
        """
        self.config = config
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self.restore(state)

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
        """Restore the state that `state_tensors` returned.

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
            # Skipped steps leave no state.
            waits = counters[0] - counters[2] <= self.decoder_only_steps
            later = "stages" if waits and self.decoder_only_steps else ""
            restore_optimizers(self.model, self.optimizers, groups["optimizer"], later)
        except (KeyError, ValueError) as error:
            raise InputError(f"the saved training state is of another training: {error}") from error
        self.model.load_state_dict(groups["model"])
        for name, value in self.averaged.items():
            value.copy_(groups["averaged"][name])
        self.step_count, self.skipped, self.skipped_in_a_row = counters
