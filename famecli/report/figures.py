"""The charts and grids of a page as files for papers."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

from famecli.files import write_atomic
from famecli.report.charts import ColourBar, LineChart
from famecli.report.pictures import Picture

Figure = Picture | LineChart | ColourBar


def write_figures(figures: Iterable[Figure], folder: Path, report: Callable[[str], None]) -> list[Path]:
    """Write each figure as SVG, and as PDF where the extra `plot` is installed; return the paths.

    Args:
        figures: Figures with unique names.
        folder: Folder of the files, which is created; files of the same names are replaced.
        report: Function for a note that there are no PDFs.

    Raises:
        InputError: A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    to_pdf, paths = _converter(), []
    if to_pdf is None:
        report("figures are written as SVG only; PDF needs: pip install 'famecli[plot]'")
    for figure in figures:
        svg = (figure.svg() if isinstance(figure, Picture) else figure.svg("print")).encode()
        contents = {".svg": svg} | ({} if to_pdf is None else {".pdf": to_pdf(svg)})
        for suffix, content in contents.items():
            paths.append(folder / f"{figure.name}{suffix}")
            write_atomic(paths[-1], content)
    return paths


def _converter() -> Callable[[bytes], bytes] | None:
    """Return a function from SVG to PDF; None where its packages are missing."""
    try:
        from reportlab.graphics.renderPDF import drawToString
        from svglib.svglib import svg2rlg
    except ImportError:
        return None
    return lambda svg: bytes(drawToString(svg2rlg(io.BytesIO(svg))))
