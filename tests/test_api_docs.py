"""The examples of docs/api.md, the notebook and docstrings, as they are, with the weights of the package."""

import ast
import doctest
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL.Image import Image
from support.commands import ROOT, use_small_mnist

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
# What takes long on the page is short here.
SHORTER = {"images=50_000": "images=16", "epochs=50": "epochs=1"}

SHOWN = [
    path for path in sorted((ROOT / "famecli").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")
]


def run(text: str, names: dict[str, Any]) -> object:
    """Run statements; return the value of the last one if it is an expression.

    An expression with a comment behind it has to have the value that the comment says.
    """
    value = None
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Expr):
            exec(compile(ast.Module([node], []), "example", "exec"), names)
            value = None
            continue
        value = eval(compile(ast.Expression(node.value), "example", "eval"), names)
        _, _, comment = text.splitlines()[(node.end_lineno or 1) - 1].partition("  # ")
        assert not comment or str(value) == comment, ast.unparse(node)
    return value


def test_the_page_shows_every_verb() -> None:
    assert len(BLOCKS) > 10
    for name in ("load(", "evaluate(", "train(", "compare(", "presets("):
        assert f"famecli.{name}" in PAGE


def test_every_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("FAME_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        run(block, names)
    assert (tmp_path / "samples.png").is_file()


def test_the_notebook_runs_and_shows_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAME_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in cells)
    names: dict[str, Any] = {}
    shown = [run(code, names) for code in codes]
    pictures, tables = [each for each in shown if isinstance(each, Image)], shown[-2]
    assert [picture.width for picture in pictures] == [8 * 30 + 2] * 3
    assert tables._repr_html_().startswith("<table>")  # type: ignore[attr-defined]
    assert isinstance(shown[-1], int)


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_examples_in_docstrings(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0
