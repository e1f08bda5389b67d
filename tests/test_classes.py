"""Models that are given the class of an image: likelihood, samples, codes, labels of data sets, commands."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.classes import NAMES, SHAPE, class_folder, conditional, saved, with_classes
from support.codes import packed, sealed, set_to
from support.commands import error_of, fame, result_of, save_model
from support.data import idx_bytes
from support.models import all_images, image_noise, randomise
from support.verification import CHECKS, failures

import famecli
from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.coding.codec import Codec
from famecli.coding.container import FLAT, LABELLED, from_bytes
from famecli.config.costs import count_parameters
from famecli.config.presets import model_config
from famecli.data.dataset import load_split, own_images
from famecli.data.labels import labels_in, labels_of, random_labels
from famecli.errors import ArgumentError, ArgumentTypeError, ConfigError, InputError
from famecli.model.fame import Fame
from famecli.nll.evaluate import evaluate, evaluate_marginal
from famecli.sampling.generate import generate
from famecli.training.grow import first_weights

PRESETS = ("pixelcnn", "fame", "vae", "fame-dense")


@pytest.mark.parametrize("preset", PRESETS)
def test_masses_of_all_images_sum_to_one_given_each_class(preset: str) -> None:
    model = conditional(preset, (1, 3, 3), dtype=torch.float64)
    images = all_images(1, 3, 3)
    for label in range(len(NAMES)):
        labels = torch.full((len(images),), label)
        condition = model.prior_condition(len(images), lambda layer, shape: torch.zeros(shape), labels=labels)
        mass = model.log_prob(images, condition).flatten(1).sum(1).exp().sum()
        assert float(mass) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_class_changes_prior_posterior_and_likelihood(preset: str) -> None:
    model = conditional(preset, dtype=torch.float64)
    x = torch.randint(0, 2, (1, *SHAPE), generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    same = image_noise(1)
    terms = model(x, lambda layer, shape: same(layer, torch.Size((1, *shape[1:]))), torch.arange(3))
    assert len(set(terms.distortion.tolist())) == 3
    for rate in terms.rate.T:
        assert len(set(rate.tolist())) == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_are_counted(preset: str) -> None:
    config = with_classes(preset)
    assert count_parameters(config) == Fame(config).count_parameters()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_with_classes_starts_as_one_without(preset: str) -> None:
    plain = randomise(Fame(model_config(preset, "tiny", SHAPE, 2)))
    target = Fame(with_classes(preset)).double()
    target.load_state_dict(first_weights(plain, target))
    x = torch.randint(0, 2, (3, *SHAPE), generator=torch.Generator().manual_seed(0))
    one, two = plain(x, image_noise(3)), target(x, image_noise(3), torch.arange(3))
    assert torch.equal(one.distortion, two.distortion)
    assert torch.equal(one.rate, two.rate)


def test_other_classes_are_no_first_weights() -> None:
    source = Fame(with_classes("fame"))
    target = Fame(dataclasses.replace(source.config, classes=("one", "two", "three")))
    with pytest.raises(InputError, match="other classes"):
        first_weights(source, target)


@pytest.mark.parametrize("labels", [None, torch.zeros(2, dtype=torch.int64)])
def test_labels_are_neither_missing_nor_idle(labels: torch.Tensor | None) -> None:
    model = conditional("fame") if labels is None else Fame(model_config("fame", "tiny", SHAPE, 2))
    with pytest.raises(ArgumentError, match="labels"):
        model(torch.zeros(2, *SHAPE), image_noise(2), labels)
    with pytest.raises(ArgumentError, match="labels"):
        model.prior_condition(2, image_noise(2), labels=labels)


@pytest.mark.parametrize(
    "names", [("one",), ("one", "one"), ("", "two"), ("x" * 101, "two"), tuple(map(str, range(4097)))]
)
def test_impossible_classes_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="classes"):
        dataclasses.replace(with_classes("fame"), classes=names)


@pytest.mark.parametrize(("preset", "draws"), [("pixelcnn", 1), ("fame", 1), ("fame", 5)])
def test_the_marginal_is_the_mean_over_classes(preset: str, draws: int) -> None:
    model = conditional(preset)
    x = np.random.default_rng(0).integers(0, 2, (6, *SHAPE)).astype(np.uint8)
    marginal = evaluate_marginal(model, x, importance_samples=draws, seed=3)
    log_weights = []
    for label in range(len(NAMES)):
        names = [("evaluate", 3, number) for number in range(6)]
        noise = famecli.rng.ImageNoise(names, draws)
        images = torch.from_numpy(x).repeat_interleave(draws, 0)
        weights = model(images, noise, torch.full((6 * draws,), label)).log_weight.view(6, draws).double()
        log_weights.append(weights.logsumexp(1) - np.log(draws))
    joint = torch.stack(log_weights)
    assert marginal.nats == pytest.approx((np.log(3) - joint.logsumexp(0)).numpy(), rel=1e-6)
    assert marginal.most_probable is not None
    assert marginal.most_probable.tolist() == joint.argmax(0).tolist()
    assert (marginal.given, marginal.bound) == ("marginal", "exact" if preset == "pixelcnn" else "iwae")


def test_a_marginal_without_latents_is_a_distribution() -> None:
    model = conditional("pixelcnn", (1, 3, 3), dtype=torch.float64)
    images = all_images(1, 3, 3).numpy().astype(np.uint8)
    assert np.exp(-evaluate_marginal(model, images).nats).sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_depends_on_its_seed_and_class_alone(preset: str) -> None:
    model = conditional(preset)
    labels = np.array([2, 0, 1, 1, 2])
    together = generate(model, range(5), labels)
    for index in range(5):
        alone = generate(model, [index], labels[index : index + 1])
        assert np.array_equal(alone[0], together[index])
    assert np.array_equal(together, generate(model, range(5), labels, cached=False))
    assert not np.array_equal(together, generate(model, range(5), np.roll(labels, 1)))


@pytest.mark.parametrize("preset", PRESETS)
def test_codes_need_the_class(preset: str) -> None:
    model = conditional(preset, dtype=torch.float64)
    labels = np.array([0, 1, 2, 2, 1])
    images = generate(model, range(5), labels)
    codec = Codec(model)
    coded = codec.encode(images, labels=labels)
    assert np.array_equal(codec.decode(coded, labels=labels), images)
    with pytest.raises(ArgumentError):
        codec.decode(coded)
    nats = evaluate(model, images, labels=labels).nats
    if not model.config.stochastic_layers:
        assert coded.net_bits == pytest.approx(nats.sum() / np.log(2), abs=64)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("preset", "levels"), [("fame", 2), ("pixelcnn", 6)])
def test_honest_models_with_classes_pass_verification(check: str, preset: str, levels: int) -> None:
    shape = (1, 6, 7) if levels == 2 else (3, 4, 5)
    if (check, preset) == ("latents", "pixelcnn"):
        pytest.skip("the model has no latents")
    assert failures(check, conditional(preset, shape, levels)) == []


@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_a_sampler_that_confuses_classes_is_caught(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from famecli.sampling import generate as module

    right = module.labels_on

    def wrong(model: Fame, labels: np.ndarray | None) -> torch.Tensor | None:
        return right(model, None if labels is None else (labels + 1) % len(NAMES))

    model = conditional(preset, (1, 6, 7))
    assert failures("sampler", model) == []
    monkeypatch.setattr(module, "labels_on", wrong)
    assert failures("sampler", model)


def test_an_embedding_by_place_in_the_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from famecli.model.layers import LabelEmbedding

    right = LabelEmbedding.forward
    monkeypatch.setattr(
        LabelEmbedding, "forward", lambda self, h, labels: right(self, h, labels[:1].expand_as(labels))
    )
    assert failures("batch", conditional("fame", (1, 6, 7)))


def test_labels_by_name_and_index() -> None:
    assert labels_of(NAMES, "dog", 2).tolist() == [1, 1]  # type: ignore[union-attr]
    # The class called 7 comes before an index.
    assert labels_of(NAMES, ["7", 0, "cat"], 3).tolist() == [2, 0, 0]  # type: ignore[union-attr]
    assert labels_of(NAMES, torch.tensor([2, 1]), 2).tolist() == [2, 1]  # type: ignore[union-attr]
    assert labels_of((), None, 2) is None
    for labels, images, kind in (
        (None, 1, ArgumentError),
        ("bird", 1, ArgumentError),
        (3, 1, ArgumentError),
        (-1, 1, ArgumentError),
        ([0, 1], 3, ArgumentError),
        (1.5, 1, ArgumentTypeError),
        ([True], 1, ArgumentTypeError),
        ([[0]], 1, ArgumentTypeError),
    ):
        with pytest.raises(kind):
            labels_of(NAMES, labels, images)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no classes"):
        labels_of((), 1, 1)


def test_random_classes_depend_on_the_seed_alone_and_are_equally_likely() -> None:
    drawn = random_labels(NAMES, range(3000))
    assert np.array_equal(drawn[100:110], random_labels(NAMES, range(100, 110)))
    # Five standard deviations.
    assert np.abs(np.bincount(drawn) - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)


def test_classes_of_folders(tmp_path: Path) -> None:
    split = load_split("folder", "all", data=class_folder(tmp_path / "photos"))
    assert split.info.classes == ("cat", "dog")
    assert split.labels is not None
    assert split.files is not None
    for name, label in zip(split.files, split.labels, strict=True):
        assert Path(name).parent.name == split.info.classes[label]
    (tmp_path / "photos/0.png").write_bytes((tmp_path / "photos/cat/0.png").read_bytes())
    assert load_split("folder", "train", data=tmp_path / "photos").labels is None


def test_folders_named_like_splits_are_no_classes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        class_folder(tmp_path / "all" / split)
    train = load_split("folder", "train", data=tmp_path)
    assert train.info.classes == ("cat", "dog")
    assert train.labels is not None
    assert set(train.labels) == {0, 1}


def test_classes_of_arrays_are_sorted_as_numbers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), np.uint8)
    labels = np.arange(30) % 11
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels[:, None], x_test=images, y_test=labels)
    split = load_split("folder", "test", data=tmp_path / "a.npz")
    assert split.info.classes == tuple(map(str, range(11)))
    assert split.labels is not None
    assert split.labels.tolist() == labels.tolist()
    np.savez(tmp_path / "few.npz", images=images, labels=labels[:-1])
    assert load_split("folder", "train", data=tmp_path / "few.npz").labels is None


def test_classes_of_idx_files(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    labels = (np.arange(20) % 4).astype(np.uint8)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    split = load_split("folder", "test", data=tmp_path)
    assert split.labels is not None
    assert split.labels.tolist() == labels.tolist()


def test_labels_of_a_data_set_are_matched_by_name(tmp_path: Path) -> None:
    split = load_split("folder", "all", data=class_folder(tmp_path / "p", 2, ("7", "cat")))
    assert labels_in(NAMES, split).tolist() == [2, 2, 0, 0]  # type: ignore[union-attr]
    assert labels_in(NAMES, split, [1, 3]).tolist() == [2, 0]  # type: ignore[union-attr]
    assert labels_in((), split) is None
    other = load_split("folder", "all", data=class_folder(tmp_path / "q", 2, ("cat", "bird")))
    with pytest.raises(ArgumentError, match="bird"):
        labels_in(NAMES, other)
    plain = own_images(np.zeros((2, *SHAPE), np.uint8), 2, "own", "Images")
    assert labels_in(NAMES, plain) is None


def test_the_library_takes_labels(tmp_path: Path) -> None:
    model = famecli.load(saved(tmp_path / "m.safetensors"))
    x = model.sample(6, labels=["cat", "dog", "7"] * 2)
    assert np.array_equal(x[:1], model.sample(1, labels=0))
    assert np.array_equal(model.sample(6), model.sample(6, labels=random_labels(NAMES, range(6))))
    given = model.nll(x, labels=[0, 1, 2] * 2)
    assert np.array_equal(model.elbo(x, labels=[0, 1, 2] * 2), -given.nats)
    assert model.nll(x, marginal=True).most_probable is not None
    assert model.reconstruct(x, labels="cat").shape == x.shape
    mask = np.zeros(SHAPE[1:], bool)
    mask[:4] = True
    completed = model.complete(x, mask, labels="dog", n=2, sweeps=1)
    assert np.array_equal(completed[:, :, :, :4], np.broadcast_to(x[:, None, :, :4], (6, 2, 1, 4, 8)))
    assert np.array_equal(model.decompress(model.compress(x, labels=1)), x)
    for call in (model.nll, model.elbo, model.reconstruct, model.compress):
        with pytest.raises(ArgumentError, match="labels"):
            call(x)
    with pytest.raises(ArgumentError, match="marginal"):
        model.nll(x, marginal=True, annealing=4)
    scored = famecli.evaluate(model, x, labels=[0, 1, 2] * 2)
    assert scored.record["given"] == "label"
    assert famecli.evaluate(model, x, labels=[0, 1, 2] * 2, marginal=True).record["accuracy"] is not None


def test_training_with_classes_from_a_folder_to_all_commands(tmp_path: Path) -> None:
    data, run = class_folder(tmp_path / "photos", 40), tmp_path / "run"
    common = ("--dataset", "folder", "--data", data)
    done = fame(
        *("train", "pixelcnn", "--size", "tiny", *common, "--conditional", "-o", run, "--images", "2000"),
        *("--set", "model.levels=2", "--set", "model.likelihood=bernoulli", "--eval-every", "1000"),
    )
    assert done.code == 0, done.err
    assert load_checkpoint(run / "best.safetensors").model.config.classes == ("cat", "dog")
    given = result_of("evaluate-nll", run, *common, "--split", "all")
    marginal = result_of("evaluate-nll", run, *common, "--split", "all", "--marginal", "--with-images")
    wrong = result_of("evaluate-nll", run, *common, "--split", "all", "--class", "cat")
    # Half of the pixels are the class.
    assert given["nats_per_image"] < marginal["nats_per_image"] < wrong["nats_per_image"]
    assert marginal["accuracy"] == 1.0
    assert (given["given"], marginal["given"]) == ("label", "marginal")
    assert marginal["class_prior"] == [0.5, 0.5]
    out = result_of("sample", run, "--class", "all", "-n", "16", "-o", tmp_path / "x.npy")
    images = np.load(tmp_path / "x.npy")
    assert (out["images"], out["class"]) == (32, "all")
    assert (images[16:, :4] / 255).mean() - (images[:16, :4] / 255).mean() > 0.3
    # Files take their class from their folders.
    files = result_of("evaluate-nll", run, data)
    assert files["nats_per_image"] == pytest.approx(given["nats_per_image"], abs=1e-6)
    coded = tmp_path / "x.fame"
    assert fame("compress", run, data, "-o", coded).code == 0
    assert fame("decompress", coded, "--checkpoint", run, "-o", tmp_path / "again").code == 0
    for path in data.rglob("*.png"):
        again = Image.open(tmp_path / "again" / path.relative_to(data))
        assert np.array_equal(np.asarray(again), np.asarray(Image.open(path)))
    assert "2: cat, dog" in fame("info", run).text


def test_a_run_keeps_its_classes(tmp_path: Path) -> None:
    data, run = class_folder(tmp_path / "photos", 20), tmp_path / "run"
    words = ("train", "vae", "--size", "tiny", "--dataset", "folder", "--data", data, "--images", "64")
    assert fame(*words, "-o", run, "--conditional").code == 0
    assert fame(*words, "-o", run).code == 0
    assert load_checkpoint(run / "best.safetensors").model.config.classes == ("cat", "dog")
    plain = (*words, "-o", tmp_path / "plain")
    assert fame(*plain).code == 0
    assert "--conditional" in error_of(2, *plain, "--conditional")


def test_errors_name_what_is_missing(tmp_path: Path) -> None:
    checkpoint, pictures = saved(tmp_path / "m.safetensors"), tmp_path / "p"
    pictures.mkdir()
    Image.fromarray(np.zeros(SHAPE[1:], np.uint8)).save(pictures / "0.png")
    assert "--class" in error_of(2, "evaluate-nll", checkpoint, pictures)
    assert "did you mean dog?" in error_of(2, "sample", checkpoint, "--class", "dogs")
    assert "--conditional" in error_of(
        2, "train", "vae", "--dataset", "folder", "--data", pictures, "--conditional", "-o", tmp_path / "r"
    )
    assert "--marginal" in error_of(2, "evaluate-nll", checkpoint, pictures, "--marginal", "--ais", "3")


def test_the_users_weights_with_classes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    facts = {"provenance": {"dataset": "folder"}}
    plain = save_model(tmp_path / "plain.safetensors", "vae", SHAPE, facts=facts)
    for path, name in ((saved(tmp_path / "m.safetensors"), "mine"), (plain, "other")):
        assert fame("weights", "pull", path, "--name", name).code == 0
    for option in ("--class=cat", "--marginal"):
        told = error_of(2, "evaluate-nll", plain, option, "--data", tmp_path)
        assert told.endswith("hint: weights with classes of folder: mine")


@pytest.mark.parametrize("labels", [[0, 3], [0], [-1, 0], [0, 1, 2], None])
def test_false_labels_in_a_file_are_refused(labels: list[int] | None, tmp_path: Path) -> None:
    model = famecli.load(saved(tmp_path / "m.safetensors"))
    x = model.sample(2, labels=[np.int64(0), np.uint8(1)])
    assert np.array_equal(x, model.sample(2, labels=[0, 1]))
    blob = model.compress(x, labels=[0, 1])
    assert from_bytes(blob, "blob").header.labels == (0, 1)
    assert blob[8] == LABELLED
    with pytest.raises(InputError, match="labels"):
        model.decompress(sealed(blob, set_to(labels=labels)))


def test_files_without_labels_keep_their_version(tmp_path: Path) -> None:
    plain = randomise(Fame(model_config("fame", "tiny", SHAPE, 2)), dtype=torch.float32)
    save_checkpoint(tmp_path / "p.safetensors", plain.config, plain.state_dict(), None, {})
    model = famecli.load(tmp_path / "p.safetensors")
    blob = model.compress(model.sample(2))
    assert blob[8] == FLAT
    assert b"labels" not in packed(blob, b"")
    with pytest.raises(InputError, match="labels"):
        model.decompress(sealed(blob, set_to(labels=[0, 0])))
