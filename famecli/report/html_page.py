"""A document as one HTML page: no scripts, nothing fetched, everything that is text escaped."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from famecli.images import png_bytes
from famecli.output import printable
from famecli.report.charts import css
from famecli.report.document import (
    Block,
    Code,
    Document,
    Figures,
    Fold,
    Heading,
    Paragraph,
    Picture,
    Section,
    Table,
)

# Whatever came through nevertheless: nothing runs, and nothing is asked for.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Of a table on a narrow screen; rows of wider ones become lists there.
MOST_COLUMNS = 5
STYLE = """
*{box-sizing:border-box}
html{color-scheme:light dark;background:var(--paper);color:var(--ink);-webkit-text-size-adjust:100%}
body{font:16px/1.5 system-ui,sans-serif;max-width:1120px;margin:0 auto;padding:24px 16px 64px;
 overflow-wrap:anywhere}
h1{font-size:1.7em;line-height:1.2;margin:.2em 0}
h2{font-size:1.25em;margin:2.2em 0 .5em;padding-bottom:.2em;border-bottom:1px solid var(--faint)}
h3{font-size:1em;margin:1.6em 0 .4em}
p{margin:.5em 0;max-width:75ch}
header p,figcaption{opacity:.8}
table{border-collapse:collapse;width:100%;margin:.8em 0;font-size:.9em}
th,td{text-align:left;vertical-align:top;padding:.35em .9em .35em 0;border-bottom:1px solid var(--faint)}
tbody th{min-width:8em}
thead th{vertical-align:bottom;overflow-wrap:normal}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}
td.n{overflow-wrap:normal;white-space:nowrap}
figure{margin:1em 0}
figcaption{font-size:.9em;max-width:75ch;margin-top:.4em}
.parts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:16px 24px;
 justify-items:start}
.parts svg{width:100%;max-width:600px;height:auto}
.parts img{max-width:100%;height:auto;image-rendering:pixelated;display:block}
summary{cursor:pointer}
pre{overflow-x:auto;font-size:.85em;line-height:1.4;padding:12px;border:1px solid var(--faint)}
@media(max-width:720px){
 .wide thead{position:absolute;clip-path:inset(50%);height:1px;width:1px;overflow:hidden}
 .wide tr{display:block;padding:.5em 0;border-bottom:1px solid var(--faint)}
 .wide tbody th,.wide td,.wide td.n{display:block;text-align:left;border:0;padding:.1em 0}
 .wide td::before{content:attr(data-head) ": ";opacity:.75}
}
"""


def to_html(document: Document) -> str:
    """Return the page; whatever its text says, it is text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(document.title)}</title>\n<style>{css(':root')}{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escaped(document.title)}</h1>\n<p>{escaped(document.subtitle)}</p></header>\n<main>\n"
        f"{''.join(_section(section) for section in document.sections)}</main>\n</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    """Return text that a browser shows as it is."""
    return html.escape(printable(text))


def _section(section: Section) -> str:
    return f"<section>\n<h2>{escaped(section.title)}</h2>\n{_blocks(section.blocks)}</section>\n"


def _blocks(blocks: Sequence[Block]) -> str:
    return "".join(WRITERS[type(block)](block) + "\n" for block in blocks)


def _paragraph(block: Paragraph) -> str:
    return f"<p>{escaped(block.text)}</p>"


def _heading(block: Heading) -> str:
    return f"<h3>{escaped(block.text)}</h3>"


def _code(block: Code) -> str:
    return f"<pre>{escaped(block.text)}</pre>"


def _fold(block: Fold) -> str:
    return f"<details>\n<summary>{escaped(block.summary)}</summary>\n{_blocks(block.blocks)}</details>"


def _table(block: Table) -> str:
    kinds = [' class="n"' if place in block.numbers else "" for place in range(len(block.columns))]
    heads = [escaped(column) for column in block.columns]
    head = "".join(f'<th scope="col"{kind}>{text}</th>' for kind, text in zip(kinds, heads, strict=True))
    rows = []
    for first, *cells in block.rows:
        line = f'<th scope="row">{escaped(first)}</th>' + "".join(
            f'<td{kind} data-head="{text}">{escaped(cell)}</td>'
            for kind, text, cell in zip(kinds[1:], heads[1:], cells, strict=True)
        )
        rows.append(f"<tr>{line}</tr>")
    wide = ' class="wide"' if len(block.columns) > MOST_COLUMNS else ""
    return f"<table{wide}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _figures(block: Figures) -> str:
    parts = "".join(_picture(part) if isinstance(part, Picture) else part.svg() for part in block.parts)
    caption = f"<figcaption>{escaped(block.caption)}</figcaption>" if block.caption else ""
    return f'<figure><div class="parts">{parts}</div>{caption}</figure>'


def _picture(picture: Picture) -> str:
    height, width = (side * picture.scale for side in picture.pixels.shape[:2])
    data = base64.b64encode(png_bytes(picture.pixels, {})).decode()
    return (
        f'<img alt="{escaped(picture.alt)}" width="{width}" height="{height}" '
        f'src="data:image/png;base64,{data}">'
    )


WRITERS: Mapping[type, Callable[[Any], str]] = {
    Paragraph: _paragraph,
    Heading: _heading,
    Code: _code,
    Fold: _fold,
    Table: _table,
    Figures: _figures,
}
