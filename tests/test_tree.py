import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for folder in ("famecli", "tests", "benchmarks", "weights") for path in (ROOT / folder).rglob("*.py")
)
MOST_LINES_OF_A_FILE = 400
MOST_STATEMENTS_OF_A_FUNCTION = 40


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many statements a function's body has, those within others and its docstring included."""
    return sum(isinstance(node, ast.stmt) for part in function.body for node in ast.walk(part))


def test_statements_are_counted_at_all_depths_and_no_signature() -> None:
    text = "def f(\n    a=1,\n):\n    if a:\n        for c in b:\n            c()\n    return (\n        a)"
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    assert statements(function) == 4


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.name)
def test_no_test_module_is_imported(path: Path) -> None:
    """What several test modules share is in tests/support, for code in strings as well."""
    assert re.findall(r"^\s*(?:from|import)\s+test_\w+", path.read_text(encoding="utf-8"), re.M) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = statements(node)
            assert found <= MOST_STATEMENTS_OF_A_FUNCTION, f"{node.name} has {found} statements"
