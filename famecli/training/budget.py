"""How many images a training can see in a given time, by steps that are measured before it begins."""

import torch

from famecli.training.clock import Clock
from famecli.training.trainer import Trainer

# Libraries are loaded, memory is found and code is compiled in these.
WARM_UP_STEPS = 3
FEWEST_STEPS = 5
# Of the budget, and in seconds, that is measured at most.
MEASURED_PART = 0.05
MOST_S = 30.0


def images_in_time(trainer: Trainer, budget_s: float, clock: Clock | None = None) -> tuple[int, float]:
    """Take steps that no training keeps, and return how many images fit in a time, in whole batches.

    The time of the measured steps is part of the budget; that of the steps before them is not. All processes
    return what the first one found.

    Args:
        trainer: To be thrown away afterwards.
        budget_s: Seconds of training steps.
        clock: Clock that times the steps; None for that of this process.

    Returns:
        Images, one batch at least, and images per second.
    """
    clock, group, batch = clock or Clock(), trainer.group, trainer.config.batch_size
    for _ in range(WARM_UP_STEPS):
        trainer.step()
    with clock.running():
        started_s, steps, enough = clock.now_s(), 0, False
        while not enough:
            trainer.step()
            steps += 1
            spent_s = clock.now_s() - started_s
            enough = steps >= FEWEST_STEPS and spent_s >= min(MOST_S, MEASURED_PART * budget_s)
            # As the first process says.
            enough = bool(group.largest(int(enough and group.first)))
    spent_s = float(group.sum(torch.tensor(spent_s if group.first else 0.0, dtype=torch.float64)))
    images_per_s = steps * batch / max(spent_s, 1e-9)
    images = int((budget_s - spent_s) * images_per_s)
    return max(1, images // batch) * batch, images_per_s
