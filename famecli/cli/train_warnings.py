"""What `fame train` warns of: a schedule that does not fit the length, latents that carry nothing."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from famecli.config import ModelConfig, TrainConfig
from famecli.output import Output

if TYPE_CHECKING:
    from famecli.training.trainer import Trainer

# Of all images, that may be warm-up.
LARGEST_PART = 0.5
SMALLEST_RATE_BITS = 0.15


def warn_of_schedule(trainer: "Trainer", output: Output) -> None:
    """Print `schedule_warnings` of a training that begins, once for all its processes."""
    if trainer.group.first:
        for text in schedule_warnings(trainer.model.config, trainer.config):
            output.warn(text)


def schedule_warnings(model: ModelConfig, config: TrainConfig) -> Iterator[str]:
    """Yield what of the schedule does not fit the number of images, before any is seen.

    The half-life of averages is not among it: `famecli.training.schedule.ema_decay` keeps it to a part of the
    images seen.
    """
    names = ["warmup_images", *(["rate_warmup_images"] if model.stochastic_layers else [])]
    values = {name: getattr(config, name) for name in names}
    long = {name: value for name, value in values.items() if value > LARGEST_PART * config.total_images}
    if not long:
        return
    default = TrainConfig()
    factor = config.total_images / default.total_images
    told = ", ".join(f"train.{name} = {value}" for name, value in long.items())
    fitting = " ".join(f"--set {name}={round(getattr(default, name) * factor)}" for name in long)
    yield (
        f"warm-up takes more than half of the {config.total_images:,} images: {told}; "
        f"the defaults for this length are {fitting}"
    )


def record_warnings(record: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the latents of a validation, a line of metrics.jsonl."""
    idle = [str(layer) for layer, bits in enumerate(record["kl_bits"]) if bits < SMALLEST_RATE_BITS]
    if idle:
        yield (
            f"stochastic layer {', '.join(idle)} (0 is nearest to the image) carries under "
            f"{SMALLEST_RATE_BITS} bits at {record['images']:,} images; more --set free_nats=... helps"
        )
