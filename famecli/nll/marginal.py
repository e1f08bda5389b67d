"""The likelihood of a model with classes without their labels, and the classifier that it makes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from famecli.model.fame import Fame
from famecli.nll.evaluate import ImageNlls, check_nats, evaluate


def evaluate_marginal(
    model: Fame,
    levels: np.ndarray,
    *,
    numbers: Sequence[int] | None = None,
    **settings: Any,  # noqa: ANN401
) -> ImageNlls:
    """Return the NLL of each image under the mean of p(x|y) over all classes, which are equally likely.

    With latents, p(x|y) is the mean of importance weights, which is unbiased, so that the result is an upper
    bound in expectation. `distortion` and `rate` are means over classes, weighted by p(y|x).

    Args:
        model: Model with classes, on its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        numbers: Number of each image, which names the streams of its latents; None for 0 to N - 1.
        settings: Other arguments of `evaluate`, which is called for each class. All classes use the same
            noise.

    Raises:
        NumericsError: An image's NLL is not finite.

    Source: arXiv:1509.00519, section 3, with the class as one more latent, summed out.
    """
    given = []
    for label in range(len(model.config.classes)):
        labels = np.full(len(levels), label, np.int64)
        given.append(evaluate(model, levels, labels=labels, closed_form=False, numbers=numbers, **settings))
    log_joint = torch.from_numpy(np.stack([-each.nats for each in given])) - np.log(len(given))
    posterior = log_joint.softmax(0).numpy()
    return ImageNlls(
        check_nats(-log_joint.logsumexp(0).numpy(), given[0].bound, numbers),
        np.einsum("yn,yn->n", posterior, np.stack([each.distortion for each in given])),
        np.einsum("yn,ynl->nl", posterior, np.stack([each.rate for each in given])),
        given[0].bound,
        given[0].importance_samples,
        given="marginal",
        most_probable=log_joint.argmax(0).numpy(),
    )
