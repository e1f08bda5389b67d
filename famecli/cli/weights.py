"""`fame weights`: the weights that have names. No torch here, except for what is imported."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from famecli.checkpoints import bundle as weights_bundle
from famecli.checkpoints.index import WeightsEntry, describe, index, unknown_checkpoint, weights_folder
from famecli.checkpoints.store import Imported, Store, check_hash
from famecli.checkpoints.urls import addresses
from famecli.cli import options
from famecli.cli.weights_verify import verify
from famecli.errors import FameError, UsageError
from famecli.output import Output, table

app = typer.Typer(no_args_is_help=True)
app.command("verify")(verify)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of weights, or a URL with #sha256=HEX.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of weights, or URLs with #sha256=HEX.")
]
Installed = Annotated[bool, typer.Option("--installed", help="Only those on this machine.")]
All = Annotated[bool, typer.Option("--all", help="All of the index.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Only show what would be fetched, and from where.")
]
Bundle = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="The bundle, for example weights.tar.")
]
Source = Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint, or bundle of `fame weights pack`.")]
ImportName = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Of a checkpoint of your own; else the file's.")
]


@app.command("list")
def list_weights(
    installed: Installed = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show the weights that have names: of the index, and your imported ones. -q prints the names.

    Examples:

      fame weights list

      fame weights list --installed -q
    """
    store = Store(cache_dir)
    every = [*(_row(store, entry) for entry in index().values()), *map(_imported_row, store.imported())]
    rows = [row for row in every if row["path"] is not None or not installed]
    data = {"schema": "famecli/weights-list/1", "weights": rows}
    Output(json=json, quiet=quiet).result(
        data, "\n".join(row["name"] for row in rows), lambda console: _show_list(rows, console)
    )


@app.command("pull")
def pull(
    names: Names = None,
    every: All = False,
    dry_run: DryRun = False,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fetch weights that are not here yet. Prints their paths.

    Examples:

      fame weights pull fame-mnist

      fame weights pull --all --dry-run
    """
    output = Output(json=json, quiet=quiet)
    if bool(names) == every:
        raise UsageError("name weights, or say --all", f"names of weights: {', '.join(index())}")
    store = Store(cache_dir, offline, output.note)
    rows = []
    for name in names or index():
        entry, before = index().get(name), None
        if entry is not None:
            before = store.find(entry)
        if dry_run:
            rows.append(_planned(store, name, before))
        else:
            path = _get(store, name)
            rows.append({"name": name, "path": str(path), "fetched": entry is not None and before is None})
    data = {"schema": "famecli/weights-pull/1", "dry_run": dry_run, "weights": rows}
    output.result(data, "\n".join(str(row["path"] or " ".join(row["urls"])) for row in rows))


@app.command("path")
def path_of(
    name: Name,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the path of a file of weights, fetched if it is not here.

    Examples:

      fame weights path fame-mnist

      cp $(fame weights path fame-mnist) here.safetensors
    """
    output = Output(json=json, quiet=quiet)
    path = _get(Store(cache_dir, offline, output.note), name)
    output.result({"schema": "famecli/weights-path/1", "name": name, "path": str(path)}, str(path))


@app.command("pack")
def pack(
    names: Names = None,
    out: Bundle = Path("weights.tar"),
    force: options.Force = False,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put weights in one file, for a machine without a network. Prints its path.

    Examples:

      fame weights pack fame-mnist -o weights.tar

      fame weights import weights.tar
    """
    output = Output(json=json, quiet=quiet)
    options.check_absent(force, out)
    if not names or any("://" in name for name in names):
        raise UsageError("name the weights to pack", f"names of weights: {', '.join(index())}")
    store = Store(cache_dir, offline, output.note)
    files = {name: _get(store, name) for name in names}
    for name, path, sha256 in store.installed():
        if name in files:
            check_hash(path, sha256)
    weights_bundle.write_bundle(out, files)
    data = {"schema": "famecli/weights-pack/1", "out": str(out), "weights": sorted(files)}
    output.result(data, str(out))


@app.command("import")
def import_weights(
    source: Source,
    name: ImportName = None,
    force: options.Force = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put a checkpoint, or those of a bundle, in the cache under names. Prints the names.

    Files of the index are checked by its hashes, others throughout; all of them, before any is stored.

    Examples:

      fame weights import weights.tar

      fame weights import run/best.safetensors --name my-model
    """
    output = Output(json=json, quiet=quiet)
    store = Store(cache_dir)
    weights_bundle.check_all(store, source, name, force=force)
    rows = [
        {
            "name": arrival.name,
            "path": str(path),
            "sha256": arrival.sha256,
            "in_index": arrival.entry is not None,
        }
        for arrival, path in weights_bundle.store_all(store, source, name)
    ]
    data = {"schema": "famecli/weights-import/1", "weights": rows}
    output.result(data, "\n".join(str(row["name"]) for row in rows))


def _get(store: Store, name: str) -> Path:
    if (path := store.get(name)) is None:
        raise unknown_checkpoint(name)
    return path


def _planned(store: Store, name: str, path: Path | None) -> dict[str, Any]:
    """Return what `pull` would do for a name: where the file is, or where it would come from."""
    entry = index().get(name)
    if path is not None or entry is None:
        urls = [name] if "://" in name else []
        return {"name": name, "path": None if urls else str(path or _get(store, name)), "urls": urls}
    urls = addresses(entry)
    if not urls:
        store.fetch(entry)
    return {"name": name, "path": None, "urls": urls, "size_bytes": entry.size_bytes}


def _row(store: Store, entry: WeightsEntry) -> dict[str, Any]:
    path = store.find(entry)
    where = None if path is None else "package" if path.parent == weights_folder() else "cache"
    return dataclasses.asdict(entry) | {"path": None if path is None else str(path), "where": where}


def _imported_row(found: Imported) -> dict[str, Any]:
    """Return the row of a checkpoint that the index does not know, with null for what it does not say."""
    row: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(WeightsEntry))
    row |= {"name": found.name, "file": found.path.name, "mirrors": [], "sha256": found.sha256}
    row |= {"size_bytes": found.path.stat().st_size, "path": str(found.path), "where": "imported"}
    with contextlib.suppress(FameError):
        entry = dataclasses.asdict(describe(found.path))
        row |= {key: entry[key] for key in entry if row[key] is None and key != "licence"}
    return row


def _show_list(rows: list[dict[str, Any]], console: Console) -> None:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        nll = (
            ""
            if row["nats_per_image"] is None
            else f"{row['nats_per_image']:.2f} +- {row['stderr_nats']:.2f}"
        )
        known = (str(row[key] or "") for key in ("dataset", "model", "size"))
        megabytes = f"{row['size_bytes'] / 1e6:.1f}"
        where = row["where"] or "not here"
        return row["name"], *known, megabytes, nll, row["bound"] or "", row["licence"] or "", where

    columns = ("name", "data set", "model", "size", "MB", "nats/image", "bound", "licence", "where")
    console.print(table("", columns, [cells(row) for row in rows], right=False))
