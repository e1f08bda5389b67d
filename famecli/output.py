"""Output of commands: one result on stdout, everything else on stderr; tables for terminals and notebooks."""

import codecs
import io
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from famecli.escape import markup, one_line, redacted

if TYPE_CHECKING:
    import numpy as np

WIDTH_OF_FILES = 4096
ANY_TEXT = "famecli.any_text"
MOST_PREVIEWED = 16
# Seconds until the first line of long work that is not on a terminal.
FIRST_LINE_S = 15.0
LONGEST_ERROR = 2000
# Least width of a column of folded text.
LEAST_TEXT = 26
NO_TERMINAL = "a preview needs a terminal"


class Advance(Protocol):
    """Callback that takes the units of work just done, and a text to show beside them."""

    def __call__(self, done: int, text: str = "") -> None: ...


class Output:
    """The streams of one command.

    Args:
        json: Print the result as one JSON document.
        quiet: Print only the main value of the result, and no notes.
        wording: Function that puts a library's message into the command's words.
    """

    def __init__(
        self, *, json: bool = False, quiet: bool = False, wording: Callable[[str], str] = str
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.wording = wording
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """Print a line for people on stderr."""
        if not self.quiet:
            say(self.errors, self.wording(message))

    def warn(self, message: str) -> None:
        """Print a warning on stderr, also when quiet."""
        say(self.errors, f"warning: {self.wording(message)}", "yellow")

    def fail(self, message: str, hint: str) -> None:
        """Print an error and a hint on stderr, one line each, even if file names hold line breaks."""
        say(self.errors, f"error: {_limited(message)}", "red")
        if hint:
            say(self.errors, f"hint: {_limited(hint)}")

    def result(
        self, data: dict[str, Any], value: str, human: Callable[[Console], None] | None = None
    ) -> None:
        """Print the command's result on stdout.

        Args:
            data: The document for `--json`, with its `schema`.
            value: Main value, printed for `--quiet`, and for people if `human` is None; empty for nothing.
            human: Function that prints the result for people on a console.
        """
        if self.json:
            sys.stdout.write(json.dumps(_public(data), allow_nan=False) + "\n")
        elif self.quiet or human is None:
            sys.stdout.write(value + "\n" if value else "")
        elif sys.stdout.isatty():
            human(Console(highlight=False))
        else:
            # Files and pipes have no width, so nothing is wrapped or padded there.
            text = io.StringIO()
            human(Console(file=text, highlight=False, width=WIDTH_OF_FILES))
            sys.stdout.write(re.sub(r" +$", "", text.getvalue(), flags=re.MULTILINE))
        sys.stdout.flush()

    @contextmanager
    def progress(self, label: str, total: int, *, tenths: bool = True) -> Iterator[Advance]:
        """Show progress on stderr: a bar on a terminal; elsewhere, if `tenths`, a line per tenth of the work.

        Yields:
            A function of the units just done and a text to show beside them.
        """
        if self.quiet or not (tenths or self.errors.is_terminal):
            yield lambda done, text="": None
        elif not self.errors.is_terminal:
            yield Tenths(self, label, total)
        else:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.errors) as bar:
                task = bar.add_task(label, total=total, text="")
                yield lambda done, text="": bar.update(task, advance=done, text=text)

    def waiting(self, label: str) -> AbstractContextManager[object]:
        """Show a label with a spinner on a terminal while the context is open."""
        shown = self.errors.is_terminal and not self.quiet
        return self.errors.status(label) if shown else nullcontext()

    def preview(self, images: "np.ndarray") -> None:
        """Show the first of `images` `(N, H, W, C)` on stderr; print a warning if that is no terminal."""
        if self.errors.is_terminal:
            text = terminal_picture(images[:MOST_PREVIEWED], self.errors.width)
            self.errors.out(text, highlight=False)
        else:
            self.warn(NO_TERMINAL)


def terminal_picture(images: "np.ndarray", width_chars: int) -> str:
    """Return images as text for a terminal with 24-bit colour, two pixels in each character.

    Args:
        images: Images `(N, H, W, C)`, uint8.
        width_chars: Width of the terminal; wider images are subsampled.
    """
    import numpy as np

    from famecli.grids import grid

    columns = max(1, min(len(images), (width_chars - 1) // (images.shape[2] + 1)))
    canvas = grid(images, columns, padding=1)
    stride = math.ceil(canvas.shape[1] / max(1, width_chars))
    canvas = np.broadcast_to(canvas, (*canvas.shape[:2], 3))[::stride, ::stride]
    lines = []
    for top in range(0, len(canvas), 2):
        upper = canvas[top].tolist()
        lower = canvas[top + 1].tolist() if top + 1 < len(canvas) else [[0, 0, 0]] * len(upper)
        runs = groupby(zip(upper, lower, strict=True))
        cells = (_colours(*pair) + "▀" * len(list(run)) for pair, run in runs)
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def _colours(foreground: Sequence[int], background: Sequence[int]) -> str:
    red, green, blue = foreground
    return f"\x1b[38;2;{red};{green};{blue};48;2;{';'.join(map(str, background))}m"


def prepare_streams() -> None:
    """Make stdout raise on short writes, and let stdout and stderr print any file name in any locale.

    Undecodable bytes of file names are written unchanged, so that a printed path stays valid. Characters
    that the stream's encoding lacks are written as escapes.
    """
    codecs.register_error(ANY_TEXT, _encode_first)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ANY_TEXT)
    raw = getattr(sys.stdout, "buffer", None)
    if isinstance(raw, io.RawIOBase):
        # Raw under PYTHONUNBUFFERED: the rest of a short write, as on a full disk, would be lost.
        buffered = io.BufferedWriter(raw)
        encoding = sys.stdout.encoding
        sys.stdout = io.TextIOWrapper(buffered, encoding, ANY_TEXT, line_buffering=True)


def give_up_stdout() -> None:
    """Flush stdout, or discard what it holds if that fails: Python would try again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _encode_first(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode the first character that a stream's encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    start, text = error.start, error.object
    handler = "surrogateescape" if "\udc80" <= text[start] <= "\udcff" else "backslashreplace"
    return codecs.lookup_error(handler)(
        UnicodeEncodeError(error.encoding, text, start, start + 1, error.reason)
    )


class Tenths:
    """Progress as plain lines: one per tenth of the work, in long work one more near its start."""

    def __init__(self, output: Output, label: str, total: int, first_line_s: float = FIRST_LINE_S) -> None:
        self.output, self.label, self.total = output, label, total
        self.done, self.tenth = 0, 0
        self.started_s, self.first_line_s = time.monotonic(), first_line_s

    def __call__(self, done: int, text: str = "") -> None:
        self.done += done
        tenth, elapsed_s = 10 * self.done // max(1, self.total), time.monotonic() - self.started_s
        if tenth > self.tenth or elapsed_s > self.first_line_s:
            self.tenth, self.first_line_s = tenth, math.inf
            self.output.note(f"{self.label}: {self.done}/{self.total} in {elapsed_s:.0f} s {text}".rstrip())


def _limited(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + "..."


def _public(value: Any) -> Any:  # noqa: ANN401
    """Return a JSON value without secrets in the URLs of its texts."""
    if isinstance(value, dict):
        return {key: _public(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    return redacted(value) if isinstance(value, str) else value


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print untrusted text on a console, in one line and as it is."""
    console.print(one_line(text), markup=False, style=style)


@dataclass(frozen=True)
class FittedTable:
    """A table that leaves out its last columns where the console is too narrow, and names them.

    The first column, numbers and short texts are never folded; columns of longer texts may be.

    Args:
        title: Title above the table; empty for none.
        columns: Heads of the columns; all empty for a table without heads.
        rows: Cells of each row.
        right: Whether all columns after the first are aligned right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: bool = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the columns that fit, and a line about the others."""
        rows = [[one_line(cell) for cell in row] for row in self.rows]
        widths = [max(map(cell_len, column)) for column in zip(self.columns, *rows, strict=True)]
        shown = len(widths)
        # Two columns are a label and a value, which always belong together.
        while shown > 2 and sum(self._least(widths)[:shown]) + 2 * (shown - 1) > options.max_width:
            shown -= 1
        least = self._least(widths)[:shown]
        if shown == 2:
            # Rich would cut off what exceeds the console.
            least[1] = max(1, min(least[1], options.max_width - least[0] - 2))
        result = Table(
            title=self.title or None,
            title_justify="left",
            box=None,
            pad_edge=False,
            show_header=any(self.columns),
        )
        for index, column in enumerate(self.columns[:shown]):
            result.add_column(
                column,
                justify="right" if self.right and index > 0 else "left",
                overflow="fold",
                no_wrap=least[index] == widths[index],
                min_width=least[index],
            )
        for row in rows:
            result.add_row(*map(Text, row[:shown]))
        yield result
        if rest := [column for column in self.columns[shown:] if column]:
            yield Text(f"left out at this width: {', '.join(rest)}")

    def _least(self, widths: Sequence[int]) -> list[int]:
        """Return the least width of each column."""
        texts = 1 if not self.right else len(widths)
        return [*widths[:texts], *(min(width, LEAST_TEXT) for width in widths[texts:])]


def html_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a small table, escaped; the first cell of a row is its heading."""
    head = "".join(f"<th>{markup(column)}</th>" for column in columns)
    body = "".join(_row(row) for row in rows)
    caption = f"<caption>{markup(caption)}</caption>"
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(row: Sequence[str]) -> str:
    heading, *cells = map(markup, row)
    return f"<tr><th>{heading}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
