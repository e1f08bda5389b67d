"""Distribution of an image's bits over latents and rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.checkpoints import NamedModel, reference_of
from benchmarks.estimates import mean_of, ratio_of
from benchmarks.tables import Cell, Table
from famecli.data.image_writers import mean_to_uint8, write_png
from famecli.grids import grid
from famecli.nll.evaluate import evaluate, pixel_bits
from famecli.nll.record import NATS_PER_BIT
from famecli.output import Output

BANDS = 4
SEED = 0


@dataclass(frozen=True)
class Bits:
    """Code lengths of images under one model.

    Args:
        model: Scoring model.
        pixels: Bits of each pixel given the latents and earlier pixels, `(N, H, W)`.
        latents: Bits of each stochastic layer, from the image upwards, `(N, layers)`.
    """

    model: NamedModel
    pixels: np.ndarray
    latents: np.ndarray

    def bands(self) -> np.ndarray:
        """Bits of each band of rows, from above, `(N, BANDS)`."""
        rows = self.pixels.sum(2, dtype=np.float64)
        return np.stack([part.sum(1) for part in np.array_split(rows, BANDS, axis=1)], axis=1)


def measure(models: Sequence[NamedModel], levels: np.ndarray) -> list[Bits]:
    """Return the bits of images `(N, C, H, W)` under each model, with one draw of the latents."""
    found = []
    with Output().progress("maps", len(models)) as advance:
        for each in models:
            rate = evaluate(each.model, levels, seed=SEED).rate
            pixels = np.concatenate([part for _, part in pixel_bits(each.model, levels, SEED)])
            found.append(Bits(each, pixels, rate / NATS_PER_BIT))
            advance(1, each.name)
    return found


def tables(found: Sequence[Bits]) -> list[Table]:
    """Return the bits per band of rows, and those per stochastic layer."""
    reference = reference_of([each.model for each in found])
    base = next(each for each in found if each.model is reference)
    height = base.pixels.shape[1]
    edges = [int(part[0]) + 1 for part in np.array_split(np.arange(height), BANDS)] + [height + 1]
    spans = [f"rows {first} to {last - 1}" for first, last in pairwise(edges)]
    layers = max(each.latents.shape[1] for each in found)
    rates: list[tuple[Cell, ...]] = []
    for each in found:
        cells = [mean_of(rate).times(NATS_PER_BIT) for rate in each.latents.T]
        total = None if not cells else mean_of(each.latents.sum(1)).times(NATS_PER_BIT)
        rates.append((each.model.name, total, *cells, *[None] * (layers - len(cells))))
    note = (
        f"Means over {len(base.pixels):,} test images, with standard errors over images and one draw of the "
        "latents. Bits of a row are those of its pixels given the latents and all earlier pixels. "
        f"Percentages are of the bits of all pixels. Differences are to {reference.name}, on the same images."
    )
    if any(_patch(each) != _patch(base) for each in found):
        note += " Models of another decoder.patch draw pixels in another order: their rows do not compare."
    columns = ("model", "latents", *spans, "all", "first half of the rows, %")
    differences = [_difference(each, base) for each in found if each is not base]
    result = [Table("bits", "Bits of an image", columns, [_bits(each) for each in found], note)]
    if differences:
        result.append(Table("bits_less", "Bits minus those of the reference", columns[:-1], differences))
    names = tuple(f"layer {index}" for index in range(layers))
    rate_note = "Layer 0 is nearest to the image."
    return [*result, Table("rate", "KL divergence, nats", ("model", "all", *names), rates, rate_note)]


def _bits(each: Bits) -> tuple[Cell, ...]:
    bands = each.bands()
    half = each.pixels[:, : each.pixels.shape[1] // 2].sum((1, 2), dtype=np.float64)
    return (
        each.model.name,
        mean_of(each.latents.sum(1)) if each.model.has_latents else None,
        *(mean_of(band) for band in bands.T),
        mean_of(bands.sum(1) + each.latents.sum(1)),
        ratio_of(half, bands.sum(1)).times(100),
    )


def _patch(each: Bits) -> int:
    return each.model.model.config.decoder.patch


def _difference(each: Bits, base: Bits) -> tuple[Cell, ...]:
    """Return the differences of two models' bits; those of rows only where they compare."""
    bands, others = each.bands(), base.bands()
    rows = [mean_of(band) for band in (bands - others).T] if _patch(each) == _patch(base) else [None] * BANDS
    latents = each.latents.sum(1) - base.latents.sum(1)
    return (
        each.model.name,
        mean_of(latents),
        *rows,
        mean_of((bands - others).sum(1) + latents),
    )


def picture(found: Sequence[Bits], labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return mean maps as one picture `(H, W, C)`, and the bits of a white pixel.

    Each row shows a model: the mean over all images, then over those of each class.
    """
    groups = [np.ones(len(labels), bool), *(labels == label for label in np.unique(labels))]
    maps = np.stack([each.pixels[group].mean(0) for each in found for group in groups])
    white = float(maps.max())
    return grid(mean_to_uint8(maps[:, None] / white), len(groups)), white


def write_picture(found: Sequence[Bits], labels: np.ndarray, path: Path) -> None:
    """Write `picture` as a PNG file, with its description in text chunks."""
    image, white = picture(found, labels)
    names = ", ".join(each.model.name for each in found)
    text: dict[str, str | float] = {
        "rows": names,
        "columns": "all images, then each class",
        "white_bits": round(white, 4),
    }
    write_png(path, image, text)
