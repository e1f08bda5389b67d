"""Scored parts of a split: images keep their numbers, their bits and their latents."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import fame, save_model
from support.commands import use_small_mnist as small


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
