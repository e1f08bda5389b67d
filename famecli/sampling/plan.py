"""The order in which the wavefront sampler visits the pixels of an image. No torch here."""

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Step:
    """The pixels that are sampled at once: all that share `t = column + lag * row`.

    Args:
        t: Their common value, and the step's index.
        row: Topmost row among them; without pixels, the first row that is not finished.
        count: Pixels; the k-th of them is in row `row + k` and column `t - lag * (row + k)`.
        offset: Pixels in all earlier steps.
    """

    t: int
    row: int
    count: int
    offset: int


@dataclass(frozen=True)
class WavefrontPlan:
    """Steps of an image of `height` by `width` pixels.

    Args:
        height: Pixel rows, at least 1.
        width: Pixel columns, at least 1.
        lag: Steps by which a row is behind the row above it, at least 1; from `width` on it is raster order.

    Raises:
        ValueError: A side or the lag is below 1.
    """

    height: int
    width: int
    lag: int = 2

    def __post_init__(self) -> None:
        if self.lag < 1:
            raise ValueError(f"a lag of {self.lag} orders no pixels")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an image of {self.height} by {self.width} pixels has none")

    @property
    def num_steps(self) -> int:
        """Steps until every pixel is sampled."""
        return self.width + self.lag * (self.height - 1)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps in order; one has no pixels where no row has reached it: with a lag above `width`."""
        found: list[Step] = []
        offset = 0
        for t in range(self.num_steps):
            first = max(0, (t - self.width + self.lag) // self.lag)
            last = min(self.height - 1, t // self.lag)
            found.append(Step(t, first, last - first + 1, offset))
            offset += last - first + 1
        return tuple(found)

    @cached_property
    def largest(self) -> int:
        """Pixels in the largest step."""
        return max(step.count for step in self.steps)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Raster index, `row * width + column`, of each pixel in the order of sampling."""
        return tuple(
            row * self.width + step.t - self.lag * row
            for step in self.steps
            for row in range(step.row, step.row + step.count)
        )

    @cached_property
    def inverse(self) -> tuple[int, ...]:
        """Place in the order of sampling of each pixel, by raster index."""
        places = [0] * len(self.order)
        for place, raster in enumerate(self.order):
            places[raster] = place
        return tuple(places)
