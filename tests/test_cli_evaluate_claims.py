"""What `fame evaluate-nll` says of the NLL that a checkpoint claims."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import PROVENANCE, error_of, fame, result_of, save_model
from support.commands import use_small_mnist as small
from support.forgeries import with_metadata

from famecli.checkpoints.checkpoint import RAW, load_checkpoint
from famecli.checkpoints.header import parse_header
from famecli.data.dataset import load_split
from famecli.evaluation.score import EstimatorSettings, measure_again, score, scored_levels

ROW = "claimed by the checkpoint"
LINE = "the checkpoint claims, not comparable: "


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small(tmp_path / "data", monkeypatch)
    return save_model(tmp_path / "plain.safetensors", raw=True)


@pytest.fixture
def model(plain: Path, tmp_path: Path) -> Path:
    """A model that claims its -ELBO of the 7 test images, and a bound of 3 draws for the first 4."""
    path = tmp_path / "model.safetensors"
    for source, words in ((plain, ()), (path, ("-k", "3", "--limit", "4", "--force"))):
        assert fame("evaluate-nll", source, "--record", path, *words).code == 0
    return path


def told(model: Path, *words: str | Path) -> tuple[list[str], list[str]]:
    """Return the rows of the table about claims, and the lines below it."""
    done = fame("evaluate-nll", model, *words)
    assert done.code == 0, done.err
    lines = [line.rstrip() for line in done.text.splitlines()]
    return [line for line in lines if line.startswith(ROW)], [line for line in lines if LINE in line]


def test_a_recorded_claim_can_be_measured_again(plain: Path, tmp_path: Path) -> None:
    target = tmp_path / "recorded.safetensors"
    first = result_of("evaluate-nll", plain, "--record", target)
    content = target.read_bytes()
    header = parse_header(content, len(content), "recorded")
    assert not [name for name in header.tensors if name.startswith(RAW)]
    claim, provenance = header.metadata["claim"], header.metadata["provenance"]
    for key in (
        "data",
        "bound",
        "importance_samples",
        "nats_per_image",
        "stderr_nats_per_image",
        "bits_per_dim",
    ):
        assert claim[key] == first[key]
    assert claim["weights_sha256"] == first["checkpoint"]["weights_sha256"]
    assert provenance == PROVENANCE
    again = result_of("evaluate-nll", target)
    assert again["nats_per_image"] == first["nats_per_image"]
    assert again["claimed_nats_per_image"] == first["nats_per_image"]
    assert again["claimed_bits_per_dim"] == first["bits_per_dim"]
    assert again["checkpoint"]["weights_sha256"] == first["checkpoint"]["weights_sha256"]
    assert "claimed by the checkpoint" in fame("evaluate-nll", target).text
    assert "no raw weights" in error_of(2, "evaluate-nll", target, "--weights", "raw")


@pytest.mark.parametrize(
    ("words", "label", "claim"),
    [
        ((), ROW, 0),
        (("--seed", "1"), ROW, 0),
        (("--limit", "5"), f"{ROW}, 7 images", 0),
        (("-k", "3"), f"{ROW}, 4 images", 1),
        (("-k", "3", "--limit", "4"), ROW, 1),
        (("--half",), f"{ROW}, other weights", 0),
    ],
)
def test_a_claim_by_the_same_protocol_is_in_the_table(
    model: Path, words: tuple[str, ...], label: str, claim: int
) -> None:
    document = result_of("evaluate-nll", model, *words)
    assert [each["comparable"] for each in document["claims"]] == [claim == 0, claim == 1]
    figure = document["claims"][claim]
    (row,), lines = told(model, *words)
    assert row.rsplit(maxsplit=2) == [
        label,
        f"{figure['nats_per_image']:.3f}",
        f"{figure['bits_per_dim']:.5f}",
    ]
    assert lines == []


@pytest.mark.parametrize(
    "words",
    [
        ("--dataset", "mnist-fixed"),
        ("--split", "valid"),
        ("-k", "2"),
        ("-k", "2", "--limit", "4"),
        ("--ais", "2", "--limit", "2"),
    ],
)
def test_a_claim_by_another_protocol_is_below_the_table_with_it(model: Path, words: tuple[str, ...]) -> None:
    document = result_of("evaluate-nll", model, *words)
    assert [each["comparable"] for each in document["claims"]] == [False, False]
    nats = document["claimed_nats_per_image"]
    protocol = "(-ELBO; mnist, test, 7 images, binarization: dynamic, bits of seed 0)"
    assert told(model, *words) == ([], [f"{LINE}{nats:.3f} nats/image {protocol}"])


def test_the_document_has_the_protocol_of_each_claim(plain: Path, model: Path) -> None:
    first = result_of("evaluate-nll", plain)
    second = result_of("evaluate-nll", plain, "-k", "3", "--limit", "4")
    assert first["claims"] == []
    found = result_of("evaluate-nll", model, "--limit", "4")
    for claim, source, comparable in zip(found["claims"], (first, second), (True, False), strict=True):
        keys = ("nats_per_image", "bits_per_dim", "bound", "importance_samples", "seed")
        assert {key: claim[key] for key in keys} == {key: source[key] for key in keys}
        kept = ("dataset_id", "split", "images", "pixels_sha256", "binarization", "part", "preparation")
        assert claim["data"] == {key: source["data"][key] for key in kept}
        assert claim["weights_sha256"] == found["checkpoint"]["weights_sha256"]
        same = source["data"]["images"] == 4
        assert (claim["comparable"], claim["same_pixels"]) == (comparable, same)
    assert found["claimed_nats_per_image"] == first["nats_per_image"]
    assert found["claimed_bits_per_dim"] == first["bits_per_dim"]


def test_other_pixels_under_the_same_name(model: Path, tmp_path: Path) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata["claim"]["data"]["pixels_sha256"] = "0" * 64

    model.write_bytes(with_metadata(model.read_bytes(), change))
    ((row,), _) = told(model)
    assert row.startswith(f"{ROW}, other pixels ")
    # Folders all have the same name, and are not the same data set.
    for name in ("one", "other"):
        pixels = np.random.default_rng(len(name)).integers(0, 2, (9, 28, 28)).astype(np.uint8) * 255
        np.save(tmp_path / f"{name}.npy", pixels)
    own = ("--dataset", "folder", "--split", "train", "--data")
    claiming = tmp_path / "claiming.safetensors"
    assert fame("evaluate-nll", model, *own, tmp_path / "one.npy", "--record", claiming).code == 0
    assert [len(each) for each in told(claiming, *own, tmp_path / "one.npy")] == [1, 0]
    assert [len(each) for each in told(claiming, *own, tmp_path / "other.npy")] == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda claim: claim.update(nats_per_image="few"),
        lambda claim: claim.pop("data"),
        lambda claim: claim["data"].update(binarization=["b"]),
    ],
)
def test_a_claim_of_another_form_is_passed_over(model: Path, change: Any) -> None:
    def spoil(metadata: dict[str, Any]) -> None:
        change(metadata["claim"])
        del metadata["further_claims"]

    model.write_bytes(with_metadata(model.read_bytes(), spoil))
    assert result_of("evaluate-nll", model)["claims"] == []
    assert told(model) == ([], [])


def test_what_a_claim_says_cannot_steer_a_terminal(model: Path) -> None:
    def spoil(metadata: dict[str, Any]) -> None:
        metadata["claim"]["data"]["dataset_id"] = "[red]\x1b[31m\n" + "x" * 900
        del metadata["further_claims"]

    model.write_bytes(with_metadata(model.read_bytes(), spoil))
    (_, (line,)) = told(model)
    assert "[red]" in line
    assert "\x1b" not in line
    assert len(line) < 400


@pytest.mark.parametrize(("limit", "part"), [("4", "even"), ("7", "all"), ("4", "first"), ("4", None)])
def test_a_claim_is_measured_again_on_the_images_that_it_names(
    plain: Path, tmp_path: Path, limit: str, part: str | None
) -> None:
    target, loaded = tmp_path / "recorded.safetensors", load_checkpoint(plain)
    result_of("evaluate-nll", plain, "--limit", limit, "--record", target)
    claim = load_checkpoint(target).claims[0]
    assert claim.data.part == ("all" if limit == "7" else "even")
    split = load_split("mnist", "test")
    if part in ("first", None):
        older = score(loaded, split, scored_levels(loaded, split, range(4)), EstimatorSettings()).nll
        assert older.data.part == "first"
        assert older.data.pixels_sha256 != claim.data.pixels_sha256
        claim = dataclasses.replace(older, data=dataclasses.replace(older.data, part=part))
    measured = measure_again(loaded, claim, load_split, name="model")
    claim.check("model", measured)
    assert measured.data.pixels_sha256 == claim.data.pixels_sha256
    assert measured.nats_per_image == pytest.approx(claim.nats_per_image, rel=1e-6)
