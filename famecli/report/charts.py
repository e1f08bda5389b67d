"""Charts as SVG drawn by hand: curves with axes, and the colours of a map. No scripts, no fonts."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from famecli.report.axes import Axis, Points, apart, reach, thinned, tick_text

WIDTH, HEIGHT = 480, 340
LEFT, BOTTOM, LINE_PX, LETTER_PX = 52, 44, 17, 8.0
MOST_POINTS, MOST_LETTERS = 300, 16
# Hues of Okabe and Ito, moved until they stand out and the colour-blind tell them apart; tests measure both.
LIGHT = ("#0146b3", "#c44e00", "#008652", "#a85190", "#7c2e00", "#4d4d4d")
DARK = ("#5b8cff", "#ff6a2a", "#3fe0a0", "#c98fc0", "#f0e050", "#f0d8ff")
PAPER, INK, FAINT = ("#ffffff", "#14171a"), ("#1b1f24", "#e6e8ea"), ("#d8dce0", "#3a4046")
# Of the map `viridis` (CC0), nine colours at equal distances.
VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
# Beyond the colours, curves are dashed as well.
DASHES = ("", "7 4", "2 4")


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        label: Name of what it shows; curves of one thing share it, and their colour.
        points: `(x, y)` by rising x.
        sparse: Whether it was measured at few places, which are marked; else it is a thin line.
    """

    label: str
    points: Points
    sparse: bool


@dataclass(frozen=True)
class LineChart:
    """Curves over one pair of axes.

    Args:
        name: Unlike that of any other figure of the page: letters, digits, dashes.
        title: In one line.
        x_label: With its unit.
        y_label: With its unit.
        curves: With one point at least each.
        styles: What thin and marked lines are.
        floor: Lowest height that must be seen.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    styles: tuple[str, str] = ("training", "validation")
    floor: float | None = None

    @property
    def labels(self) -> list[str]:
        """What is shown, in the order of the colours."""
        return list(dict.fromkeys(curve.label for curve in self.curves))

    @property
    def description(self) -> str:
        """What is to be seen, in words."""
        told = [
            f"{curve.label}, {self.styles[curve.sparse]}: from {_place(curve.points[0])} "
            f"to {_place(curve.points[-1])}"
            for curve in self.curves
        ]
        return f"{self.y_label} over {self.x_label}. {'; '.join(told)}."

    @property
    def beyond(self) -> str:
        """A sentence about what lies above the frame; empty where all is within it."""
        curves = [curve.points for curve in self.curves]
        highest = max(y for points in curves for _, y in points)
        if highest <= reach(curves, self.floor)[1]:
            return ""
        return f" The first values, up to {highest:.4g}, lie above the frame."

    def svg(self, *, alone: bool = False) -> str:
        """Return the drawing; see `_drawing`."""
        return _drawing(self.name, self.title, self.description, HEIGHT, "".join(_lines(self)), alone)


@dataclass(frozen=True)
class ColourBar:
    """The colours of `VIRIDIS` beside their values, from 0 to `high`."""

    name: str
    title: str
    label: str
    high: float

    @property
    def description(self) -> str:
        """What is to be seen, in words."""
        return f"{self.label}: dark purple is 0, yellow {tick_text(self.high)} or more."

    def svg(self, *, alone: bool = False) -> str:
        """Return the drawing; see `_drawing`."""
        axis = Axis(0.0, self.high, 12, WIDTH - 40)
        stops = "".join(
            f'<stop offset="{place / (len(VIRIDIS) - 1):.3f}" stop-color="{colour}"/>'
            for place, colour in enumerate(VIRIDIS)
        )
        parts = [
            f'<defs><linearGradient id="{self.name}-map">{stops}</linearGradient></defs>',
            f'<rect x="12" y="22" width="{WIDTH - 52}" height="14" fill="url(#{self.name}-map)"/>',
            _text(12, 14, self.label),
        ]
        for value in axis.ticks():
            last = "≥ " if value > self.high * (1 - 1e-9) else ""
            parts.append(_line(axis.at(value), 36, axis.at(value), 41, "axis"))
            parts.append(_text(axis.at(value), 54, last + tick_text(value), "middle"))
        return _drawing(self.name, self.title, self.description, 60, "".join(parts), alone)


Drawing = LineChart | ColourBar


def css(root: str) -> str:
    """Return the style of charts for light and dark backgrounds, with the colours declared for `root`."""

    def colours(dark: int) -> str:
        hues = "".join(f"--hue{place}:{colour};" for place, colour in enumerate((LIGHT, DARK)[dark]))
        return f"{root}{{{hues}--paper:{PAPER[dark]};--ink:{INK[dark]};--faint:{FAINT[dark]}}}"

    hues = "".join(
        f".chart .hue{place}{{stroke:var(--hue{place})}}.chart .fill{place}{{fill:var(--hue{place})}}"
        for place in range(len(LIGHT))
    )
    return (
        f"{colours(0)}@media(prefers-color-scheme:dark){{{colours(1)}}}"
        ".chart{font:13px system-ui,sans-serif}.chart text{fill:var(--ink)}"
        ".chart .end{paint-order:stroke;stroke:var(--paper);stroke-width:4px}"
        ".chart path{fill:none;stroke-linejoin:round}.chart .thin{stroke-width:1.2;opacity:.65}"
        ".chart .thick{stroke-width:2.4}.axis{stroke:var(--ink)}.grid{stroke:var(--faint)}"
        f".chart .back{{fill:var(--paper)}}{hues}"
    )


def _drawing(name: str, title: str, description: str, height: float, content: str, alone: bool) -> str:
    """Return an SVG element that says what it shows.

    Args:
        name: Of the figure.
        title: In one line.
        description: What is to be seen, in words.
        height: In the units of `WIDTH`.
        content: Drawn elements.
        alone: Whether it is a file of its own, which brings style and background along.
    """
    own = f' xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"' if alone else ""
    style = f'<style>{css("svg")}</style><rect class="back" width="100%" height="100%"/>' if alone else ""
    return (
        f'<svg{own} class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>{style}{content}</svg>'
    )


def _lines(chart: LineChart) -> Iterator[str]:
    """Yield the elements of a chart: labels of the axes, legend, grid, curves, labels of the curves."""
    ends = _ends(chart)
    widest = max((len(text) for text, *_ in ends), default=0)
    legend, rows = _legend(chart)
    curves = [curve.points for curve in chart.curves]
    low, high = reach(curves, chart.floor)
    y = Axis(low, high, HEIGHT - BOTTOM, 24 + rows * LINE_PX + 8)
    x_high = max(x for points in curves for x, _ in points)
    x = Axis(0.0, x_high or 1.0, LEFT, WIDTH - 16 - widest * LETTER_PX)
    yield _text(4, 14, chart.y_label)
    yield legend
    yield from _axes(chart, x, y)
    yield f'<clipPath id="{chart.name}-frame"><rect x="{LEFT - 5}" y="{y.end_px - 1}" width="{WIDTH}" '
    yield f'height="{y.start_px - y.end_px + 6}"/></clipPath><g clip-path="url(#{chart.name}-frame)">'
    for curve in chart.curves:
        yield from _curve(curve, chart.labels.index(curve.label), x, y)
    yield "</g>"
    heights = [min(max(y.at(point[1]), y.end_px), y.start_px) for _, point, _ in ends]
    for (text, point, hue), height in zip(ends, apart(heights, 14, y.end_px, y.start_px), strict=True):
        yield _text(x.at(point[0]) + 8, height + 4.5, text, kind=f"end fill{hue % len(LIGHT)}")


def _axes(chart: LineChart, x: Axis, y: Axis) -> Iterator[str]:
    for value in y.ticks():
        yield _line(x.start_px, y.at(value), x.end_px, y.at(value), "grid")
        yield _text(x.start_px - 7, y.at(value) + 4.5, tick_text(value), "end")
    for value in x.ticks(5):
        yield _line(x.at(value), y.start_px, x.at(value), y.start_px + 5, "axis")
        yield _text(x.at(value), y.start_px + 19, tick_text(value), "middle")
    yield _line(x.start_px, y.start_px, x.end_px, y.start_px, "axis")
    yield _text((x.start_px + x.end_px) / 2, HEIGHT - 7, chart.x_label, "middle")


def _curve(curve: Curve, place: int, x: Axis, y: Axis) -> Iterator[str]:
    """Yield a line, and with `sparse` a mark at each point; its shape goes by the colour."""
    points = thinned(curve.points, MOST_POINTS)
    path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
    yield f'<path class="{_style(place, curve.sparse)} d="M{path}"/>'
    if curve.sparse or len(points) == 1:
        yield from (_mark(place, x.at(px), y.at(py)) for px, py in points)


def _style(place: int, thick: bool) -> str:
    """Return the attributes of a line, but for the end of the first."""
    dash = DASHES[place // len(LIGHT) % len(DASHES)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'hue{place % len(LIGHT)} {"thick" if thick else "thin"}"{dashes}'


def _mark(place: int, x: float, y: float) -> str:
    kind = f'class="fill{place % len(LIGHT)}"'
    if place % 3 == 0:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="3.6"/>'
    if place % 3 == 1:
        return f'<rect {kind} x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4"/>'
    corners = f"{x - 4.4:.1f},{y + 3.6:.1f} {x + 4.4:.1f},{y + 3.6:.1f} {x:.1f},{y - 4.4:.1f}"
    return f'<polygon {kind} points="{corners}"/>'


def _ends(chart: LineChart) -> list[tuple[str, tuple[float, float], int]]:
    """Return text, place and colour of the labels at the ends of curves; those of one thing have one."""
    labels = chart.labels
    if len(labels) == 1:
        return [(chart.styles[curve.sparse], curve.points[-1], 0) for curve in chart.curves]
    found = []
    for place, label in enumerate(labels):
        own = [curve for curve in chart.curves if curve.label == label]
        best = max(own, key=lambda curve: curve.sparse)
        found.append((_short(label, MOST_LETTERS), best.points[-1], place))
    return found


def _legend(chart: LineChart) -> tuple[str, int]:
    """Return the legend's elements and its number of rows: the colours, then what the lines are."""
    room, left, row, parts = WIDTH - 8, 4.0, 0, []
    entries = [(label, place, True) for place, label in enumerate(chart.labels)]
    kinds = sorted({curve.sparse for curve in chart.curves})
    for text, place, sparse in [*entries, *((chart.styles[kind], None, kind) for kind in kinds)]:
        text = _short(text, 40)
        width = 34 + len(text) * LETTER_PX
        if left > 4 and left + width > room:
            left, row = 4.0, row + 1
        parts.append(_legend_entry(text, place, sparse, left, 32 + row * LINE_PX))
        left += width
    return "".join(parts), row + 1


def _legend_entry(text: str, place: int | None, sparse: bool, left: float, height: float) -> str:
    mark = _mark(place, left + 11, height - 4.5) if place is not None else ""
    style = f'axis {"thick" if sparse else "thin"}"' if place is None else _style(place, True)
    line = f'<path class="{style} d="M{left:.1f},{height - 4.5} {left + 22:.1f},{height - 4.5}"/>'
    return line + mark + _text(left + 27, height, text)


def _place(point: tuple[float, float]) -> str:
    return f"{point[1]:.5g} at {tick_text(point[0])}"


def _short(text: str, most: int) -> str:
    """Return the ends of a text that is too long, since names of variants differ at either."""
    return text if len(text) <= most else f"{text[: most - most // 2 - 1]}…{text[-(most // 2) :]}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
