"""The order in which samplers and coders visit the pixels of an image. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Wave:
    """Patches whose features are computed at once: all that share `t = column + lag * row`.

    Args:
        t: Index of the wave, the common `t` of its patches.
        row: Topmost row of the patches.
        count: Number of patches, at least 1; the k-th of them is in row `row + k` and column
            `t - lag * (row + k)`.
        offset: Number of patches in all earlier waves.
    """

    t: int
    row: int
    count: int
    offset: int


@dataclass(frozen=True)
class Step:
    """Pixels that are drawn at once: one pixel of each patch of a wave.

    Args:
        index: Index of the step.
        wave: Wave of the patches.
        pixel: Index of the pixel in its patch, in raster order.
        first: Number of leading patches of the wave whose pixel lies beyond the image.
        count: Number of pixels.
        offset: Number of pixels in all earlier steps.
    """

    index: int
    wave: Wave
    pixel: int
    first: int
    count: int
    offset: int


@dataclass(frozen=True)
class Plan:
    """Steps in which an image is drawn.

    Args:
        height: Pixel rows.
        width: Pixel columns.
        waves: Ranges of `patches` whose features are computed at once, in order.
        patches: Row and column of each patch, wave by wave.
        cells: Raster index, `row * width + column`, of each pixel of each patch, wave by wave and within a
            wave pixel by pixel; -1 beyond the image.
        pixels: Number of pixels of a patch.
    """

    height: int
    width: int
    waves: tuple[Wave, ...]
    patches: tuple[tuple[int, int], ...]
    cells: tuple[int, ...]
    pixels: int

    def first_cell(self, wave: Wave, pixel: int) -> int:
        """Return the index in `cells` of a pixel of the first patch of a wave."""
        return wave.offset * self.pixels + pixel * wave.count

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Steps in order, each with one pixel at least."""
        found: list[Step] = []
        offset = 0
        for wave in self.waves:
            for pixel in range(self.pixels):
                start = self.first_cell(wave, pixel)
                inside = [k for k in range(wave.count) if self.cells[start + k] >= 0]
                if inside:
                    found.append(Step(len(found), wave, pixel, inside[0], len(inside), offset))
                    offset += len(inside)
        return tuple(found)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Raster index of each pixel in the order of sampling."""
        return tuple(cell for cell in self.cells if cell >= 0)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Index in `cells` of each pixel, by raster index."""
        found = [0] * (self.height * self.width)
        for index, raster in enumerate(self.cells):
            if raster >= 0:
                found[raster] = index
        return tuple(found)

    def patch_order(self, columns: int) -> tuple[int, ...]:
        """Return the raster index of each patch, wave by wave, in a grid of `columns` columns."""
        return tuple(row * columns + column for row, column in self.patches)

    def looks_ahead(self, known: Sequence[bool]) -> bool:
        """Return whether a known pixel may depend on an unknown one, in a causal decoder with this plan.

        A pixel may depend on the earlier pixels of its patch, and on patches of an earlier wave in no lower
        row. If no known pixel depends on an unknown one, a completion is an exact draw given the latents.

        Args:
            known: Whether each pixel is known, by raster index.
        """
        # Topmost row of patches with an unknown pixel in an earlier wave.
        top = self.height
        for wave in self.waves:
            found = top
            for place in range(wave.count):
                row, unknown = self.patches[wave.offset + place][0], False
                for pixel in range(self.pixels):
                    cell = self.cells[self.first_cell(wave, pixel) + place]
                    if cell >= 0 and known[cell] and (unknown or top <= row):
                        return True
                    unknown = unknown or (cell >= 0 and not known[cell])
                found = min(found, row) if unknown else found
            top = found
        return False

    @cached_property
    def largest(self) -> int:
        """Number of patches in the largest wave."""
        return max(wave.count for wave in self.waves)


def wavefront_plan(height: int, width: int, lag: int = 2, patch: int = 1) -> Plan:
    """Return the plan of an image that is drawn in wavefronts of patches.

    Args:
        height: Pixel rows, at least 1.
        width: Pixel columns, at least 1.
        lag: Waves by which a row of patches trails the row above it, at least 1. A lag of at least the number
            of columns of patches gives raster order: waves without patches are left out.
        patch: Side of a patch in pixels.

    Raises:
        ValueError: A side or the lag is below 1.
    """
    if lag < 1:
        raise ValueError(f"lag must be at least 1, got {lag}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}")
    rows, columns = -(-height // patch), -(-width // patch)
    lag = min(lag, columns)
    waves: list[Wave] = []
    patches: list[tuple[int, int]] = []
    cells: list[int] = []
    for t in range(columns + lag * (rows - 1)):
        first = max(0, (t - columns + lag) // lag)
        here = [(row, t - lag * row) for row in range(first, min(rows - 1, t // lag) + 1)]
        waves.append(Wave(t, first, len(here), len(patches)))
        patches += here
        for pixel in range(patch**2):
            for row, column in here:
                y, x = row * patch + pixel // patch, column * patch + pixel % patch
                cells.append(y * width + x if y < height and x < width else -1)
    return Plan(height, width, tuple(waves), tuple(patches), tuple(cells), patch**2)


def parallel_plan(height: int, width: int) -> Plan:
    """Return the plan of an image whose pixels are drawn all at once, in raster order."""
    pixels = tuple((row, column) for row in range(height) for column in range(width))
    return Plan(height, width, (Wave(0, 0, len(pixels), 0),), pixels, tuple(range(len(pixels))), 1)
