"""An image's NLL is the same whatever else is computed along with it."""

import copy

import numpy as np
import torch
from torch import Tensor

from famecli.model.fame import Fame, NllTerms
from famecli.nll.evaluate import evaluate
from famecli.verification.findings import Finding, Measurement
from famecli.verification.subject import Subject

IMAGES = 4
# Of the NLL: sums of a thousand terms in float64, each rounded by 1e-16 of itself.
RELATIVE = 1e-10
# In single precision; on other devices than a CPU convolutions may round to 10 bits.
SINGLE_RELATIVE = 1e-5
DEVICE_RELATIVE = 1e-3
SENTENCE = (
    "The NLL of an image does not depend on the other images of its batch, nor on the mode of the model."
)


class _Fixed:
    """Noise that was drawn before: the same for an image wherever it is in a batch."""

    def __init__(self, layers: list[Tensor], rows: list[int]) -> None:
        self.layers, self.rows = layers, rows

    def normal(self, layer: int, shape: torch.Size) -> Tensor:
        return self.layers[layer][self.rows]


def check_batches(subject: Subject) -> Finding:
    """Compare the NLL of images alone, in a batch, in another batch and order, and in training mode.

    The latents of an image come from the same noise each time. In float64 the NLLs differ by rounding alone.
    Then the same of what `fame evaluate-nll` gives in the model's own precision.
    """
    model, count = subject.exact, max(IMAGES, subject.least_images)
    images = subject.images(2 * count)
    noise = _draw_noise(model, images, subject)
    rows = list(range(count))
    alone = torch.cat([_nll(model, images, noise, [row]) for row in rows])
    strangers = list(range(count, 2 * count))
    elsewhere = _nll(model, images, noise, [*strangers[1:], *reversed(rows), strangers[0]])
    training = _nll(copy.deepcopy(model).train(), images, noise, rows)
    cases = {
        "in a batch": _nll(model, images, noise, rows),
        "in another batch, other order": elsewhere[count - 1 : -1].flip(0),
        "in training mode": training,
    }
    size = max(1.0, float(alone.abs().max()))
    return Finding.of(
        SENTENCE,
        *(
            Measurement(
                f"largest change of the NLL {where}, nats",
                float((nats - alone).abs().amax()),
                RELATIVE * size,
            )
            for where, nats in cases.items()
        ),
        Measurement(
            "largest change of the NLL by --batch-size, nats",
            _by_batch_size(subject, images),
            size * (SINGLE_RELATIVE if model.device.type == "cpu" else DEVICE_RELATIVE),
        ),
    )


def _by_batch_size(subject: Subject, images: Tensor) -> float:
    """Return the largest difference of NLLs, nats, evaluated one by one, in pairs and all at once."""
    levels = images.cpu().numpy().astype(np.uint8)
    sizes = (1, 2, len(levels))
    nats = np.stack([evaluate(subject.model, levels, batch_size=size).nats for size in sizes])
    return float(np.ptp(nats, axis=0).max())


def _draw_noise(model: Fame, images: Tensor, subject: Subject) -> list[Tensor]:
    """Return the noise of all latents of all images, for each stochastic layer."""
    _, draws = model.infer(images, subject.posterior_noise(len(images)))
    noise = subject.posterior_noise(len(images))
    return [noise.normal(layer, draw.z.shape).to(draw.z) for layer, draw in enumerate(draws)]


def _nll(model: Fame, images: Tensor, noise: list[Tensor], rows: list[int]) -> Tensor:
    """Return the NLL of some images in nats, computed in one batch."""
    terms: NllTerms = model(images[rows], _Fixed(noise, rows))
    return terms.negative_elbo
