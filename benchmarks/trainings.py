"""Sequential trainings by `fame train`, each with its NLL; finished ones are reused."""

import csv
import json
import math
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.checkpoints import versions
from benchmarks.estimates import Estimate, mean_of
from benchmarks.tables import Cell, Table, check_target, publish
from famecli.checkpoints.header import parse_header, read_checkpoint
from famecli.config.schema import ModelConfig, Precision
from famecli.files import write_atomic
from famecli.output import Output

# Takes the arguments of `fame` and returns its stdout.
Runner = Callable[[Sequence[str]], str]
SUMMARY = "experiment.json"
PER_IMAGE = "nll.csv"


@dataclass(frozen=True)
class Training:
    """A planned training.

    Args:
        name: Name of its folder.
        words: Arguments of `fame train`, without the folder.
        dataset: Name of the data set, also given in `words`.
        split: Split of the measured NLL: `valid` or `test`.
        shared: Arguments of both `fame train` and `fame evaluate-nll`.
    """

    name: str
    words: tuple[str, ...]
    dataset: str
    split: str
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Validation:
    """One validation during training; its NLL is by the averaged weights, in nats."""

    images: int
    seconds: float
    nats: float


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Args:
        nats: -ELBO, or exact NLL, of each image of the split, by the weights of the best validation, `(N,)`.
        rate: KL divergence of each stochastic layer in nats, from the image upwards.
        seconds: CPU seconds of the training steps, without validations.
        images: Number of images seen in training.
        config: Configuration of the model.
        curve: Validations during training.
    """

    nats: np.ndarray
    rate: tuple[float, ...]
    seconds: float
    images: int
    config: ModelConfig
    curve: tuple[Validation, ...]

    @property
    def mean(self) -> float:
        """Mean NLL, nats per image."""
        return float(self.nats.mean())


def fame(words: Sequence[str]) -> str:
    """Run `fame` in its own process and return its stdout; its messages go to stderr."""
    done = subprocess.run([sys.executable, "-m", "famecli", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        # The command has printed its error.
        sys.exit(done.returncode)
    return done.stdout


def train(training: Training, folder: Path, run: Runner = fame) -> Trained:
    """Return the result of a training in its own folder within `folder`, training it if needed.

    An interrupted run resumes. A run finished with the same arguments is only read; with other arguments
    `fame train` refuses to resume.
    """
    place = folder / training.name
    summary = place / SUMMARY
    words = [*training.words, *training.shared]
    if not summary.is_file() or json.loads(summary.read_text(encoding="utf-8"))["words"] != words:
        Output().note(f"{training.name}: fame train {' '.join(words)}")
        place.mkdir(parents=True, exist_ok=True)
        trained = json.loads(run(["train", *words, "-o", str(place), "--json"]))
        rows = str(place / PER_IMAGE)
        asked = ["--dataset", training.dataset, "--split", training.split, "--per-image", rows, "--force"]
        scored = json.loads(run(["evaluate-nll", str(place), *asked, *training.shared, "--json"]))
        content = {"words": words, "train": trained, "nll": scored}
        write_atomic(summary, (json.dumps(content, indent=2) + "\n").encode())
    return _read(place)


def _read(place: Path) -> Trained:
    summary = json.loads((place / SUMMARY).read_text(encoding="utf-8"))
    with (place / PER_IMAGE).open(encoding="utf-8", newline="") as file:
        nats = np.array([float(row["nats"]) for row in csv.DictReader(file)])
    content = read_checkpoint(place / "best.safetensors")
    header = parse_header(content, len(content), str(place))
    records = read_metrics(place)
    return Trained(
        nats,
        tuple(summary["nll"]["terms_nats_per_image"]["kl"]),
        step_seconds(records),
        summary["train"]["images"],
        ModelConfig.from_dict(header.metadata["model"]),
        tuple(_curve(records)),
    )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of `metrics.jsonl` in the folder of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def step_seconds(records: Sequence[dict[str, Any]]) -> float:
    """Return the CPU seconds of the training steps, without validations; wall seconds for older runs."""
    key = "elapsed_s" if records[-1].get("cpu_s") is None else "cpu_s"
    times = [0.0, *(record[key] for record in records)]
    spent: float = sum(
        after - before
        for record, before, after in zip(records, times, times[1:], strict=False)
        if record["split"] == "train"
    )
    # The records have tenths of a second.
    return max(0.1, round(spent, 1))


def _curve(records: Sequence[dict[str, Any]]) -> list[Validation]:
    return [
        Validation(record["images"], record["elapsed_s"], record["nats_per_image"])
        for record in records
        if record["split"] == "valid"
    ]


def validations(images: int, count: int) -> str:
    """Return the setting `KEY=VALUE` for a number of validations; `fame train` fits warm-ups and averages."""
    return f"train.eval_every_images={math.ceil(images / count)}"


def image_estimate(runs: Sequence[Trained]) -> Estimate:
    """Return the mean NLL in nats of runs with different seeds, with its error over images."""
    return mean_of(np.mean([each.nats for each in runs], axis=0))


def rate_text(runs: Sequence[Trained]) -> str:
    """Return the KL divergence of each stochastic layer in nats, means over runs, from the image upwards."""
    return " + ".join(f"{nats:.2f}" for nats in np.mean([each.rate for each in runs], axis=0))


def mean_seconds(runs: Sequence[Trained]) -> int:
    """Return the mean seconds of training over runs."""
    return round(float(np.mean([each.seconds for each in runs])))


def curve_rows(runs: Iterable[Sequence[Trained]], unit: float = 1) -> list[tuple[Cell, ...]]:
    """Return a row per validation: images seen by the first runs, times `unit`, and the NLLs of all runs.

    The run with the fewest validations determines the number of rows.
    """
    found = list(runs)
    points = min(len(each.curve) for group in found for each in group)
    return [
        (
            found[0][0].curve[point].images * unit,
            *(mean_of(np.array([each.curve[point].nats for each in group])) for group in found),
        )
        for point in range(points)
    ]


def publish_trainings(tables: Sequence[Table], schema: str, options: Namespace) -> None:
    """Publish the tables of an experiment with its options, in the form that `--json` selects."""
    choices = {key: str(value) for key, value in vars(options).items()}
    publish(tables, schema, {"options": choices, "versions": versions()}, options.json)


def paired_difference(runs: Sequence[Trained], base: Sequence[Trained]) -> Estimate:
    """Return the NLL of `runs` minus that of `base` in nats, paired by seed.

    With several seeds the error is over seeds, the variation of repeated training; with one seed it is over
    images.
    """
    if len(runs) > 1:
        return mean_of(np.array([one.mean - other.mean for one, other in zip(runs, base, strict=True)]))
    return mean_of(runs[0].nats - base[0].nats)


def add_training_options(parser: ArgumentParser, folder: str) -> None:
    """Declare the options that all experiments with training share."""
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data", metavar="FOLDER", help="folder of the data set's files; or FAME_DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds, one run each; default: 0")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default: 1")
    parser.add_argument(
        "--precision", choices=get_args(Precision), default="fp32", help="precision of training"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting for every run"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path(folder), help=f"folder of runs; default: {folder}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="one JSON document in place of Markdown")
    parser.add_argument(
        "--quick", action="store_true", help="tiny models and little training, to see that it works"
    )


def parse_training_options(parser: ArgumentParser, quick_images: int) -> Namespace:
    """Return the options of an experiment; `--quick` makes `--size` and `--images` small."""
    options = parser.parse_args()
    check_target(options.json)
    if options.quick:
        options.size, options.images = "tiny", min(options.images, quick_images)
    return options


def run_words(model: str, images: int, seed: int, options: Namespace) -> tuple[str, ...]:
    """Return the first arguments of `fame train` for a run of an experiment."""
    return (
        *(model, "--dataset", options.dataset, "--size", options.size),
        *("--images", str(images), "--seed", str(seed), "--precision", options.precision),
    )


def set_words(changes: Iterable[str]) -> tuple[str, ...]:
    """Return the arguments for `changes`, each KEY=VALUE."""
    return tuple(word for change in changes for word in ("--set", change))


def shared_words(options: Namespace) -> tuple[str, ...]:
    """Return the arguments that every `fame` command gets."""
    place = () if options.data is None else ("--data", str(options.data))
    return (*place, "--threads", str(options.threads), "--device", "cpu")
