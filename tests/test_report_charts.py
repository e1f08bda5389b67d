"""Charts of `fame report`: axes, what is drawn where, colours."""

import dataclasses
import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from famecli.report.charts import (
    DARK,
    INK,
    LIGHT,
    PAPER,
    VIRIDIS,
    Axis,
    ColourBar,
    Curve,
    LineChart,
    apart,
    reach,
    round_step,
    thinned,
    tick_text,
)
from famecli.report.pictures import coloured, pairs, shown_bits

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title><script>alert('1')</script> & \"quoted\""
# What is left of linear RGB for those who lack cones for long, medium or short waves.
# Source: Machado, Oliveira, Fernandes 2009, severity 1.
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def chart(*curves: Curve, floor: float | None = None) -> LineChart:
    return LineChart("c-1", "A title", "images seen", "NLL, nats/image", curves, floor=floor)


def drawn(figure: LineChart | ColourBar) -> ElementTree.Element:
    return ElementTree.fromstring(figure.svg("file"))


def path_points(element: ElementTree.Element) -> np.ndarray:
    return np.array([[float(n) for n in pair.split(",")] for pair in element.attrib["d"][1:].split(" ")])


def linear(colour: str) -> np.ndarray:
    values = np.array(list(bytes.fromhex(colour[1:]))) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2."""
    light, dark = sorted(
        (float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = matrix @ np.clip(rgb, 0, 1) / matrix.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("background", [0, 1])
def test_lines_and_text_stand_out_from_the_background(background: int) -> None:
    # WCAG 2.1: 4.5 for text, and the labels at the ends of curves have their colours.
    for colour in (*(LIGHT, DARK)[background], INK[background]):
        assert contrast(colour, PAPER[background]) >= 4.5, colour


@pytest.mark.parametrize("sight", BLINDNESS)
@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_colours_differ_for_the_colour_blind(palette: tuple[str, ...], sight: str) -> None:
    seen = [lab(BLINDNESS[sight] @ linear(colour)) for colour in palette]
    # In units of CIE 1976, of which 2.3 can just be seen side by side.
    for few, least in ((4, 20), (6, 15)):
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen[:few], 2)) > least


@pytest.mark.parametrize(
    ("low", "high"), [(0, 192_000), (81.2, 89.7), (0, 0.0004), (-3, 7), (1e14, 1e15), (3.7, 3.7001)]
)
def test_ticks_are_few_round_and_within_the_axis(low: float, high: float) -> None:
    ticks = Axis(low, high, 0, 100).ticks()
    assert 2 <= len(ticks) <= 6
    step = round_step((high - low) / 5)
    assert float(f"{step:.0e}") == pytest.approx(step)
    assert f"{step:.0e}"[0] in "125"
    for tick in ticks:
        assert low - 1e-9 * step <= tick <= high + 1e-9 * step
        assert tick / step == pytest.approx(round(tick / step))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (51_200, "51.2k"), (1.5e6, "1.5M"), (0.1 + 0.2, "0.3"), (-2500, "-2.5k")]
)
def test_tick_text(value: float, text: str) -> None:
    assert tick_text(value) == text


def test_the_frame_leaves_out_the_steep_start_alone() -> None:
    steep = [(0.0, 600.0), (10.0, 90.0), (50.0, 83.0), (100.0, 82.0)]
    low, high = reach([steep])
    assert low < 82 < 83 < high < 90
    assert "up to 600, lie above" in chart(Curve("a", steep, False)).beyond
    assert chart(Curve("a", steep[2:], False)).beyond == ""
    assert reach([steep], floor=0.0)[0] == 0
    flat = reach([[(0.0, 5.0), (1.0, 5.0)]])
    assert flat[0] < 5 < flat[1]


def test_labels_move_apart_and_stay_in_the_frame() -> None:
    moved = apart([50, 51, 99, 98, 0], 14, 0, 100)
    assert min(b - a for a, b in itertools.pairwise(sorted(moved))) >= 14
    assert min(moved) >= 0
    assert max(moved) <= 100
    assert sorted(range(5), key=lambda i: moved[i]) == [4, 0, 1, 3, 2]
    assert apart([10, 40], 14, 0, 100) == [10, 40]
    assert apart([0, 0, 0], 14, 0, 100) == [0, 14, 28]


def test_thinning_keeps_both_ends() -> None:
    points = [(float(x), 0.0) for x in range(1000)]
    few = thinned(points, 300)
    assert (few[0], few[-1]) == (points[0], points[-1])
    assert 200 < len(few) <= 301
    assert thinned(points[:300], 300) == points[:300]


def test_points_are_drawn_where_the_ticks_say() -> None:
    data = [(10_000.0, 83.0), (20_000.0, 84.0), (30_000.0, 82.0)]
    root = drawn(chart(Curve("a", data, True)))
    lines = [(each.attrib["class"], each) for each in root.iter(f"{SVG}line")]
    texts = {each.text: each for each in root.iter(f"{SVG}text")}
    places = {}
    for text, value in (("20k", 20_000), ("30k", 30_000)):
        places[value] = float(texts[text].attrib["x"])
    heights = {
        float(texts[f"{value}"].text or ""): float(texts[f"{value}"].attrib["y"]) - 4.5
        for value in (82, 83, 84)
    }
    (path,) = [
        each for each in root.iter(f"{SVG}path") if " " in each.attrib["d"] and len(path_points(each)) == 3
    ]
    points = path_points(path)
    assert points[1:, 0] == pytest.approx([places[20_000], places[30_000]], abs=0.11)
    assert points[:, 1] == pytest.approx([heights[83], heights[84], heights[82]], abs=0.11)
    assert any(kind == "grid" for kind, _ in lines)
    assert len(list(root.iter(f"{SVG}circle"))) == 3 + 1


def test_a_ring_marks_the_lowest_validation_with_its_value() -> None:
    points = [(1.0, 90.0), (2.0, 81.25), (3.0, 83.0)]
    figure = chart(Curve("a", points, True), Curve("a", [(1.0, 70.0), (3.0, 71.0)], False))
    assert not [each for each in drawn(figure).iter() if each.attrib.get("class") == "ring"]
    root = drawn(dataclasses.replace(figure, rings=True))
    (ring,) = [each for each in root.iter(f"{SVG}circle") if each.attrib["class"] == "ring"]
    marks = [(each.attrib["cx"], each.attrib["cy"]) for each in root.iter(f"{SVG}circle")]
    assert marks.count((ring.attrib["cx"], ring.attrib["cy"])) == 2
    assert "81.25" in [each.text for each in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("lowest", [79.0, 85.0])
def test_the_value_of_a_ring_is_within_the_frame(lowest: float) -> None:
    points = [(1.0, 90.0), (2.0, lowest), (3.0, 86.0)]
    figure = chart(Curve("a", points, True), Curve("a", [(1.0, 79.0), (3.0, 88.0)], False))
    root = drawn(dataclasses.replace(figure, rings=True))
    (frame,) = root.findall(f".//{SVG}clipPath/{SVG}rect")
    (value,) = root.findall(f".//{SVG}g/{SVG}text")
    assert value.text == f"{lowest:.5g}"
    top, height = float(frame.attrib["y"]), float(frame.attrib["height"])
    assert top + 10 < float(value.attrib["y"]) < top + height - 3


@pytest.mark.parametrize("point", [(5e-324, 80.0), (1.0, 5e-324), (3e-322, -5e-324), (0.0, 0.0)])
def test_tiny_numbers_are_drawn(point: tuple[float, float]) -> None:
    root = drawn(chart(Curve("a", [point], True)))
    marks = list(root.iter(f"{SVG}circle"))
    assert marks
    assert all(math.isfinite(float(mark.attrib[name])) for mark in marks for name in ("cx", "cy"))


def test_a_chart_says_what_it_shows() -> None:
    figure = chart(Curve("a", [(0.0, 90.0), (1e4, 80.0)], True), Curve("b", [(0.0, 70.0)], False))
    root = drawn(figure)
    assert root.attrib["role"] == "img"
    ids = {each.attrib["id"]: each.text for each in root.iter() if "id" in each.attrib}
    title, description = (ids[name] for name in root.attrib["aria-labelledby"].split())
    assert title == "A title"
    assert description is not None
    for part in ("NLL, nats/image", "images seen", "a, validation: from 90 at 0 to 80 at 10k", "b, training"):
        assert part in description
    texts = [each.text for each in root.iter(f"{SVG}text")]
    # In the legend and at the end of its curve.
    assert texts.count("a") == texts.count("b") == 2
    assert {"training", "validation", "images seen", "NLL, nats/image"} <= set(texts)


def test_more_runs_than_colours_are_dashed_and_have_places_in_the_legend() -> None:
    root = drawn(chart(*(Curve(f"run-{n}", [(0.0, n), (1.0, n)], True) for n in range(9))))
    looks = {
        (each.attrib["class"], each.attrib.get("stroke-dasharray"))
        for each in root.iter(f"{SVG}path")
        if "hue" in each.attrib["class"]
    }
    assert len(looks) == 9
    legend = [each for each in root.iter(f"{SVG}text") if each.text == "run-8"]
    assert len(legend) == 2
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= 480
        assert 0 <= float(text.attrib["y"]) <= 340


def test_text_in_a_drawing_is_text() -> None:
    figure = LineChart("c-1", HOSTILE, HOSTILE, HOSTILE, [Curve(HOSTILE, [(0.0, 1.0), (1.0, 2.0)], True)])
    root = drawn(figure)
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        *("svg", "title", "desc", "style", "rect", "text", "path", "line", "circle", "clipPath", "g"),
    }
    assert next(root.iter(f"{SVG}title")).text == HOSTILE


def test_drawings_fetch_nothing() -> None:
    bar = ColourBar("b", "t", "bits per pixel", 4.0)
    for figure in (chart(Curve("a", [(0.0, 1.0)], True)), bar):
        text = figure.svg("file").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "http" not in text
        assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_a_colour_bar_ends_with_its_highest_value() -> None:
    texts = [each.text for each in drawn(ColourBar("b", "t", "bits per pixel", 30.0)).iter(f"{SVG}text")]
    assert texts == ["bits per pixel", "0", "10", "20", "≥ 30"]


def test_maps_have_the_colours_of_the_bar() -> None:
    bits = np.array([[[0.0, 1.0, 2.0, 4.0, 9.0]]])
    found = ["#" + bytes(pixel).hex() for pixel in coloured(bits, 4.0)[0, 0]]
    assert found == [VIRIDIS[0], VIRIDIS[2], VIRIDIS[4], VIRIDIS[8], VIRIDIS[8]]


def test_the_scale_is_round_and_shows_nearly_all_pixels() -> None:
    bits = np.concatenate([np.linspace(0, 3.3, 999), [500.0]])[None, None]
    assert shown_bits([bits]) == 4
    assert shown_bits([bits, bits * 2]) == 8
    assert shown_bits([np.zeros((1, 2, 2))]) > 0


def test_pairs_stand_above_each_other() -> None:
    above = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    first, second = pairs("p", above, above + 100, "alt")
    assert [first.name, second.name] == ["p-1", "p-2"]
    assert first.pixels.shape == (10, 34, 3)
    assert second.pixels.shape == (10, 10, 3)
    assert first.pixels[2, 2::4, 0][:8].tolist() == list(range(8))
    assert first.pixels[6, 2::4, 0][:8].tolist() == list(range(100, 108))
    assert second.pixels[6, 2::4, 0][:2].tolist() == [108, 109]


def test_long_names_that_differ_at_either_end_are_told_apart_at_the_curves() -> None:
    names = ["fame-dense, fewer maps", "fame-dense, fewer latents", "lvae-dense, fewer latents"]
    curves = [Curve(name, [(1.0, 2.0 + place), (2.0, 1.0 + place)], True) for place, name in enumerate(names)]
    drawing = LineChart("c", "t", "x", "y", curves).svg()
    ends = re.findall(r'class="end [^>]*>([^<]*)<', drawing)
    assert ends == ["fame-de…wer maps", "fame-de… latents", "lvae-de… latents"]
