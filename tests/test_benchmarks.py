"""The commands of `benchmarks/`: what they run by default, and how they end with an error."""

import itertools
import re
import runpy
from pathlib import Path

import pytest
from support.commands import ROOT, check_error

from benchmarks import recipe
from famecli.errors import UsageError

TINY_LACKS = {"no attention", "two blocks of attention", "four heads, 64 features", "lag 2"}
PIXELCNN_LACKS = {
    *("latents not bounded", "three layers of latents", "latents at the top alone"),
    *("a quarter of the latents", "condition of 32 maps", "decoder width 80", "bits by their mean"),
    *("free nats 0", "free nats 0.25", "beta 0.9", "no warm-up of the KL", "long warm-up of the KL"),
    "latents from the start",
}


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        ([], set()),
        (["--quick"], {"latents at the top alone", *TINY_LACKS}),
        (["--model", "pixelcnn"], PIXELCNN_LACKS),
    ],
)
def test_variations_are_those_that_change_the_training(
    words: list[str], lacking: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["recipe", *words])
    options = recipe.parse_options()
    assert set(recipe.VARIATIONS) - set(options.only) == lacking
    found = [recipe.effective_values(each.changes, options) for each in recipe.chosen(options.only)]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    with pytest.raises(UsageError, match="unknown variation 'batch 31'"):
        recipe.chosen(["batch 31"])


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("memory", ["--case", "sampler", "--width", "8", "--layers", "2", "--batch", "2"], r"^\d+\.\d+$"),
        ("step", ["--model", "fame", "--size", "tiny", "--steps", "2"], r"\| convolutions \| \d+\.\d+ \|"),
    ],
)
def test_a_short_run_prints_its_figures(
    name: str,
    words: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, *words])
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert re.search(told, capfd.readouterr().out, re.MULTILINE)


MISSING = "no-such-folder/file"


@pytest.mark.parametrize(
    ("name", "words", "code", "told"),
    [
        ("decoders", ["no-such-weights"], 2, "no-such-weights"),
        ("decoders", ["fame-mnist", "--json", MISSING], 3, MISSING),
        ("equal_sizes", ["--dataset", "mnits"], 2, "'mnits'"),
        ("equal_sizes", ["--json", MISSING], 3, MISSING),
        ("global_modelling/__main__", ["no-such-weights"], 2, "no-such-weights"),
        ("global_modelling/__main__", ["fame-mnist", "--json", MISSING], 3, MISSING),
        ("maps_against_dense", ["--dataset", "mnits"], 2, "'mnits'"),
        ("memory", ["--width", "0", "--case", "forward"], 3, "width"),
        ("moved_digits", ["--dataset", "mnits"], 2, "'mnits'"),
        ("recipe", ["--only", "batch 31"], 2, "'batch 31'"),
        ("recipe", ["--dataset", "mnits"], 2, "'mnits'"),
        ("sampling", ["no-such-weights"], 3, "no-such-weights"),
        ("sampling", ["--model", "vae"], 2, "vae has no PixelCNN decoder"),
        ("sampling", ["--only", "peer"], 2, "--only peer lacks --peer"),
        ("sampling", ["--model", "pixelcnn", "--peer", "no-such-folder"], 3, "no-such-folder"),
        ("speedrun", ["--dataset", "mnits"], 2, "'mnits'"),
        ("speedrun", ["--csv", MISSING], 3, MISSING),
        ("speedrun", ["--json", MISSING], 3, MISSING),
        ("step", ["--dataset", "mnits"], 2, "'mnits'"),
        ("step", ["--set", "lrr=1"], 3, "'lrr'"),
        ("variants", ["--width", "0"], 3, "width"),
    ],
)
def test_an_error_is_one_line_before_any_work(
    name: str,
    words: list[str],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, *words])
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name="__main__")
    assert stop.value.code == code
    printed = capfd.readouterr()
    assert printed.out == ""
    assert told in check_error(printed.err)
