"""`fame report`."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from famecli import __version__
from famecli.cli import options
from famecli.cli.groups import Machine, Network
from famecli.cli.report_runs import Collector, Wishes
from famecli.cli.sources import DataSource, ModelSource
from famecli.errors import InputError, UsageError
from famecli.files import STDIN, free_name, unwritable, write_atomic
from famecli.output import Output

if TYPE_CHECKING:
    from famecli.report.document import Document
    from famecli.report.report import RunReport

HTML, MARKDOWN = (".html", ".htm"), (".md", ".markdown")

Runs = Annotated[
    list[str], typer.Argument(metavar="RUN…", help="Run folders, checkpoints, or names of weights.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o", "--out", metavar="FILE", help="Page: .html, or .md with its images in a folder beside it."
    ),
]
Samples = Annotated[int, typer.Option("--samples", min=0, metavar="IMAGES", help="Samples of each run.")]
Images = Annotated[
    int, typer.Option("--images", min=0, metavar="IMAGES", help="Test images to reconstruct and to map.")
]
Evaluate = Annotated[bool, typer.Option("--evaluate", help="Measure the NLL of the test split.")]


def report(
    runs: Runs,
    out: Out = None,
    samples: Samples = 64,
    images: Images = 8,
    evaluate: Evaluate = False,
    limit: options.Limit = None,
    data: options.Data = None,
    seed: options.Seed = 0,
    force: options.Force = False,
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write one page about runs: NLLs, curves, samples, reconstructions. Prints its path.

    The page needs nothing else: no scripts, no network. What cannot be shown, for example without the test
    images, is said in a sentence.

    Examples:

      fame report run/ -o report.html

      fame report runs/*/ --evaluate --limit 1000 -o report.html

      fame report fame-mnist --samples 100 -o report.md
    """
    output = Output(json=json, quiet=quiet)
    if limit is not None and not evaluate:
        raise UsageError("--limit is for --evaluate", "add --evaluate, or leave --limit out")
    if data == STDIN or str(STDIN) in runs:
        raise UsageError("a report reads files: nothing comes through stdin")
    _check_named_once(runs)
    target = Target.of(out or Path(free_name("report", ".html")), force)
    network, machine = Network(offline=offline, cache_dir=cache_dir), Machine(threads=threads, device=device)
    place = DataSource(data=data, network=network)
    choices = [ModelSource(checkpoint=run, network=network) for run in runs]
    wishes = Wishes(samples, images, evaluate, limit, seed)
    target.write(Collector(choices, place, machine, wishes, output).collect(), wishes, output)


def _check_named_once(runs: list[str]) -> None:
    """Check that no run is named twice; runs of one name in different folders are told apart by numbers.

    Raises:
        UsageError: One is.
    """
    named: set[str] = set()
    for run in runs:
        if (path := os.path.abspath(run)) in named:
            raise UsageError(f"{run} is named twice", "name each run once")
        named.add(path)


@dataclass(frozen=True)
class Target:
    """Where the page goes.

    Args:
        path: Of the page.
        folder: Of its images; None where they are in the page.
    """

    path: Path
    folder: Path | None

    @classmethod
    def of(cls, path: Path, force: bool) -> "Target":
        """Return the target that a path names, before any work is done.

        Raises:
            UsageError: It is no name of a page.
            InputError: It exists and `force` is not set, or cannot be made.
        """
        if path.suffix.lower() not in HTML + MARKDOWN:
            raise UsageError(f"{path} is no name of a page", f"endings: {', '.join(HTML + MARKDOWN)}")
        folder = path.with_name(f"{path.stem}_files") if path.suffix.lower() in MARKDOWN else None
        options.check_absent(force, path, folder)
        if path.is_dir() or (folder is not None and folder.exists() and not folder.is_dir()):
            raise InputError(f"{path if path.is_dir() else folder} is in the way", "choose another name")
        if not path.parent.is_dir():
            raise unwritable(path, FileNotFoundError("no such folder"))
        return cls(path, folder)

    def write(self, runs: "list[RunReport]", wishes: Wishes, output: Output) -> None:
        """Write the page, its images before it, and report."""
        from famecli.report.page import page
        from famecli.report.summary import summary

        text, files = self._render(page(runs, _made(), wishes.seed, wishes.evaluate))
        if self.folder is not None:
            self.folder.mkdir(exist_ok=True)
            for name, content in files.items():
                write_atomic(self.folder / name, content)
        write_atomic(self.path, text.encode())
        paths = [str(self.folder / name) for name in files] if self.folder else []
        output.result(summary(runs, str(self.path), paths, wishes.seed), str(self.path))

    def _render(self, document: "Document") -> tuple[str, dict[str, bytes]]:
        from famecli.report.html_page import to_html
        from famecli.report.markdown_page import to_markdown

        if self.folder is None:
            return to_html(document), {}
        return to_markdown(document, self.folder.name)


def _made() -> str:
    """Return versions and date: that of SOURCE_DATE_EPOCH where it is set, so that a page can be made again.

    Raises:
        UsageError: It is no time.
    """
    import torch

    told = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        when = datetime.now(UTC) if told is None else datetime.fromtimestamp(int(told), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"SOURCE_DATE_EPOCH={told} is no time", "set it to seconds since 1970") from error
    return f"famecli {__version__}, torch {torch.__version__}, {when:%Y-%m-%d}"
