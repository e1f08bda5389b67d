"""Scored parts of a split: images keep their numbers, their bits and their latents."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import error_of, fame, result_of, save_model
from support.commands import use_small_mnist as small

from famecli import evaluate
from famecli.errors import InputError


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small(tmp_path / "data", monkeypatch)
    return save_model(tmp_path / "model.safetensors")


def rows_of(model: Path, *words: str) -> list[dict[str, str]]:
    done = fame("evaluate-nll", model, *words, "--per-image", "-")
    return list(csv.DictReader(io.StringIO(done.text)))


@pytest.mark.parametrize("words", [(), ("-k", "3"), ("--ais", "2"), ("--ais", "2", "--chains", "2")])
def test_an_image_of_a_part_keeps_its_number_its_bits_and_its_latents(
    model: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    whole, part = rows_of(model, *words), rows_of(model, *words, "--limit", "4")
    assert [row["index"] for row in part] == ["0", "1", "3", "5"]
    for row in part:
        expected = whole[int(row["index"])]
        assert row["sha8"] == expected["sha8"]
        assert float(row["nats"]) == pytest.approx(float(expected["nats"]), rel=1e-6)


def test_heatmaps_of_a_part_are_those_of_its_images(model: Path, tmp_path: Path) -> None:
    for name, words in (("whole", ()), ("part", ("--limit", "4"))):
        assert fame("evaluate-nll", model, "--heatmap", tmp_path / name, *words).code == 0
    told = [json.loads(line) for line in (tmp_path / "part" / "manifest.jsonl").read_text().splitlines()]
    assert [each["index"] for each in told] == [0, 1, 3, 5]
    pictures = {name: sorted((tmp_path / name).glob("*.png")) for name in ("whole", "part")}
    for place, number in enumerate([0, 1, 3, 5]):
        part, whole = Image.open(pictures["part"][place]), Image.open(pictures["whole"][number])
        np.testing.assert_array_equal(np.asarray(part), np.asarray(whole))


def test_all_splits_are_scored_one_after_the_other(model: Path) -> None:
    rows = rows_of(model, "--split", "all")
    parts = [row for split in ("train", "valid", "test") for row in rows_of(model, "--split", split)]
    assert [row["sha8"] for row in rows] == [row["sha8"] for row in parts]
    assert [row["index"] for row in rows] == [str(index) for index in range(len(parts))]
    found = result_of("evaluate-nll", model, "--split", "all")["data"]
    assert (found["split"], found["images"], found["part"]) == ("all", 37, "all")


def test_one_image_is_scored_without_an_error_of_the_mean(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "0,1.png"
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(path)
    for words in (("--dataset", "folder", "--data", path, "--split", "all"), (path,)):
        found = result_of("evaluate-nll", model, *words)
        assert (found["data"]["images"], found["stderr_nats_per_image"]) == (1, None)
        for more in ((), ("-k", "3"), ("--ais", "2"), ("--explain",)):
            done = fame("evaluate-nll", model, *words, *more)
            assert done.code == 0, done.err
            assert "nan" not in done.text
    assert evaluate(model, np.zeros((1, 1, 28, 28), np.uint8))._repr_html_().count("nan") == 0


def test_rows_of_files_name_them(model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("b,1.png", 'a"2.png', "c.png")]
    for value, path in enumerate(paths):
        Image.fromarray(np.full((28, 28), 255 * (value % 2), np.uint8)).save(path)
    rows = rows_of(model, *map(str, paths))
    assert [row["file"] for row in rows] == [str(path) for path in paths]
    assert [row["file"] for row in rows_of(model, *map(str, paths), "--limit", "2")] == [
        str(paths[0]),
        str(paths[1]),
    ]
    assert "file" not in rows_of(model)[0]


@pytest.mark.parametrize(
    ("option", "place"),
    [
        *(("--per-image", place) for place in ("none/x", "model.safetensors/x", "folder")),
        *(("--record", place) for place in ("none/x", "model.safetensors/x", "folder")),
        ("--heatmap", "model.safetensors/x"),
    ],
)
def test_outputs_are_checked_before_anything_is_scored(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("famecli.cli.sources.ModelSource.load", lambda *words, **named: pytest.fail("loaded"))
    assert f"cannot write {tmp_path / place}" in error_of(3, "evaluate-nll", model, option, tmp_path / place)


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "-n", "1", "-o", "none/x.png"),
        ("sample", "-n", "1", "-o", "none/x.npz"),
        ("sample", "-n", "1", "-o", "model.safetensors/x"),
        ("reconstruct", "-o", "none/x.png"),
        ("reconstruct", "--latents", "none/x"),
        ("compress", "-o", "none/x.fame"),
    ],
)
def test_outputs_of_images_are_checked_before_a_model_is_loaded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("famecli.cli.sources.ModelSource.load", lambda *words, **named: pytest.fail("loaded"))
    assert f"cannot write {words[-1]}" in error_of(3, words[0], model, *words[1:])


def test_the_nll_is_printed_before_files_are_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object, **more: object) -> None:
        raise InputError("the disk is full")

    monkeypatch.setattr("famecli.cli.evaluate_nll.write_atomic", fail)
    done = fame("evaluate-nll", model, "--per-image", tmp_path / "x.csv", "-q")
    assert done.code == 3
    assert float(done.text) > 0
