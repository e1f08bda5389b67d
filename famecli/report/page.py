"""The page: content of each section, and rendering as HTML or Markdown."""

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tomli_w
import torch
from markupsafe import Markup

from famecli import __version__
from famecli.checkpoints.provenance import in_words, time_in_words
from famecli.checkpoints.store import Store
from famecli.config.schema import LARGEST_NUMBER
from famecli.errors import InputError, UsageError
from famecli.escape import counted
from famecli.files import unwritable, write_atomic
from famecli.nll.record import NATS_PER_BIT, NllRecord
from famecli.output import Output
from famecli.report.charts import ColourBar, Curve, LineChart
from famecli.report.collect import Collector, ReportOptions, RunReport, comparable, grouped_by
from famecli.report.metrics import METRICS, Record
from famecli.report.pictures import Figure, Picture, coloured, pairs, sheet, shown_bits, write_figures
from famecli.report.render import HTML, MARKDOWN
from famecli.report.runs import RunFacts, differences

HTML_SUFFIXES, MARKDOWN_SUFFIXES = (".html", ".htm"), (".md", ".markdown")
SCHEMA = "famecli/report/1"
HASH_LETTERS = 16
# Trainings shorter than this are told in minutes.
SHORT_HOURS = 2.0
UNKNOWN = "not recorded"


def page_paths(out: Path) -> tuple[Path, Path | None]:
    """Return the path of a page, and the folder of its images; None if they are embedded.

    Args:
        out: Path with an HTML or Markdown suffix.

    Raises:
        UsageError: `out` has another suffix.
        InputError: A folder has this name, or the parent folder is missing.
    """
    suffix = out.suffix.lower()
    if suffix not in HTML_SUFFIXES + MARKDOWN_SUFFIXES:
        raise UsageError(
            f"{out} is not a name of a page", f"suffixes: {', '.join(HTML_SUFFIXES + MARKDOWN_SUFFIXES)}"
        )
    folder = out.with_name(f"{out.stem}_files") if suffix in MARKDOWN_SUFFIXES else None
    if out.is_dir() or (folder is not None and folder.exists() and not folder.is_dir()):
        raise InputError(f"{out if out.is_dir() else folder} is in the way", "choose another name")
    if not out.parent.is_dir():
        raise unwritable(out, FileNotFoundError("no such folder"))
    return out, folder


def write_report(
    runs: Sequence[str],
    out: Path,
    options: ReportOptions,
    store: Store,
    device: torch.device,
    output: Output,
    figures: Path | None = None,
    replace: bool = True,
) -> dict[str, Any]:
    """Write one page about runs and return its document of schema `famecli/report/1`.

    Args:
        runs: Run folders, checkpoints, or names of weights, at least one.
        out: Path of the page.
        options: Options of the page.
        store: Named weights, and the cache that also has the data sets.
        device: Device to compute on.
        output: Streams for notes, warnings and progress.
        figures: Folder for the charts and grids of the page as SVG and PDF; None for no such files.
        replace: Whether existing files of the same names are replaced.

    Raises:
        UsageError: A run is named twice, or `out` is not a name of a page.
        FameError: A file is invalid or cannot be written, or an NLL is not finite.
    """
    places = [os.path.abspath(run) for run in runs]
    for number, run in enumerate(runs):
        if places[number] in places[:number]:
            raise UsageError(f"{run} is named twice", "name each run once")
    (path, folder), made = page_paths(out), _made()
    found = Collector(options, store, device, output).collect(runs)
    content = page_content(found, options) | {"subtitle": f"{made}, seed {options.seed}"}
    markdown, shown = to_markdown(content, "" if folder is None else folder.name)
    if folder is not None:
        folder.mkdir(exist_ok=True)
        for figure in shown:
            write_atomic(folder / _file_name(figure), _file_content(figure), replace=replace)
    write_atomic(path, (to_html(content) if folder is None else markdown).encode(), replace=replace)
    drawn = [] if figures is None else write_figures(shown, figures, output.note, replace)
    return {
        "schema": SCHEMA,
        "out": str(path),
        "files": [str(folder / _file_name(figure)) for figure in shown] if folder else [],
        "figures": [str(figure) for figure in drawn],
        "seed": options.seed,
        "runs": [run.summary() for run in found],
        "differences": dict(differences([run.facts for run in found])),
    }


def to_html(content: dict[str, Any]) -> str:
    """Return the page as one HTML file: no scripts, nothing fetched, all text escaped."""
    return HTML.get_template("report.jinja").render(content, format="html.jinja")


def to_markdown(content: dict[str, Any], folder: str) -> tuple[str, list[Figure]]:
    """Return the page in GitHub's Markdown, and its figures, which it expects as files in `folder`."""
    shown: list[Figure] = []

    def saved(figure: Figure) -> Markup:
        shown.append(figure)
        return Markup(f"{quote(os.fsencode(folder))}/{_file_name(figure)}")

    template = MARKDOWN.get_template("report.jinja")
    return template.render(content, format="markdown.jinja", saved=saved), shown


def _file_name(figure: Figure) -> str:
    return f"{figure.name}.{'png' if isinstance(figure, Picture) else 'svg'}"


def _file_content(figure: Figure) -> bytes:
    return figure.enlarged() if isinstance(figure, Picture) else figure.svg("file").encode()


def page_content(runs: Sequence[RunReport], options: ReportOptions) -> dict[str, Any]:
    """Return the variables of the template `report.jinja`, except the subtitle.

    Args:
        runs: Runs on the page, at least one.
        options: Options of the page.
    """
    rows = differences([run.facts for run in runs])
    return {
        "runs": runs,
        "seed": options.seed,
        "evaluated": options.evaluate,
        "nll_rows": [_nll_row(run, nll) for run in runs for nll in run.nlls],
        "run_rows": [_run_row(run.facts) for run in runs],
        "hash_rows": [row for run in runs for row in _hash_rows(run)],
        "trainings": _trainings,
        "heading": lambda run: run.name if len(runs) > 1 else "",
        "learning_curves": list(_learning_curves(runs)),
        "no_curve": _no_curve,
        "kl_divergences": [
            (run, _kl_chart(run, number), *_kl_rows(run))
            for number, run in enumerate(runs, 1)
            if run.has_latents
        ],
        "samples": [
            (run, sheet(f"samples-{n}", run.samples, f"{counted(len(run.samples), 'sample')} of {run.name}"))
            for n, run in enumerate(runs, 1)
            if run.samples is not None
        ],
        "reconstructions": [(run, _reconstructions(run, number)) for number, run in enumerate(runs, 1)],
        "bit_maps": list(_bit_maps(runs)),
        "differences": [(key, *(value or "-" for value in values)) for key, values in rows],
        "toml": tomli_w.dumps,
    }


def _made() -> str:
    """Return versions and date; SOURCE_DATE_EPOCH replaces the date, for reproducible pages.

    Raises:
        UsageError: SOURCE_DATE_EPOCH is not a time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        when = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH={epoch} is not a time", "use seconds since 1970") from error
    return f"famecli {__version__}, torch {torch.__version__}, {when:%Y-%m-%d}"


def _nll_row(run: RunReport, nll: NllRecord) -> tuple[str, ...]:
    data, one = nll.data, nll.one_draw_nats
    beside = f" (K = 1: {one:.2f} nats)" if nll.bound == "iwae" and one is not None else ""
    seed = "" if nll.seed is None else f", seed {nll.seed}"
    return (
        run.name,
        _with_error(nll.nats_per_image, nll.stderr_nats_per_image, 2),
        _with_error(nll.bits_per_dim, nll.stderr_bits_per_dim, 4),
        f"{nll.estimator}{beside}{seed}",
        _images_of(nll),
        data.binarization or UNKNOWN,
        _short(data.pixels_sha256),
        _short(nll.weights_sha256),
        _source_of(run, nll),
    )


def _images_of(nll: NllRecord) -> str:
    """Return data set, split and number of the images of an NLL."""
    count = "" if nll.data.images is None else f", {counted(nll.data.images)}"
    return f"{nll.data.dataset_id or UNKNOWN} {nll.data.split}{count}{nll.data.prepared}"


def _source_of(run: RunReport, nll: NllRecord) -> str:
    """Return the source of an NLL in words."""
    if nll.origin == "claim":
        own = nll.weights_sha256 == run.facts.weights_sha256
        return "claimed by the checkpoint" + ("" if own else ", for other weights than its own")
    return {"measured": "measured for this report", "validation": "lowest validation in training"}[nll.origin]


def _run_row(facts: RunFacts) -> tuple[str, ...]:
    return (
        facts.name,
        facts.model.preset,
        facts.provenance.trained_on or UNKNOWN,
        UNKNOWN if facts.parameters is None else f"{facts.parameters:,}",
        UNKNOWN if facts.images_seen is None else f"{facts.images_seen:,}",
        UNKNOWN if facts.hours is None else _time(facts.hours),
        facts.provenance.device or UNKNOWN,
        ", ".join(facts.provenance.versions) or UNKNOWN,
    )


def _time(hours: float) -> str:
    """Return a length of training in minutes if it is short, else in hours."""
    return f"{hours:.2f} h" if hours >= SHORT_HOURS else f"{60 * hours:.1f} min"


def _hash_rows(run: RunReport) -> Iterator[tuple[str, str, str]]:
    yield run.name, "path", run.facts.path
    yield run.name, "file of the checkpoint", run.sha256 or UNKNOWN
    yield run.name, "averaged weights", run.facts.weights_sha256 or UNKNOWN
    for nll in run.nlls:
        if nll.data.pixels_sha256:
            yield run.name, f"pixels, {_source_of(run, nll)}", nll.data.pixels_sha256


def _trainings(run: RunReport) -> str:
    """Return the initial weights of a run and the chain of its trainings; empty if it began at random."""
    past = run.facts.provenance
    if past.init is None:
        return ""
    chain = f"; {in_words(past.trainings)}: {time_in_words(past.trainings)} in all" if past.past else ""
    return f"initial weights {_short(past.init.weights_sha256)}{chain}"


def _with_error(value: float | None, stderr: float | None, digits: int) -> str:
    if value is None:
        return UNKNOWN
    # An untrusted header may hold huge numbers, which must not fill the page.
    form = f".{digits}f" if abs(value) < LARGEST_NUMBER and abs(stderr or 0.0) < LARGEST_NUMBER else ".3g"
    return f"{value:{form}}" + ("" if stderr is None else f" +- {stderr:{form}}")


def _short(sha256: str | None) -> str:
    return sha256[:HASH_LETTERS] if sha256 else UNKNOWN


def _learning_curves(runs: Sequence[RunReport]) -> Iterator[tuple[str, list[LineChart]]]:
    """Yield data set and NLLs over images and over time of each group of comparable runs."""
    drawn = [run for run in runs if _nll_curves(run.facts, "images")]
    for number, group in enumerate(comparable(drawn), 1):
        facts = [run.facts for run in group]
        longest = max(each.hours or 0.0 for each in facts)
        unit = "hours" if longest >= SHORT_HOURS else "minutes"
        charts = [
            LineChart(
                f"nll-{number}-{name}",
                f"NLL over {label}: {', '.join(each.name for each in facts)}",
                label,
                f"NLL, {facts[0].unit}",
                [curve for each in facts for curve in _nll_curves(each, name)],
                rings=True,
            )
            for name, label in (("images", "images seen"), (unit, f"{unit} of training"))
        ]
        yield facts[0].dataset or "data set not recorded", charts


def _no_curve(run: RunReport) -> str:
    """Return why a run has no curve or an incomplete one; empty if it is complete."""
    metrics = run.facts.metrics
    if metrics is None:
        return f"no curve: there is no {METRICS} beside it"
    if not _nll_curves(run.facts, "images"):
        return f"no curve: its {METRICS} has no line yet"
    return f"the last line of its {METRICS} is unfinished and was left out" if metrics.cut else ""


def _nll_curves(facts: RunFacts, over: str) -> list[Curve]:
    nats = facts.unit == "nats/image"
    return _curves(facts, facts.name, over, lambda each: each.nats_per_image if nats else each.bits_per_dim)


def _curves(facts: RunFacts, label: str, over: str, height: Callable[[Record], float | None]) -> list[Curve]:
    """Return the curves of training and validation of a run, if they have points.

    Args:
        facts: The run.
        label: Label of both curves.
        over: `images`, `hours` or `minutes`.
        height: Function that returns the height of a record's point; None for no point.
    """
    found = []
    for split in ("train", "valid"):
        records = facts.metrics.of(split) if facts.metrics else []
        points = [(getattr(each, over), y) for each in records if (y := height(each)) is not None]
        if points:
            found.append(Curve(label, points, split == "valid"))
    return found


def _kl_chart(run: RunReport, number: int) -> LineChart | None:
    """Return the KL divergence of each layer over training; None without metrics."""

    def of_layer(layer: int) -> Callable[[Record], float | None]:
        return lambda each: each.kl_nats[layer] if layer < len(each.kl_bits) else None

    curves = [
        curve
        for layer in range(run.facts.model.stochastic_layers)
        for curve in _curves(run.facts, f"layer {layer}", "images", of_layer(layer))
    ]
    title = f"KL divergence of each stochastic layer: {run.name}"
    labels = ("images seen", "KL divergence, nats/image")
    return LineChart(f"kl-{number}", title, *labels, curves, floor=0.0) if curves else None


def _kl_rows(run: RunReport) -> tuple[list[tuple[str, ...]], str]:
    """Return each layer's KL divergence with the shape of its latents, and the source; nothing if unknown."""
    model = run.facts.model
    source = next((nll for nll in run.nlls if nll.terms_nats_per_image), None)
    if source is None or source.terms_nats_per_image is None:
        return [], ""
    nats = source.terms_nats_per_image.kl
    shapes = [
        f"vector of {stage.latents}" if stage.dense else f"{stage.latents} maps of {height}x{width}"
        for stage, (height, width) in zip(model.stages, model.resolutions(), strict=True)
        if stage.latents
    ]
    layers = [(f"layer {layer}", *each) for layer, each in enumerate(zip(shapes, nats, strict=False))]
    rows: list[tuple[str, ...]] = [
        (
            name,
            shape,
            f"{value:.3f}",
            f"{value / NATS_PER_BIT:.3f}",
            f"{100 * value / sum(nats):.1f} %" if sum(nats) else "",
        )
        for name, shape, value in [*layers, ("all", "", sum(nats))]
    ]
    return rows, f"{_images_of(source)}; {_source_of(run, source)}"


def _reconstructions(run: RunReport, number: int) -> list[Picture]:
    if run.images is None or run.images.reconstructions is None:
        return []
    title = f"Test images of {run.facts.dataset}, below each its reconstruction by {run.name}"
    return list(pairs(f"rebuilt-{number}", run.images.originals, run.images.reconstructions, title))


Maps = tuple[ColourBar, list[tuple[RunReport, list[Picture], str]]]


def _bit_maps(runs: Sequence[RunReport]) -> Iterator[list[Maps]]:
    """Yield the maps of each group of comparable runs, in parts of one scale and patch size."""
    number = 0
    for group in comparable([run for run in runs if run.images is not None]):
        parts = grouped_by(group, lambda run: run.facts.model.decoder.patch)
        yield [_maps(number + place, part, len(parts) > 1) for place, part in enumerate(parts, 1)]
        number += len(parts)


def _maps(number: int, runs: Sequence[RunReport], several: bool) -> Maps:
    """Return the colours and the maps of runs, with the bits of each image in words.

    Args:
        number: Number of the scale on the page.
        runs: Runs that share the scale.
        several: Whether comparable runs have other scales, so that the title must name this one.
    """
    seen = [(run, run.images) for run in runs if run.images is not None]
    high = shown_bits([images.bits for _, images in seen])
    maps = []
    for place, (run, images) in enumerate(seen, 1):
        title = f"Test images, below each the bits per pixel of {run.name}"
        colours = coloured(images.bits, high)
        pictures = list(pairs(f"bits-{number}-{place}", images.originals, colours, title))
        maps.append((run, pictures, ", ".join(f"{each.sum():,.0f}" for each in images.bits)))
    patch = f", decoder.patch = {runs[0].facts.model.decoder.patch}" if several else ""
    return ColourBar(f"scale-{number}", f"Colours of the maps{patch}", "bits per pixel", high), maps
