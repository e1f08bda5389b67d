"""`fame COMMAND --help`: the usual options first, the others below, each once."""

import inspect
import re

import pytest
from support.commands import error_of, fame

from famecli.cli.app import COMMANDS, app
from famecli.cli.grouping import COMMON, MORE, with_usual_first

USUAL = {command.__name__.replace("_", "-"): usual.split() for command, usual in COMMANDS.items()}


def panels(command: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return the flags in each panel of a command's help, in order."""
    monkeypatch.setenv("COLUMNS", "200")
    found: dict[str, list[str]] = {}
    for line in fame(command, "--help").text.splitlines():
        if line.startswith("╭"):
            found[line.strip("╭─╮ ")] = []
        elif flag := re.match(r"│ (--[a-z-]+)", line):
            found[list(found)[-1]].append(flag[1])
    return found


def test_every_command_is_in_the_table() -> None:
    assert len(USUAL) == len(app.registered_commands)


@pytest.mark.parametrize("command", [name for name, usual in USUAL.items() if usual])
def test_a_dozen_usual_options_come_first(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = panels(command, monkeypatch)
    assert list(found)[:2] == ["Arguments", "Options"]
    assert len(USUAL[command]) <= 12
    # The last one is --help.
    assert len(found["Options"]) == len(USUAL[command]) + 1
    assert list(found)[-1] == COMMON
    assert {"--json", "--quiet", "--cache-dir"} <= set(found[COMMON])
    if MORE in found:
        assert list(found)[2] == MORE
    flags = [flag for panel in found.values() for flag in panel]
    assert len(flags) == len(set(flags))


def test_a_panel_of_one_command_is_not_that_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--batch-size" in panels("evaluate-nll", monkeypatch)["Options"]
    assert "--force" in panels("evaluate-nll", monkeypatch)[MORE]
    assert "--force" in panels("sample", monkeypatch)["Options"]
    options = panels("train", monkeypatch)["Options"]
    assert options[:5] == ["--dataset", "--data", "--size", "--images", "--budget"]
    assert "--epochs" in panels("train", monkeypatch)["Schedule"]


def test_a_usual_option_that_does_not_exist_is_an_error() -> None:
    def command(*, images: int) -> None: ...

    with pytest.raises(KeyError, match="imagse"):
        with_usual_first(command, ["imagse"])
    assert list(inspect.signature(command).parameters) == ["images"]


@pytest.mark.parametrize("command", USUAL)
def test_help_has_no_absurd_numbers(command: str) -> None:
    assert not re.search(r"\d{8}", fame(command, "--help").text)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("sample", "Number of images."),
        ("evaluate-nll", "Use only N images"),
        ("train", "Resume from saved state."),
        ("verify", "Check the likelihood: causality"),
        ("info", "Show a checkpoint's model, training and NLL."),
    ],
)
def test_sentences(command: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert sentence in fame(command, "--help").text


@pytest.mark.parametrize("words", ["", *USUAL, "datasets", "datasets verify", "weights", "weights pull"])
def test_help_shows_values_where_there_are_some(words: str) -> None:
    text = fame(*words.split(), "--help").text
    assert "--help" in text
    assert "<bool>" not in text
    assert "[[" not in text


def test_paragraphs_of_help_have_no_breaks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    text = fame("compress", "--help").text
    assert "black and white images. fame decompress restores the images" in text
    assert "\n   fame compress run/ *.png -o -" in text


def test_the_start_of_a_command_is_enough_for_a_hint() -> None:
    assert "hint: did you mean evaluate-nll?" in error_of(2, "eval", "run")
    assert "hint: fame --help lists the commands" in error_of(2, "zzz")
