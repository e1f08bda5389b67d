"""`fame compare`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from famecli.cli.grouping import grouped
from famecli.cli.groups import Common
from famecli.errors import UsageError
from famecli.files import STDIN, free_name
from famecli.output import FittedTable, say

if TYPE_CHECKING:
    from famecli.evaluation.comparison import Comparison, Waiver

A = Annotated[Path, typer.Argument(metavar="A.json|-", help="Output of evaluate-nll --json --with-images.")]
B = Annotated[
    Path, typer.Argument(metavar="B.json|-", help="The same output for another model or estimator.")
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="estimator|names",
        help="Allow different estimators, or names of data set, split and binarization. May be repeated.",
    ),
]


@grouped
def compare(a: A, b: B, *, allow: Allow = None, common: Common) -> None:
    """Compare two NLLs image by image: mean difference A - B, its 95 % interval, and the p value.

    Both must be of exactly the same pixels, by the same estimator. Below 0, A is the better one. -q prints
    only the mean difference in nats.

    Examples:

      fame evaluate-nll one/ --json --with-images > a.json

      fame evaluate-nll two/ --json --with-images > b.json

      fame compare a.json b.json

      fame compare exact.json bound.json --allow estimator
    """
    from famecli.evaluation import comparison as library

    if unknown := [word for word in allow or () if word not in library.WAIVERS]:
        raise UsageError(f"unknown --allow {unknown[0]!r}", f"choose {' or '.join(library.WAIVERS)}")
    if a == b == STDIN:
        raise UsageError("only one of the two can come from stdin", "write the other one to a file")
    _check_measured(a, b)
    waived = cast("frozenset[Waiver]", frozenset(allow or ()))
    found = library.compare(library.read_scores(a), library.read_scores(b), waived)
    common.output().result(
        found.to_dict(), f"{found.paired.mean:.5f}", lambda console: _show(found, (a, b), console)
    )


def _check_measured(a: Path, b: Path) -> None:
    """Check that both files can be measured NLLs, not models.

    Raises:
        UsageError: One is images, a run, a checkpoint or a name of weights; the hint has the commands that
            measure.
    """
    from famecli.checkpoints.index import index
    from famecli.checkpoints.store import RUN_MARKS
    from famecli.data.listing import holds_images

    models, commands, measured = [], [], []
    for path, stem in ((a, "a"), (b, "b")):
        name = str(path)
        if holds_images(name, RUN_MARKS):
            raise UsageError(
                f"{name} holds images, and fame compare reads measured NLLs",
                f"fame evaluate-nll CKPT {shlex.quote(name)} --json --with-images > {stem}.json",
            )
        if path.is_dir() or path.suffix == ".safetensors" or (not path.exists() and name in index()):
            models.append(name)
            name = free_name(stem, ".json")
            commands.append(f"fame evaluate-nll {shlex.quote(models[-1])} --json --with-images > {name}")
        measured.append(name)
    if models:
        raise UsageError(
            f"{models[0]} is a model, and fame compare reads measured NLLs",
            f"measure {'it' if len(models) == 1 else 'both'}, on images of your own with --data PATH: "
            f"{'; '.join(commands)}; {shlex.join(['fame', 'compare', *measured])}",
        )


def _show(found: "Comparison", paths: tuple[Path, Path], console: Console) -> None:
    """Print a comparison for people."""
    paired, data, images = found.paired, found.a.data, len(found.a.image_nats)
    say(console, str(data))
    rows = []
    for letter, path, scores in zip("AB", paths, (found.a, found.b), strict=True):
        figures = (scores.nats_per_image, scores.stderr_nats_per_image or 0.0)
        nats, bits = (f"{each:.3f}" for each in figures), (f"{found.per_dim(each):.5f}" for each in figures)
        rows.append((f"{letter}, {path}, {scores.estimator}", *nats, *bits))
    both = [f"{paired.mean:+.3f}", f"{paired.stderr:.3f}"]
    both += [f"{found.per_dim(paired.mean):+.5f}", f"{found.per_dim(paired.stderr):.5f}"]
    console.print(FittedTable("", ["", "nats/image", "+-", "bits/dim", "+-"], [*rows, ("A - B", *both)]))
    for what, (low, high) in (("t", paired.interval), ("bootstrap", paired.bootstrap)):
        console.print(
            f"95 % interval ({what}): {low:+.3f} to {high:+.3f} nats, "
            f"{found.per_dim(low):+.5f} to {found.per_dim(high):+.5f} bits/dim"
        )
    console.print(
        f"paired t test: t = {'-' if paired.t is None else f'{paired.t:.2f}'}, {images - 1} degrees of "
        f"freedom, p = {paired.p_value:.2g}; A costs less on {found.lower_in_a:,} of {images:,} images"
    )
    if remark := found.remark():
        console.print(remark)
