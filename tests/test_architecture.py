"""The picture in docs/architecture.md shows the imports between the rooms of the package."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PICTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = sorted((ROOT / "famecli").rglob("*.py"))
TOOLS = "tools"
MOST_LOOSE_MODULES = 8


def room_of(module: str) -> str:
    """Return the package that a module lies in; the modules beside the packages are one room."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (ROOT / "famecli" / parts[1]).is_dir() else TOOLS


def imports_of(path: Path) -> set[str]:
    """Return the modules of famecli that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "famecli":
            whole = [f"famecli.{each.name}" for each in node.names]
            found |= set(whole) if node.module == "famecli" else {str(node.module)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names if each.name.split(".")[0] == "famecli"}
    return found


def arrows() -> set[tuple[str, str]]:
    return set(re.findall(r"^  (\w+) --> (\w+)$", PICTURE, re.MULTILINE))


def imported() -> set[tuple[str, str]]:
    """Return the pairs of rooms of which the first imports the second; entry points are no room."""
    pairs = set()
    for path in MODULES:
        relative = path.relative_to(ROOT).with_suffix("")
        if relative.name not in ("__init__", "__main__") or len(relative.parts) > 2:
            room = room_of(".".join(relative.parts))
            pairs |= {(room, room_of(each)) for each in imports_of(path)}
    return {(room, other) for room, other in pairs if room != other}


def below(room: str, drawn: set[tuple[str, str]]) -> set[str]:
    """Return all rooms that arrows lead to from a room."""
    found: set[str] = set()
    while new := {end for start, end in drawn if start in found | {room}} - found:
        found |= new
    return found


def test_every_import_follows_the_arrows() -> None:
    drawn = arrows()
    assert [pair for pair in sorted(imported()) if pair[1] not in below(pair[0], drawn)] == []


def test_every_arrow_is_an_import_and_none_is_implied_by_others() -> None:
    drawn = arrows()
    assert drawn <= imported()
    for arrow in drawn:
        assert arrow[1] not in below(arrow[0], drawn - {arrow})


def test_no_arrows_run_in_a_circle() -> None:
    drawn = arrows()
    assert drawn
    for room, _ in drawn:
        assert room not in below(room, drawn)


@pytest.mark.parametrize("room", sorted({path.parent.name for path in MODULES} - {"famecli"}))
def test_the_table_explains_every_room(room: str) -> None:
    assert f"\n| `{room}` | " in PICTURE


def test_few_modules_lie_beside_the_packages() -> None:
    assert len(list((ROOT / "famecli").glob("*.py"))) <= MOST_LOOSE_MODULES


@pytest.mark.parametrize("folder", ["benchmarks", "weights", "famecli"])
def test_only_the_entry_point_imports_the_commands(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        if "cli" not in path.relative_to(ROOT).parts and path.name != "__main__.py":
            assert not [each for each in imports_of(path) if each.startswith("famecli.cli")], path
