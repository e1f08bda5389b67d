"""Streams, bytes, runs and documents stay what they were when the golden files were written."""

import ast
import hashlib
import json
import runpy
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import golden_cases as golden
from support.commands import ROOT
from support.forgeries import with_metadata
from support.golden_cases import CASES, FOLDER, REGENERATE, checkpoint_path, recorded
from support.golden_commands import (
    COMMANDS,
    DATA,
    DRY_RUN,
    EVALUATE,
    MODEL,
    RUN,
    RUN_FILES,
    SIDES,
    STOPPED_AT,
    TRAINING,
    Words,
    assert_same,
    formats_in,
    key_of,
    kind_of,
    known,
    metadata_in,
    records_in,
    shape_of,
    streams_asked_for,
    tensors_in,
)
from support.models import batch_noise
from support.outcomes import Command, error_lines
from support.trainers import kill_after

from famecli.rng import BatchNoise, ImageNoise, image_uniforms, stream

RELATIVE = 1e-4
STREAMS = {
    *("ais", "binarize", "bits", "coding", "complete", "costs", "evaluate", "latents", "order"),
    *("reconstruct", "sample", "simulate", "verify"),
}
# Of the lines of the golden run's metrics; each second step has a validation.
STEPS_BEFORE = [1, 2, 2, STOPPED_AT]
SHIPPED = ("pixelcnn-mnist", "vae-mnist")


@pytest.fixture
def place(train: Command, monkeypatch: pytest.MonkeyPatch, threads_put_back: None) -> Path:
    """A folder with the golden run, half way, as `run`; the small data set is in `../data`."""
    if REGENERATE:
        golden.write_all_checkpoints()
        if not RUN.exists():
            write_half_run(train, monkeypatch)
    shutil.copytree(RUN, "run")
    monkeypatch.setenv("FAME_CACHE", str(Path("cache").absolute()))
    return Path.cwd()


def write_half_run(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the golden run; on a clock that stands still, since it has times in it."""
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: 0.0)
        kill_after(patch, STOPPED_AT, signal.SIGTERM)
        assert train(*TRAINING, "-o", "half", "-q").code == 75
    RUN.mkdir(exist_ok=True)
    for name in RUN_FILES:
        shutil.copyfile(Path("half", name), RUN / name)
    shutil.rmtree("half")


def nats_of(fame: Command, model: Path) -> list[float]:
    outcome = fame("evaluate-nll", model, *DATA, "--with-images", "--json")
    assert outcome.code == 0, outcome.err
    nats: list[float] = json.loads(outcome.out)["image_nats"]
    return nats


def figures_of(fame: Command, folder: Path) -> dict[str, Any]:
    """Return what a training came to: the NLLs of test images, and those of each line of its metrics."""
    figures = ("split", "step", "images", "nats_per_image", "bits_per_dim", "kl_bits")
    return {
        "nats": nats_of(fame, folder / "last.safetensors"),
        "metrics": [{key: record[key] for key in figures} for record in records_in(folder)],
    }


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_allclose(found["nats"], expected["nats"], rtol=RELATIVE)
    lines = expected["metrics"]
    assert len(found["metrics"]) == len(lines) > 0
    for one, other in zip(found["metrics"], lines, strict=True):
        assert list(one) == list(other)
        for key, value in other.items():
            assert one[key] == (value if key == "split" else pytest.approx(value, rel=RELATIVE)), key


def test_a_training_stays(place: Path, train: Command, fame: Command) -> None:
    # Defaults move; what a whole configuration comes to does not.
    outcome = train("fame", "--config", "run/config.toml", "-o", "whole")
    assert outcome.code == 0, outcome.err
    found = {"formats": formats_in(Path("whole")), "figures": figures_of(fame, Path("whole"))}
    expected = recorded("training", found)
    for name, formats in expected["formats"].items():
        assert_same(found["formats"][name], formats)
    assert list(found["formats"]) == list(expected["formats"])
    assert_close(found["figures"], expected["figures"])


def expected_figures() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((FOLDER / "training.json").read_text())["figures"]
    return figures


@pytest.mark.parametrize("words", [TRAINING, ("fame", "--config", "run/config.toml")], ids=["words", "file"])
def test_a_run_of_before_is_resumed_to_its_end(
    place: Path, train: Command, fame: Command, words: tuple[object, ...]
) -> None:
    before = records_in(Path("run"))
    assert [record["step"] for record in before] == STEPS_BEFORE
    outcome = train(*words, "-o", "run")
    assert (outcome.code, outcome.out) == (0, "run/best.safetensors\n"), outcome.err
    assert "resumed at 18 images" in outcome.err
    assert records_in(Path("run"))[: len(before)] == before
    assert_close(figures_of(fame, Path("run")), expected_figures())
    for name in ("model", "train"):
        was, now = (metadata_in(folder / "state.safetensors") for folder in (RUN, Path("run")))
        assert_same({name: now[name]}, {name: was[name]})


def test_a_state_of_before_is_resumed_in_another_folder(place: Path, train: Command, fame: Command) -> None:
    outcome = train(*TRAINING, "-o", "other", "--resume", RUN / "state.safetensors")
    assert (outcome.code, outcome.out) == (0, "other/best.safetensors\n"), outcome.err
    assert_close(figures_of(fame, Path("other")), expected_figures())


def test_a_run_of_before_is_not_resumed_with_other_values(place: Path, train: Command) -> None:
    outcome = train(*TRAINING, "--set", "model.decoder.lag=3", "-o", "run")
    assert outcome.code == 3
    assert "model.decoder.lag" in error_lines(outcome)[0]


def test_numbers_of_streams_stay() -> None:
    names: list[tuple[str | int, ...]] = [("golden", 0), ("golden", "0")]
    noise = ImageNoise(names, 2)
    shape = golden.torch.Size((4, 3))
    found = {
        "uniforms": image_uniforms(names, (2, 3)).tolist(),
        "float64 uniforms": image_uniforms(names, (2, 3), golden.torch.float64).tolist(),
        "normals": [noise(layer, shape).tolist() for layer in (0, 1, 0)],
        "normals of a batch": BatchNoise(stream("golden"))(0, shape).tolist(),
        "normals of a seed": batch_noise()(0, shape).tolist(),
    }
    expected = recorded("stream-numbers", found)
    normals = (found.pop("normals"), expected.pop("normals"))
    np.testing.assert_allclose(*normals, rtol=1e-6)
    assert found == expected


def run_before(fame: Command, words: Words) -> None:
    for command in words.before:
        assert fame(*command).code == 0, command
    if words.command[0] == "compare":
        for side, name in zip(SIDES, ("a.json", "b.json"), strict=True):
            outcome = fame(*side, "--json")
            assert outcome.code == 0, outcome.err
            Path(name).write_text(outcome.out)


@pytest.mark.parametrize("name", COMMANDS)
def test_documents_stay(name: str, place: Path, fame: Command) -> None:
    words = COMMANDS[name]
    run_before(fame, words)
    with streams_asked_for() as asked:
        loud = fame(*words.command, *words.more, "--json")
    assert loud.code == 0, loud.err
    document = json.loads(loud.out)
    assert (loud.out.count("\n"), loud.out[-2:]) == (1, "}\n")
    assert isinstance(document, dict)
    remove(words.writes)
    quiet = fame(*words.command, *words.less, "-q")
    assert quiet.code == 0
    assert all(line.startswith("warning: ") for line in quiet.err.splitlines()), quiet.err
    kinds = [kind_of(line) for line in quiet.out.splitlines()]
    found = {
        "schema": document["schema"],
        "keys": shape_of(document),
        "quiet": sorted(set(kinds)) if len(kinds) > 1 else kinds,
        "notes": loud.err != "",
        "streams": sorted(asked.values()),
    }
    expected = recorded(f"document-{name.replace(' ', '-')}", found)
    assert set(asked) == {key_of(text) for text in expected["streams"]}
    assert_same(found | {"streams": expected["streams"]}, expected)


def remove(name: str | None) -> None:
    if name is not None:
        path = Path(name)
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_dry_run_asks_for_the_same_streams(place: Path, fame: Command) -> None:
    with streams_asked_for() as asked:
        assert fame(*DRY_RUN).code == 0
    expected = recorded("dry-run", sorted(asked.values()))
    assert set(asked) == {key_of(text) for text in expected}


def stream_outputs(text: str) -> list[int]:
    return [int(each) for each in stream(*ast.literal_eval(text)).bit_generator.random_raw(2)]


def test_streams_stay() -> None:
    documents = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("document-*.json"))]
    names = {text for each in documents for text in each["streams"] if text[0] == "("}
    names |= set(json.loads((FOLDER / "dry-run.json").read_text()))
    assert {ast.literal_eval(text)[0] for text in names} == STREAMS
    found = {text: stream_outputs(text) for text in sorted(names)}
    expected = recorded("streams", found)
    assert found == expected


@pytest.mark.parametrize("name", ["pixelcnn", "vae"])
def test_a_checkpoint_written_anew_has_the_same_bytes(name: str, tmp_path: Path) -> None:
    if REGENERATE:
        golden.write_all_checkpoints()
    path, before = tmp_path / "anew", checkpoint_path(name)
    golden.write_checkpoint(golden.load(name), path)
    was = metadata_in(before)
    same = metadata_in(path)["model"] == was["model"]

    def drop(metadata: dict[str, Any]) -> None:
        metadata["model"] = known({"model": metadata["model"]}, was)["model"]

    # What configurations have had since is left out; then not a byte may differ, nor the seal.
    found = with_metadata(path.read_bytes(), drop)
    assert found == with_metadata(before.read_bytes(), lambda metadata: None)
    assert not same or path.read_bytes() == before.read_bytes()
    facts = {
        "sha256": hashlib.sha256(before.read_bytes()).hexdigest(),
        "metadata": was,
        "tensors": tensors_in(before),
    }
    assert_same(facts, recorded(f"bytes-{name}", facts))
    assert {kind for kind, _ in tensors_in(path).values()} == {"F16" if CASES[name].half else "F32"}


def test_index_and_model_card_have_the_same_text(tmp_path: Path) -> None:
    for name in SHIPPED:
        shutil.copyfile(ROOT / "weights" / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
    made = runpy.run_path(str(ROOT / "weights" / "make_index.py"), run_name="make_index")
    found = {
        "index": made["index_text"](tmp_path).splitlines(),
        "card": made["card_text"](tmp_path / f"{SHIPPED[0]}.safetensors").splitlines(),
    }
    assert found == recorded("texts", found)


@pytest.fixture
def damaged(place: Path) -> None:
    """Files that are not what they were: cut off, with another weight, with another word in the header."""
    content = Path(MODEL).read_bytes()
    Path("cut.safetensors").write_bytes(content[:-5])
    Path("weight.safetensors").write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    assert content.count(rb"\"lag\":2") == 1
    Path("header.safetensors").write_bytes(content.replace(rb"\"lag\":2", rb"\"lag\":1"))
    Path("text.safetensors").write_text("no checkpoint at all")
    coded = (FOLDER / "fame.fame").read_bytes()
    Path("other.fame").write_bytes(coded)
    Path("cut.fame").write_bytes(coded[:-1])
    Path("empty").mkdir()


ERRORS: list[tuple[int, tuple[str, ...]]] = [
    (2, ("nothing",)),
    (2, ("train", "fam")),
    (2, ("info", "fame-mnits")),
    (2, ("sample", MODEL, "--nothing")),
    (2, ("sample", MODEL, "--precision", "fp8")),
    (2, ("evaluate-nll", "--dataset", "mnits")),
    (2, ("verify", MODEL, "--checks", "nothing")),
    (2, (*EVALUATE, "--with-images")),
    (3, ("info", "absent.safetensors")),
    (3, ("info", "text.safetensors")),
    (3, ("sample", "cut.safetensors", "-o", "s.npy")),
    (3, ("report", "empty", "-o", "a.html")),
    (3, ("compress", MODEL, "absent.png", "-o", "x.fame")),
    (3, ("decompress", "absent.fame", "-o", "d.npy")),
    (3, ("compare", "absent.json", "absent.json")),
    (3, ("train", "fame", *DATA, "--set", "model.width=0", "-o", "more")),
    (4, ("decompress", "other.fame", "-o", "d.npy", "--offline")),
    (4, ("evaluate-nll", MODEL, "--data", "empty", "--offline")),
    (5, ("sample", "weight.safetensors", "-o", "s.npy")),
    (5, ("sample", "header.safetensors", "-o", "s.npy")),
    (5, ("decompress", "other.fame", "--checkpoint", MODEL, "-o", "d.npy")),
    (5, ("decompress", "cut.fame", "--checkpoint", MODEL, "-o", "d.npy")),
]


@pytest.mark.parametrize(("code", "words"), ERRORS, ids=[" ".join(words) for _, words in ERRORS])
def test_errors_keep_their_codes(damaged: None, fame: Command, code: int, words: tuple[str, ...]) -> None:
    outcome = fame(*words)
    assert outcome.code == code, outcome.err
    assert len(error_lines(outcome)) == 1


def test_a_missed_limit_keeps_its_code(place: Path, fame: Command) -> None:
    outcome = fame(*EVALUATE, "--fail-above", "0.001", "--json")
    assert outcome.code == 7
    assert json.loads(outcome.out)["schema"] == "famecli/nll/1"
    assert [line for line in outcome.err.splitlines() if line.startswith("error: ")] != []
