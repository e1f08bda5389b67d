"""The weights that come with the package."""

import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROVENANCE, save_model

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.checkpoints.description import describe
from famecli.checkpoints.index import (
    INDEX,
    SCHEMA,
    WeightsEntry,
    default_weights,
    entry_of,
    index,
    index_text,
    weights_folder,
)
from famecli.checkpoints.store import Store
from famecli.errors import ConfigError, InputError, UnavailableError, UsageError

LARGEST_BYTES = 6_000_000
LARGEST_TOTAL_BYTES = 40_000_000
ENTRIES = list(index().values())
CLAIM = {
    "nats_per_image": 90.5,
    "stderr_nats_per_image": 0.25,
    "bound": "elbo",
    "importance_samples": 1,
    "data": {"dataset_id": "mnist", "split": "test", "images": 500, "pixels_sha256": "0" * 64},
}


@pytest.fixture
def other_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is looked in instead of the package's."""
    monkeypatch.setattr("famecli.checkpoints.index.weights_folder", lambda: tmp_path)
    index.cache_clear()
    yield tmp_path
    index.cache_clear()


def save_claiming(path: Path, preset: str = "fame", *, raw: bool = False) -> Path:
    return save_model(path, preset, (1, 8, 8), raw=raw, facts={"provenance": PROVENANCE, "claim": CLAIM})


def test_the_index_is_what_the_files_say() -> None:
    folder = weights_folder()
    assert (folder / INDEX).read_text(encoding="utf-8") == index_text(folder)
    assert {path.name for path in folder.glob("*.safetensors")} <= {entry.file for entry in ENTRIES}
    assert all(entry.mirrors or (folder / entry.file).exists() for entry in ENTRIES)
    assert default_weights(None, None) in ENTRIES


SHIPPED = [entry for entry in ENTRIES if (weights_folder() / entry.file).exists()]


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_shipped_weights_are_small_and_load(entry: WeightsEntry) -> None:
    path = weights_folder() / entry.file
    content = path.read_bytes()
    assert len(content) == entry.size_bytes <= LARGEST_BYTES
    assert hashlib.sha256(content).hexdigest() == entry.sha256
    loaded = load_checkpoint(path)
    assert loaded.model.count_parameters() == entry.parameters
    assert loaded.model.config.preset == entry.model
    found = loaded.provenance
    assert found.trainings[-1].images_seen == found.images_seen > 0
    assert (len(found.trainings) > 1) == (found.init is not None)
    assert sum(each.images_seen for each in found.trainings) == entry.images_seen
    assert entry.seeds == tuple(each.seed for each in found.trainings)
    assert entry.thread_hours == pytest.approx(found.total_thread_hours, abs=0.005)
    with pytest.raises(UsageError):
        load_checkpoint(path, "raw")


def test_all_shipped_weights_are_small_together() -> None:
    assert sum(entry.size_bytes for entry in SHIPPED) <= LARGEST_TOTAL_BYTES


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_shipped_weights_claim_an_nll_with_its_protocol(entry: WeightsEntry) -> None:
    loaded = load_checkpoint(weights_folder() / entry.file)
    claim = loaded.claims[0]
    data, known = claim.data, entry.nll.data
    assert (data.dataset_id, data.split) == (entry.dataset, "test")
    assert (known.split, known.images, known.pixels_sha256) == (data.split, data.images, data.pixels_sha256)
    assert (data.images or 0) > 1
    assert len(data.pixels_sha256 or "") == 64
    assert data.binarization
    assert claim.bound in ("exact", "elbo", "iwae")
    assert claim.estimator == entry.nll.estimator
    assert (claim.bound == "iwae") == (claim.importance_samples > 1)
    assert claim.nats_per_image == entry.nll.nats_per_image > 0
    assert claim.stderr_nats_per_image == entry.nll.stderr_nats_per_image
    assert (claim.stderr_nats_per_image or 0) > 0
    assert claim.weights_sha256 == loaded.weights_sha256


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_shipped_weights_with_latents_claim_the_bound_by_many_draws_too(entry: WeightsEntry) -> None:
    further = [each for each in entry.further if each.given == entry.nll.given]
    draws = [each.importance_samples for each in further if each.bound == "iwae"]
    assert draws == [] if entry.nll.bound == "exact" else min(draws) >= 100


def test_an_entry_is_made_from_the_header(tmp_path: Path) -> None:
    path = save_claiming(tmp_path / "my-model.safetensors", "lvae")
    entry = entry_of(path)
    assert (entry.name, entry.file) == ("my-model", "my-model.safetensors")
    assert (entry.dataset, entry.model, entry.images_seen) == ("mnist", "lvae", PROVENANCE["images_seen"])
    nll, data = entry.nll, entry.nll.data
    assert (entry.size, data.split, data.images, data.pixels_sha256) == ("tiny", "test", 500, "0" * 64)
    assert (nll.nats_per_image, nll.stderr_nats_per_image, str(nll.estimator)) == (90.5, 0.25, "-ELBO")
    assert entry.parameters == load_checkpoint(path).model.count_parameters()
    assert (entry.sha256, entry.size_bytes) == (
        hashlib.sha256(path.read_bytes()).hexdigest(),
        path.stat().st_size,
    )


def test_the_index_lists_files_by_name_and_comes_back(other_folder: Path) -> None:
    names = ["b-model", "a-model"]
    for name, preset in zip(names, ("lvae", "vae"), strict=True):
        save_claiming(other_folder / f"{name}.safetensors", preset)
    text = index_text(other_folder)
    assert json.loads(text)["schema"] == SCHEMA
    (other_folder / INDEX).write_text(text)
    assert list(index()) == ["a-model", "b-model"]
    assert index()["b-model"].to_dict() == entry_of(other_folder / "b-model.safetensors").to_dict()
    assert default_weights("mnist", "vae").name == "a-model"
    with pytest.raises(UnavailableError, match="no weights of fame for mnist") as caught:
        default_weights(None, None)
    assert "a-model, b-model" in caught.value.hint
    assert "fame train fame --dataset mnist" in caught.value.hint


def test_what_only_the_index_knows_stays_in_it(other_folder: Path) -> None:
    far = save_claiming(other_folder / "far.safetensors", "lvae")
    save_claiming(other_folder / "near.safetensors", "vae")
    document = json.loads(index_text(other_folder))
    for entry in document["weights"]:
        entry["mirrors"] = ["https://example.org/weights/"]
    document["weights"].append(document["weights"][0] | {"name": "gone", "mirrors": []})
    (other_folder / INDEX).write_text(json.dumps(document))
    expected = entry_of(far, ("https://example.org/weights/",))
    far.unlink()
    (other_folder / INDEX).write_text(index_text(other_folder))
    assert list(index()) == ["far", "near"]
    assert index()["far"].to_dict() == expected.to_dict()
    assert index()["near"].mirrors == ("https://example.org/weights/",)


def test_files_without_a_claim_cannot_be_listed(tmp_path: Path) -> None:
    path = save_model(tmp_path / "the silent.safetensors", shape=(1, 8, 8))
    for refusing in (entry_of, lambda path: describe(path).claimed()):
        with pytest.raises(InputError, match="claims no NLL") as caught:
            refusing(path)
        assert shlex.split(caught.value.hint) == ["fame", "evaluate-nll", str(path), "--record", "FILE"]
    with pytest.raises(InputError):
        index_text(tmp_path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="silent"):
        entry_of(path)


def test_weights_of_the_last_step_are_no_parameters(tmp_path: Path) -> None:
    path = save_claiming(tmp_path / "a.safetensors", raw=True)
    assert entry_of(path).parameters == load_checkpoint(path).model.count_parameters()


@pytest.mark.parametrize("change", [{"stderr_nats_per_image": None}, {"nats_per_image": "few"}, {"bound": 1}])
def test_a_claim_without_a_figure_cannot_be_listed(tmp_path: Path, change: dict[str, object]) -> None:
    facts = {"provenance": PROVENANCE, "claim": CLAIM | change}
    path = save_model(tmp_path / "one.safetensors", shape=(1, 8, 8), facts=facts)
    with pytest.raises(InputError, match=r"one\.safetensors"):
        entry_of(path)


def test_an_installation_without_weights_says_so(other_folder: Path) -> None:
    for find in (index, lambda: default_weights(None, None)):
        with pytest.raises(UnavailableError, match="no weights") as caught:
            find()
        assert caught.value.hint == "name a checkpoint file"


def test_a_damaged_index_is_a_config_error(other_folder: Path) -> None:
    entry = json.loads((Path(__file__).parents[1] / "weights" / INDEX).read_text())["weights"][0]
    for change in (
        {"parameters": "many"},
        {"unknown": 1},
        {"bound": "none"},
        {"split": 3},
        {"further": [{}]},
    ):
        (other_folder / INDEX).write_text(json.dumps({"schema": SCHEMA, "weights": [entry | change]}))
        with pytest.raises(ConfigError, match=INDEX):
            index()


def test_names_are_exact_and_misspelt_ones_get_a_guess() -> None:
    assert index()["fame-mnist"].name == "fame-mnist"
    for name in ("fame-mnits", "FAME-MNIST", "", "fame-mnist.safetensors"):
        assert name not in index()
    assert Store().unknown("fame-mnits").hint == "did you mean fame-mnist?"
    assert Store().unknown("zzz").hint == f"names of weights: {', '.join(index())}"


def test_unknown_models_and_data_sets() -> None:
    with pytest.raises(UsageError, match="fmae"):
        default_weights("mnist", "fmae")
    with pytest.raises(UnavailableError, match="mnist-grey"):
        default_weights("mnist-grey", None)
