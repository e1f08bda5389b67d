"""Charts as SVG: curves with axes, and the colours of a map. No scripts, no fonts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from famecli.report.render import HTML

WIDTH, HEIGHT = 480, 340
LEFT, BOTTOM, LINE_PX, LETTER_PX = 52, 44, 17, 8.0
MOST_POINTS, MOST_LETTERS = 300, 16
# Initial part of a curve that does not set the range: the last half is what can be compared.
STEEP_PART = 0.5
MARGIN = 0.06
# Shortest length of an axis: parts of shorter ones would be 0.
LEAST_LENGTH = 1e-300
# Hues of Okabe and Ito, adjusted for contrast and for colour-blind readers; tests measure both.
LIGHT = ("#0146b3", "#c44e00", "#008652", "#a85190", "#7c2e00", "#4d4d4d")
DARK = ("#5b8cff", "#ff6a2a", "#3fe0a0", "#c98fc0", "#f0e050", "#f0d8ff")
# Background, text and grid, each on a light and on a dark background.
PAPER, INK, FAINT = ("#ffffff", "#14171a"), ("#1b1f24", "#e6e8ea"), ("#d8dce0", "#3a4046")
# Nine colours of the map `viridis` (CC0) at equal distances.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
# Dashes of the curves that repeat a colour.
DASHES = ("", "7 4", "2 4")

Points = Sequence[tuple[float, float]]
# Part of a page; a file with the colours of the screen, light or dark; a file with fixed colours for print.
Style = Literal["page", "file", "print"]


@dataclass(frozen=True)
class Axis:
    """A range of values mapped to pixels; `low` lies at `start_px`."""

    low: float
    high: float
    start_px: float
    end_px: float

    def at(self, value: float) -> float:
        """Return the pixel position of a value."""
        part = (value - self.low) / (self.high - self.low)
        return self.start_px + part * (self.end_px - self.start_px)

    def ticks(self, most: int = 6) -> list[float]:
        """Return at most `most` round values within the range."""
        step = round_step((self.high - self.low) / max(1, most - 1))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [count * step for count in range(first, last + 1)]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        label: Label in the legend; curves with the same label share a colour.
        points: `(x, y)` by rising x.
        sparse: Whether the points are few and marked; other curves are thin lines.
    """

    label: str
    points: Points
    sparse: bool

    @property
    def lowest(self) -> tuple[float, float]:
        """The first of the lowest points."""
        return min(self.points, key=lambda point: point[1])

    def on(self, x: Axis, y: Axis) -> list[tuple[float, float]]:
        """Return the pixel positions of the points, at most about `MOST_POINTS`."""
        return [(x.at(each), y.at(height)) for each, height in thinned(self.points, MOST_POINTS)]


@dataclass(frozen=True)
class LineChart:
    """Curves over one pair of axes.

    Args:
        name: Unique name on the page: letters, digits, dashes.
        title: Title in one line.
        x_label: Label of the horizontal axis, with its unit.
        y_label: Label of the vertical axis, with its unit.
        curves: Curves with at least one point each.
        styles: Meaning of thin and of marked lines.
        floor: Value that the vertical axis must reach down to.
        rings: Whether the lowest point of each marked line has a ring and its value.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    styles: tuple[str, str] = ("training", "validation")
    floor: float | None = None
    rings: bool = False

    @property
    def labels(self) -> list[str]:
        """Labels of the curves, in the order of the colours."""
        return list(dict.fromkeys(curve.label for curve in self.curves))

    @property
    def description(self) -> str:
        """The content of the chart in words."""
        lines = [
            f"{curve.label}, {self.styles[curve.sparse]}: from {_place(curve.points[0])} "
            f"to {_place(curve.points[-1])}"
            for curve in self.curves
        ]
        return f"{self.y_label} over {self.x_label}. {'; '.join(lines)}."

    @property
    def beyond(self) -> str:
        """A sentence about the values above the frame; empty where all are within it."""
        curves = [curve.points for curve in self.curves]
        highest = max(y for points in curves for _, y in points)
        if highest <= reach(curves, self.floor)[1]:
            return ""
        return f"The first values, up to {highest:.4g}, lie above the frame."

    def svg(self, style: Style = "page") -> str:
        """Return the drawing as SVG."""
        legend = list(self._legend())
        curves, ends = [curve.points for curve in self.curves], self._ends()
        low, high = reach(curves, self.floor)
        y = Axis(low, high, HEIGHT - BOTTOM, legend[-1][-1] + LINE_PX)
        end_px = WIDTH - 16 - LETTER_PX * max(len(text) for text, *_ in ends)
        x = Axis(0.0, _length(max(x for points in curves for x, _ in points)), LEFT, end_px)
        heights = [min(max(y.at(point[1]), y.end_px), y.start_px) for _, point, _ in ends]
        placed = zip(ends, apart(heights, 14, y.end_px, y.start_px), strict=True)
        template = HTML.get_template("line_chart.jinja")
        return template.render(chart=self, x=x, y=y, legend=legend, ends=placed, style=style)

    def _ends(self) -> list[tuple[str, tuple[float, float], int]]:
        """Return text, point and place of the labels at the ends of curves, one for each label."""
        if len(self.labels) == 1:
            return [(self.styles[curve.sparse], curve.points[-1], 0) for curve in self.curves]
        # A dictionary keeps the last one of each label: a marked curve where there is one.
        last = {curve.label: curve.points[-1] for curve in sorted(self.curves, key=lambda each: each.sparse)}
        return [(_short(label, MOST_LETTERS), last[label], place) for place, label in enumerate(self.labels)]

    def _legend(self) -> Iterator[tuple[str, int | None, bool, float, float]]:
        """Yield text, place, style, left end and height of the entries: the colours, then the styles."""
        left, height = 4.0, 32.0
        kinds = sorted({curve.sparse for curve in self.curves})
        colours = [(label, place, True) for place, label in enumerate(self.labels)]
        for label, place, sparse in [*colours, *((self.styles[kind], None, kind) for kind in kinds)]:
            text = _short(label, 40)
            width = 34 + len(text) * LETTER_PX
            if left > 4 and left + width > WIDTH - 8:
                left, height = 4.0, height + LINE_PX
            yield text, place, sparse, left, height
            left += width


@dataclass(frozen=True)
class ColourBar:
    """The colours of `VIRIDIS` beside their values, from 0 to `high`."""

    name: str
    title: str
    label: str
    high: float

    @property
    def description(self) -> str:
        """The content of the bar in words."""
        return f"{self.label}: dark purple is 0, yellow {tick_text(self.high)} or more."

    def svg(self, style: Style = "page") -> str:
        """Return the drawing as SVG."""
        axis = Axis(0.0, self.high, 12, WIDTH - 40)
        return HTML.get_template("colour_bar.jinja").render(chart=self, axis=axis, style=style)


def round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= least * (1 - 1e-9))


def reach(curves: Sequence[Points], floor: float | None = None) -> tuple[float, float]:
    """Return the range of the vertical axis, which ignores the steep start of curves.

    Args:
        curves: Points `(x, y)` of each curve, at least one in all.
        floor: Value that the vertical axis must reach down to.
    """
    low = min(y for curve in curves for _, y in curve)
    high = max(
        y
        for curve in curves
        for x, y in curve
        if x >= curve[0][0] + STEEP_PART * (curve[-1][0] - curve[0][0])
    )
    low = low if floor is None else min(low, floor)
    spread = _length(high - low if high > low else abs(high))
    return (low if low == floor else low - MARGIN * spread), high + MARGIN * spread


def apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Return places moved until no two are closer than `distance`, within `low` to `high` if possible."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    limit = low
    for index in order:
        moved[index] = max(moved[index], limit)
        limit = moved[index] + distance
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


def _length(value: float) -> float:
    """Return the length of an axis, which is 1 for a length that cannot be divided."""
    return value if value > LEAST_LENGTH else 1.0


def _place(point: tuple[float, float]) -> str:
    return f"{point[1]:.5g} at {tick_text(point[0])}"


def _short(text: str, most: int) -> str:
    """Return a long text shortened in the middle, since names of variants differ at either end."""
    return text if len(text) <= most else f"{text[: most - most // 2 - 1]}…{text[-(most // 2) :]}"


# Colours by name, on a light and on a dark background.
COLOURS = [
    {f"hue{place}": hue for place, hue in enumerate(hues)} | {"paper": paper, "ink": ink, "faint": faint}
    for hues, paper, ink, faint in zip((LIGHT, DARK), PAPER, INK, FAINT, strict=True)
]
HTML.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "LIGHT": LIGHT, "COLOURS": COLOURS}
HTML.globals |= {"VIRIDIS": VIRIDIS, "DASHES": DASHES, "tick_text": tick_text}
