"""What the latents know: each measurement finds what was put in, and nothing where nothing is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import random_model, save_model, use_small_mnist
from support.models import randomise

from benchmarks.checkpoints import NamedModel, load_models
from benchmarks.global_modelling import completions, halves, maps, probe
from benchmarks.global_modelling.__main__ import QUICK, Digits, measure
from benchmarks.global_modelling.classifier import judge, train
from benchmarks.global_modelling.features import model_features, pixel_features
from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.data.dataset import load_split
from famecli.errors import InputError, UsageError
from famecli.model.fame import Fame
from famecli.nll.evaluate import evaluate

SHAPE = (1, 28, 28)


def digits(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images of four classes, each with its quarter of the image full of ones, in noise."""
    source = np.random.default_rng(seed)
    labels = source.integers(0, 4, count)
    levels = (source.random((count, *SHAPE)) < 0.1).astype(np.uint8)
    for index, label in enumerate(labels):
        row, column = 14 * (label // 2), 14 * (label % 2)
        levels[index, 0, row : row + 14, column : column + 14] |= source.random((14, 14)) < 0.5
    return levels, labels


@pytest.fixture
def factorized(tmp_path: Path) -> NamedModel:
    """A model for which a pixel costs what it costs, whatever the others are."""
    checkpoint = load_checkpoint(save_model(tmp_path / "vae.safetensors", "vae"))
    with torch.no_grad():
        for name, weight in checkpoint.model.named_parameters():
            if not name.startswith("decoder.head"):
                weight.zero_()
    return NamedModel("factorized", checkpoint)


@pytest.mark.parametrize("partner", halves.PARTNERS)
def test_pairs_are_disjoint_and_of_the_classes_asked_for(partner: halves.Partner) -> None:
    labels = np.random.default_rng(1).integers(0, 5, 203)
    for seed in range(5):
        pairs = halves.pair_up(labels, partner, seed)
        assert len(np.unique(pairs)) == pairs.size >= 196
        same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        assert same.all() if partner == "same" else not same.any()
    assert not np.array_equal(halves.pair_up(labels, partner, 0), halves.pair_up(labels, partner, 1))


def test_what_has_no_pairs_is_an_error() -> None:
    with pytest.raises(InputError, match="pairs of different classes"):
        halves.pair_up(np.array([1, 1, 1, 1, 2]), "other", 0)


@pytest.mark.parametrize("cut", halves.CUTS)
def test_mixed_images_are_of_the_very_halves(cut: halves.Cut) -> None:
    levels, _ = digits(6)
    pairs = np.array([[0, 1], [2, 5]])
    mixed = halves.mix(levels, pairs, cut)
    assert mixed.shape == (4, *SHAPE)
    if cut == "left-right":
        levels, mixed = levels.swapaxes(2, 3), mixed.swapaxes(2, 3)
    assert np.array_equal(mixed[2, :, :14], levels[2, :, :14])
    assert np.array_equal(mixed[2, :, 14:], levels[5, :, 14:])
    assert np.array_equal(mixed[3, :, :14], levels[5, :, :14])
    assert np.array_equal(mixed[3, :, 14:], levels[2, :, 14:])


def test_a_model_of_single_pixels_finds_no_gap(factorized: NamedModel) -> None:
    levels, labels = digits(40)
    pairs = halves.pair_up(labels, "other", 0)
    for cut in halves.CUTS:
        real = evaluate(factorized.model, levels).nats[pairs]
        mixed = evaluate(factorized.model, halves.mix(levels, pairs, cut)).nats.reshape(-1, 2)
        gaps = halves.Costs(real, mixed).gaps
        assert np.abs(gaps).max() < 1e-3
        assert real.std() > 1.0


def test_a_linear_probe_reads_what_is_there_and_nothing_else() -> None:
    parts = [digits(count, seed) for seed, count in enumerate((400, 100, 300))]
    features = probe.standardised([pixel_features(levels)["pixels"] for levels, _ in parts])
    labels = [torch.from_numpy(labels) for _, labels in parts]
    hits, _ = probe.predict(features, labels, np.arange(400))
    assert hits.double().mean() > 0.97
    shuffled = [
        each[torch.randperm(len(each), generator=torch.Generator().manual_seed(0))] for each in labels
    ]
    hits, penalty = probe.predict(features, shuffled, np.arange(400))
    assert abs(float(hits.double().mean()) - 0.25) < 0.1
    assert penalty == probe.PENALTIES[0]


def test_the_probe_is_at_its_optimum() -> None:
    levels, labels = digits(60)
    (features,) = probe.standardised([pixel_features(levels)["pixels"]])
    targets = torch.from_numpy(labels)
    weights = probe.fit(features, targets, 0.1, features.new_zeros(features.shape[1] + 1, 4))
    weights = weights.double().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(probe.scores(features.double(), weights), targets)
    (loss + 0.05 * weights[:-1].square().sum()).backward()
    assert weights.grad is not None
    assert weights.grad.abs().max() < 1e-4


def test_labels_are_balanced() -> None:
    _, labels = digits(400)
    counts = np.bincount(labels[probe.balanced(labels, 100, 0)])
    assert counts.tolist() == [25, 25, 25, 25]
    assert set(probe.balanced(labels, 100, 0)) != set(probe.balanced(labels, 100, 1))


def test_features_of_latents_are_posterior_means_of_each_layer() -> None:
    model, levels = random_model("fame", SHAPE, 2, 0), digits(5)[0]
    found = model_features(model, levels)
    layers = [value for name, value in found.items() if name.startswith("latents of layer ")]
    assert len(layers) == model.config.stochastic_layers
    assert np.array_equal(np.concatenate(layers, axis=1), found["latents of all layers"])
    assert not np.array_equal(found["latents of all layers"], found["latents of all layers, drawn"])
    alone = model_features(model, levels[2:3])["latents of all layers"]
    assert alone == pytest.approx(found["latents of all layers"][2:3], abs=1e-5)


def test_classifiers_learn_and_see_only_the_rows_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    split = load_split("mnist", "train")
    levels, labels = digits(len(split.pixels))
    easy = type(split)(split.info, split.split, levels[:, :, :, :] * 255, labels)
    network = train(easy, labels, 64 * 40, seed=1)
    held_out, wanted = digits(200, 5)
    assert judge(network, held_out, wanted).right.mean() > 0.9
    upper = train(easy, labels, 64 * 2, rows=14)
    changed = held_out.copy()
    changed[:, :, 14:] ^= 1
    one, other = (judge(upper, images, wanted, 14) for images in (held_out, changed))
    assert np.array_equal(one.entropy, other.entropy)


def test_completions_keep_what_is_given_and_depend_on_it() -> None:
    model, levels = random_model("pixelcnn", SHAPE, 2, 0), digits(3)[0]
    found = completions.complete(model, levels, 14, 0, 2)
    assert np.array_equal(found[:, :, :14], levels[:, :, :14])
    assert not np.array_equal(found[:, :, 14:], levels[:, :, 14:])
    assert np.array_equal(completions.complete(model, levels[:2], 28, 0, 2), levels[:2])


def test_maps_of_bits_add_up_to_the_nll() -> None:
    model, levels = random_model("fame", SHAPE, 2, 0), digits(4)[0]
    checkpoint = type("Checkpoint", (), {"model": model})()
    (found,) = maps.measure([NamedModel("fame", checkpoint)], levels)
    bits = found.bands().sum(1) + found.latents.sum(1)
    assert bits * np.log(2) == pytest.approx(evaluate(model, levels).nats, rel=1e-5)


@pytest.mark.parametrize("patch", [1, 2])
def test_bits_of_rows_compare_between_equal_patches_alone(patch: int) -> None:
    levels, named = digits(4)[0], []
    for name, preset, side in (("fame", "fame", patch), ("alone", "pixelcnn", 1)):
        config = random_model(preset, SHAPE, 2, 0).config
        model = randomise(
            Fame(replace(config, decoder=replace(config.decoder, patch=side))), 1, torch.float32
        )
        named.append(NamedModel(name, type("Checkpoint", (), {"model": model})()))
    found = maps.measure(named, levels)
    bits, less, _ = maps.tables(found)
    ((name, latents, *rows, whole),) = less.rows
    assert name == "fame"
    kl = found[0].latents.sum(1)
    assert latents.value == pytest.approx(kl.mean(), rel=1e-5)
    less_bits = (found[0].pixels - found[1].pixels).sum((1, 2), dtype=np.float64)
    assert whole.value == pytest.approx((less_bits + kl).mean(), rel=1e-4)
    assert [cell is None for cell in rows] == [patch != 1] * maps.BANDS
    assert ("their rows do not compare" in bits.note) == (patch != 1)


def test_all_measurements_run_and_compare_with_the_pixelcnn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    splits = [load_split("mnist", part) for part in ("train", "valid", "test")]
    for split in splits:
        split.labels[:] = np.arange(len(split.labels)) % 2
    models = [str(save_model(tmp_path / name, name)) for name in ("fame", "pixelcnn")]
    named = load_models(models, SHAPE, 2)
    effort = type(QUICK)(**(vars(QUICK) | {"few": (6,), "sweeps": 1, "classifier_images": 64}))
    tables = measure(named, Digits(*splits), effort, pictures=tmp_path)
    names = [table.name for table in tables]
    assert names == ["halves", "halves_by_class", "probe", "completions", "bits", "bits_less", "rate"]
    assert {path.name for path in tmp_path.glob("*.png")} == {"bits.png", "completions.png"}
    assert len(tables[0].rows) == len(halves.CUTS) * len(halves.PARTNERS) * len(named)
    with pytest.raises(UsageError, match="has no classes"):
        Digits(*splits).labels(type(splits[0])(splits[0].info, "test", splits[0].pixels, None))
