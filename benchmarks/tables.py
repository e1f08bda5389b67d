"""Tables of results, as Markdown or JSON."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.estimates import Estimate
from famecli.files import check_writable, write_atomic

Cell = str | int | float | Estimate | None


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        name: Key in JSON.
        title: One-line title.
        columns: Headings, with units.
        rows: Rows with one cell per column; None is left blank.
        note: Paragraph below the table, on how the figures were measured.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    note: str = ""

    def markdown(self) -> str:
        """Return heading, table and note."""
        marks = ["---:" if self._is_number(index) else "---" for index in range(len(self.columns))]
        lines = [f"### {self.title}", "", _line(self.columns), _line(marks)]
        lines += [_line([_text(cell) for cell in row]) for row in self.rows]
        return "\n".join(lines + (["", self.note] if self.note else []))

    def _is_number(self, index: int) -> bool:
        return all(not isinstance(row[index], str) for row in self.rows)

    def document(self) -> dict[str, Any]:
        """Return the table as JSON values; a row is an object with the headings as keys."""
        rows = [dict(zip(self.columns, [_value(cell) for cell in row], strict=True)) for row in self.rows]
        return {"name": self.name, "title": self.title, "note": self.note, "rows": rows}


def check_target(target: Path | None) -> None:
    """Check, before any work is done, that a target of `publish` can be written.

    Raises:
        InputError: It cannot.
    """
    if target is not None and str(target) != "-":
        check_writable(target)


def publish(tables: Sequence[Table], schema: str, facts: dict[str, Any], target: Path | None) -> None:
    """Print tables as Markdown, or write them as one JSON document to `target`.

    Args:
        tables: Tables of results.
        schema: Name of the document's schema.
        facts: Further entries of the document: models, data, choices, versions.
        target: JSON file, `-` for stdout; None prints Markdown.
    """
    if target is None:
        print("\n\n".join(table.markdown() for table in tables))
        return
    document = {"schema": schema, **facts, "tables": [table.document() for table in tables]}
    text = json.dumps(document, allow_nan=False, indent=2) + "\n"
    if str(target) == "-":
        sys.stdout.write(text)
    else:
        write_atomic(target, text.encode())


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "\\|")


def _value(cell: Cell) -> Any:  # noqa: ANN401
    if isinstance(cell, Estimate):
        return {"value": _finite(cell.value), "stderr": _finite(cell.stderr), "count": cell.count}
    return _finite(cell) if isinstance(cell, float) else cell


def _finite(value: float) -> float | None:
    """Return None for a value that is not finite, since JSON has no word for it."""
    return value if math.isfinite(value) else None
