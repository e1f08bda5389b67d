"""`fame verify`."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from famecli import __version__
from famecli.cli.grouping import grouped
from famecli.cli.groups import MOST_IMAGES, Common, Machine, Preparing, Seed, SplitName
from famecli.cli.sources import DataSource, ModelSource
from famecli.errors import GateError, UnavailableError, UsageError, did_you_mean
from famecli.files import STDIN
from famecli.output import FittedTable, say
from famecli.verification.findings import CHECKS, CheckResult

if TYPE_CHECKING:
    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.data.dataset import ImageSplit

SCHEMA = "famecli/verify/1"
ALL = ",".join(CHECKS)

Checks = Annotated[
    str, typer.Option("--checks", metavar="NAME,…", help=f"Some of: {', '.join(CHECKS)}; all by default.")
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=2,
        max=MOST_IMAGES,
        metavar="IMAGES",
        help="Images drawn for the sampler's check (default: 256, or 64 from mixtures).",
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        min=1,
        max=MOST_IMAGES,
        metavar="IMAGES",
        help="Minimum number of images of the other checks of the model (default: 2 to 4).",
    ),
]
Coded = Annotated[
    int, typer.Option("--limit", min=1, metavar="IMAGES", help="Number of test images that are coded.")
]


@grouped
def verify(
    *,
    source: ModelSource,
    data: DataSource,
    preparing: Preparing,
    checks: Checks = ALL,
    samples: Samples = None,
    images: Images = None,
    limit: Coded = 64,
    seed: Seed = 0,
    machine: Machine,
    common: Common,
) -> None:
    """Check the likelihood: causality, batch invariance, normalisation, latents, sampler, code and claims.

    Exit code 7: a check failed; 4: nothing could be checked. -q then prints fail or skip, else pass.

    Examples:

      fame verify fame-mnist

      fame verify run/ --checks causality,batch -q

      fame verify --dataset cifar10 --samples 1000 --images 8 --limit 512
    """
    output = common.output()
    if data.data == STDIN:
        raise UsageError(
            "checks are made with data sets, not with images on stdin", "name a folder with --data"
        )
    names = _names(checks)
    source.check(output)
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.verification import runner
    from famecli.verification.subject import Subject

    started_s = time.monotonic()
    loaded = source.load(output, machine.torch_device())
    subject = Subject(loaded.model, seed, samples, images)

    def test_images(dataset: str | None, split: SplitName) -> "ImageSplit":
        if dataset is None and source.dataset is None and loaded.provenance.dataset is None:
            raise UnavailableError(f"{loaded.source} does not say what it was trained on")
        name = dataset or source.dataset_of(loaded)
        return data.split(name, split, loaded, output, preparing)

    with output.progress("verifying", len(names)) as advance:
        results = runner.verify(
            loaded, subject, names, images=test_images, limit=limit, advance=advance, report=output.note
        )
    failed = [each.name for each in results if each.verdict == "failed"]
    passed = not failed and any(each.verdict == "passed" for each in results)
    document = {
        "schema": SCHEMA,
        "checkpoint": loaded.reference | {"weights_sha256": loaded.weights_sha256},
        "passed": passed,
        "checks": [each.to_dict() for each in results],
        "seed": seed,
        "device": loaded.model.device.type,
        "seconds": round(time.monotonic() - started_s, 2),
        "version": __version__,
    }
    value = "fail" if failed else "pass" if passed else "skip"
    output.result(document, value, lambda console: _show(document, loaded, results, console))
    if failed:
        raise GateError(
            f"{loaded.source} failed: {', '.join(failed)}", "docs/verification.md says what each means"
        )
    if not passed:
        raise UnavailableError(f"nothing was checked: {results[0].finding.sentence}")


def _names(text: str) -> list[str]:
    """Return the names in `text`, in the order of `CHECKS`.

    Raises:
        UsageError: A name is unknown, or there is none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CHECKS:
            raise UsageError(f"unknown check {name!r}", did_you_mean(name, CHECKS, "checks"))
    if not names:
        raise UsageError("--checks names no check", f"checks: {', '.join(CHECKS)}")
    return [name for name in CHECKS if name in names]


def _show(
    document: dict[str, Any], loaded: "Checkpoint", results: list[CheckResult], console: Console
) -> None:
    rows = [row for each in results for row in _rows(each)]
    config = loaded.model.config
    say(console, f"{config.preset} from {loaded.source}, {config.likelihood}, {loaded.weights} weights")
    console.print(FittedTable("", ["check", "measured", "value", "limit", "verdict", "s"], rows, right=False))
    console.print(
        f"weights {loaded.weights_sha256[:16]}, seed {document['seed']}, {document['device']}, "
        f"{document['seconds']:.1f} s"
    )


def _rows(result: CheckResult) -> list[tuple[str, ...]]:
    """Return a row per measurement; only the first has name and seconds."""
    rows = [
        (each.what, f"{each.value:.3g}", f"{each.limit:.3g}", "passed" if each.passed else "FAILED")
        for each in result.finding.measurements
    ]
    verdict = "FAILED" if result.verdict == "failed" else result.verdict
    rows = rows or [(result.finding.sentence, "", "", verdict)]
    return [
        (result.name if index == 0 else "", *row, f"{result.seconds:.1f}" if index == 0 else "")
        for index, row in enumerate(rows)
    ]
