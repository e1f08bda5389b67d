"""What the experiments of `benchmarks/` are made of: estimates, models of equal size, trainings, tables."""

import csv
import itertools
import json
import math
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.commands import ROOT, result_of, save_model, use_small_mnist
from support.commands import fame as fame_here

from benchmarks import equal_sizes, maps_against_dense, moved_digits, recipe, speedrun
from benchmarks.checkpoints import load_models, reference_of
from benchmarks.estimates import Estimate, area_of, difference_of, mean_of, over_repeats, ratio_of, share_of
from benchmarks.matching import assignments, coarser, fitted, flops_per_image, scaled
from benchmarks.tables import Table, publish
from benchmarks.trainings import Trained, Training, paired_difference, train, validations
from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, Size, model_config
from famecli.config.schema import ModelConfig
from famecli.errors import InputError, UsageError
from famecli.model.fame import Fame
from famecli.training.trainer import Trainer

PAGE = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
SECTIONS = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")[1:] if "\n| --" in text}
SHAPE = (1, 28, 28)
REPEATS = 400


def spread_against_error(estimate: Callable[[np.random.Generator], Estimate]) -> float:
    """Return the deviation of a figure over repetitions, in units of the errors that it claims."""
    found = [estimate(np.random.default_rng(repeat)) for repeat in range(REPEATS)]
    return float(np.std([each.value for each in found]) / np.mean([each.stderr for each in found]))


def clustered(source: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return scores whose pairs have much in common, so that entries are far from independent."""
    common = source.normal(size=(60, 1))
    return common + source.normal(size=(60, 2)) + 0.5, common + source.normal(size=(60, 2))


@pytest.mark.parametrize(
    "estimate",
    [
        lambda source: mean_of(source.normal(size=50)),
        lambda source: share_of(source.random(80) < 0.3),
        lambda source: ratio_of(source.gamma(2, size=60), 3 + source.gamma(2, size=60)),
        lambda source: area_of(*clustered(source)),
        lambda source: difference_of(mean_of(source.normal(size=40)), mean_of(source.normal(size=90))),
    ],
    ids=["mean", "share", "ratio", "area", "difference"],
)
def test_errors_are_the_deviation_of_repetitions(estimate: Callable[[np.random.Generator], Estimate]) -> None:
    # 400 repetitions tell a deviation to 4 %.
    assert 0.85 < spread_against_error(estimate) < 1.15


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    source = np.random.default_rng(0)
    high, low = source.integers(0, 5, (9, 2)), source.integers(0, 4, (9, 3))
    pairs = list(itertools.product(high.ravel(), low.ravel()))
    wanted = sum((one > two) + 0.5 * (one == two) for one, two in pairs) / len(pairs)
    assert area_of(high, low).value == pytest.approx(wanted)


def test_figures_are_written_with_two_digits_of_their_error() -> None:
    assert str(Estimate(81.57832, 0.2013, 10)) == "81.58 +- 0.20"
    assert str(Estimate(1234.5, 21.0, 10)) == "1234 +- 21"
    assert str(Estimate(0.51234, math.nan, 1)) == "0.5123"
    both = over_repeats([Estimate(1.0, 0.1, 10), Estimate(2.0, 0.3, 10)])
    assert (both.value, both.stderr, both.count) == (1.5, pytest.approx(0.2), 10)


@pytest.mark.parametrize("change", ["width", "latents"])
def test_a_fitted_model_is_the_nearest_in_parameters(change: str) -> None:
    maps, dense = model_config("fame", "tiny", SHAPE, 2), model_config("fame-dense", "tiny", SHAPE, 2)
    target = count_parameters(maps)
    found = fitted(dense, target, change)  # type: ignore[arg-type]
    others = [scaled(dense, change, factor / 32) for factor in range(8, 64)]  # type: ignore[arg-type]
    best = min(abs(count_parameters(other) - target) for other in others)
    assert abs(count_parameters(found) - target) <= best
    assert abs(count_parameters(found) / target - 1) < 0.05
    assert found.decoder == dense.decoder


def test_words_for_train_make_any_of_the_models() -> None:
    maps, dense = model_config("fame", "tiny", SHAPE, 2), model_config("fame-dense", "tiny", SHAPE, 2)
    mixed = maps_against_dense.with_stage(maps, dense, 1)
    pairs = ((dense, fitted(dense, 60_000, "latents")), (maps, mixed), (mixed, maps), (maps, coarser(maps)))
    for before, after in pairs:
        changes = [word for change in assignments(before, after) for word in ("--set", change)]
        preset = model_config(before.preset, "tiny", SHAPE, 2)
        first = [word for change in assignments(preset, before) for word in ("--set", change)]
        printed = fame_here("train", before.preset, "--size", "tiny", *first, *changes, "--print-config")
        found = ModelConfig.from_dict(tomllib.loads(printed.text)["model"])
        assert found.stages == after.stages


def test_a_coarser_ladder_has_its_latents_at_half_the_sides() -> None:
    maps = model_config("fame-no-concat", "small", SHAPE, 2)
    found = coarser(maps)
    assert maps.resolutions() == [(14, 14), (7, 7), (7, 7), (4, 4)]
    assert found.resolutions() == [(14, 14), (7, 7), (4, 4), (4, 4), (2, 2)]
    assert [stage.latents for stage in found.stages] == [0, 0, 16, 16, 24]
    assert [stage.blocks for stage in found.stages] == [1, 1, 1, 2, 2]


def test_operations_are_those_of_the_convolutions_of_a_decoder() -> None:
    """Forward, and backward with respect to inputs (none for the image) and to weights, counted by hand."""
    config = model_config("pixelcnn", "tiny", SHAPE, 2)
    pixels = 28 * 28
    multiplications = pixels * sum(w.numel() for w in Fame(config).parameters() if w.dim() == 4)
    first = pixels * Fame(config).decoder.first.weight.numel()
    assert flops_per_image(config) == pytest.approx(2 * (3 * multiplications - first), rel=0.02)


@pytest.mark.parametrize("preset", PRESETS)
def test_operations_grow_with_the_model(preset: str) -> None:
    tiny, small = (flops_per_image(model_config(preset, size, SHAPE, 2)) for size in ("tiny", "small"))
    assert 0 < tiny < small


def test_contenders_have_one_budget_and_the_parameters_that_they_say() -> None:
    rivals = maps_against_dense.contenders("pixelcnn", "tiny", SHAPE, 2, 10_000)
    budget = rivals[0].flops * rivals[0].images
    assert all(each.flops * each.images == pytest.approx(budget, rel=1e-3) for each in rivals)
    by_name = {each.name: each for each in rivals}
    few, many = by_name["fame"].parameters, by_name["fame-dense"].parameters
    assert few < many
    for name, target in {"fewer maps": few, "fewer latents": few}.items():
        assert by_name[f"fame-dense, {name}"].parameters == pytest.approx(target, rel=0.05)
    assert by_name["fame, more maps"].parameters == pytest.approx(many, rel=0.05)
    for word, dense in (("lowest", [True, False]), ("top", [False, True])):
        hybrid = by_name[f"fame, {word} layer dense"]
        assert [stage.dense for stage in hybrid.config.stages if stage.latents] == dense
        assert hybrid.parameters == pytest.approx(few, rel=0.05)


def fake_run(calls: list[list[str]]) -> Callable[[Sequence[str]], str]:
    """Return a runner that runs `fame` in this process and remembers the words."""

    def run(words: Sequence[str]) -> str:
        calls.append(list(words))
        done = fame_here(*words)
        assert done.code == 0, done.err
        return done.text

    return run


@pytest.fixture
def slow_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step take 10 seconds of CPU time, and a validation 100."""
    taken: list[float] = []

    def taking(seconds: float, method: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object) -> object:
            taken.append(seconds)
            return method(*given)

        return call

    monkeypatch.setattr(Trainer, "step", taking(10.0, Trainer.step))
    monkeypatch.setattr(Trainer, "validate", taking(100.0, Trainer.validate))
    monkeypatch.setattr("time.process_time", lambda: sum(taken))


WORDS = ("pixelcnn", "--dataset", "mnist", "--size", "tiny", "--images", "12", "--batch-size", "6")


@pytest.mark.usefixtures("slow_validations")
def test_a_training_is_done_once_and_read_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    calls: list[list[str]] = []
    training = Training("one", (*WORDS, "--eval-every", "6"), "mnist", "test", ("--threads", "1"))
    first = train(training, tmp_path / "runs", fake_run(calls))
    assert [words[0] for words in calls] == ["train", "evaluate-nll"]
    again = train(training, tmp_path / "runs", fake_run(calls))
    assert len(calls) == 2
    assert np.array_equal(first.nats, again.nats)
    assert len(first.nats) == 7
    assert [each.images for each in first.curve] == [6, 12]
    # Two steps; the two validations do not count.
    assert (first.images, first.seconds) == (12, 20.0)
    scored = result_of("evaluate-nll", tmp_path / "runs" / "one", "--dataset", "mnist")
    assert first.mean == pytest.approx(scored["nats_per_image"])
    with (tmp_path / "runs" / "one" / "nll.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 7


def test_validations_are_as_many_as_are_asked_for() -> None:
    assert validations(1000, 5) == "train.eval_every_images=200"
    assert validations(1001, 5) == "train.eval_every_images=201"


def outcome(nats: Sequence[float], seconds: float = 10.0, images: int = 1000) -> Trained:
    config = model_config("pixelcnn", "tiny", SHAPE, 2)
    return Trained(np.array(nats), (), seconds, images, config, ())


def test_runs_are_compared_seed_by_seed() -> None:
    base = [outcome([80.0, 90.0]), outcome([85.0, 95.0])]
    found = [outcome([81.0, 91.0]), outcome([86.5, 96.5])]
    difference = paired_difference(found, base)
    assert (difference.value, difference.stderr) == (pytest.approx(1.25), pytest.approx(0.25))
    assert paired_difference(found[:1], base[:1]).value == pytest.approx(1.0)


def test_equal_seconds_are_as_many_images_as_the_speed_gives() -> None:
    base = outcome([1.0])
    assert recipe.images_in_time(outcome([1.0], seconds=20.0), base) == 500
    assert recipe.images_in_time(outcome([1.0], seconds=10.3), base) == 1000


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_all_presets_are_brought_to_the_parameters_of_fame(size: Size) -> None:
    target = count_parameters(model_config("fame", size, SHAPE, 2))
    for name in (*PRESETS, equal_sizes.COARSER):
        found = equal_sizes.equal(name, size, SHAPE, 2)
        assert count_parameters(found) == pytest.approx(target, rel=0.04), name
        assert found.preset == equal_sizes.preset_of(name)


def test_equal_sizes_prints_a_row_for_each_preset_against_fame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    words = [
        "equal_sizes",
        "--size",
        "tiny",
        "--images",
        "4",
        "--only",
        "pixelcnn",
        "vae",
        "-o",
        str(tmp_path),
    ]
    settings = ["--set", "train.batch_size=2", "--set", "train.eval_every_images=2"]
    monkeypatch.setattr("sys.argv", [*words, "--precision", "bf16", *settings])
    calls: list[list[str]] = []
    options = equal_sizes.parse_options()
    table, curves = equal_sizes.compare(options, fake_run(calls))
    assert [row[0] for row in curves.rows] == [2, 4]
    assert curves.columns == ("images", "fame", "pixelcnn", "vae")
    assert [row[0] for row in table.rows] == ["fame", "pixelcnn", "vae"]
    runs = {name: equal_sizes.training_of(name, 0, options).name for name in ("fame", "vae")}
    nlls = {name: result_of("evaluate-nll", tmp_path / run)["nats_per_image"] for name, run in runs.items()}
    columns = dict(zip(table.columns, table.rows[2], strict=True))
    difference = columns["less fame, nats"]
    assert isinstance(difference, Estimate)
    assert difference.value == pytest.approx(nlls["vae"] - nlls["fame"])
    assert all("bf16" in words for words in calls if words[0] == "train")


def test_digits_are_moved_by_all_steps_alike_and_whole() -> None:
    spot = np.zeros((5000, 1, 9, 9), np.uint8)
    spot[:, 0, 4, 4] = 1
    assert np.array_equal(moved_digits.moved(spot, 0), spot)
    found = moved_digits.moved(spot, 2)
    assert np.array_equal(found, moved_digits.moved(spot, 2))
    counts = found[:, 0].sum(0)
    inside = np.zeros((9, 9), bool)
    inside[2:7, 2:7] = True
    assert counts[inside].min() > 140  # of 200 that are expected
    assert counts[~inside].max() == 0
    # What leaves the image does not come in at the other side.
    assert moved_digits.moved(spot, 9).sum() < len(spot)


def test_moved_digits_compares_within_each_range_of_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    words = ["moved_digits", "--size", "tiny", "--images", "4", "--moves", "3", "0", "--only", "vae", "-o"]
    settings = ["--set", "train.batch_size=2", "--set", "train.valid_images=1"]
    monkeypatch.setattr("sys.argv", [*words, str(tmp_path), *settings])
    calls: list[list[str]] = []
    options = moved_digits.parse_options()
    table = moved_digits.compare(options, fake_run(calls))
    assert [row[:2] for row in table.rows] == [(3, "fame"), (3, "vae"), (0, "fame"), (0, "vae")]
    for most, row in zip((3, 0), (1, 3), strict=True):
        file = tmp_path / f"moved-{most}.npz"
        with np.load(file) as parts:
            assert {name: len(parts[name]) for name in parts} == {"train": 16, "valid": 1, "test": 1}
            assert set(np.unique(parts["train"])) == {0, 255}
        folders = [moved_digits.training_of(name, most, file, 0, options).name for name in ("fame", "vae")]
        done = [json.loads((tmp_path / each / "experiment.json").read_text()) for each in folders]
        nlls = [each["nll"]["nats_per_image"] for each in done]
        difference = table.rows[row][table.columns.index("less fame, nats")]
        assert isinstance(difference, Estimate)
        assert difference.value == pytest.approx(nlls[1] - nlls[0], abs=1e-6)


@pytest.mark.usefixtures("slow_validations")
def test_a_speedrun_has_a_row_for_each_budget_model_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    words = ["speedrun", "--size", "tiny", "--minutes", "0.001", "--seeds", "0", "1", "-o", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*words, "--csv", str(tmp_path / "rows.csv")])
    speedrun.main()
    assert len(capsys.readouterr().out.splitlines()) == 4 + 4 + 2
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [
        ("fame", "0"), ("fame", "1"), ("pixelcnn", "0"), ("pixelcnn", "1"),
    ]  # fmt: skip
    for row in rows:
        run = tmp_path / f"mnist-{row['model']}-tiny-0.001min-seed{row['seed']}"
        again = result_of("evaluate-nll", run, "--dataset", "mnist")
        assert float(row["test NLL, bits/dim"]) == pytest.approx(again["bits_per_dim"])
        assert int(row["images"]) > 0
        # The validation does not count.
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [each["split"] for each in metrics[-2:]] == ["train", "valid"]
        assert float(row["CPU minutes"]) == round(metrics[-2]["cpu_s"] / 60, 2)


def test_tables_are_markdown_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("t", "Title", ("a|b", "n"), [("x|y", Estimate(1.0, math.nan, 1)), ("z", None)], "Note.")
    publish([table], "famecli/test/1", {}, None)
    assert capsys.readouterr().out.splitlines()[4] == "| x\\|y | 1 |"
    publish([table], "famecli/test/1", {"fact": 1}, tmp_path / "t.json")
    document = json.loads((tmp_path / "t.json").read_text())
    assert document["tables"][0]["rows"][0]["n"] == {"value": 1.0, "stderr": None, "count": 1}
    assert document["tables"][0]["rows"][1]["n"] is None


def test_models_are_named_and_of_one_shape(tmp_path: Path) -> None:
    fame, pixelcnn = (save_model(tmp_path / name, name) for name in ("fame", "pixelcnn"))
    found = load_models([str(fame), f"pure={pixelcnn}"], SHAPE, 2)
    assert [each.name for each in found] == ["fame", "pure"]
    assert reference_of(found).name == "pure"
    with pytest.raises(UsageError, match="two models are called 'fame'"):
        load_models([str(fame), f"fame={pixelcnn}"], SHAPE, 2)
    with pytest.raises(InputError, match="is for images"):
        load_models([str(fame)], (3, 32, 32), 256)


def rows_of(name: str) -> list[list[str]]:
    """Return the rows of a table of docs/experiments, its headings included."""
    with (ROOT / "docs" / "experiments" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def figures_of(text: str) -> set[str]:
    """Return the numbers of a text, without the commas of thousands."""
    return set(re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3})", "", text)))


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs" / "experiments").glob("*.csv")))
def test_tables_beside_the_page_are_whole_and_linked(name: str) -> None:
    head, *rows = rows_of(name)
    assert rows
    assert {len(row) for row in rows} == {len(head)} == {len(set(head))}
    assert f"(experiments/{name})" in PAGE
    index = (ROOT / "docs" / "experiments" / "README.md").read_text(encoding="utf-8")
    assert f"({name})" in index


@pytest.mark.parametrize("title", SECTIONS)
def test_tables_of_the_page_show_figures_of_those_beside_it(title: str) -> None:
    section = SECTIONS[title]
    names = re.findall(r"\(experiments/([\w-]+\.csv)\)", section)
    beside = " ".join(cell for name in names for row in rows_of(name) for cell in row)
    shown = [line for line in section.splitlines() if re.match(r"\| (?!---)", line)]
    assert len(shown) > 2
    for line in shown[1:]:
        assert figures_of(line) <= figures_of(beside), line
