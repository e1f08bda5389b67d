"""The sections that only tell: NLLs with their protocol, the runs, their configuration."""

from collections.abc import Iterator, Sequence

import tomli_w

from famecli.checkpoints.provenance import in_words
from famecli.nll.record import NllRecord
from famecli.report.document import Block, Code, Fold, Paragraph, Table
from famecli.report.metrics import LARGEST_NUMBER
from famecli.report.report import RunReport
from famecli.report.runs import RunFacts, differences

HASH_LETTERS = 16
UNKNOWN = "not recorded"


def nll_section(runs: Sequence[RunReport], evaluated: bool) -> Iterator[Block]:
    """Yield the table of NLLs, and why one is not there; `evaluated`: whether all were to be measured."""
    columns = (
        "Run",
        "nats/image",
        "bits/dim",
        "Estimator",
        "Images",
        "Binarization",
        "Pixels",
        "Weights",
        "Source",
    )
    rows = [_nll_row(run, nll) for run in runs for nll in run.nlls]
    if rows:
        yield Table(columns, rows, frozenset({1, 2}))
        yield Paragraph(
            "+- is the standard error over images; -ELBO and IWAE are upper bounds in expectation. Pixels "
            f"and averaged weights are named by the first {HASH_LETTERS} digits of sha256, in full under "
            "Configuration."
        )
    for run in runs:
        if not run.nlls:
            yield Paragraph(
                f"{run.name}: no NLL is recorded.{'' if evaluated else ' --evaluate measures it.'}"
            )
        if evaluated and run.measured is None:
            yield Paragraph(f"{run.name}: not measured: {run.no_model or run.no_data}")


def runs_section(runs: Sequence[RunReport]) -> Iterator[Block]:
    """Yield what the runs are, and how far they were trained."""
    columns = (
        "Run",
        "Model",
        "Trained on",
        "Parameters",
        "Images seen",
        "Hours",
        "Device",
        "Versions",
    )
    yield Table(columns, [_run_row(run.facts) for run in runs], frozenset({3, 4, 5}))
    for run in runs:
        if (first := run.facts.provenance.init) is not None:
            trained = f", trained on {in_words(first.past)}" if first.past else ""
            yield Paragraph(f"{run.name}: began with the weights {_short(first.weights_sha256)}{trained}.")
        if run.no_model:
            yield Paragraph(f"{run.name}: nothing is drawn, for {run.no_model}")
        if not run.facts.model.stochastic_layers:
            yield Paragraph(f"{run.name}: no latents, so there are no reconstructions and no KL divergence.")


def configuration_section(runs: Sequence[RunReport]) -> Iterator[Block]:
    """Yield the keys that differ, and folded everything."""
    if len(runs) > 1:
        rows = [
            (key, *(value or "-" for value in values)) for key, values in differences([r.facts for r in runs])
        ]
        if rows:
            yield Table(("Key", *(run.name for run in runs)), rows)
        else:
            yield Paragraph("The runs have equal configurations.")
    for run in runs:
        yield Fold(f"Full configuration of {run.name}", [Code(tomli_w.dumps(run.facts.settings()))])
    rows = [row for run in runs for row in _hash_rows(run)]
    yield Fold("Files and their hashes", [Table(("Run", "What", "Is"), rows)])


def _nll_row(run: RunReport, nll: NllRecord) -> tuple[str, ...]:
    data, one = nll.data, nll.one_draw_nats
    beside = f" (K = 1: {one:.2f} nats)" if nll.bound == "iwae" and one is not None else ""
    seed = "" if nll.seed is None else f", seed {nll.seed}"
    return (
        run.name,
        _with_error(nll.nats_per_image, nll.stderr_nats_per_image, 2),
        _with_error(nll.bits_per_dim, nll.stderr_bits_per_dim, 4),
        f"{nll.estimator}{beside}{seed}",
        images_of(nll),
        data.binarization or UNKNOWN,
        _short(data.pixels_sha256),
        _short(nll.weights_sha256),
        source_of(run, nll),
    )


def images_of(nll: NllRecord) -> str:
    """Return data set, split and number of the images of an NLL."""
    count = "" if nll.data.images is None else f", {nll.data.images:,} images"
    return f"{nll.data.dataset_id or UNKNOWN} {nll.data.split}{count}"


def source_of(run: RunReport, nll: NllRecord) -> str:
    """Return who says so."""
    if nll.origin == "measured":
        return "measured for this report"
    if nll.origin == "claim":
        own = nll.weights_sha256 == run.facts.weights_sha256
        return "claimed by the checkpoint" + ("" if own else ", for other weights than its own")
    return "lowest validation in training"


def _run_row(facts: RunFacts) -> tuple[str, ...]:
    return (
        facts.name,
        facts.model.preset,
        facts.dataset or UNKNOWN,
        UNKNOWN if facts.parameters is None else f"{facts.parameters:,}",
        UNKNOWN if facts.images_seen is None else f"{facts.images_seen:,}",
        UNKNOWN if facts.hours is None else f"{facts.hours:.2f}",
        facts.provenance.device or UNKNOWN,
        ", ".join(facts.provenance.versions) or UNKNOWN,
    )


def _hash_rows(run: RunReport) -> Iterator[tuple[str, str, str]]:
    yield run.name, "path", run.facts.path
    yield run.name, "file of the checkpoint", run.sha256 or UNKNOWN
    yield run.name, "averaged weights", run.facts.weights_sha256 or UNKNOWN
    for nll in run.nlls:
        if nll.data.pixels_sha256:
            yield run.name, f"pixels, {source_of(run, nll)}", nll.data.pixels_sha256


def _with_error(value: float | None, stderr: float | None, digits: int) -> str:
    if value is None:
        return UNKNOWN
    # A header may say anything; what cannot be an NLL must not fill the page.
    form = f".{digits}f" if abs(value) < LARGEST_NUMBER and abs(stderr or 0.0) < LARGEST_NUMBER else ".3g"
    return f"{value:{form}}" + ("" if stderr is None else f" +- {stderr:{form}}")


def _short(sha256: str | None) -> str:
    return sha256[:HASH_LETTERS] if sha256 else UNKNOWN
