"""What `fame report` reads of runs: metrics, claims, configurations."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from support.commands import CLAIM, PROVENANCE, save_model
from support.reports import LINE, write_lines

from famecli.checkpoints.provenance import Provenance, parse_provenance
from famecli.config.presets import model_config
from famecli.config.schema import TrainConfig
from famecli.errors import ConfigError, InputError
from famecli.nll.record import parse_nll
from famecli.report.metrics import read_metrics
from famecli.report.runs import RunFacts, differences, read_run, with_own_names

MODEL = model_config("fame", "tiny", (1, 28, 28), 2)


def facts(name: str = "a", **changes: Any) -> RunFacts:
    return dataclasses.replace(
        RunFacts(name, name, MODEL, TrainConfig(), parse_provenance({"provenance": PROVENANCE})), **changes
    )


def test_records_are_read_with_their_units(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m", {}, {"split": "valid", "stderr_nats": 0.5, "valid_images": 12})
    metrics = read_metrics(path)
    assert not metrics.cut
    train, valid = metrics.records
    assert (train.images, train.hours, train.nats_per_image) == (24, 2.0, 90.5)
    assert train.kl_nats == pytest.approx([2 * math.log(2), 4 * math.log(2)])
    assert (valid.stderr_nats, valid.valid_images) == (0.5, 12)


def test_the_best_validation_is_the_first_of_the_lowest(tmp_path: Path) -> None:
    values = [(6, 90.0), (12, None), (18, 80.0), (24, 80.0), (30, 85.0)]
    path = write_lines(
        tmp_path / "m",
        *({"images": images, "nats_per_image": nats, "split": "valid"} for images, nats in values),
        {"nats_per_image": 1.0},
        {"images": 36, "nats_per_image": 70.0, "split": "valid", "kl_bits": [0.0, 0.0]},
    )
    metrics = read_metrics(path)
    assert metrics.best is not None
    # A decoder without latents has no best checkpoint.
    assert metrics.best.images == 18
    assert [each.images for each in metrics.of("valid")] == [6, 18, 24, 30, 36]


def test_a_last_line_cut_anywhere_is_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m", {}, {"images": 30})
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for end in range(second + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        metrics = read_metrics(path)
        assert ([each.images for each in metrics.records], metrics.cut) == ([24], True), end
    # The braces are there, the end of the line is not: that is a whole record.
    path.write_bytes(whole[:-1])
    assert [each.images for each in read_metrics(path).records] == [24, 30]
    path.write_bytes(whole[:second] + b"\0" * 512)
    assert read_metrics(path).cut


def test_a_file_without_lines_has_no_records(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"")
    assert read_metrics(tmp_path / "m").records == []
    assert read_metrics(tmp_path / "m").best is None


BAD = {
    "no JSON": b"{]",
    "no text": b'{"images": "\xff"}',
    "a list": b"[1]",
    "nested": b"[" * 100_000,
    "no number": json.dumps(LINE).replace("90.5", "NaN").encode(),
    "infinite": json.dumps(LINE).replace("90.5", "1e999").encode(),
    "too large": json.dumps(LINE | {"images": 10**400}).encode(),
    "split": json.dumps(LINE | {"split": "test"}).encode(),
    "words": json.dumps(LINE | {"images": "24"}).encode(),
    "yes": json.dumps(LINE | {"images": True}).encode(),
    "layers": json.dumps(LINE | {"kl_bits": [1.0] * 65}).encode(),
    "negative": json.dumps(LINE | {"images": -1}).encode(),
    "without": json.dumps({key: LINE[key] for key in LINE if key != "elapsed_s"}).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "metrics.jsonl"
    good = json.dumps(LINE).encode() + b"\n"
    path.write_bytes(good * 2 + BAD[kind] + b"\n" + good)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 3: not a record of a training") as caught:
        read_metrics(path)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_whole_last_line_must_be_a_record(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m", {}, {"split": "test"})
    with pytest.raises(InputError, match="line 2"):
        read_metrics(path)


def test_a_claim_keeps_its_protocol() -> None:
    nll = parse_nll(CLAIM | {"terms_nats_per_image": {"decoder": 70.0, "kl": [1, 2.5]}}, "here")
    assert (nll.nats_per_image, nll.stderr_nats_per_image, nll.bits_per_dim) == (81.25, 0.5, 0.14951)
    assert str(nll.estimator) == "IWAE, K = 100"
    assert (nll.data.dataset_id, nll.data.split, nll.data.images) == ("mnist", "test", 10_000)
    assert nll.data.pixels_sha256 == "ab" * 32
    assert nll.terms_nats_per_image is not None
    assert nll.terms_nats_per_image.kl == (1.0, 2.5)
    assert nll.origin == "claim"
    # What a file says of its own origin does not count.
    assert parse_nll(CLAIM | {"origin": "measured"}, "here").origin == "claim"


@pytest.mark.parametrize(
    "change",
    [
        {"nats_per_image": "81"},
        {"bound": "<b>"},
        {"importance_samples": 0},
        {"data": None},
        {"data": CLAIM["data"] | {"images": -1}},
        {"terms_nats_per_image": {"decoder": 1.0, "kl": "x"}},
    ],
)
def test_a_claim_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^here"):
        parse_nll(CLAIM | change, "here")


@pytest.mark.parametrize(
    ("preset", "dataset", "bound", "bits"),
    [
        ("fame", "mnist", "elbo", "dynamic, bits of seed 0"),
        ("pixelcnn", "cifar10", "exact", "none"),
        ("fame", None, "elbo", None),
        ("fame", "<script>", "elbo", None),
    ],
)
def test_a_validation_says_what_it_measured(
    tmp_path: Path, preset: str, dataset: str | None, bound: str, bits: str | None
) -> None:
    change = {"split": "valid", "stderr_nats": 0.5, "valid_images": 12}
    metrics = read_metrics(write_lines(tmp_path / "m", change))
    model = model_config(preset, "tiny", (1, 28, 28), 2)
    told = Provenance(dataset=dataset, images_seen=24)
    nll = RunFacts("a", "a", model, TrainConfig(seed=7), told, 1, "ab", metrics).validation
    assert nll is not None
    assert (nll.bound, nll.data.binarization, nll.data.split, nll.data.images) == (bound, bits, "valid", 12)
    assert (nll.seed, nll.weights_sha256) == (7, "ab")
    assert nll.bits_per_dim == pytest.approx(90.5 / math.log(2) / 784)
    assert nll.stderr_bits_per_dim == pytest.approx(0.5 / math.log(2) / 784)
    assert nll.terms_nats_per_image is not None
    assert nll.terms_nats_per_image.decoder == pytest.approx(90.5 - 6 * math.log(2))


def test_images_and_hours_are_the_checkpoints_own(tmp_path: Path) -> None:
    metrics = read_metrics(write_lines(tmp_path / "m", {}))
    told = facts(metrics=metrics)
    assert (told.images_seen, told.hours) == (640, 1.5 / 3600)
    untold = facts(metrics=metrics, provenance=Provenance())
    assert (untold.images_seen, untold.hours) == (24, 2.0)
    nothing = facts(provenance=Provenance())
    assert (nothing.images_seen, nothing.hours, nothing.dataset) == (None, None, None)


def test_a_validation_names_weights_only_if_these_are_kept(tmp_path: Path) -> None:
    metrics = read_metrics(write_lines(tmp_path / "m", {"split": "valid", "images": 640}))
    kept = facts(metrics=metrics, weights_sha256="ab").validation
    others = facts(metrics=metrics, weights_sha256="ab", provenance=Provenance(images_seen=700)).validation
    assert kept is not None
    assert others is not None
    assert (kept.weights_sha256, others.weights_sha256) == ("ab", None)


def test_differences_are_the_keys_that_differ() -> None:
    other = dataclasses.replace(MODEL, stages=(MODEL.stages[0], *MODEL.stages[2:]))
    assert differences([facts(), facts()]) == []
    assert differences([facts(), facts(training=TrainConfig(lr=0.5))]) == [("train.lr", ["0.004", "0.5"])]
    rows = dict(differences([facts(), facts(model=other)]))
    last = len(MODEL.stages) - 1
    assert rows[f"model.stages.{last}.width"] == [str(MODEL.stages[-1].width), ""]
    assert all(key.startswith("model.stages.") for key in rows)


def test_runs_of_one_name_are_numbered() -> None:
    names = [run.name for run in with_own_names([facts(), facts(), facts("b"), facts(), facts("a (2)")])]
    assert names == ["a", "a (2)", "b", "a (3)", "a (2) (2)"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("run/best.safetensors", "run/best"),
        ("one/fame-x.safetensors", "fame-x"),
        ("run/last.safetensors", "run/last"),
    ],
)
def test_names_of_files(tmp_path: Path, place: str, name: str) -> None:
    path = tmp_path / place
    path.parent.mkdir()
    save_model(path)
    assert read_run(place, path, None).name == name
    assert read_run(place, path, path.parent).name == path.parent.name


def test_a_name_fits_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / ("x\n\x1b[31m" + "y" * 200)
    folder.mkdir()
    name = read_run("p", save_model(folder / "best.safetensors"), folder).name
    assert len(name) <= 60
    assert name.isprintable()
