"""`fame info`, and what all commands have in common."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import (
    CLAIM,
    ENVIRONMENT,
    IMPORTS,
    PROVENANCE,
    ROOT,
    check_error,
    error_of,
    fame,
    process,
    result_of,
    save_model,
)
from support.forgeries import file_bytes, parts, with_metadata

from famecli import __version__
from famecli.checkpoints.checkpoint import RAW, load_checkpoint, save_tensors
from famecli.checkpoints.index import weights_folder
from famecli.config.schema import to_dict
from famecli.errors import ExitCode

KEYS = {
    "schema",
    "path",
    "sha256",
    "bytes",
    "file_schema",
    "parameters",
    "weights",
    "model",
    "training",
    "provenance",
    "claim",
    "further_claims",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    facts = {"training": {"lr": 0.5}, "provenance": PROVENANCE, "claim": CLAIM}
    return save_model(tmp_path / "model.safetensors", shape=(1, 8, 8), raw=True, facts=facts)


def test_json_has_what_the_header_says(model: Path) -> None:
    found, loaded = result_of("info", model), load_checkpoint(model)
    assert set(found) == KEYS
    assert found["schema"] == "famecli/info/1"
    assert found["path"] == str(model)
    assert found["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert found["bytes"] == model.stat().st_size
    assert found["file_schema"] == "famecli/checkpoint/1"
    assert found["parameters"] == loaded.model.count_parameters()
    assert found["weights"] == ["ema", "raw"]
    # Files of models without classes lack the key.
    assert found["model"] | {"classes": []} == json.loads(json.dumps(to_dict(loaded.model.config)))
    assert (found["training"], found["provenance"], found["claim"]) == ({"lr": 0.5}, PROVENANCE, CLAIM)


def test_tensors_are_listed_on_request(model: Path) -> None:
    found = result_of("info", model, "--tensors")["tensors"]
    state = load_checkpoint(model).model.state_dict()
    assert set(found) == set(state) | {RAW + name for name in state}
    for name, tensor in state.items():
        assert found[name] == found[RAW + name] == {"dtype": "F32", "shape": list(tensor.shape)}
    lines = fame("info", model, "--tensors").text.splitlines()
    assert f"decoder.head2.bias F32 {found['decoder.head2.bias']['shape']}" in lines


def test_people_see_model_origin_and_claim(model: Path) -> None:
    text = " ".join(fame("info", model).text.split())
    for part in (
        "fame, ",
        "ema+raw",
        "1x8x8, 2 levels, bernoulli",
        "640",
        "81.250 +- 0.500 nats/image, 0.14951 bits/dim (IWAE, K = 100; mnist, test, 10,000 images",
        "binarization: dynamic, bits of seed 0",
    ):
        assert part in text
    assert "--record" in fame("info", save_model(model, shape=(1, 8, 8))).text


def test_a_card_says_what_the_header_says(model: Path, tmp_path: Path) -> None:
    done = fame("info", model, "--card")
    facts = result_of("info", model)
    said = ("images seen | 640 |", "81.25 +- 0.50 nats", "4.50 + 1.75 nats", "cd" * 32, "lr 0.5")
    for fact in (f"{facts['parameters']:,} parameters", facts["sha256"], *said):
        assert fact in done.text
    claimed = fame("info", "fame-mnist", "--card").text
    assert "| estimator | -ELBO, K = 1, seed 0 |" in claimed
    assert "| binarization | dynamic, bits of seed 0 |" in claimed
    (tmp_path / "run").mkdir()
    bare = save_model(tmp_path / "run" / "best.safetensors", facts={})
    assert "# run" in fame("info", bare, "--card").text
    assert "None is claimed" in fame("info", bare, "--card").text
    # Only weights of the package are under its licence.
    assert 'license: "mit"' in claimed
    assert "license" not in fame("info", bare, "--card").text


@pytest.mark.parametrize("path", sorted((ROOT / "weights").glob("*.safetensors")), ids=lambda path: path.stem)
def test_the_cards_of_the_package_are_up_to_date(path: Path) -> None:
    assert path.with_suffix(".md").read_bytes() == fame("info", path, "--card").out


def test_quiet_is_the_hash_or_the_version(model: Path) -> None:
    done = fame("info", model, "-q")
    assert (done.text, done.err) == (hashlib.sha256(model.read_bytes()).hexdigest() + "\n", "")
    assert fame("info", "-q").text == f"{__version__}\n"


def test_a_variable_names_no_checkpoint(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = [fame("info", *words, "-q").text for words in ([], ["--machine"], [model])]
    monkeypatch.setitem(ENVIRONMENT, "FAME_DATASET", "cifar10")
    assert [fame("info", *words, "-q").text for words in ([], ["--machine"], [model])] == without
    assert result_of("info", "--model", "fame")["path"].endswith("fame-cifar10.safetensors")


def test_without_a_checkpoint_it_describes_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    found = result_of("info")
    assert found["schema"] == "famecli/info/1"
    assert (found["version"], found["python"]) == (__version__, platform.python_version())
    assert found["packages"]["numpy"] == np.__version__
    assert found["cache"] == str(tmp_path / "cache")
    assert "fame-mnist" in found["weights"]
    assert __version__ in fame("info").text


def test_the_weights_of_the_package_have_names(model: Path) -> None:
    path = weights_folder() / "fame-mnist.safetensors"
    for words in (["fame-mnist"], ["--dataset", "mnist"], ["--model", "fame"]):
        assert result_of("info", *words)["path"] == str(path)
    assert "hint: did you mean fame-mnist?" in error_of(2, "info", "fame-mnits")
    assert "leave it out" in error_of(2, "info", model, "--model", "fame")


def test_a_checkpoint_may_come_from_stdin_or_a_run_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "best.safetensors or last.safetensors" in error_of(3, "info", tmp_path / "run")
    save_model(tmp_path / "run" / "last.safetensors", "vae", (1, 8, 8))
    assert result_of("info", tmp_path / "run")["model"]["preset"] == "vae"
    save_model(tmp_path / "run" / "best.safetensors", "lvae", (1, 8, 8))
    assert result_of("info", tmp_path / "run")["model"]["preset"] == "lvae"
    found = result_of("info", "-", stdin=model.read_bytes())
    assert (found["path"], found["sha256"]) == ("-", result_of("info", model)["sha256"])


def test_brackets_in_names_are_shown_as_they_are(tmp_path: Path) -> None:
    facts = {"provenance": {"dataset": "[/red] [bold]digits"}}
    path = save_model(tmp_path / "run[red].safetensors", shape=(1, 8, 8), facts=facts)
    done = fame("info", path)
    assert done.code == 0, done.err
    assert "run[red].safetensors" in done.text
    assert "[/red] [bold]digits" in done.text


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "model is a list": lambda facts: facts.update(model=[1]),
    "stages are a number": lambda facts: facts["model"].update(stages=7),
    "a stage is a word": lambda facts: facts["model"].update(stages=["x"]),
    "decoder is a word": lambda facts: facts["model"].update(decoder="x"),
    "provenance is a word": lambda facts: facts.update(provenance="x"),
    "images are a list": lambda facts: facts["provenance"].update(images_seen=[1]),
    "seconds are a word": lambda facts: facts["provenance"].update(seconds="long"),
    "the past is a word": lambda facts: facts["provenance"].update(init={"past": "long"}),
    "the past is no training": lambda facts: facts["provenance"].update(init={"past": [{"seconds": -1}]}),
    "claim is a number": lambda facts: facts.update(claim=3),
    "claim has no data": lambda facts: facts["claim"].pop("data"),
    "nats are a word": lambda facts: facts["claim"].update(nats_per_image="few"),
    "hash is a number": lambda facts: facts["claim"]["data"].update(pixels_sha256=1),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_hostile_metadata_are_bad_input(
    model: Path, change: Callable[[dict[str, Any]], object], words: list[str]
) -> None:
    model.write_bytes(with_metadata(model.read_bytes(), change))
    assert str(model) in error_of(3, "info", model, *words)


def test_hostile_files_are_bad_input(model: Path, tmp_path: Path) -> None:
    content = model.read_bytes()
    header, body = parts(content)
    renamed = {"__metadata__": {"other": "{}"}}
    path = tmp_path / "hostile.safetensors"
    for hostile in (
        b"",
        b"\x80\x04\x95 a pickle",
        b"\xff" * 8 + b"{",
        content[:7],
        content[:100],
        content[:-1],
        content + b"x",
        file_bytes(b"[" * 100_000, b""),
        file_bytes(b"{" + b"\xff" * 20, b""),
        file_bytes(header | renamed, body),
        file_bytes(header | {"more": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, body),
    ):
        path.write_bytes(hostile)
        assert str(path) in error_of(3, "info", path)
    for absent in (tmp_path / "absent.safetensors", Path("/nowhere/x"), tmp_path / ("x" * 300)):
        assert error_of(3, "info", absent)


@pytest.mark.parametrize("command", ["info", "evaluate-nll", "sample", "reconstruct"])
def test_every_command_refuses_a_damaged_checkpoint(model: Path, command: str) -> None:
    model.write_bytes(model.read_bytes()[:-5])
    assert "truncated" in error_of(3, command, model)


def test_help_and_info_import_nothing_large(model: Path) -> None:
    for words in (["--help"], ["sample", "--help"], ["info", str(model)], ["info", "x"]):
        done = subprocess.run([sys.executable, "-c", IMPORTS, *words], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == ("2" if words[-1] == "x" else "0"), done.stdout + done.stderr


def test_help_is_there_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An installed package is compiled; the first of these runs does that.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    taken_s = []
    for _ in range(4):
        # Not by the clock on the wall, which other processes delay.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = process("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0
        for command in (b"train", b"evaluate-nll", b"sample", b"reconstruct", b"info"):
            assert command in done.stdout
    assert min(taken_s) < 0.5, taken_s


def test_the_version_is_that_of_the_package() -> None:
    done = fame("--version")
    assert (done.code, done.text, done.err) == (0, f"famecli {__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ["--nope"],
        ["nope"],
        ["sample", "--nope"],
        ["evaluate-nll", "-k", "0"],
        ["evaluate-nll", "--limit", "0"],
        ["evaluate-nll", "--fail-above", "low"],
        ["sample", "-n", "0"],
        ["sample", "-n", "many"],
        ["sample", "--seed", "-1"],
        ["reconstruct", "--keep-layers", "-1"],
        ["info", "a", "b"],
        ["train", "--size"],
    ],
)
def test_unknown_words_are_code_2(words: list[str]) -> None:
    done = fame(*words)
    assert (done.code, done.out) == (2, b"")
    assert "Traceback" not in done.err
    assert words[-1] in done.err or words[-2] in done.err


def test_errors_of_usage_look_like_all_others() -> None:
    for words in (["nope"], ["sample", "--nope"], ["sample", "-n", "0"]):
        error_of(2, *words)


def test_help_is_under_both_names_for_every_command() -> None:
    for command in ("train", "evaluate-nll", "sample", "reconstruct", "info"):
        short, long = fame(command, "-h"), fame(command, "--help")
        assert (short.code, short.out) == (0, long.out)
        assert "Examples:" in short.text


@pytest.mark.parametrize("words", [["info"], ["--help"]])
def test_a_closed_pipe_ends_without_a_word(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = process(*words, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.BROKEN_PIPE, b"")


@pytest.mark.parametrize("words", [["info"], ["--version"]])
def test_a_full_disk_is_an_error(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = process(*words, stdout=full)
    assert done.returncode == ExitCode.BAD_INPUT
    assert "No space left" in check_error(done.stderr.decode())


def test_a_real_head_stops_a_long_result(model: Path) -> None:
    # More than a pipe holds, so that writing goes on after the reader is gone.
    header, body = parts(model.read_bytes())
    names = {
        f"{'x' * 200}{index}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(2000)
    }
    model.write_bytes(file_bytes(header | names, body))
    command = f'"{sys.executable}" -m famecli info "{model}" --tensors | head -c 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout[1:].strip() == str(int(ExitCode.BROKEN_PIPE))


def test_debugging_shows_the_traceback_of_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "famecli", "info", "/nowhere/x"],
        capture_output=True,
        text=True,
        env={**os.environ, "FAME_DEBUG": "1"},
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "InputError" in done.stderr


def test_a_large_header_is_read_in_little_memory(model: Path) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.write_bytes((2**40).to_bytes(8, "little") + b"{" + bytes(1000))
    assert "no safetensors header" in error_of(3, "info", model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000


def test_a_closed_stdout_is_one_line_before_any_work() -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m famecli info >&-"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: stdout is closed")
    assert done.stderr.count("\n") == 2


def test_a_training_state_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {"schema": "famecli/state/1"})
    assert "famecli/state/1" in error_of(3, "info", path)
