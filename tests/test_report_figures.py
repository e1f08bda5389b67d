"""`fame report --figures`: the charts and grids of the page as files for papers."""

import base64
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.commands import error_of, fame
from support.reports import FEW, make_place

from famecli.report.charts import LIGHT

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_place(tmp_path, monkeypatch)


def test_figures_for_papers_are_those_of_the_page(run: Path) -> None:
    assert fame("report", run, *FEW, "-o", "a.md").code == 0
    done = fame("report", run, *FEW, "-o", "b.html", "--figures", "new/figures", "--json")
    assert done.code == 0, done.err
    figures = json.loads(done.text)["figures"]
    drawings = sorted(Path("new/figures").glob("*.svg"))
    assert {path.stem for path in drawings} == {path.stem for path in Path("a_files").iterdir()}
    assert {Path(path).suffix for path in figures} <= {".svg", ".pdf"}
    assert {str(path) for path in drawings} <= set(figures)
    for path in drawings:
        text = path.read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert not re.search(r"var\(|@media", text)
        size = (float(root.attrib["width"]), float(root.attrib["height"]))
        assert root.attrib["viewBox"] == "0 0 {:.0f} {:.0f}".format(*size)
        if (image := root.find(f"{SVG}image")) is not None:
            source = image.attrib["{http://www.w3.org/1999/xlink}href"]
            found = base64.b64decode(source.removeprefix("data:image/png;base64,"))
            assert found == (Path("a_files") / f"{path.stem}.png").read_bytes()
        else:
            # The same elements in the same places as on the page, in fixed colours.
            page = ElementTree.fromstring((Path("a_files") / path.name).read_text())
            assert [(each.tag, each.attrib) for each in root.iter()] == [
                (each.tag, each.attrib) for each in page.iter()
            ]
            assert f"stroke:{LIGHT[0]}" in text


def test_figures_are_also_pdf(run: Path) -> None:
    pytest.importorskip("svglib", reason="PDF figures need the extra plot")
    assert fame("report", run, *FEW, "--figures", "figures").code == 0
    documents = sorted(Path("figures").glob("*.pdf"))
    assert [path.stem for path in documents] == sorted(path.stem for path in Path("figures").glob("*.svg"))
    for path in documents:
        content = path.read_bytes()
        assert content.startswith(b"%PDF-")
        drawing = ElementTree.parse(path.with_suffix(".svg")).getroot().attrib
        (box,) = re.findall(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", content)
        # Pixels of SVG are 1/96 inch, units of PDF 1/72 inch.
        sizes = [float(drawing[name]) * 72 / 96 for name in ("width", "height")]
        assert [float(each) for each in box] == pytest.approx(sizes, rel=0.01)


def test_without_a_converter_figures_are_svg_and_a_note_says_what_pdf_needs(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "svglib.svglib", None)
    done = fame("report", run, *FEW, "--figures", "figures")
    assert done.code == 0
    assert done.err.count("pip install 'famecli[plot]'") == 1
    assert {path.suffix for path in Path("figures").iterdir()} == {".svg"}


def test_a_folder_of_figures_is_not_written_over(run: Path) -> None:
    Path("figures").mkdir()
    Path("figures/mine").write_text("mine")
    assert "--force" in error_of(3, "report", run, *FEW, "--figures", "figures")
    assert not list(Path().glob("*.html"))
    Path("file").write_text("mine")
    for words in (("file",), ("file", "--force"), ("file/figures",)):
        told = error_of(3, "report", run, *FEW, "--figures", *words)
        assert "Not a directory" in told
        assert "--force" not in told
        assert "mkdir" not in told
    assert not list(Path().glob("*.html"))
    assert fame("report", run, *FEW, "--figures", "figures", "--force").code == 0
    assert Path("figures/mine").read_text() == "mine"
