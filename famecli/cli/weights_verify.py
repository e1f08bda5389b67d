"""`fame weights verify`: files against their hashes, and models against the NLL that they claim."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from famecli.checkpoints.claims import FIRST_IMAGES, read_claims
from famecli.checkpoints.index import index, unknown_checkpoint
from famecli.checkpoints.store import Store, check_hash
from famecli.cli import options
from famecli.cli.groups import BatchSize, Machine, Network
from famecli.cli.sources import DataSource, ModelSource
from famecli.errors import ExitCode, FameError, UnavailableError, UsageError
from famecli.files import STDIN
from famecli.output import Output, table

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

Further = Annotated[
    bool, typer.Option("--further", help="With --claims: what is claimed by other estimators, too.")
]


@dataclass(frozen=True)
class Measuring:
    """How claims are measured: where the data are, how fast, and whether by other estimators, too."""

    place: DataSource
    limit: int
    batch_size: int | None
    machine: Machine
    output: Output
    further: bool = False

    def check(self, name: str, path: Path, found: list[dict[str, Any]]) -> None:
        """Measure the claims of a checkpoint again; the figures of each claim are added to `found`.

        Raises:
            GateError: An NLL is another one than the claimed one.
            FameError: A claim cannot be measured.
        """
        from famecli.nll.score import measure_claim

        first, *others = read_claims(path)
        source = ModelSource(checkpoint=str(path), network=self.place.network)
        loaded = source.load(self.output, self.machine.torch_device())
        levels = loaded.model.config.levels
        for claim in (first, *others) if self.further else (first,):
            count, _ = claim.expected(name, self.limit)
            with self.output.progress("evaluating", count) as advance:
                again = measure_claim(
                    loaded,
                    claim,
                    lambda claim: self.place.split(claim.dataset_id, claim.split, levels, self.output),
                    name=name,
                    limit=self.limit,
                    batch_size=self.batch_size,
                    advance=advance,
                )
            found.append(again.to_dict())
            again.check(name)


def verify(
    name: Name = None,
    claims: Claims = False,
    limit: ClaimLimit = FIRST_IMAGES,
    further: Further = False,
    data: options.Data = None,
    batch_size: BatchSize = None,
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
    place = DataSource(data=data, network=Network(offline=offline, cache_dir=cache_dir))
    machine = Machine(threads=threads, device=device)
    measuring = Measuring(place, limit, batch_size, machine, output, further) if claims else None
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
    figures: list[dict[str, Any]] = []
    try:
        check_hash(path, row["sha256"])
        if measuring is not None:
            measuring.check(row["name"], path, figures)
    except FameError as error:
        return error
    finally:
        row["claim"] = figures[0] if figures else None
        row["further"] = figures[1:]
    return None


def _state(problem: FameError) -> str:
    return "wrong" if problem.exit_code in WORST_FIRST else "not measured"


def _rank(problem: FameError) -> int:
    code = problem.exit_code
    return WORST_FIRST.index(code) if code in WORST_FIRST else len(WORST_FIRST)


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    def cells(row: dict[str, Any], claim: dict[str, Any] | None) -> tuple[str, ...]:
        figures: tuple[str, ...] = ("",) * 4
        if claim is not None:
            nats = (f"{claim[key]:.4f}" for key in ("claimed_nats_per_image", "measured_nats_per_image"))
            figures = (str(claim["images"]), str(claim["importance_samples"]), *nats)
        return row["name"], row["sha256"][:16], *figures, row["state"]

    columns = ("name", "sha256", "images", "K", "claimed", "measured", "state")
    lines = [cells(row, claim) for row in rows for claim in (row["claim"], *row["further"])]
    console.print(table("", columns, lines))
