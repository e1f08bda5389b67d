"""What errors say."""

import ast
import re
from pathlib import Path

import pytest
from support.commands import error_of

from famecli.config.presets import preset_named
from famecli.data.registry import dataset_info
from famecli.errors import UsageError, did_you_mean

PACKAGE = Path(__file__).parents[1] / "famecli"
LIBRARY = sorted(set(PACKAGE.rglob("*.py")) - {*PACKAGE.glob("cli/*.py"), PACKAGE / "__main__.py"})
NAMES = ["mnist", "mnist-grey", "cifar10"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnits", "did you mean mnist?"),
        ("mnist-gray", "did you mean mnist-grey?"),
        ("CIFAR", "data sets: mnist, mnist-grey, cifar10"),
        ("", "data sets: mnist, mnist-grey, cifar10"),
    ],
)
def test_the_hint_is_the_closest_name_or_all(name: str, hint: str) -> None:
    assert did_you_mean(name, NAMES, "data sets") == hint
    assert did_you_mean(name, dict.fromkeys(NAMES), "data sets") == hint


def test_there_may_be_no_names() -> None:
    assert did_you_mean("mnist", [], "names of weights") == "names of weights: none"


def test_unknown_models_and_data_sets_are_hinted_alike() -> None:
    with pytest.raises(UsageError) as caught:
        preset_named("pixelcn")
    assert caught.value.hint == "did you mean pixelcnn?"
    with pytest.raises(UsageError) as caught:
        dataset_info("zzzzzz")
    assert caught.value.hint.startswith("data sets: mnist, ")


def test_a_wrong_choice_is_told_without_the_parsers_own_words() -> None:
    said = error_of(2, "evaluate-nll", "--split", "bad")
    assert said.startswith("error: Invalid value for '--split': 'bad' is not one of 'train', ")


def texts_with_flags(path: Path) -> list[str]:
    """Return the texts of a module, but for docstrings, that name a flag outside of a whole command."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    found = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant)]
    whole = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    # Parts of formatted texts count as parts of the whole alone.
    parts = {ast.unparse(part) for node in whole for part in node.values}
    outside = {text: re.sub(r"(fame|torchrun) .*", "", text) for text in found if text not in parts}
    return [text for text, rest in outside.items() if re.search(r"(^|\W)--[a-z]{2}", rest)]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_texts_of_the_library_name_parameters_and_no_flags(path: Path) -> None:
    """The commands put flags in place of parameters in backticks."""
    assert not texts_with_flags(path)
