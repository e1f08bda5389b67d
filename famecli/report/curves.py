"""Learning curves and KL divergences over training, as charts with their captions."""

from collections.abc import Callable, Iterator, Sequence

from famecli.nll.units import NATS_PER_BIT
from famecli.report.charts import Curve, LineChart
from famecli.report.document import Block, Figures, Heading, Paragraph, Table
from famecli.report.metrics import METRICS, Record
from famecli.report.report import RunReport, comparable
from famecli.report.runs import RunFacts
from famecli.report.told import images_of, source_of

Abscissa = tuple[str, str, Callable[[Record], float]]
OVER: Sequence[Abscissa] = (
    ("images", "images seen", lambda record: record.images),
    ("hours", "hours of training", lambda record: record.hours),
)


def learning_curves(runs: Sequence[RunReport]) -> Iterator[Block]:
    """Yield the NLLs over images and over hours: one pair of charts for each data set."""
    drawn = [run for run in runs if run.facts.metrics and _curves(run.facts, OVER[0][2])]
    for number, group in enumerate(comparable(drawn), 1):
        facts = [run.facts for run in group]
        unit = facts[0].unit
        charts = [
            LineChart(
                f"nll-{number}-{name}",
                f"NLL over {label}: {', '.join(each.name for each in facts)}",
                label,
                f"NLL, {unit}",
                [curve for each in facts for curve in _curves(each, place)],
            )
            for name, label, place in OVER
        ]
        data = facts[0].dataset or "data set not recorded"
        yield Figures(
            charts,
            f"{data}. Thin: means over the training images since the point before. Marked: validation of the "
            f"averaged weights.{charts[0].beyond}",
        )
    yield from _without_curves(runs)


def kl_divergence(runs: Sequence[RunReport]) -> Iterator[Block]:
    """Yield for each run with latents its table, and a chart over training where there are metrics."""
    for number, run in enumerate(runs, 1):
        facts = run.facts
        if not facts.model.stochastic_layers:
            continue
        if len(runs) > 1:
            yield Heading(run.name)
        if facts.metrics and (curves := _kl_curves(facts)):
            chart = LineChart(
                f"kl-{number}",
                f"KL divergence of each stochastic layer: {run.name}",
                "images seen",
                "KL divergence, nats/image",
                curves,
                floor=0.0,
            )
            yield Figures([chart], f"Layer 0 is nearest to the image.{chart.beyond}")
        yield from _kl_table(run)


def _curves(facts: RunFacts, place: Callable[[Record], float]) -> list[Curve]:
    """Return training and validation of a run, as far as there are any."""
    found = []
    for split in ("train", "valid"):
        records = facts.metrics.of(split) if facts.metrics else []
        heights = [
            each.nats_per_image if facts.unit == "nats/image" else each.bits_per_dim for each in records
        ]
        points = [(place(each), y) for each, y in zip(records, heights, strict=True) if y is not None]
        if points:
            found.append(Curve(facts.name, points, split == "valid"))
    return found


def _kl_curves(facts: RunFacts) -> list[Curve]:
    found = []
    for layer in range(facts.model.stochastic_layers):
        for split in ("train", "valid"):
            records = facts.metrics.of(split) if facts.metrics else []
            values = [(each.images, each.kl_nats[layer]) for each in records if layer < len(each.kl_bits)]
            if points := [(images, nats) for images, nats in values if nats is not None]:
                found.append(Curve(f"layer {layer}", points, split == "valid"))
    return found


def _kl_table(run: RunReport) -> Iterator[Block]:
    """Yield what each layer carries, with the shape of its latents."""
    model = run.facts.model
    source = next((nll for nll in run.nlls if nll.terms_nats_per_image), None)
    if source is None or source.terms_nats_per_image is None:
        yield Paragraph(f"{run.name}: no KL divergence is recorded; --evaluate measures it.")
        return
    nats = source.terms_nats_per_image.kl
    stages = zip(model.stages, model.resolutions(), strict=True)
    shapes = [
        f"vector of {stage.latents}" if stage.dense else f"{stage.latents} maps of {height}x{width}"
        for stage, (height, width) in stages
        if stage.latents
    ]
    rows = [
        (f"layer {layer}", shape, f"{value:.3f}", f"{value / NATS_PER_BIT:.3f}", _part(value, sum(nats)))
        for layer, (shape, value) in enumerate(zip(shapes, nats, strict=False))
    ]
    rows.append(
        ("all", "", f"{sum(nats):.3f}", f"{sum(nats) / NATS_PER_BIT:.3f}", _part(sum(nats), sum(nats)))
    )
    columns = ("Layer", "Latents", "KL, nats/image", "KL, bits/image", "Part")
    yield Table(columns, rows, frozenset({2, 3, 4}))
    yield Paragraph(f"Means over {images_of(source)}; {source_of(run, source)}.")


def _part(value: float, total: float) -> str:
    return f"{100 * value / total:.1f} %" if total else ""


def _without_curves(runs: Sequence[RunReport]) -> Iterator[Paragraph]:
    """Yield why runs have no curve."""
    for run in runs:
        if run.facts.metrics is None:
            yield Paragraph(f"{run.name}: no curve, for there is no {METRICS} beside it.")
        elif not _curves(run.facts, OVER[0][2]):
            yield Paragraph(f"{run.name}: no curve, for its {METRICS} has no line yet.")
        elif run.facts.metrics.cut:
            yield Paragraph(f"{run.name}: the last line of its {METRICS} is unfinished and was left out.")
