"""A small convolutional classifier of binarized digits, for scoring completions."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from famecli.data.dataset import ImageSplit, epoch_order, training_levels
from famecli.output import Output
from famecli.rng import stream

BATCH = 64
LARGEST_LR = 3e-3
WARMUP = 0.1


@dataclass(frozen=True)
class Verdicts:
    """Predictions of the classifier for each image.

    Args:
        right: Whether the most probable class is the label, `(N,)`.
        chance: Probability of the label, `(N,)`.
        confidence: Probability of the most probable class, `(N,)`.
        entropy: Entropy of the probabilities, nats, `(N,)`.
    """

    right: np.ndarray
    chance: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray


def build(shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """Return an untrained classifier of images `(C, H, W)`: two convolutions, two linear layers."""
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.sha256(f"classifier {seed}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        return nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), 128),
            nn.ReLU(),
            nn.Linear(128, classes),
        )


def train(
    split: ImageSplit, labels: np.ndarray, images: int, rows: int | None = None, seed: int = 0
) -> nn.Module:
    """Return a classifier trained on `images` images with fresh bits, by AdamW with a one-cycle schedule.

    Args:
        split: Training images.
        labels: Classes of the images, `(N,)`.
        images: Number of images to see, with repetitions.
        rows: Number of first rows shown, with the others blank; None for whole images.
        seed: Seed of weights, order and bits.
    """
    network = build(split.info.shape, 1 + int(labels.max()), seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LARGEST_LR, weight_decay=0.01)
    steps_per_epoch = max(1, len(labels) // BATCH)
    total = max(1, images // BATCH)
    order = np.empty(0, np.int64)
    with Output().progress("classifier", total) as advance:
        for step in range(total):
            if step % steps_per_epoch == 0:
                order = epoch_order(seed, step // steps_per_epoch, len(labels))
            chosen = order[step % steps_per_epoch * BATCH :][:BATCH]
            levels = training_levels(split, chosen, stream("classifier", seed, step))
            optimizer.param_groups[0]["lr"] = LARGEST_LR * _cycle((step + 1) / total)
            optimizer.zero_grad()
            logits = network(_input(levels, rows))
            F.cross_entropy(logits, torch.from_numpy(labels[chosen].astype(np.int64))).backward()
            optimizer.step()
            advance(1, "")
    return network.eval().requires_grad_(False)


def _cycle(progress: float) -> float:
    """Return the factor on the learning rate: up to 1 in the first tenth, then down to 0."""
    return progress / WARMUP if progress < WARMUP else (1.0 - progress) / (1.0 - WARMUP)


def _input(levels: np.ndarray, rows: int | None) -> Tensor:
    images = torch.from_numpy(levels).float()
    if rows is not None:
        images[:, :, rows:] = 0.0
    return images


@torch.no_grad()
def judge(network: nn.Module, levels: np.ndarray, labels: np.ndarray, rows: int | None = None) -> Verdicts:
    """Return the predictions for images `(N, C, H, W)`; `rows` as in training."""
    parts = [network(_input(levels[at : at + BATCH], rows)) for at in range(0, len(levels), BATCH)]
    log_chances = F.log_softmax(torch.cat(parts).double(), dim=1)
    chances = log_chances.exp()
    confidence, likeliest = chances.max(1)
    wanted = torch.from_numpy(labels.astype(np.int64))
    return Verdicts(
        (likeliest == wanted).numpy(),
        chances.gather(1, wanted[:, None])[:, 0].numpy(),
        confidence.numpy(),
        -(chances * log_chances).sum(1).numpy(),
    )
