"""`fame report`."""

from pathlib import Path
from typing import Annotated

import typer

from famecli.cli.grouping import grouped
from famecli.cli.groups import MOST_IMAGES, Common, Data, Force, Limit, Machine, Network, Seed, check_absent
from famecli.cli.sources import complete_weights
from famecli.errors import UsageError
from famecli.files import STDIN, check_exists, check_writable, free_name

Runs = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN…",
        help="Run folders, checkpoints, or names of weights.",
        autocompletion=complete_weights,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="FILE", help="Page: .html, or .md with its images in a folder beside it."
    ),
]
Figures = Annotated[
    Path | None,
    typer.Option(
        "--figures", metavar="FOLDER", help="Also write each chart and grid as SVG and PDF, for papers."
    ),
]
Samples = Annotated[
    int, typer.Option("--samples", min=0, max=MOST_IMAGES, metavar="IMAGES", help="Samples of each run.")
]
Images = Annotated[
    int,
    typer.Option(
        "--images",
        min=0,
        max=MOST_IMAGES,
        metavar="IMAGES",
        help="Test images for reconstructions and heatmaps.",
    ),
]
Evaluate = Annotated[bool, typer.Option("--evaluate", help="Measure the NLL of the test split.")]


@grouped
def report(
    runs: Runs,
    out: Out = None,
    figures: Figures = None,
    samples: Samples = 64,
    images: Images = 8,
    evaluate: Evaluate = False,
    limit: Limit = None,
    data: Data = None,
    seed: Seed = 0,
    force: Force = False,
    *,
    machine: Machine,
    network: Network,
    common: Common,
) -> None:
    """Write one page about runs: NLLs, curves, samples, reconstructions. Prints its path.

    The page needs no scripts and no network. If something cannot be shown, for example without the test
    images, a sentence says why.

    Examples:

      fame report run/ -o report.html

      fame report runs/*/ --evaluate --limit 1000 -o report.html

      fame report fame-mnist --samples 100 -o report.md

      fame report runs/*/ --figures figures/
    """
    if limit is not None and not evaluate:
        raise UsageError("--limit is for --evaluate", "add --evaluate, or leave --limit out")
    if data == STDIN or str(STDIN) in runs:
        raise UsageError("a report reads files: nothing comes through stdin")
    if data is not None:
        check_exists(data)
    from famecli.report.collect import ReportOptions
    from famecli.report.page import page_paths, write_report

    output, path = common.output(), out or Path(free_name("report", ".html"))
    paths = page_paths(path)
    check_writable(path)
    if figures is not None:
        if figures.resolve() in (each.resolve() for each in paths if each is not None):
            raise UsageError(f"--figures needs a folder of its own: {figures} is the page")
        check_writable(figures, folder=True)
    check_absent(force, *paths, figures)
    wanted = ReportOptions(samples, images, evaluate, limit, seed, data)
    document = write_report(
        runs, path, wanted, network.store(output), machine.torch_device(), output, figures, force
    )
    output.result(document, str(path))
