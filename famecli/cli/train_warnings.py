"""What `fame train` warns of: latents that carry nothing."""

from collections.abc import Iterator
from typing import Any

SMALLEST_RATE_BITS = 0.15


def record_warnings(record: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the latents of a validation, a line of metrics.jsonl."""
    idle = [str(layer) for layer, bits in enumerate(record["kl_bits"]) if bits < SMALLEST_RATE_BITS]
    if idle:
        yield (
            f"stochastic layer {', '.join(idle)} (0 is nearest to the image) carries under "
            f"{SMALLEST_RATE_BITS} bits at {record['images']:,} images; more --set free_nats=... helps"
        )
