"""NLL by time of training: each model is trained within each budget from random weights, and scored.

    python -m benchmarks.speedrun                                      # MNIST, 1, 5 and 15 minutes, two seeds
    python -m benchmarks.speedrun --dataset cifar10 --minutes 15 60 --seeds 0

Rules of the table, so that others can enter it: docs/speedrun.md. The same command goes on where it stopped.
Prints one Markdown table; `--csv FILE` writes the rows as well.
"""

import argparse
import csv
import io
from pathlib import Path

import famecli
from benchmarks.checkpoints import run
from benchmarks.estimates import mean_of
from benchmarks.tables import Cell, Table, check_target, publish
from benchmarks.trainings import read_metrics, step_seconds
from famecli.config.presets import PRESETS
from famecli.config.schema import LARGEST_COUNT
from famecli.files import write_atomic
from famecli.runtime.processor import processor

SCHEMA = "famecli/speedrun/1"
COLUMNS = (
    "model",
    "budget, minutes",
    "seed",
    "CPU minutes",
    "images",
    "parameters",
    "validation NLL, nats",
    "test NLL, nats",
    "test NLL, bits/dim",
    "estimator",
)


def main() -> None:
    options = parse_options()
    for target in (options.csv, options.json):
        check_target(target)
    rows = [
        row_of(model, minutes, seed, options)
        for minutes in options.minutes
        for model in options.models
        for seed in options.seeds
    ]
    machine = processor()
    title = f"{options.dataset}: NLL by time of training"
    note = f"One core of {machine.name}, family {machine.family} ({', '.join(machine.instructions)})."
    if options.csv is not None:
        text = io.StringIO()
        csv.writer(text).writerows([COLUMNS, *rows])
        write_atomic(options.csv, text.getvalue().encode())
    publish([Table("speedrun", title, COLUMNS, rows, note)], SCHEMA, {}, options.json)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mnist", help="data set; default: mnist")
    parser.add_argument("--data", type=Path, help="folder of its files; default: FAME_DATA or the cache")
    parser.add_argument("--models", nargs="+", choices=PRESETS, default=["fame", "pixelcnn"])
    parser.add_argument("--size", default="small", help="size of the models; default: small")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0, 5.0, 15.0], help="time budgets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--compile", action="store_true", help="compile the steps; compiling does not count")
    parser.add_argument("--limit", type=int, help="score only this many images of each split")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/speedrun"), help="folder of the runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="file for the rows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="JSON document in place of Markdown")
    return parser.parse_args()


def row_of(preset: str, minutes: float, seed: int, options: argparse.Namespace) -> tuple[Cell, ...]:
    """Train a model within a budget, and return its row of the table."""
    name = f"{options.dataset}-{preset}-{options.size}-{minutes:g}min-seed{seed}"
    folder = options.out / (f"{name}-compiled" if options.compile else name)
    model = famecli.train(
        preset,
        options.dataset,
        out=folder,
        size=options.size,
        budget_s=60 * minutes,
        seed=seed,
        threads=1,
        compile=options.compile,
        # The only validation is the last one: others would take time that the budget does not count.
        eval_every=LARGEST_COUNT,
        data=options.data,
    )
    valid, test = (
        famecli.evaluate(model, options.dataset, split=split, limit=options.limit, data=options.data)
        for split in ("valid", "test")
    )
    return (
        preset,
        minutes,
        seed,
        round(step_seconds(read_metrics(folder)) / 60, 2),
        model.checkpoint.provenance.images_seen,
        model.checkpoint.model.count_parameters(),
        mean_of(valid.nlls.nats),
        mean_of(test.nlls.nats),
        test.nll.bits_per_dim,
        "exact" if test.nll.bound == "exact" else "-ELBO, one draw",
    )


if __name__ == "__main__":
    run(main)
