"""Tables and progress for people: what fits the width is shown whole, and what does not is named."""

import io

import pytest
from rich.console import Console

from famecli.output import FittedTable, Output, Tenths

COLUMNS = ("name", "NLL", "size", "note")
ROWS = [("a-long-name-of-weights", "79.66 +- 0.20 nats", "small", "words that may be folded into lines")]


def shown(table: FittedTable, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("width", range(20, 120, 3))
def test_no_column_but_long_text_is_folded(width: int, right: bool) -> None:
    lines = shown(FittedTable("", COLUMNS, ROWS, right), width)
    left_out = lines[-1].removeprefix("left out at this width: ").split(", ") if "left" in lines[-1] else []
    kept = COLUMNS[: len(COLUMNS) - len(left_out)]
    assert [*kept, *left_out] == list(COLUMNS)
    if width < 45:
        return
    assert lines[0].split() == list(kept)
    assert all(cell in lines[1] for cell in ROWS[0][: min(3, len(kept))])
    words = " ".join(line[lines[0].index("note") if "note" in kept and not right else 0 :] for line in lines)
    assert "note" not in kept or ROWS[0][3].replace(" ", "") in words.replace(" ", "")


def test_a_label_and_its_value_stay_together() -> None:
    lines = shown(FittedTable("", ["", ""], [("sha256", "0123456789" * 7)], right=False), 40)
    assert lines[0].startswith("sha256  0123")
    assert "".join(lines).replace("sha256", "").replace(" ", "") == "0123456789" * 7


def test_nothing_is_left_out_of_a_file() -> None:
    lines = shown(FittedTable("", COLUMNS, [(*ROWS[0][:3], "x" * 300)], right=False), 4096)
    assert lines[1].endswith("x" * 300)
    assert len(lines) == 2


@pytest.mark.parametrize(("first_line_s", "told"), [(-1.0, [1, 100, 200, 300]), (60.0, [100, 200, 300])])
def test_long_work_tells_its_pace_before_the_first_tenth(
    first_line_s: float, told: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    advance = Tenths(Output(), "evaluating", 1000, first_line_s)
    for _ in range(300):
        advance(1)
    assert capsys.readouterr().err.splitlines() == [f"evaluating: {done}/1000 in 0 s" for done in told]
