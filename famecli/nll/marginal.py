"""The likelihood of a model with classes without their labels, and the classifier that it makes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from famecli.model.fame import Fame
from famecli.nll.evaluate import ImageNlls, check_nats, evaluate
from famecli.runtime.distributed import ALONE, Group


def evaluate_marginal(
    model: Fame,
    levels: np.ndarray,
    *,
    importance_samples: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    numbers: Sequence[int] | None = None,
    advance: Callable[[int], None] = lambda images: None,
    group: Group = ALONE,
    report: Callable[[str], None] = lambda text: None,
) -> ImageNlls:
    """Return the NLL of each image under the mean of p(x|y) over all classes, which are equally likely.

    With latents, p(x|y) is the mean of importance weights, which is unbiased, so that the result is an upper
    bound in expectation. `distortion` and `rate` are means over classes, weighted by p(y|x).

    Args:
        model: Model with classes, on its device.
        levels: Images, integer levels, `(N, C, H, W)`.
        importance_samples: Draws of the latents per image and class.
        seed: Seed of the latents; all classes use the same noise.
        batch_size: Number of images times samples in one forward pass.
        numbers: Number of each image, which names the streams of its latents; None for 0 to N - 1.
        advance: Called with the number of images just done, once for each class.
        group: Processes that share the batches; each gets the NLLs of all images.
        report: Called with one line of text when memory runs out.

    Raises:
        NumericsError: An image's NLL is not finite.

    Source: arXiv:1509.00519, section 3, with the class as one more latent, summed out.
    """
    given = [
        evaluate(
            model,
            levels,
            labels=np.full(len(levels), label, np.int64),
            importance_samples=importance_samples,
            closed_form=False,
            seed=seed,
            batch_size=batch_size,
            numbers=numbers,
            advance=advance,
            group=group,
            report=report,
        )
        for label in range(len(model.config.classes))
    ]
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
