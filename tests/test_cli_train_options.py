"""`fame train`: how options, files and defaults come to a configuration, and what is said of mistakes."""

import itertools
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.outcomes import Command, error_lines


def test_print_config_reads_back_through_config(fame: Command, data: Path, tmp_path: Path) -> None:
    changes = ("--set", "free_nats=2", "--set", "stages.1.latents=3", "--lr", 0.5, "--epochs", 2)
    printed = fame("train", "lvae", "--size", "small", *changes, "--print-config")
    assert (printed.code, printed.err) == (0, "")
    table = tomllib.loads(printed.out)
    assert table["train"]["total_images"] == 36
    assert table["model"]["stages"][1]["latents"] == 3
    file = tmp_path / "config.toml"
    file.write_text(printed.out)
    again = fame("train", "--config", file, "--print-config")
    assert again == printed
    assert os.listdir() == []


def test_flags_outrank_set_which_outranks_the_file(
    fame: Command, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[train]\nlr = 0.1\nmuon_lr = 0.1\nclip_norm = 7\nseed = 1\n")
    monkeypatch.setenv("FAME_SEED", "2")
    words = ("--config", file, "--set", "lr=0.2", "--set", "train.muon_lr=0.2", "--lr", 0.3)
    table = tomllib.loads(fame("train", *words, "--print-config").out)["train"]
    assert (table["lr"], table["muon_lr"], table["clip_norm"], table["seed"]) == (0.3, 0.2, 7.0, 2)
    table = tomllib.loads(fame("train", *words, "--seed", 3, "--print-config").out)["train"]
    assert table["seed"] == 3


@pytest.mark.parametrize(
    ("words", "images"),
    [(("--steps", 3), 18), (("--epochs", 2), 36), (("--epochs", 0.5), 9), (("--images", 20), 20)],
)
def test_the_length_is_given_in_steps_epochs_or_images(
    train: Command, words: tuple[object, ...], images: int
) -> None:
    table = tomllib.loads(train(*words, "--print-config").out)
    assert table["train"]["total_images"] == images


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (("gan",), 2, "unknown model 'gan'", "fame"),
        (("--size", "huge"), 2, "'huge' is not one of 'tiny', 'small', 'paper'", "--help"),
        (("--dataset", "mnits"), 2, "unknown data set 'mnits'", "did you mean mnist?"),
        (("--set", "free_nat=1"), 3, "unknown key 'free_nat'", "did you mean free_nats?"),
        (("--set", "decoder.layer=1"), 3, "unknown key 'layer'", "did you mean layers?"),
        (("--set", "lr"), 3, "expected key=value", ""),
        (("--set", "decoder.kernel=2"), 3, "decoder.kernel = 2 is not odd", ""),
        (("--lr", "99"), 3, "lr = 99.0 is outside", ""),
        (("--lr", "nan"), 3, "lr = nan is outside", ""),
        (("--batch-size", "0"), 2, "--batch-size '0'", ""),
        (("--config", "absent.toml"), 3, "absent.toml", ""),
        (("--resume", "absent"), 3, "absent", ""),
        (("--init", "absent"), 2, "absent", ""),
        (("--data", "."), 4, "no files of mnist", "--data"),
        (("--device", "tpu"), 2, "tpu", ""),
        (("--precision", "fp8"), 2, "'fp8' is not one of 'fp32', 'bf16', 'auto'", "--help"),
        (("--max-time", "soon"), 2, "'soon' is not a length of time", "1.5h"),
        (("--save-every", "soon"), 2, "'soon' is not a length of time", "1.5h"),
        (("--batch-size", "19"), 3, "18 training images are fewer", ""),
    ],
)
def test_a_mistake_is_one_line_and_a_hint(
    fame: Command, data: Path, words: tuple[str, ...], code: int, message: str, hint: str
) -> None:
    outcome = fame("train", "--data", data, "-o", "run", "--steps", 1, "--batch-size", 6, *words)
    (line,) = error_lines(outcome)
    assert (outcome.code, message in line) == (code, True), outcome
    assert hint == "" or any(text.startswith("hint: ") and hint in text for text in outcome.err.splitlines())
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "pair", list(itertools.combinations(["--steps", "--epochs", "--images", "--budget"], 2)), ids="".join
)
def test_the_length_is_given_once(fame: Command, data: Path, pair: tuple[str, str]) -> None:
    outcome = fame("train", pair[0], 3, pair[1], 3)
    (line,) = error_lines(outcome)
    assert outcome.code == 2
    assert all(name in line for name in pair)


def test_the_real_command_reports_mistakes_without_torch() -> None:
    for words, code in ((["train", "gan"], 2), (["train", "--set", "x=1"], 3), (["train", "--nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "famecli", *words], capture_output=True
        )
        assert (done.returncode, done.stdout) == (code, b"")
        assert b"Traceback" not in done.stderr
        assert b"error" in done.stderr.lower()
        assert b" torch\n" not in done.stderr
