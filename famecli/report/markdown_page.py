"""A document as Markdown in GitHub's flavour, with its images as files in a folder beside it."""

import html
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from famecli.images import png_bytes
from famecli.output import printable
from famecli.report.document import (
    Block,
    Code,
    Document,
    Figures,
    Fold,
    Heading,
    Paragraph,
    Picture,
    Table,
)
from famecli.report.html_page import escaped

# What starts emphasis, code, links, headings, tables, formulas.
SPECIAL = re.compile(r"([\\`*_\[\]#|~$!])")
# What makes a list of a line that begins with it.
LIST = re.compile(r"^(\d+)?([-+.)])(?=\s|$)")


def to_markdown(document: Document, folder: str) -> tuple[str, dict[str, bytes]]:
    """Return the page, and the content of the files in `folder` beside it, by their names."""
    writer = _Writer(folder)
    parts = [f"# {plain(document.title)}", plain(document.subtitle)]
    for section in document.sections:
        parts += [f"## {plain(section.title)}", writer.blocks(section.blocks)]
    return "\n\n".join(parts) + "\n", writer.files


def plain(text: str) -> str:
    """Return text in one line that Markdown shows as it is."""
    # Quotes stay: their codes begin with a sign that is escaped here.
    line = SPECIAL.sub(r"\\\1", " ".join(html.escape(printable(text), quote=False).split()))
    return LIST.sub(r"\1\\\2", line)


class _Writer:
    """Writes blocks, and collects the files of their images."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        self.writers: Mapping[type, Callable[[Any], str]] = {
            Paragraph: lambda block: plain(block.text),
            Heading: lambda block: f"### {plain(block.text)}",
            Code: _code,
            Fold: self._fold,
            Table: _table,
            Figures: self._figures,
        }

    def blocks(self, blocks: Sequence[Block]) -> str:
        return "\n\n".join(self.writers[type(block)](block) for block in blocks)

    def _fold(self, block: Fold) -> str:
        inner = self.blocks(block.blocks)
        return f"<details>\n<summary>{escaped(block.summary)}</summary>\n\n{inner}\n\n</details>"

    def _figures(self, block: Figures) -> str:
        images = []
        for part in block.parts:
            if isinstance(part, Picture):
                name, alt, content = f"{part.name}.png", part.alt, _enlarged(part)
            else:
                name, alt, content = f"{part.name}.svg", part.title, part.svg(alone=True).encode()
            self.files[name] = content
            images.append(f"![{plain(alt)}]({quote(os.fsencode(self.folder))}/{name})")
        return "\n".join(images) + (f"\n\n{plain(block.caption)}" if block.caption else "")


def _enlarged(picture: Picture) -> bytes:
    """Return a PNG with the size it has on the screen: viewers of Markdown would blur a small one."""
    return png_bytes(np.repeat(np.repeat(picture.pixels, picture.scale, 0), picture.scale, 1), {})


def _code(block: Code) -> str:
    text = printable(block.text).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}toml\n{text}\n{fence}"


def _table(block: Table) -> str:
    rules = ["---:" if place in block.numbers else "---" for place in range(len(block.columns))]
    rows = [[plain(cell) for cell in row] for row in (block.columns, *block.rows)]
    rows.insert(1, rules)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
