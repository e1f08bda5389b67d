"""Results in notebooks. Imports nothing heavy."""

from collections.abc import Sequence

from famecli.escape import markup


def html_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a small table, escaped; the first cell of a row is its heading."""
    head = "".join(f"<th>{markup(column)}</th>" for column in columns)
    body = "".join(_row(row) for row in rows)
    caption = f"<caption>{markup(caption)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(row: Sequence[str]) -> str:
    heading, *cells = map(markup, row)
    return f"<tr><th>{heading}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
