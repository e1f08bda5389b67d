"""Seeded damage to files, and limits on how a reader responds.

`mutant(content, seed, number, ...)` depends on its arguments alone, so a mutant that a failing test names can
be reproduced by itself.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from famecli.errors import ExitCode, FameError

Source = np.random.Generator
Mutation = Callable[[bytes, Source], bytes]
SLOWEST_S = 1.0
# Boundary values of sizes, counts and offsets.
EDGES = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)
# Replacement values for JSON entries.
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    "",
    "../../etc/passwd",
    "a\nb\x1b[31m",
    [],
    {},
    [[[[]]]],
    0,
    -1,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    2**31,
    2**63,
    2**64,
    10**400,
)


class Verdict(NamedTuple):
    """Outcome of reading a file: the error, or None if it was read."""

    error: FameError | None
    value: Any


def flip_bits(content: bytes, source: Source) -> bytes:
    """Flip one to four bits."""
    changed = bytearray(content)
    for position in source.integers(0, len(content), source.integers(1, 5)):
        changed[position] ^= 1 << source.integers(8)
    return bytes(changed)


def set_bytes(content: bytes, source: Source) -> bytes:
    """Overwrite one to four bytes with others."""
    changed = bytearray(content)
    for position in source.integers(0, len(content), source.integers(1, 5)):
        changed[position] = source.integers(256)
    return bytes(changed)


def cut(content: bytes, source: Source) -> bytes:
    """Drop the end, or a piece inside."""
    start = int(source.integers(len(content)))
    end = len(content) if source.random() < 0.5 else start + int(source.integers(1, 65))
    return content[:start] + content[end:]


def splice(content: bytes, source: Source) -> bytes:
    """Overwrite or insert at a random place: a piece of the file, zeros or noise."""
    length = int(source.integers(1, 129))
    start, target = (int(each) for each in source.integers(0, len(content), 2))
    piece = (content[start : start + length], bytes(length), source.bytes(length))[source.integers(3)]
    return content[:target] + piece + content[target + len(piece) * int(source.integers(2)) :]


def set_number(content: bytes, source: Source) -> bytes:
    """Overwrite one, two, four or eight bytes with a boundary value."""
    width = (1, 2, 4, 8)[source.integers(4)]
    start = int(source.integers(max(1, len(content) - width)))
    number = EDGES[source.integers(len(EDGES))] % 256**width
    return (
        content[:start]
        + number.to_bytes(width, ("little", "big")[source.integers(2)])
        + content[start + width :]
    )


BYTE_MUTATIONS: Sequence[Mutation] = (flip_bits, set_bytes, cut, splice, set_number)


def mutant(
    content: bytes, seed: int, number: int, mutations: Sequence[Mutation] = BYTE_MUTATIONS
) -> tuple[str, bytes]:
    """Return one damaged copy of `content` and a name from which to reproduce it."""
    source = np.random.default_rng([seed, number])
    chosen = mutations[number % len(mutations)]
    return f"mutant {number} of seed {seed} by {chosen.__name__}", chosen(content, source)


def edit_json(tree: Any, source: Source) -> None:
    """Change one place of a JSON tree: replace or shift a value, drop a key, or copy one to another name."""
    tables = [each for each in _tables(tree) if each]
    table = tables[source.integers(len(tables))]
    keys = list(table) if isinstance(table, dict) else list(range(len(table)))
    key = keys[source.integers(len(keys))]
    action = source.integers(6)
    if action == 0:
        del table[key]
    elif action == 1 and isinstance(table, dict):
        table[("", "x" * 300, "../x", "raw.", "\ud800", f"raw.{key}")[source.integers(6)]] = table[key]
    elif action == 2 and type(table[key]) is int:
        table[key] += int(source.integers(-4, 5))
    elif action == 3:
        other = tables[source.integers(len(tables))]
        table[key] = json.loads(json.dumps(other))
    else:
        table[key] = ODD_VALUES[source.integers(len(ODD_VALUES))]


def _tables(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from _tables(each)


def judge(
    read: Callable[[], Any], name: str, source: str, codes: Sequence[ExitCode], within_s: float = SLOWEST_S
) -> Verdict:
    """Return the outcome of `read` on a mutant: a value, or a one-line error with one of `codes`, in time.

    CPU time is measured, so that a busy machine fails no test.
    """
    started_s = time.process_time()
    error, value = None, None
    try:
        value = read()
    except FameError as caught:
        error = caught
    except BaseException as other:
        raise AssertionError(f"{name}: {type(other).__name__}: {other}") from other
    elapsed_s = time.process_time() - started_s
    assert elapsed_s <= within_s, f"{name}: {elapsed_s:.3f} s"
    if error is not None:
        check_line(error, name, source, codes)
    return Verdict(error, value)


def check_line(error: FameError, name: str, source: str, codes: Sequence[ExitCode]) -> None:
    """Check that an error is one short line that names its file, with an exit code of the right class."""
    message = str(error)
    assert error.exit_code in codes, f"{name}: code {error.exit_code}: {message}"
    assert source in message, f"{name}: does not name {source}: {message}"
    assert len(message.splitlines()) == 1, f"{name}: not one line: {message!r}"
    assert len(message) < 600, f"{name}: {len(message)} characters"
    assert len(error.hint.splitlines()) <= 1, f"{name}: hint {error.hint!r}"


@contextmanager
def memory_limit(more_bytes: int) -> Iterator[None]:
    """Limit this process to `more_bytes` of address space beyond its present use."""
    now_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now_bytes + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def peak_kib() -> int:
    """Return the peak memory of this process, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
