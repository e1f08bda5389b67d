"""What `fame evaluate-nll` leaves: its result on stdout, and files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from famecli.cli.evaluate_options import Asked
from famecli.errors import GateError, brief
from famecli.files import STDIN, write_atomic
from famecli.output import Output, printable, table

if TYPE_CHECKING:
    from famecli.nll.record import NllRecord
    from famecli.nll.report import NllReport

Row = tuple[str, ...]


def deliver(report: "NllReport", asked: Asked, output: Output) -> None:
    """Write the files that were asked for, and print the result.

    Raises:
        InputError: A file cannot be written.
        GateError: Bits/dim are above the limit.
    """
    _write_files(report, asked)
    if asked.per_image != STDIN:
        document = report.to_dict() | ({"explanation": report.explain()} if asked.explain else {})
        document |= {"image_nats": report.nlls.nats.tolist()} if asked.with_images else {}
        document |= {} if report.coded is None else {"coded": report.coded.to_dict()}
        output.result(
            document, f"{report.bits_per_dim:.5f}", lambda console: show(report, console, asked.explain)
        )
    elif not output.quiet:
        show(report, output.errors, asked.explain)
    if asked.fail_above is not None and report.bits_per_dim > asked.fail_above:
        raise GateError(f"{report.bits_per_dim:.5f} bits/dim are above the limit of {asked.fail_above}")


def show(report: "NllReport", console: Console, explain: bool = False) -> None:
    """Print the report for people, with `explain` the formulas below."""
    console.print(str(report.nll.data))
    console.print(table("", ["", "nats/image", "+-", "bits/dim", "+-"], _rows(report)))
    for line in report.remarks():
        console.print(line)
    if report.claims and not any(map(report.comparable, report.claims)):
        told = printable(brief(report.claims[0], 300))
        console.print(f"the checkpoint claims, not comparable: {told}", markup=False)
    if report.coded is not None:
        console.print(report.coded.remark())
    console.print(
        f"weights {report.checkpoint.weights} {report.checkpoint.weights_sha256[:16]}, "
        f"data {report.scored.sha256[:16]}, seed {report.seed}, {report.seconds:.1f} s"
    )
    if explain:
        console.print(report.explain())


def _rows(report: "NllReport") -> list[Row]:
    """Return the rows of the table: the NLL, what it is the sum of, and what it may be compared with."""
    nlls = report.nlls

    def row(label: str, nats: float, stderr: float | None = None) -> Row:
        bits = report.per_dim(nats)
        if stderr is None:
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
    """Return what to call a claim that may be compared, and in what else it differs from this evaluation."""
    label = "claimed by the checkpoint"
    if not report.has_pixels_of(claim):
        images = claim.data.images != len(report.nlls.nats)
        label += f", {claim.data.images or 0:,} images" if images else ", other pixels"
    if claim.weights_sha256 not in (None, report.checkpoint.weights_sha256):
        label += ", other weights"
    return label


def _write_files(report: "NllReport", asked: Asked) -> None:
    if asked.heatmap is not None:
        _write_heatmaps(report, asked.heatmap)
    if asked.record is not None:
        _record(report, asked.record)
    if asked.per_image is not None:
        _write_per_image(report, asked.per_image)


def _write_per_image(report: "NllReport", target: Path) -> None:
    from famecli.nll.report import per_image_text

    text = per_image_text(report, lines=target.suffix == ".jsonl")
    if target == STDIN:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_atomic(target, text.encode())


def _write_heatmaps(report: "NllReport", folder: Path) -> None:
    from famecli.images import bits_to_uint8, open_writer
    from famecli.nll.evaluate import pixel_bits

    channels = report.split.info.shape[0]
    with open_writer(folder, len(report.nlls.nats), format="png", force=True) as writer:
        for start, bits in pixel_bits(report.checkpoint.model, report.scored.levels, report.seed):
            rows = [{"index": start + offset, "bits": float(each.sum())} for offset, each in enumerate(bits)]
            writer.add(bits_to_uint8(bits / channels), rows)


def _record(report: "NllReport", path: Path) -> None:
    from famecli.checkpoints.checkpoint import save_checkpoint
    from famecli.checkpoints.description import with_claim

    checkpoint = report.checkpoint
    facts = {key: checkpoint.metadata.get(key) for key in ("training", "provenance")}
    weights = checkpoint.model.state_dict()
    claims = with_claim(checkpoint.metadata, report.claim())
    save_checkpoint(path, checkpoint.model.config, weights, None, facts | claims)
