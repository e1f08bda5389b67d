"""Templates of the page and of its charts; every text from outside is escaped for the format."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from famecli import escape


def one_line(text: str) -> str:
    """Return text with a single space for each run of white space; markup stays markup."""
    return type(text)(" ").join(text.split())


def _environment(shown: Callable[[str], str], line: Callable[[str], str]) -> Environment:
    """Return the templates for one format.

    Args:
        shown: Function that every value goes through, except markup; HTML is escaped after it.
        line: Function that turns the markup of a sentence into one line.
    """
    environment = Environment(
        loader=PackageLoader("famecli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else shown(str(value)),
    )
    toml = lambda text: Markup(escape.fenced(text, "toml"))  # noqa: E731
    environment.filters |= {"line": line, "fenced": toml, "px": "{:.1f}".format}
    return environment


HTML = _environment(escape.printable, one_line)
MARKDOWN = _environment(
    lambda text: Markup(escape.markdown(text)), lambda text: escape.no_list(one_line(text))
)
