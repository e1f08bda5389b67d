"""`fame evaluate-nll`."""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from famecli.cli.estimators import Bound
from famecli.cli.grouping import grouped
from famecli.cli.groups import (
    Common,
    Files,
    Force,
    Label,
    Limit,
    Machine,
    Preparing,
    Split,
    check_absent,
    check_files,
    join,
)
from famecli.cli.sources import DataSource, ModelSource
from famecli.data.preparation import Preparation
from famecli.errors import GateError, UsageError, truncate
from famecli.files import STDIN, check_writable, write_atomic
from famecli.output import FittedTable, Output, say

if TYPE_CHECKING:
    from famecli.evaluation.report import NllReport
    from famecli.nll.record import NllRecord

Row = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Files and remarks besides the result."""

    per_image: Annotated[
        Path | None,
        typer.Option(
            "--per-image", metavar="FILE|-", help="Write a row per image: CSV, or JSON lines in .jsonl."
        ),
    ] = None
    with_images: Annotated[
        bool, typer.Option("--with-images", help="With --json: the nats of every image, for fame compare.")
    ] = False
    heatmap: Annotated[
        Path | None,
        typer.Option(
            "--heatmap", metavar="FOLDER", help="Write bits per pixel as PNGs; white: 8 or more per channel."
        ),
    ] = None
    record: Annotated[
        Path | None,
        typer.Option(
            "--record", metavar="FILE", help="Write these weights, with this NLL as a claim, to FILE."
        ),
    ] = None
    force: Force = False
    fail_above: Annotated[
        float | None,
        typer.Option("--fail-above", metavar="BITS", help="Exit with code 7 if bits/dim are above this."),
    ] = None
    explain: Annotated[bool, typer.Option("--explain", help="Show the formulas with this run's numbers.")] = (
        False
    )
    common: Common

    def check(self) -> None:
        """Check, before any work is done, that options fit together and that no output exists.

        Raises:
            UsageError: The options do not fit together.
            InputError: An output exists, and --force was not given.
        """
        paths = (self.heatmap, self.record, self.per_image)
        if self.common.json and STDIN in paths:
            raise UsageError("--json and --per-image - both want stdout", "write --per-image to a file")
        if self.with_images and not self.common.json:
            raise UsageError("--with-images is for --json", "add --json, or write --per-image FILE")
        if self.heatmap is not None:
            check_writable(self.heatmap, folder=True)
        check_absent(self.force, self.heatmap)
        check_files(self.force, self.record, None if self.per_image == STDIN else self.per_image)
        if self.fail_above is not None and not math.isfinite(self.fail_above):
            raise UsageError(f"--fail-above {self.fail_above} is no limit", "give a number")

    def write(self, report: "NllReport", output: Output, batch_size: int | None) -> None:
        """Print the result, and write the files that were asked for; the heat maps need another pass.

        Raises:
            InputError: A file cannot be written.
            GateError: Bits/dim are above the limit.
        """
        from famecli.evaluation.score import save_claim, write_heatmaps

        if report.trained_on and report.split.split != "train":
            output.warn(
                f"{report.trained_on:,} of {len(report.nlls.nats):,} scored images are training images of "
                f"{report.checkpoint.source}: their NLL does not measure generalisation"
            )
        if self.per_image != STDIN:
            document = report.to_dict() | ({"explanation": report.explain()} if self.explain else {})
            document |= {"image_nats": report.nlls.nats.tolist()} if self.with_images else {}
            document |= {} if report.coded is None else {"coded": report.coded.to_dict()}
            output.result(
                document, f"{report.bits_per_dim:.5f}", lambda console: _show(report, console, self.explain)
            )
        elif not output.quiet:
            _show(report, output.errors, self.explain)
        if self.record is not None:
            save_claim(report, self.record, replace=self.force)
        if self.per_image is not None:
            _write_per_image(report, self.per_image, self.force)
        if self.heatmap is not None:
            write_heatmaps(report, self.heatmap, batch_size, force=self.force, note=output.note)
        if self.fail_above is not None and report.bits_per_dim > self.fail_above:
            raise GateError(f"{report.bits_per_dim:.5f} bits/dim are above the limit of {self.fail_above}")


Half = Annotated[
    bool,
    typer.Option("--half", help="Round the weights to half precision first: a --record is half as large."),
]
Coded = Annotated[
    bool,
    typer.Option("--coded", help="Also compress and restore the images; compare with PNG and lossless WebP."),
]


@grouped
def evaluate_nll(
    context: typer.Context,
    *,
    source: ModelSource,
    files: Files = None,
    data: DataSource,
    preparing: Preparing,
    split: Split = "test",
    bound: Bound,
    labels: Label = None,
    limit: Limit = None,
    results: Results,
    half: Half = False,
    coded: Coded = False,
    machine: Machine,
) -> None:
    """Measure the negative log-likelihood of a data set's images, in nats and bits/dim.

    The NLL is exact for a model without latents, else an upper bound: -ELBO, with -k the importance-weighted
    bound, with --ais the annealed one. For a model with classes it is that of p(x|y), with --marginal of
    p(x). -q prints only bits/dim. Images come from files, or else from the data set; --data - scores all
    images on stdin, an npy or npz array of bytes.

    Examples:

      fame evaluate-nll run/best.safetensors

      fame evaluate-nll run/ photos/

      fame evaluate-nll --dataset mnist -k 100 --limit 1000 --json

      fame evaluate-nll run/ --ais 500 --limit 16

      fame evaluate-nll run/ --ais 500 --simulated 16

      fame evaluate-nll run/ --coded --limit 1000

      fame evaluate-nll run/ --marginal

      fame evaluate-nll run/ --json --with-images > a.json

      fame evaluate-nll run/ --per-image - | sort -t, -k3 -rg | head

      fame sample --dataset mnist -n 256 -o - | fame evaluate-nll run/ --data - -q
    """
    output = results.common.output()
    results.check()
    source, names = source.with_images(context, files, data.inputs)
    _check_together(bound, results, data, preparing, split, limit, names)
    _check_classes(bound, results, labels, coded=coded)
    annealing = bound.annealing()
    for_classes = "--class" if labels is not None else "--marginal" if bound.marginal else ""
    data.check(source, output, split, for_classes, preparing, unused=bool(names or bound.simulated))
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.coding.compress import measure_code
    from famecli.data.dataset import even_part
    from famecli.evaluation.score import EstimatorSettings, score, scored_levels, simulated
    from famecli.runtime.distributed import explain_lost_processes

    estimator = EstimatorSettings(
        bound.importance_samples, annealing, bound.seed, bound.batch_size, bound.marginal
    )
    group, normals = join(output), None
    with group.local_main_first():
        loaded = source.load(output, machine.torch_device(group), half=half)
        config = loaded.model.config
        if bound.simulated is None:
            images = data.images(source, loaded, split, output, preparing, names)
    if bound.simulated is None:
        part = even_part(len(images.pixels), limit)
        scored = scored_levels(loaded, images, part, labels, marginal=bound.marginal)
    else:
        images, scored, normals = simulated(loaded, bound.simulated, bound.seed)
    if not config.stochastic_layers and (bound.ais or bound.importance_samples > 1):
        option = "-k" if bound.ais is None else "--ais"
        output.note(f"{loaded.source} has no latents: its NLL is exact, and {option} is not needed")
    total = estimator.passes(loaded.model) * len(scored.levels)
    with explain_lost_processes(), output.progress("evaluating", total) as advance:
        report = score(
            loaded,
            images,
            scored,
            estimator,
            normals=normals,
            advance=advance,
            group=group,
            report=output.note,
        )
    if not group.is_main:
        return
    if coded:
        with output.progress("coding and decoding", 2 * len(scored.levels)) as advance:
            code = measure_code(loaded.model, scored.levels, advance, scored.labels)
        report = dataclasses.replace(report, coded=code)
    results.write(report, output, bound.batch_size)


def _check_together(
    bound: Bound,
    results: Results,
    data: DataSource,
    preparing: Preparation,
    split: str,
    limit: int | None,
    files: list[str],
) -> None:
    """Check options of several groups, and image files.

    Raises:
        UsageError: The options do not fit together.
    """
    if files and (bound.simulated is not None or data.data is not None or split != "test"):
        raise UsageError("--split, --data and --simulated do not go with image files", "leave the files out")
    if results.record is not None and (data.data == STDIN or files):
        raise UsageError("--record is for a data set: nobody else has these images")
    if results.record is not None and (bound.ais or bound.simulated):
        raise UsageError("--record is for the ELBO or -k, which fame weights verify can measure again")
    if bound.simulated is None:
        return
    if bound.ais is None:
        raise UsageError("--simulated is for --ais", "for example --simulated 16 --ais 500")
    words = (("--data", data.data), ("--limit", limit), ("--resize or --convert", str(preparing) or None))
    for name, value in words:
        if value is not None:
            raise UsageError(f"{name} is for images of a data set", f"leave --simulated or {name} out")
    if split != "test":
        raise UsageError("simulated images have no splits", "leave --split out")


def _check_classes(bound: Bound, results: Results, label: str | None, *, coded: bool) -> None:
    """Check options about classes.

    Raises:
        UsageError: The options do not fit together.
    """
    if label is not None and results.record is not None:
        raise UsageError("--record takes the labels of the data set: it does not go with --class")
    if label is not None and bound.simulated is not None:
        raise UsageError("simulated images have random classes", "leave --class out")
    if bound.marginal and (coded or results.heatmap is not None):
        option = "--coded" if coded else "--heatmap"
        raise UsageError(f"{option} is about p(x|y), --marginal about p(x)", "leave one of them out")


def _show(report: "NllReport", console: Console, explain: bool = False) -> None:
    """Print the report for people, with `explain` the formulas below."""
    say(console, str(report.nll.data))
    console.print(FittedTable("", ["", "nats/image", "+-", "bits/dim", "+-"], _rows(report)))
    for line in report.remarks():
        console.print(line)
    if report.claims and not any(map(report.comparable, report.claims)):
        say(console, f"the checkpoint claims, not comparable: {truncate(report.claims[0], 300)}")
    if report.coded is not None:
        console.print(report.coded.remark())
    console.print(
        f"weights {report.checkpoint.weights} {report.checkpoint.weights_sha256[:16]}, "
        f"data {report.scored.sha256[:16]}, seed {report.seed}, {report.seconds:.1f} s"
    )
    if explain:
        console.print(report.explain())


def _rows(report: "NllReport") -> list[Row]:
    """Return the rows of the table: the NLL, its terms, and what it may be compared with."""
    nlls = report.nlls

    def row(label: str, nats: float, stderr: float | None = None) -> Row:
        bits = report.per_dim(nats)
        if stderr is None or math.isnan(stderr):
            return label, f"{nats:.3f}", "", f"{bits:.5f}", ""
        return label, f"{nats:.3f}", f"{stderr:.3f}", f"{bits:.5f}", f"{report.per_dim(stderr):.5f}"

    rows = [row(f"NLL ({report.nll.estimator})", nlls.mean, nlls.stderr)]
    rows += [row(*each) for each in report.beside()]
    if nlls.bound != "exact":
        rows.append(row("decoder, -log p(x|z)", float(nlls.distortion.mean())))
        rows += [row(f"KL of layer {layer}", float(each)) for layer, each in enumerate(nlls.rate.mean(0))]
    comparable = filter(report.comparable, report.claims)
    rows += [row(_label(report, claim), claim.nats_per_image) for claim in comparable]
    if report.coded is not None:
        rows += [row(*each) for each in report.coded.rows()]
    return rows


def _label(report: "NllReport", claim: "NllRecord") -> str:
    """Return the label of a comparable claim, with its remaining differences from this evaluation."""
    label = "claimed by the checkpoint"
    if not report.has_pixels_of(claim):
        images = claim.data.images != len(report.nlls.nats)
        label += f", {claim.data.images or 0:,} images" if images else ", other pixels"
    if claim.weights_sha256 not in (None, report.checkpoint.weights_sha256):
        label += ", other weights"
    return label


def _write_per_image(report: "NllReport", target: Path, force: bool) -> None:
    from famecli.evaluation.report import per_image_text

    text = per_image_text(report, lines=target.suffix == ".jsonl")
    if target == STDIN:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomic(target, text.encode(), replace=force)
