"""Axes of charts: ranges, ticks and where labels stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]
# Of a curve's length, before which its height does not count: a training starts far above where it ends.
STEEP_PART = 0.25
MARGIN = 0.06


@dataclass(frozen=True)
class Axis:
    """A range of values and the pixels that it is drawn on; `start_px` belongs to `low`."""

    low: float
    high: float
    start_px: float
    end_px: float

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        part = (value - self.low) / (self.high - self.low)
        return self.start_px + part * (self.end_px - self.start_px)

    def ticks(self, most: int = 6) -> list[float]:
        """Return at most `most` round values within the range."""
        step = round_step((self.high - self.low) / max(1, most - 1))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [count * step for count in range(first, last + 1)]


def round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= least * (1 - 1e-9))


def reach(curves: Sequence[Points], floor: float | None = None) -> tuple[float, float]:
    """Return the range of heights that shows where curves end up, without their first steep part.

    Args:
        curves: Points `(x, y)` each, at least one in all.
        floor: Lowest height that must be seen.
    """
    low = min(y for curve in curves for _, y in curve)
    high = max(y for curve in curves for y in _late(curve))
    low = low if floor is None else min(low, floor)
    spread = (high - low) or abs(high) or 1.0
    return (low if low == floor else low - MARGIN * spread), high + MARGIN * spread


def _late(curve: Points) -> list[float]:
    if not curve:
        return []
    first, last = curve[0][0], curve[-1][0]
    return [y for x, y in curve if x >= first + STEEP_PART * (last - first)]


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Return places moved until no two are closer than `distance`, within `low` to `high` if possible."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [0.0] * len(places)
    limit = low
    for index in order:
        moved[index] = limit = max(places[index], limit)
        limit += distance
    limit = high
    for index in reversed(order):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - distance
    return moved


def tick_text(value: float) -> str:
    """Return a tick's value in few characters: 51200 is 51.2k."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    return f"{round(value, 12):.6g}"


def thinned(points: Points, most: int) -> list[tuple[float, float]]:
    """Return every k-th point and the last, about `most` in all."""
    step = -(-len(points) // most)
    return [*points[:-1:step], *points[-1:]] if step > 1 else list(points)
