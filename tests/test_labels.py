"""Labels that do not fit: of other classes, of hostile files, or beside options that ignore them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.classes import NAMES, SHAPE, class_folder, conditional, saved, with_classes
from support.codes import sealed, set_to
from support.commands import error_of, fame, result_of
from support.data import idx_bytes
from support.forgeries import with_metadata
from support.models import randomise

import famecli
from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.coding.container import read_file
from famecli.config.schema import misfit_of_classes
from famecli.data import arrays
from famecli.data.dataset import ImageSplit, load_split
from famecli.data.labels import labels_in
from famecli.data.registry import dataset_info
from famecli.errors import ArgumentError, GateError, InputError, UsageError
from famecli.evaluation.comparison import compare
from famecli.evaluation.score import measure_again
from famecli.model.fame import Fame
from famecli.model.layers import LabelEmbedding
from famecli.nll.evaluate import evaluate, evaluate_marginal
from famecli.nll.record import Annealing, NllRecord, ScoredImages
from famecli.report.runs import read_run


def digits(names: tuple[str, ...], labels: list[int]) -> ImageSplit:
    info = dataclasses.replace(dataset_info("folder"), classes=names)
    return ImageSplit(info, "test", np.zeros((len(labels), *SHAPE), np.uint8), np.array(labels))


def test_classes_of_a_data_set_are_names_not_indices() -> None:
    images = digits(("0", "1", "2"), [1, 2])
    assert labels_in(("1", "2", "3"), images).tolist() == [0, 1]  # type: ignore[union-attr]
    for classes in (("1", "2", "3"), ("cat", "dog")):
        with pytest.raises(ArgumentError, match="no class"):
            labels_in(classes, digits(("0", "1", "2"), [0]))


def test_a_marginal_needs_no_known_labels(tmp_path: Path) -> None:
    checkpoint, data = saved(tmp_path / "m.safetensors"), class_folder(tmp_path / "p", 3, ("bird", "cat"))
    words = ("evaluate-nll", checkpoint, "--dataset", "folder", "--data", data, "--split", "all")
    assert "no class 'bird'" in error_of(2, *words)
    found = result_of(*words, "--marginal")
    assert (found["given"], found["accuracy"]) == ("marginal", None)


def test_a_mean_over_classes_has_no_statistics_of_its_weights(tmp_path: Path) -> None:
    checkpoint, data = saved(tmp_path / "m.safetensors"), class_folder(tmp_path / "p", 3)
    words = ("evaluate-nll", checkpoint, "--dataset", "folder", "--data", data, "--split", "all", "-k", "5")
    given, marginal = result_of(*words), result_of(*words, "--marginal")
    assert given.keys() == marginal.keys()
    assert [point["importance_samples"] for point in given["curve"]] == [1, 2, 5]
    keys = ("bound", "importance_samples", "curve", "stderr_latents_nats_per_image", "effective_samples")
    assert [marginal[key] for key in keys] == ["iwae", 5, [], None, None]


DIGITS, GIVEN = ("1", "2", "3"), [1, 3, 2, 3, 1]


def digit_files(folder: Path, labels: list[int], form: str) -> tuple[Path, np.ndarray]:
    """Write a model of three digits, and images with labels; return the file of images, and the images."""
    model = Fame(dataclasses.replace(with_classes("fame"), classes=DIGITS))
    randomise(model, dtype=torch.float32)
    save_checkpoint(folder / "m.safetensors", model.config, model.state_dict(), None, {})
    x = np.random.default_rng(0).integers(0, 2, (len(labels), *SHAPE)).astype(np.uint8)
    images, path = 255 * x[:, 0], folder / "x.npz"
    if form == "idx":
        path = folder / "t10k-images-idx3-ubyte"
        path.write_bytes(idx_bytes(images))
        (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.array(labels, np.uint8)))
    else:
        np.savez(path, x_test=images, y_test=np.array(labels)[:, None])
    return path, x


@pytest.mark.parametrize("form", ["npz", "idx"])
@pytest.mark.parametrize("labels", [GIVEN, [2] * 5])
def test_files_of_images_are_taken_with_their_labels(labels: list[int], form: str, tmp_path: Path) -> None:
    path, x = digit_files(tmp_path, labels, form)
    checkpoint = tmp_path / "m.safetensors"
    model = famecli.load(checkpoint)
    names = [str(label) for label in labels]
    right = model.nll(x, labels=names).nats
    found = result_of("evaluate-nll", checkpoint, path, "--with-images")
    assert found["image_nats"] == pytest.approx(right.tolist(), abs=1e-4)
    assert found["given"] == "label"
    assert result_of("evaluate-nll", checkpoint, path, "--marginal")["accuracy"] is not None
    other = result_of("evaluate-nll", checkpoint, path, "--class", "3")["nats_per_image"]
    assert other == pytest.approx(model.nll(x, labels="3").nats.mean(), abs=1e-4)
    assert fame("compress", checkpoint, path, "-o", tmp_path / "x.fame").code == 0
    header = read_file(tmp_path / "x.fame").header
    assert header.labels == tuple(DIGITS.index(name) for name in names)
    words = ("decompress", tmp_path / "x.fame", "--checkpoint", checkpoint)
    assert fame(*words, "-o", tmp_path / "y.npy").code == 0
    assert np.array_equal(np.load(tmp_path / "y.npy")[..., 0], 255 * x[:, 0])
    pictures = result_of("reconstruct", checkpoint, path, "-o", tmp_path / "r.png")["images"]
    assert [each["nats"] for each in pictures] == pytest.approx(right.tolist(), abs=1e-4)


def test_labels_of_files_that_are_no_classes_are_told(tmp_path: Path) -> None:
    path, _ = digit_files(tmp_path, [1, 9], "npz")
    checkpoint = tmp_path / "m.safetensors"
    for command in ("evaluate-nll", "reconstruct", "compress"):
        assert "no class '9'" in error_of(2, command, checkpoint, path)
    assert result_of("evaluate-nll", checkpoint, path, "--marginal")["accuracy"] is None
    # Some images have labels, others none.
    np.save(tmp_path / "z.npy", np.zeros((1, *SHAPE[1:]), np.uint8))
    assert "--class" in error_of(2, "evaluate-nll", checkpoint, path, tmp_path / "z.npy")


def test_labels_of_all_images_are_taken_with_a_limit(tmp_path: Path) -> None:
    model = famecli.load(saved(tmp_path / "m.safetensors"))
    labels = [0, 1, 2, 2, 1, 0]
    x = model.sample(6, labels=labels)
    part = famecli.evaluate(model, x, labels=labels, limit=3)
    assert part.scored.labels is not None
    assert part.scored.labels.tolist() == [labels[number] for number in part.scored.numbers]
    assert part.nlls.nats == pytest.approx(model.nll(x, labels=labels).nats[[0, 2, 4]], rel=1e-6)


@pytest.mark.parametrize("label", [4096, 2**70])
def test_huge_labels_in_a_file_are_refused(label: int, tmp_path: Path) -> None:
    model = famecli.load(saved(tmp_path / "m.safetensors"))
    blob = model.compress(model.sample(2, labels=[0, 1]), labels=[0, 1])
    with pytest.raises(InputError, match="labels"):
        model.decompress(sealed(blob, set_to(labels=[0, label])))


@pytest.mark.parametrize("name", ["a\x1b[31m", "two\nlines", "\udcff", "\u202eabc"])
def test_unprintable_names_are_no_classes(name: str, tmp_path: Path) -> None:
    told = misfit_of_classes((name, "cat"))
    assert "printable" in told
    assert told.isascii()
    assert load_split("folder", "all", data=class_folder(tmp_path, 2, (name, "cat"))).labels is None


def test_arrays_that_are_no_labels_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "LARGEST_LABELS_BYTES", 400)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE[1:]), np.uint8)
    many = np.zeros(1000, np.int64)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(20) % 2, other=many)
    assert load_split("folder", "all", data=tmp_path / "x.npz").info.classes == ("0", "1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--class", "cat", "--record", "x.safetensors"), "--record"),
        (("--class", "cat", "--simulated", "2", "--ais", "2"), "--class"),
        (("--marginal", "--coded"), "--coded"),
        (("--marginal", "--heatmap", "maps"), "--heatmap"),
    ],
)
def test_options_that_contradict_classes_are_refused(
    options: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in error_of(2, "evaluate-nll", saved(tmp_path / "m.safetensors"), *options)


def test_completions_tell_the_class_of_their_folder(tmp_path: Path) -> None:
    checkpoint, data = saved(tmp_path / "m.safetensors"), class_folder(tmp_path / "p", 1)
    words = ("sample", checkpoint, "-n", "2", "-o", tmp_path / "x.png")
    assert result_of(*words)["class"] == "random"
    given = ("--complete", data / "dog/0.png", "--rows", "4", "--force")
    assert result_of(*words, *given)["class"] == "dog"
    assert result_of(*words, *given, "--class", "cat")["class"] == "cat"


def test_a_report_goes_on_without_labels(tmp_path: Path) -> None:
    model = conditional("fame")
    path = tmp_path / "m.safetensors"
    facts = {"provenance": {"dataset": "folder"}}
    save_checkpoint(path, model.config, model.state_dict(), None, facts)
    data = class_folder(tmp_path / "p", 30, ("bird", "cat"))
    words = ("report", path, "--data", data, "--samples", "1", "--images", "1", "-o", tmp_path / "r.html")
    done = fame(*words)
    assert done.code == 0, done.err
    assert "no class 'bird'" in done.err


def test_validations_of_models_with_classes_are_given_them(tmp_path: Path) -> None:
    run, data = tmp_path / "run", class_folder(tmp_path / "p", 20)
    words = ("train", "vae", "--size", "tiny", "--dataset", "folder", "--data", data, "--images", "16")
    assert fame(*words, "--conditional", "-o", run).code == 0
    found = read_run(str(run), run / "best.safetensors", run).validation
    assert found is not None
    assert found.given == "label"


def test_a_claimed_mean_over_no_classes_is_false(tmp_path: Path) -> None:
    from famecli.config.presets import model_config

    plain = Fame(model_config("fame", "tiny", SHAPE, 2))
    save_checkpoint(tmp_path / "p.safetensors", plain.config, plain.state_dict(), None, {})
    data = ScoredImages("folder", "test", 2, "ab" * 32)
    claim = NllRecord(data, "iwae", 1, 5.0, given="marginal", seed=0)
    annealed = dataclasses.replace(claim, bound="ais", given=None, annealing=Annealing(2))
    for each, told in ((claim, "mean over classes"), (annealed, "by annealing")):
        with pytest.raises(InputError, match=told):
            measure_again(
                load_checkpoint(tmp_path / "p.safetensors"), each, lambda *_: digits((), []), name="p"
            )


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("whole", {}, ""),
        ("whole", {"accuracy": lambda right: right + 1 / 8}, "claims an accuracy"),
        ("whole", {"accuracy": lambda right: right - 1 / 8}, "claims an accuracy"),
        ("whole", {"class_prior": lambda right: [0.5, 0.25, 0.25]}, "another prior"),
        ("whole", {"class_prior": lambda right: [0.5, 0.5]}, "another prior"),
        ("whole", {"first_256_accuracy": lambda right: right + 1}, ""),
        ("first", {}, ""),
        ("first", {"first_256_accuracy": lambda right: right + 1 / 5}, "claims an accuracy"),
        # Claims from before these keys.
        ("first", {"first_256_accuracy": lambda right: None}, "only compared with --limit 8"),
        ("whole", {"class_prior": lambda right: [], "accuracy": lambda right: None}, ""),
    ],
)
def test_the_accuracy_and_the_prior_of_a_claim_are_measured_again(
    part: str, changes: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("famecli.nll.record.FIRST_IMAGES", 5)
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    checkpoint, data = saved(tmp_path / "m.safetensors"), class_folder(tmp_path / "p", 4)
    words = ("--dataset", "folder", "--data", data, "--split", "all", "--marginal")
    claiming = tmp_path / "claiming.safetensors"
    found = result_of("evaluate-nll", checkpoint, *words, "--record", claiming)

    def change(metadata: dict[str, Any]) -> None:
        assert metadata["claim"]["accuracy"] == found["accuracy"]
        metadata["claim"] |= {key: made(metadata["claim"][key]) for key, made in changes.items()}

    claiming.write_bytes(with_metadata(claiming.read_bytes(), change))
    assert fame("weights", "pull", claiming, "--name", "mine").code == 0
    limit = "8" if part == "whole" else "5"
    done = fame("weights", "verify", "mine", "--claims", "--data", data, "--limit", limit, "--json")
    assert (done.code, told in done.err) == (7 if told and "only" not in told else 0, True), done.err
    (row,) = json.loads(done.out)["weights"]
    if part == "whole":
        assert row["claim"]["measured_accuracy"] == found["accuracy"]


def test_an_accuracy_may_differ_by_images_between_two_classes() -> None:
    data = ScoredImages("mnist", "test", 100, "ab" * 32)
    claim = NllRecord(data, "iwae", 1, 5.0, given="marginal", accuracy=0.96)
    for found, close, right in ((0.95, 0.01, 1), (0.97, 0.01, 1), (0.94, 0.01, 0), (0.95, 0, 0)):
        measured = dataclasses.replace(claim, accuracy=found, accuracy_tolerance=close)
        if right:
            claim.check("m", measured)
        else:
            with pytest.raises(GateError, match="accuracy"):
                claim.check("m", measured)


def test_images_between_two_classes_are_counted(tmp_path: Path) -> None:
    model = conditional("pixelcnn")
    x = np.random.default_rng(0).integers(0, 2, (6, *SHAPE)).astype(np.uint8)
    nlls = evaluate_marginal(model, x)
    given = np.stack([evaluate(model, x, labels=np.full(6, label)).nats for label in range(len(NAMES))])
    best = np.sort(given, 0)
    assert nlls.lead == pytest.approx(best[1] - best[0], abs=1e-4)
    for each in model.modules():
        if isinstance(each, LabelEmbedding):
            for weight in each.parameters():
                weight.zero_()
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, model.config, model.state_dict(), None, {})
    report = famecli.evaluate(famecli.load(path), x, labels=0, marginal=True)
    assert report.nll.accuracy_tolerance == 1.0


def test_a_comparison_of_different_likelihoods_says_so(tmp_path: Path) -> None:
    model = famecli.load(saved(tmp_path / "m.safetensors"))
    x = model.sample(4, labels=0)
    a, b = (famecli.evaluate(model, x, labels=0, marginal=marginal).nll for marginal in (False, True))
    with pytest.raises(UsageError, match="estimator"):
        compare(a, b)
    assert "p(x|y)" in compare(a, b, frozenset({"estimator"})).remark()
    assert len(NAMES) == len(b.class_prior)


@pytest.mark.parametrize("preset", ["vae", "pixelcnn"])
def test_costs_of_a_training_with_classes_are_predicted(preset: str, tmp_path: Path) -> None:
    data = class_folder(tmp_path / "p", 20)
    words = ("train", preset, "--size", "tiny", "--dataset", "folder", "--data", data, "--images", "64")
    assert result_of(*words, "--conditional", "--dry-run")["parameters"] > 0
