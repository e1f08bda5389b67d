"""What a page consists of, before it is HTML or Markdown. All text is plain: the writers escape it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from famecli.report.charts import Drawing


@dataclass(frozen=True)
class Paragraph:
    """A sentence or more."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row.

    Args:
        columns: Heads.
        rows: As long as the heads each.
        numbers: Columns that are aligned right.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """An image made of pixels.

    Args:
        name: Unlike that of any other figure of the page: letters, digits, dashes.
        pixels: `(H, W, C)`, uint8.
        alt: What is to be seen.
        scale: How many pixels of the screen a pixel is wide.
    """

    name: str
    pixels: np.ndarray
    alt: str
    scale: int = 1


@dataclass(frozen=True)
class Figures:
    """Drawings or pictures that belong together, and what they show."""

    parts: Sequence[Drawing | Picture]
    caption: str


@dataclass(frozen=True)
class Code:
    """Text in lines of its own."""

    text: str


@dataclass(frozen=True)
class Fold:
    """What is hidden until it is asked for."""

    summary: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


Block = Union[Paragraph, Table, Figures, Code, Fold, Heading]  # noqa: UP007


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A page.

    Args:
        title: In one line.
        subtitle: Versions, date, seed.
        sections: In their order.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
