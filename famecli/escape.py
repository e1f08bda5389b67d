"""Text from files, servers and command lines, escaped for the place that shows it: one function per target.

JSON needs none: `json.dumps` escapes all but printable ASCII. Imports nothing of famecli.
"""

import html
import json
import re

# User, password, query and fragment of a URL may be secrets; a revision after @ in hf:// and a hash are not.
USER = re.compile(r"(?<!\bhf)://[^/\n]*@", re.IGNORECASE)
# Matches from each :// on, so that long texts take linear time.
URL = re.compile(r"(://[^\s?#]*)(\?[^\s#]*)?(#\S*)?")
HASH = re.compile(r"#sha256=[0-9a-f]*", re.IGNORECASE)
# Characters after a URL that belong to the text around it.
CLOSING = "'\"`.,:;)]>"
# Characters that start emphasis, code, links, headings, tables and formulas in Markdown.
SPECIAL = re.compile(r"([\\`*_\[\]#|~$!])")
# Start of a line that would make it a list in Markdown.
LIST = re.compile(r"^(\d+)?([-+.)])(?=\s|$)")
# Text that is the same inside a code span and outside.
WORD = re.compile(r"[A-Za-z0-9._-]+")


def counted(count: int, noun: str = "image") -> str:
    """Return a number and its noun.

    >>> counted(1), counted(1234)
    ('1 image', '1,234 images')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def redacted(text: str) -> str:
    """Return text whose URLs lack user, password, query and any fragment but a hash.

    >>> redacted("cannot fetch https://me:secret@host/file?token=x")
    'cannot fetch https://host/file?...'
    """
    if "://" not in text:
        return text
    return URL.sub(_public, USER.sub("://", text))


def _public(url: re.Match[str]) -> str:
    """Return a found URL without its query and any fragment but a hash; the characters after it stay."""
    address, query, fragment = url.groups("")
    private = query + fragment
    closing = private[len(private.rstrip(CLOSING)) :]
    fragment = fragment.rstrip(CLOSING)
    shown = fragment if HASH.fullmatch(fragment) else ""
    return address + ("?..." if query else "") + shown + closing


def printable(text: str) -> str:
    """Return text for a terminal, without control characters and secrets of URLs; lines stay lines."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\ufffd"
        for character in redacted(text)
    )


def one_line(text: str) -> str:
    """Return text for one line of a terminal."""
    return printable(" ".join(text.splitlines()))


def markup(text: str) -> str:
    """Return text for HTML, inside an element or a quoted attribute."""
    return html.escape(printable(text))


def no_list(line: str) -> str:
    """Return a line of Markdown that starts no list."""
    return type(line)(LIST.sub(r"\1\\\2", line))


def markdown(text: str) -> str:
    """Return text in one line that Markdown shows as it is."""
    # Quotes stay: their entities, such as &#x27;, contain #, which SPECIAL would escape.
    line = " ".join(html.escape(printable(text), quote=False).split())
    return no_list(SPECIAL.sub(r"\\\1", line))


def code(text: str) -> str:
    """Return text as code in a line of Markdown; text that a code span could not hold stays plain."""
    return f"`{text}`" if WORD.fullmatch(text) else markdown(text)


def fenced(text: str, language: str) -> str:
    """Return lines as a block of code in Markdown; no text can close its fence."""
    text = printable(text).rstrip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def yaml(text: str) -> str:
    """Return text as a quoted YAML string, without lone surrogates, which only JSON allows."""
    return json.dumps(printable(text), ensure_ascii=False)
