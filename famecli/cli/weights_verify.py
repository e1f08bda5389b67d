"""`fame weights verify`: files against their hashes, and models against the NLL that they claim."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from famecli.cli import options
from famecli.cli.evaluate_nll import AUTOMATIC_BATCH, Protocol, measure
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.errors import ExitCode, FameError, UnavailableError, UsageError
from famecli.files import STDIN
from famecli.output import Output, table
from famecli.weights import index, unknown_checkpoint
from famecli.weights_claims import FIRST_IMAGES, Claim, read_claim
from famecli.weights_store import Store, check_hash

SCHEMA = "famecli/weights-verify/1"
# A wrong hash says more than a wrong claim, and that more than one that could not be measured.
WORST_FIRST = (ExitCode.INTEGRITY, ExitCode.GATE)

Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="Name of weights; all installed ones if left out.")
]
Claims = Annotated[bool, typer.Option("--claims", help="Also measure anew the NLL that is claimed.")]
ClaimLimit = Annotated[
    int,
    typer.Option(
        "--limit", min=1, metavar="IMAGES", help="With --claims: 256, or as many as the claim is about."
    ),
]


@dataclass(frozen=True)
class Measuring:
    """How claims are measured: where the data are, and how fast."""

    place: DataPlace
    limit: int
    batch_size: int
    device: str
    threads: int | None
    output: Output

    def check(self, name: str, path: Path, found: dict[str, Any]) -> None:
        """Measure anew what a checkpoint claims; figures go into `found`.

        Raises:
            GateError: It is something else.
            FameError: It cannot be measured.
        """
        claim: Claim = read_claim(path)
        images, claimed = claim.expected(name, self.limit)
        protocol = Protocol(claim.split, claim.importance_samples, images, self.batch_size, claim.seed)
        choice = ModelChoice(str(path), claim.dataset_id, None, "ema", self.device, self.threads)
        report = measure(choice, self.place, protocol, self.output)
        measured = report.nlls.mean
        found |= {
            "images": len(report.nlls.nats),
            "claimed_nats_per_image": claimed,
            "measured_nats_per_image": measured,
        }
        claim.check_pixels(images, report.scored.sha256)
        claim.check(name, claimed, measured, report.nlls.bound)


def verify(
    name: Name = None,
    claims: Claims = False,
    limit: ClaimLimit = FIRST_IMAGES,
    data: options.Data = None,
    batch_size: options.BatchSize = "auto",
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Check installed weights against their recorded hashes, and with --claims the NLL that they claim.

    Exit code 5: a wrong hash; 7: a wrong claim. -q prints the names of those that are right.

    Examples:

      fame weights verify

      fame weights verify fame-mnist --claims
    """
    output = Output(json=json, quiet=quiet)
    if data == STDIN:
        raise UsageError("claims are about data sets, not about images on stdin", "name a folder with --data")
    place = DataPlace(data, cache_dir, offline, output.note)
    batch = options.count(batch_size, "--batch-size", AUTOMATIC_BATCH)
    measuring = Measuring(place, limit, batch, device, threads, output) if claims else None
    rows: list[dict[str, Any]] = []
    problems: list[FameError] = []
    for each, path, sha256 in _chosen(Store(cache_dir), name):
        rows.append({"name": each, "path": str(path), "sha256": sha256, "state": "right", "problem": None})
        if (problem := _problem(rows[-1], path, measuring)) is not None:
            problems.append(problem)
            rows[-1] |= {"state": _state(problem), "problem": str(problem)}
    right = [row["name"] for row in rows if row["state"] == "right"]
    document = {"schema": SCHEMA, "weights": rows}
    output.result(document, "\n".join(right), lambda console: _show(rows, console))
    if problems:
        raise min(problems, key=_rank)


def _chosen(store: Store, name: str | None) -> list[tuple[str, Path, str]]:
    every = list(store.installed())
    found = [each for each in every if name in (None, each[0])]
    if not found and name in index():
        raise UnavailableError(f"{name} is not on this machine", f"fame weights pull {name}")
    if not found and name is not None:
        raise unknown_checkpoint(name)
    return found


def _problem(row: dict[str, Any], path: Path, measuring: Measuring | None) -> FameError | None:
    """Return what is wrong with weights, or None; what is measured goes into their `row`."""
    figures: dict[str, Any] = {}
    try:
        check_hash(path, row["sha256"])
        if measuring is not None:
            measuring.check(row["name"], path, figures)
    except FameError as error:
        return error
    finally:
        row["claim"] = figures or None
    return None


def _state(problem: FameError) -> str:
    return "wrong" if problem.exit_code in WORST_FIRST else "not measured"


def _rank(problem: FameError) -> int:
    code = problem.exit_code
    return WORST_FIRST.index(code) if code in WORST_FIRST else len(WORST_FIRST)


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        claim = row["claim"]
        if claim is None:
            return row["name"], row["sha256"][:16], "", "", "", row["state"]
        claimed, measured = claim["claimed_nats_per_image"], claim["measured_nats_per_image"]
        return (
            row["name"],
            row["sha256"][:16],
            str(claim["images"]),
            f"{claimed:.4f}",
            f"{measured:.4f}",
            row["state"],
        )

    columns = ("name", "sha256", "images", "claimed", "measured", "state")
    console.print(table("", columns, [cells(row) for row in rows]))
