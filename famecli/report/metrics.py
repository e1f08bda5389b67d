"""The lines of metrics.jsonl, read as untrusted input."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famecli.config.schema import LARGEST_NUMBER, build, known_keys
from famecli.errors import ConfigError, InputError, truncate
from famecli.files import read_bytes
from famecli.nll.record import NATS_PER_BIT

METRICS = "metrics.jsonl"
MOST_LAYERS = 64


@dataclass(frozen=True)
class Record:
    """One line: training means since the line before it, or a validation.

    Args:
        images: Number of training images seen so far.
        split: `train` or `valid`.
        nats_per_image: NLL in nats per image; None where it was not finite.
        bits_per_dim: NLL in bits per pixel and channel; None where it was not finite.
        kl_bits: KL divergence of each stochastic layer from the image upwards, bits per image; None where it
            was not finite.
        elapsed_s: Wall seconds of training and validation so far, without stops.
        stderr_nats: Standard error of a validation over its images, nats per image.
        valid_images: Number of images of a validation.
    """

    images: int
    split: Literal["train", "valid"]
    nats_per_image: float | None
    bits_per_dim: float | None
    kl_bits: tuple[float | None, ...]
    elapsed_s: float
    stderr_nats: float | None = None
    valid_images: int | None = None

    @property
    def without_latents(self) -> bool:
        """Whether the decoder was scored alone, before latents joined: each KL divergence is exactly 0."""
        return bool(self.kl_bits) and set(self.kl_bits) == {0.0}

    @property
    def hours(self) -> float:
        """Hours of training so far."""
        return self.elapsed_s / 3600

    @property
    def minutes(self) -> float:
        """Minutes of training so far."""
        return self.elapsed_s / 60

    @property
    def kl_nats(self) -> list[float | None]:
        """KL divergence per stochastic layer, nats per image."""
        return [None if bits is None else bits * NATS_PER_BIT for bits in self.kl_bits]


@dataclass(frozen=True)
class Metrics:
    """A file of records.

    Args:
        records: Records in the order of the file.
        cut: Whether an unfinished last line, as of a killed run, was left out.
    """

    records: list[Record]
    cut: bool

    def of(self, split: str) -> list[Record]:
        """Return the records of a split that have an NLL."""
        return [each for each in self.records if each.split == split and each.nats_per_image is not None]

    @property
    def best(self) -> Record | None:
        """The first validation with the lowest NLL, with latents if any: that of the best checkpoint."""
        found = (each for each in self.of("valid") if not each.without_latents)
        return min(found, key=lambda each: each.nats_per_image or 0.0, default=None)


def read_metrics(path: Path) -> Metrics:
    """Return the records in a file of metrics.

    Raises:
        InputError: The file cannot be read, or a line other than an unfinished last one is not a record.
    """
    lines = read_bytes(path, "metrics").split(b"\n")
    # Nothing follows a whole last line, except white space.
    while lines and not lines[-1].strip():
        lines.pop()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except (ValueError, RecursionError, ConfigError) as error:
            if number == len(lines) and not isinstance(error, ConfigError):
                return Metrics(records, cut=True)
            raise InputError(
                f"{path}, line {number}: not a record of a training ({truncate(error)})"
            ) from error
    return Metrics(records, cut=False)


def _record(line: bytes) -> Record:
    table = json.loads(line.decode(), parse_constant=_no_constant)
    record = build(Record, known_keys(Record, table), "record")
    _check_numbers(record)
    return record


def _no_constant(name: str) -> Any:  # noqa: ANN401
    raise ConfigError(f"{name} is not a JSON number")


def _check_numbers(record: Record) -> None:
    """Check that every number can be drawn.

    Raises:
        ConfigError: A number is out of range.
    """
    if len(record.kl_bits) > MOST_LAYERS:
        raise ConfigError(f"kl_bits has {len(record.kl_bits)} layers, at most {MOST_LAYERS}")
    values = (record.images, record.nats_per_image, record.bits_per_dim, record.elapsed_s, record.stderr_nats)
    for value in (*values, record.valid_images, *record.kl_bits):
        # The negation rejects NaN, too.
        if value is not None and not abs(value) <= LARGEST_NUMBER:
            raise ConfigError(f"{truncate(value)} is out of range")
    if min(record.images, record.elapsed_s, record.valid_images or 0) < 0:
        raise ConfigError("a count or a time is negative")
