"""Templates of the page and of its charts; every text from outside is escaped for the format."""

import html
import re
from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from famecli.output import printable

# Characters that start emphasis, code, links, headings, tables and formulas in Markdown.
SPECIAL = re.compile(r"([\\`*_\[\]#|~$!])")
# Start of a line that would make it a list in Markdown.
LIST = re.compile(r"^(\d+)?([-+.)])(?=\s|$)")


def plain(text: str) -> str:
    """Return text in one line that Markdown shows as it is."""
    # Quotes stay: their entities, such as &#x27;, contain #, which SPECIAL would escape.
    return _no_list(SPECIAL.sub(r"\\\1", one_line(html.escape(printable(text), quote=False))))


def fenced(text: str) -> str:
    """Return text as a block of TOML in Markdown; no text can close its fence."""
    text = printable(text).rstrip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}toml\n{text}\n{fence}")


def one_line(text: str) -> str:
    """Return text with a single space for each run of white space; markup stays markup."""
    return type(text)(" ").join(text.split())


def _no_list(line: str) -> str:
    return type(line)(LIST.sub(r"\1\\\2", line))


def _environment(escape: Callable[[str], str], line: Callable[[str], str]) -> Environment:
    """Return the templates for one format.

    Args:
        escape: Function that every value goes through, except markup; HTML is escaped after it.
        line: Function that turns the markup of a sentence into one line.
    """
    environment = Environment(
        loader=PackageLoader("famecli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else escape(str(value)),
    )
    environment.filters |= {"line": line, "fenced": fenced, "px": "{:.1f}".format}
    return environment


HTML = _environment(printable, one_line)
MARKDOWN = _environment(lambda text: Markup(plain(text)), lambda text: _no_list(one_line(text)))
