"""Nothing in famecli unpickles: not in its source, and not in any library while the tests run."""

import ast
import io
import pickle
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import no_pickle

ROOT = Path(__file__).parents[1]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Functions that unpickle, or may, by the names under which modules are imported.
CALLS = {
    "torch": {"load", "save"},
    "np": {"load"},
    "numpy": {"load"},
    "pd": {"read_pickle"},
    "importlib": {"import_module"},
}
SOURCES = sorted(
    path for folder in ("famecli", "benchmarks", "weights") for path in (ROOT / folder).rglob("*.py")
)


def faults(source: str) -> list[str]:
    """Return what in a source unpickles, or runs code that it was given."""
    return [fault for node in ast.walk(ast.parse(source)) if (fault := fault_of(node))]


def fault_of(node: ast.AST) -> str:
    if isinstance(node, ast.Import):
        found = {alias.name.split(".")[0] for alias in node.names} & MODULES
        return f"import {found}" if found else ""
    if isinstance(node, ast.ImportFrom):
        module = (node.module or "").split(".")[0]
        names = {alias.name for alias in node.names} & CALLS.get(module, set())
        return f"from {module} import {names}" if module in MODULES or names else ""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id if function.id in BUILTINS else ""
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        risky = function.attr in CALLS.get(function.value.id, set())
        return f"{function.value.id}.{function.attr}" if risky and not forbids_pickle(node) else ""
    return ""


def forbids_pickle(call: ast.Call) -> bool:
    return any(
        word.arg == "allow_pickle" and isinstance(word.value, ast.Constant) and word.value.value is False
        for word in call.keywords
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_or_runs_what_it_is_given(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, _pickle as p",
        "from pickle import loads",
        "from torch import load",
        "torch.load(f)",
        "torch.save(a, f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=x)",
        "eval('1')",
        "def f():\n    exec(code)",
        "import joblib.numpy_pickle",
    ],
)
def test_faults_are_seen(source: str) -> None:
    assert len(faults(source)) == 1
    assert faults("import json, torch\nnp.load(f, allow_pickle=False)\nmodel.load(f)\nmodel.eval()") == []


class Harmless:
    """Something to pickle."""


def unpickle_in(module: str, content: bytes) -> Any:
    """Unpickle as a function of `module` would."""
    space = types.ModuleType(module)
    exec("def read(load, *arguments, **options):\n    return load(*arguments, **options)", space.__dict__)
    return lambda load, **options: space.__dict__["read"](load, io.BytesIO(content), **options)


@pytest.fixture
def noted() -> Any:
    """What was noted in this test, which is allowed here."""
    assert no_pickle.noted == []
    yield no_pickle.noted
    no_pickle.noted.clear()


def test_what_famecli_unpickles_is_noted(noted: list[str]) -> None:
    content = pickle.dumps(Harmless())
    unpickle_in("elsewhere", content)(pickle.load)
    unpickle_in("famecliffs", content)(pickle.load)
    assert noted == []
    unpickle_in("famecli.data.arrays", content)(pickle.load)
    assert len(noted) == 1
    assert noted[0].startswith("test_no_pickle.Harmless by ")


def test_what_a_library_unpickles_for_famecli_is_noted(noted: list[str]) -> None:
    target = io.BytesIO()
    np.save(target, np.array([Harmless()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        unpickle_in("famecli.data.arrays", target.getvalue())(np.load, allow_pickle=False)
    assert noted == []
    unpickle_in("famecli.data.arrays", target.getvalue())(np.load, allow_pickle=True)
    assert any(line.startswith("test_no_pickle.Harmless by ") for line in noted)


def test_processes_may_talk_to_each_other(noted: list[str]) -> None:
    content = pickle.dumps(Harmless())
    between = unpickle_in("multiprocessing.queues", content)
    outer = types.ModuleType("famecli.x")
    exec("def run(work):\n    return work()", outer.__dict__)
    outer.__dict__["run"](lambda: between(pickle.load))
    assert noted == []
