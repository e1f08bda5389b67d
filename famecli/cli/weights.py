"""`fame weights`: named weights. No torch here, except to measure or import weights."""

import contextlib
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from famecli.checkpoints.header import read_header
from famecli.checkpoints.index import KEYS, WeightsEntry, entry_of, index, weights_folder
from famecli.checkpoints.store import Named, Store, checkpoint_file
from famecli.checkpoints.urls import addresses, is_hub
from famecli.checkpoints.verified import WORST_FIRST, Verified, verify_weights
from famecli.cli.grouping import App, grouped
from famecli.cli.groups import BatchSize, Common, DryRun, Machine, Network, ShortDryRun
from famecli.cli.push import push
from famecli.cli.sources import DataSource, complete_weights
from famecli.config.schema import ModelConfig
from famecli.data.registry import DATASETS
from famecli.errors import FameError, UnavailableError, UsageError
from famecli.escape import redacted
from famecli.files import STDIN
from famecli.nll.record import FIRST_IMAGES, LIKELIHOODS, NllRecord, bits_per_dim, unit_of
from famecli.output import FittedTable

if TYPE_CHECKING:
    from famecli.checkpoints.checkpoint import Checkpoint

# Words beside an NLL that is an upper bound.
BOUNDS = {"exact": "", "elbo": "-ELBO", "iwae": "IWAE", None: ""}

app = App(no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of weights, or a URL with #sha256=HEX.", autocompletion=complete_weights
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Names of weights, hf://ORG/REPO, URLs with #sha256=HEX, or checkpoint files.",
        autocompletion=complete_weights,
    ),
]
KeptName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Name to keep the file under (default: the file's, or that of the repository).",
    ),
]
Installed = Annotated[bool, typer.Option("--installed", help="Only weights on this machine.")]
All = Annotated[bool, typer.Option("--all", help="All weights of the index.")]
Revision = Annotated[
    str | None,
    typer.Option("--revision", metavar="REV", help="Branch, tag or commit of a Hugging Face repository."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace another checkpoint of this name.")]
VerifiedName = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="Name of weights; all installed ones if left out.",
        autocompletion=complete_weights,
    ),
]
CachedName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="Name of fetched or imported weights.", autocompletion=complete_weights
    ),
]
Claims = Annotated[bool, typer.Option("--claims", help="Also measure the claimed NLL again.")]
ClaimLimit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        min=1,
        metavar="IMAGES",
        show_default=str(FIRST_IMAGES),
        help="With --claims: number of images, 256 or all images of the claim.",
    ),
]
Further = Annotated[
    bool, typer.Option("--further", help="With --claims: also the claims by other estimators.")
]


@app.command("list")
@grouped
def list_weights(installed: Installed = False, *, network: Network, common: Common) -> None:
    """List named weights: those of the index, and your imported ones. -q prints the names.

    Examples:

      fame weights list

      fame weights list --installed -q
    """
    store = network.store(common.output())
    every = [*(_row(store, entry) for entry in index().values()), *map(_imported_row, store.imported())]
    rows = [row for row in every if row["path"] is not None or not installed]
    data = {"schema": "famecli/weights-list/1", "weights": rows}
    names = "\n".join(row["name"] for row in rows)
    common.output().result(data, names, lambda console: _show_list(rows, console))


@app.command("pull")
@grouped
def pull(
    sources: Sources = None,
    every: All = False,
    name: KeptName = None,
    revision: Revision = None,
    force: Force = False,
    dry_run: DryRun = False,
    short_dry_run: ShortDryRun = False,
    *,
    network: Network,
    common: Common,
) -> None:
    """Download or import weights. Prints their paths.

    Names and URLs are downloaded if they are missing. A checkpoint file, the model of a run folder, or that
    of a Hugging Face repository is checked and kept under a name.

    Examples:

      fame weights pull fame-mnist

      fame weights pull --all --dry-run

      fame weights pull run/best.safetensors --name my-model

      fame weights pull hf://ORG/REPO --revision v1
    """
    output, dry_run = common.output(), dry_run or short_dry_run
    if sources and every:
        raise UsageError("--all takes all names", "leave the names or --all out")
    if not sources and not every:
        raise UsageError("name weights, or say --all", f"names of weights: {', '.join(index())}")
    if name is not None and len(sources or ()) != 1:
        raise UsageError("--name is for one checkpoint file", "pull the files one by one")
    words = [_at(each, revision) for each in sources or index()]
    store = network.store(output)
    rows = [_pulled(store, each, name, force=force, dry_run=dry_run) for each in words]
    data = {"schema": "famecli/weights-pull/1", "dry_run": dry_run, "weights": rows}
    output.result(data, "\n".join(str(row["path"] or " ".join(row["urls"])) for row in rows))


app.command("push")(push)


@app.command("path")
@grouped
def path_of(name: Name, *, network: Network, common: Common) -> None:
    """Print the path of a weights file, after downloading it if it is missing.

    Examples:

      fame weights path fame-mnist

      cp $(fame weights path fame-mnist) here.safetensors
    """
    output = common.output()
    path = _get(network.store(output), name)
    output.result({"schema": "famecli/weights-path/1", "name": name, "path": str(path)}, str(path))


@app.command("rm")
@grouped
def remove(name: CachedName, *, network: Network, common: Common) -> None:
    """Delete fetched or imported weights from the cache. Prints the paths of the deleted files.

    Examples:

      fame weights rm my-model
    """
    paths = [str(path) for path in network.store(common.output()).remove(name)]
    data = {"schema": "famecli/weights-rm/1", "name": name, "removed": paths}
    common.output().result(data, "\n".join(paths))


@app.command("verify")
@grouped
def verify(
    name: VerifiedName = None,
    claims: Claims = False,
    limit: ClaimLimit = None,
    further: Further = False,
    batch_size: BatchSize = None,
    *,
    data: DataSource,
    machine: Machine,
    common: Common,
) -> None:
    """Check installed weights against their recorded hashes, and with --claims the NLL that they claim.

    Exit code 5: a wrong hash; 7: a wrong claim. -q prints the names of valid weights.

    Examples:

      fame weights verify

      fame weights verify fame-mnist --claims
    """
    output = common.output()
    if data.data == STDIN:
        raise UsageError("claims are about data sets, not about images on stdin", "name a folder with --data")
    if not claims and (further or limit is not None):
        raise UsageError("--further and --limit are for --claims", "add --claims, or leave them out")
    most = limit or FIRST_IMAGES

    # All claims of a file are measured one after the other.
    @functools.lru_cache(maxsize=1)
    def load(path: Path) -> "Checkpoint":
        from famecli.checkpoints.checkpoint import load_checkpoint

        loaded = load_checkpoint(path)
        loaded.model.on(machine.torch_device())
        return loaded

    def measure(weights: Named, claim: NllRecord) -> NllRecord:
        from famecli.evaluation.score import measure_again

        loaded = load(weights.path)
        output.note(f"{weights.name} claims {claim}")
        count, _ = claim.expected(weights.name, most)
        if claim.accuracy is not None and claim.expected_accuracy(count) is None:
            output.note(f"its accuracy is only compared with --limit {claim.data.images}")
        with output.progress("evaluating", count) as advance:
            return measure_again(
                loaded,
                claim,
                lambda dataset, split: data.split(dataset, split, loaded, output),
                name=weights.name,
                limit=most,
                batch_size=batch_size,
                advance=advance,
                report=output.note,
            )

    found = [
        verify_weights(each, functools.partial(measure, each) if claims else None, further=further)
        for each in _installed(data.network.store(output), name)
    ]
    document = {"schema": "famecli/weights-verify/1", "weights": [each.to_dict() for each in found]}
    right = "\n".join(each.weights.name for each in found if each.problem is None)
    output.result(document, right, lambda console: _show_verified(found, console))
    if problems := [each.problem for each in found if each.problem is not None]:
        raise min(problems, key=lambda each: [*WORST_FIRST, each.exit_code].index(each.exit_code))


def _get(store: Store, name: str) -> Path:
    if (path := store.get(name)) is None:
        raise store.unknown(name)
    return path


def _installed(store: Store, name: str | None) -> list[Named]:
    """Return the installed weights of a name, or all of them."""
    found = [each for each in store.installed() if name in (None, each.name)]
    if not found and name in index():
        raise UnavailableError(f"{name} is not on this machine", f"fame weights pull {name}")
    if not found and name is not None:
        raise store.unknown(name)
    return found


def _at(word: str, revision: str | None) -> str:
    """Return an address of the hub at a revision, or any word if there is no revision."""
    if revision is None:
        return word
    if not is_hub(word) or "@" in word:
        raise UsageError(f"--revision is for hf://ORG/REPO, not for {word}", "write hf://ORG/REPO@REV")
    address, hashed, sha256 = word.partition("#")
    return f"{address}@{revision}{hashed}{sha256}"


def _pulled(store: Store, word: str, name: str | None, *, force: bool, dry_run: bool) -> dict[str, Any]:
    """Download or import weights, or with `dry_run` find their address; return their row."""
    if "://" in word:
        return _pulled_url(store, word, name, force=force, dry_run=dry_run)
    entry, path = index().get(word), Path(word)
    known = entry is not None or any(each.name == word for each in store.imported())
    if known and name is None and (entry is not None or not path.is_dir()):
        return _pulled_name(store, word, entry, dry_run=dry_run)
    if known and not path.exists():
        raise UsageError(f"{word} has a name already, and --name is for files and URLs", "leave --name out")
    if path.is_dir():
        path, name = checkpoint_file(word, store), name or path.resolve().name
    if not (path.exists() or path.suffix or len(path.parts) > 1):
        raise store.unknown(word)
    if dry_run:
        read_header(path)
        return {"name": name or path.stem, "path": None, "urls": [word]}
    kept = store.keep(path, name, force=force)
    return {"name": kept.name, "path": str(kept.path), "fetched": True}


def _pulled_url(store: Store, url: str, name: str | None, *, force: bool, dry_run: bool) -> dict[str, Any]:
    if dry_run:
        return {"name": url, "path": None, "urls": [redacted(url)]}
    if name is None and not is_hub(url):
        return {"name": url, "path": str(_get(store, url)), "fetched": False}
    located = store.locate(url)
    kept = store.pull(located, name, force=force)
    store.report(f"{kept.name} is {located.pinned}")
    return {"name": kept.name, "path": str(kept.path), "fetched": True, "pinned": located.pinned}


def _pulled_name(store: Store, name: str, entry: WeightsEntry | None, *, dry_run: bool) -> dict[str, Any]:
    here = store.get(name) if entry is None else store.find(entry)
    if not dry_run:
        return {"name": name, "path": str(_get(store, name)), "fetched": here is None}
    if entry is None or here is not None:
        return {"name": name, "path": str(here), "urls": []}
    urls = list(map(redacted, addresses(entry))) or [str(store.fetch(entry))]
    return {"name": name, "path": None, "urls": urls, "size_bytes": entry.size_bytes}


def _row(store: Store, entry: WeightsEntry) -> dict[str, Any]:
    path = store.find(entry)
    where = None if path is None else "package" if path.parent == weights_folder() else "cache"
    return entry.to_dict() | {"path": None if path is None else str(path), "where": where}


def _imported_row(found: Named) -> dict[str, Any]:
    """Return the row of a checkpoint outside the index, with null for what it does not record."""
    row: dict[str, Any] = dict.fromkeys(KEYS)
    with contextlib.suppress(FameError):
        row = entry_of(found.path).to_dict() | {"licence": None}
    row |= {"name": found.name, "file": found.path.name, "mirrors": [], "sha256": found.sha256}
    return row | {"size_bytes": found.path.stat().st_size, "path": str(found.path), "where": "imported"}


def _show_list(rows: list[dict[str, Any]], console: Console) -> None:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        nats, bound = row["nats_per_image"], row["bound"]
        nll = "" if nats is None else f"{_nll(row['dataset'], nats, row['stderr_nats'])} {BOUNDS[bound]}"
        nll += LIKELIHOODS.get(row.get("given"), "")
        dataset, *known = (str(row[key] or "") for key in ("dataset", "model", "size", "licence"))
        megabytes = f"{row['size_bytes'] / 1e6:.1f}"
        return row["name"], nll.strip(), dataset, row["where"] or "not here", megabytes, *known

    columns = ("name", "NLL", "data set", "where", "MB", "model", "size", "licence")
    console.print(FittedTable("", columns, [cells(row) for row in rows], right=False))


def _nll(dataset: str | None, nats: float, stderr: float) -> str:
    """Return an NLL in the unit of the data set."""
    info = DATASETS.get(dataset or "")
    if info is None or info.shape is None or unit_of(info.levels) == "nats/image":
        return f"{nats:.2f} +- {stderr:.2f} nats"
    values = (bits_per_dim(each, info.shape) for each in (nats, stderr))
    return f"{' +- '.join(f'{each:.3f}' for each in values)} bits/dim"


def _show_verified(found: list[Verified], console: Console) -> None:
    columns = ("name", "state", "claimed", "measured", "images", "K", "sha256")
    rows: list[tuple[str, ...]] = []
    for each in found:
        for figures in (*each.figures,) or (None,):
            cells: tuple[str, ...] = ("",) * 4
            if figures is not None:
                nats = (figures["claimed_nats_per_image"], figures["measured_nats_per_image"])
                counts = (str(figures["images"]), str(figures["importance_samples"]))
                cells = (*(_in_unit(value, each.model) for value in nats), *counts)
            rows.append((each.weights.name, each.state, *cells, each.weights.sha256[:16]))
    console.print(FittedTable("", columns, rows))


def _in_unit(nats: float, model: ModelConfig | None) -> str:
    """Return an NLL in the unit of a model's images."""
    if model is None or unit_of(model.levels) == "nats/image":
        return f"{nats:.4f} nats"
    return f"{bits_per_dim(nats, model.image_shape):.5f} bits/dim"
