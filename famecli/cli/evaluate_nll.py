"""`fame evaluate-nll`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from famecli.cli import options
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.errors import GateError, UsageError
from famecli.files import STDIN, write_atomic
from famecli.output import Output, table

if TYPE_CHECKING:
    from famecli.checkpoint import Checkpoint
    from famecli.nll_report import NllReport

# The bits of a binarized test set are part of the protocol: they do not follow --seed.
BITS_SEED = 0
AUTOMATIC_BATCH = 128


@dataclass(frozen=True)
class Protocol:
    """What is scored, and how."""

    split: str
    importance_samples: int
    limit: int | None
    batch_size: int
    seed: int


Split = Annotated[str, typer.Option("--split", metavar="train|valid|test", help="Part of the data set.")]
Samples = Annotated[
    int,
    typer.Option(
        "-k", "--importance-samples", min=1, metavar="K", help="1: the ELBO; more: the tighter IWAE bound."
    ),
]
PerImage = Annotated[
    Path | None,
    typer.Option(
        "--per-image", metavar="FILE|-", help="Write a row per image: CSV, or JSON lines in .jsonl."
    ),
]
Heatmap = Annotated[
    Path | None,
    typer.Option(
        "--heatmap", metavar="FOLDER", help="Write a PNG per image; white is 8 bits or more a channel."
    ),
]
FailAbove = Annotated[
    float | None,
    typer.Option("--fail-above", metavar="BITS", help="Exit with code 7 if bits/dim are above this."),
]
Explain = Annotated[bool, typer.Option("--explain", help="Show the formulas with this run's numbers.")]
Record = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="FILE", help="Write these weights alone, with this NLL as what they claim."
    ),
]


def evaluate_nll(
    checkpoint: options.CheckpointArgument = None,
    dataset: options.Dataset = None,
    data: options.Data = None,
    model: options.Model = None,
    split: Split = "test",
    importance_samples: Samples = 1,
    limit: options.Limit = None,
    batch_size: options.BatchSize = "auto",
    weights: options.Weights = "ema",
    seed: options.Seed = 0,
    per_image: PerImage = None,
    heatmap: Heatmap = None,
    record: Record = None,
    force: options.Force = False,
    fail_above: FailAbove = None,
    explain: Explain = False,
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the negative log-likelihood of a data set's images, in nats and bits/dim.

    Exact for a model without latents, else an upper bound: -ELBO, or with -k the importance-weighted one.
    -q prints bits/dim alone.

    Examples:

      fame evaluate-nll run/best.safetensors

      fame evaluate-nll --dataset mnist -k 100 --limit 1000 --json

      fame evaluate-nll run/ --per-image - | sort -t, -k3 -rg | head
    """
    output = Output(json=json, quiet=quiet)
    _check_outputs(json, force, heatmap, record, per_image)
    options.check_finite("--fail-above", fail_above)
    batch = options.count(batch_size, "--batch-size", AUTOMATIC_BATCH)
    choice = ModelChoice(checkpoint, dataset, model, weights, device, threads, cache_dir, offline)
    protocol = Protocol(split, importance_samples, limit, batch, seed)
    report = measure(choice, DataPlace(data, cache_dir, offline, output.note), protocol, output)
    _write_files(report, heatmap, record, per_image)
    if per_image != STDIN:
        document = report.to_dict() | ({"explanation": report.explain()} if explain else {})
        output.result(document, f"{report.bits_per_dim:.5f}", lambda console: show(report, console, explain))
    elif not quiet:
        show(report, output.errors, explain)
    if fail_above is not None and report.bits_per_dim > fail_above:
        raise GateError(f"{report.bits_per_dim:.5f} bits/dim are above the limit of {fail_above}")


def _check_outputs(json: bool, force: bool, *paths: Path | None) -> None:
    if json and STDIN in paths:
        raise UsageError("--json and --per-image - both want stdout", "write --per-image to a file")
    options.check_absent(force, *(path for path in paths if path != STDIN))


def measure(choice: ModelChoice, place: DataPlace, protocol: Protocol, output: Output) -> "NllReport":
    """Return the NLL of a model on a data set."""
    from famecli.data.dataset import fixed_levels
    from famecli.evaluation import evaluate
    from famecli.nll_report import NllReport

    loaded = choice.load(output)
    images = place.split(choice.dataset_of(loaded), protocol.split)  # type: ignore[arg-type]
    check_fits(loaded, images.info.shape, images.info.levels, images.info.name)
    scored = fixed_levels(images, BITS_SEED, protocol.limit)
    started_s = time.monotonic()
    with output.progress("evaluating", len(scored.levels)) as advance:
        nlls = evaluate(
            loaded.model,
            scored.levels,
            importance_samples=protocol.importance_samples,
            seed=protocol.seed,
            batch_size=protocol.batch_size,
            advance=lambda done: advance(done, ""),
        )
    return NllReport(loaded, images, scored, BITS_SEED, nlls, protocol.seed, time.monotonic() - started_s)


def check_fits(checkpoint: "Checkpoint", shape: tuple[int, int, int], levels: int, name: str) -> None:
    """Check that a model is for images such as those of `name`.

    Raises:
        UsageError: It is not.
    """
    config = checkpoint.model.config
    if (config.image_shape, config.levels) != (shape, levels):
        raise UsageError(
            f"{checkpoint.source} is a model of {config.image_shape} images with {config.levels} levels, "
            f"{name} has {shape} with {levels}"
        )


def show(report: "NllReport", console: Console, explain: bool = False) -> None:
    """Print the report for people, with `explain` the formulas below."""
    info, nlls = report.split.info, report.nlls
    data = report.to_dict()

    def row(label: str, nats: float, stderr: float | None = None) -> tuple[str, ...]:
        bits = data["bits_per_dim"] / nlls.mean
        if stderr is None:
            return label, f"{nats:.3f}", "", f"{nats * bits:.5f}", ""
        return label, f"{nats:.3f}", f"{stderr:.3f}", f"{nats * bits:.5f}", f"{stderr * bits:.5f}"

    bound = {"exact": "exact", "elbo": "-ELBO", "iwae": f"IWAE, K = {nlls.importance_samples}"}[nlls.bound]
    rows = [row(f"NLL ({bound})", nlls.mean, nlls.stderr)]
    if nlls.bound != "exact":
        rows.append(row("decoder, -log p(x|z)", float(nlls.distortion.mean())))
        rows += [row(f"KL of layer {layer}", float(each)) for layer, each in enumerate(nlls.rate.mean(0))]
    if data["claimed_nats_per_image"] is not None:
        rows.append(row("claimed by the checkpoint", data["claimed_nats_per_image"]))
    console.print(
        f"{info.name}, {report.split.split}, {len(nlls.nats):,} images, binarization: {report.binarization}"
    )
    console.print(table("", ["", "nats/image", "+-", "bits/dim", "+-"], rows))
    console.print(
        f"weights {report.checkpoint.weights} {report.checkpoint.weights_sha256[:16]}, "
        f"data {report.scored.sha256[:16]}, seed {report.seed}, {report.seconds:.1f} s"
    )
    if explain:
        console.print(report.explain())


def _write_files(
    report: "NllReport", heatmap: Path | None, record: Path | None, per_image: Path | None
) -> None:
    if heatmap is not None:
        _write_heatmaps(report, heatmap)
    if record is not None:
        _record(report, record)
    if per_image is not None:
        _write_per_image(report, per_image)


def _write_per_image(report: "NllReport", target: Path) -> None:
    from famecli.nll_report import per_image_text

    text = per_image_text(report, lines=target.suffix == ".jsonl")
    if target == STDIN:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomic(target, text.encode())


def _write_heatmaps(report: "NllReport", folder: Path) -> None:
    from famecli.evaluation import pixel_bits
    from famecli.images import bits_to_uint8, open_writer

    channels = report.split.info.shape[0]
    with open_writer(folder, len(report.nlls.nats), format="png", force=True) as writer:
        for start, bits in pixel_bits(report.checkpoint.model, report.scored.levels, report.seed):
            rows = [{"index": start + offset, "bits": float(each.sum())} for offset, each in enumerate(bits)]
            writer.add(bits_to_uint8(bits / channels), rows)


def _record(report: "NllReport", path: Path) -> None:
    from famecli.checkpoint import save_checkpoint

    checkpoint = report.checkpoint
    facts = {key: checkpoint.metadata.get(key) for key in ("training", "provenance")}
    weights = checkpoint.model.state_dict()
    save_checkpoint(path, checkpoint.model.config, weights, None, facts | {"claim": report.claim()})
