"""Pictures that a model draws: samples, reconstructions, and maps of the cost of each pixel."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from famecli.data.dataset import FixedLevels
from famecli.data.image_writers import levels_to_bytes, png_bytes
from famecli.data.labels import labels_or_random
from famecli.errors import NumericsError
from famecli.files import write_atomic
from famecli.grids import enlarged, grid, visible_scale, with_three_channels
from famecli.model.fame import Fame
from famecli.nll.evaluate import pixel_bits
from famecli.report.charts import VIRIDIS, ColourBar, LineChart
from famecli.report.render import HTML
from famecli.sampling.generate import generate_batches
from famecli.sampling.reconstruction import Settings, reconstruct

COLUMNS = 8
# Fraction of pixels within the colour scale; the others have its last colour.
SHOWN_PART = 0.995


@dataclass(frozen=True)
class Picture:
    """An image made of pixels.

    Args:
        name: Unique name on the page: letters, digits, dashes.
        title: Description in words.
        pixels: `(H, W, C)`, uint8.
        scale: Side of a pixel on the screen.
    """

    name: str
    title: str
    pixels: np.ndarray
    scale: int

    @property
    def url(self) -> str:
        """The picture as a data URL of a PNG."""
        return _data_url(png_bytes(self.pixels, {}))

    def enlarged(self) -> bytes:
        """Return a PNG with the size it has on the screen: viewers of Markdown would blur a small one."""
        return png_bytes(enlarged(self.pixels, self.scale), {})

    def svg(self) -> str:
        """Return the picture as an SVG file with the enlarged PNG inside."""
        return HTML.get_template("picture.jinja").render(picture=self, url=_data_url(self.enlarged()))


@dataclass(frozen=True)
class TestImages:
    """Test images as bytes `(N, H, W, C)`, and what a model makes of them.

    Args:
        originals: Images of the test split.
        reconstructions: Their reconstructions; None for a model without latents.
        bits: `-log2 p(pixel | latents, earlier pixels)`, channels summed, `(N, H, W)`.
    """

    __test__ = False

    originals: np.ndarray
    reconstructions: np.ndarray | None
    bits: np.ndarray


def draw_samples(model: Fame, seeds: range, advance: Callable[[int], None]) -> np.ndarray:
    """Return one sample per seed as bytes `(N, H, W, C)`: those of `fame sample`."""
    found, labels = [], labels_or_random(model.config.classes, None, seeds)
    for batch in generate_batches(model, seeds, labels):
        found.append(levels_to_bytes(batch, model.config.levels))
        advance(len(batch))
    return np.concatenate(found)


def reconstruct_and_score(model: Fame, scored: FixedLevels, seed: int) -> TestImages:
    """Return reconstructions and bits of images, at least one.

    Raises:
        NumericsError: The cost of a pixel is not finite.
    """
    count, levels, rebuilt = model.config.levels, scored.levels, None
    if model.config.stochastic_layers:
        rebuilt = reconstruct(model, levels, Settings(seed=seed), labels=scored.labels)[:, 0]
        rebuilt = levels_to_bytes(rebuilt, count)
    maps = pixel_bits(model, levels, seed, numbers=scored.numbers, labels=scored.labels)
    bits = np.concatenate([part for _, part in maps])
    if not np.isfinite(bits).all():
        raise NumericsError("a pixel's cost is not finite: no map can be drawn")
    return TestImages(levels_to_bytes(levels, count), rebuilt, bits)


def sheet(name: str, images: np.ndarray, title: str) -> Picture:
    """Return a nearly square grid of images, row by row."""
    return Picture(name, title, grid(images), visible_scale(*images.shape[1:3]))


def pairs(name: str, above: np.ndarray, below: np.ndarray, title: str) -> Iterator[Picture]:
    """Yield pictures of at most `COLUMNS` pairs of images in a row, one above the other."""
    for number, start in enumerate(range(0, len(above), COLUMNS), 1):
        parts = [with_three_channels(each[start : start + COLUMNS]) for each in (above, below)]
        pixels = grid(np.concatenate(parts), columns=len(parts[0]))
        yield Picture(f"{name}-{number}", title, pixels, visible_scale(*above.shape[1:3]))


def shown_bits(maps: Sequence[np.ndarray]) -> float:
    """Return the upper end of the colour scale of all `maps`, bits of a pixel, a round number."""
    highest = float(np.quantile(np.concatenate([each.ravel() for each in maps]), SHOWN_PART))
    steps = (each * 10.0**power for power in range(-3, 6) for each in (1, 1.5, 2, 3, 4, 5, 6, 8))
    return next((step for step in steps if step >= highest), highest)


def coloured(bits: np.ndarray, high: float) -> np.ndarray:
    """Return bits of pixels in the colours of `VIRIDIS`, `(N, H, W)` to `(N, H, W, 3)`."""
    table = np.array([list(bytes.fromhex(colour[1:])) for colour in VIRIDIS], np.float64)
    places = np.clip(bits / high, 0, 1) * (len(table) - 1)
    channels = [np.interp(places, np.arange(len(table)), channel) for channel in table.T]
    return np.asarray(np.rint(np.stack(channels, axis=3)).astype(np.uint8))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


Figure = Picture | LineChart | ColourBar


def write_figures(
    figures: Iterable[Figure], folder: Path, report: Callable[[str], None], replace: bool = True
) -> list[Path]:
    """Write each figure as SVG, and as PDF where the extra `plot` is installed; return the paths.

    Args:
        figures: Figures with unique names.
        folder: Folder of the files, which is created.
        report: Function for a note that there are no PDFs.
        replace: Whether existing files of the same names are replaced.

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
            write_atomic(paths[-1], content, replace=replace)
    return paths


def _converter() -> Callable[[bytes], bytes] | None:
    """Return a function from SVG to PDF; None where its packages are missing."""
    try:
        from reportlab.graphics.renderPDF import drawToString
        from svglib.svglib import svg2rlg
    except ImportError:
        return None
    return lambda svg: bytes(drawToString(svg2rlg(io.BytesIO(svg))))
