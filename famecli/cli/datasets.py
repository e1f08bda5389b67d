"""`fame datasets`: what there is, where it is, and whether it is the official thing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from famecli.cli import options
from famecli.data.cache import dataset_cache, file_states, find_dataset, locate, missing_files
from famecli.data.registry import DATASETS, FOLDER, DatasetInfo, dataset_info
from famecli.errors import FameError, IntegrityError, UnavailableError, UsageError
from famecli.output import Output, printable, table

SCHEMA = "famecli/datasets/1"
PULL_SCHEMA = "famecli/datasets-pull/1"
PATH_SCHEMA = "famecli/datasets-path/1"
VERIFY_SCHEMA = "famecli/datasets-verify/1"

app = typer.Typer(help="List, fetch and verify data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Data set; fame datasets list names all.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets; list names all.")]
DryRun = Annotated[bool, typer.Option("-n", "--dry-run", help="Say what would be downloaded, and stop.")]


@app.command("list")
def list_datasets(
    data: options.Data = None,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List the data sets: images, splits, unit of the NLL, and whether they are on this machine.

    -q prints the names alone. --json adds files with hashes, citation, and the sha256 of the test pixels.

    Examples:

      fame datasets list

      fame datasets list --json | jq '.datasets[] | select(.path) | .name'
    """
    rows = [_row(info, data, cache_dir) for info in DATASETS.values()]
    names = "\n".join(DATASETS)
    output = Output(json=json, quiet=quiet)
    output.result({"schema": SCHEMA, "datasets": rows}, names, lambda console: _show(rows, console))


def _row(info: DatasetInfo, data: Path | None, cache_dir: Path | None) -> dict[str, Any]:
    """Return what is known of a data set and where it is, for JSON."""
    try:
        path = find_dataset(info, data, cache_dir)
    except FameError:
        # A version in pickles, which no command would read.
        path = None
    files = {
        name: {
            "sha256": file.sha256,
            "git_blob": file.git_blob,
            "bytes": file.size_bytes,
            "content_sha256": file.content_sha256,
            "members": dict(file.members),
        }
        for name, file in info.files.items()
    }
    return {
        "name": info.name,
        "title": info.title,
        "shape": None if info.name == FOLDER else list(info.shape),
        "levels": info.levels,
        "binarization": info.binarization,
        "splits": None if info.name == FOLDER else dict(info.splits),
        "rule": info.rule,
        "unit": info.unit,
        "citation": info.citation,
        "hashes": _hashes(info),
        "hashes_from": info.source,
        "test_pixels_sha256": info.pixels_sha256,
        "files": files,
        "mirrors": list(info.mirrors),
        "path": None if path is None else str(path),
    }


def _hashes(info: DatasetInfo) -> str:
    """Return by which hashes the files as published are known, in a word or two."""
    if not info.files:
        return "none"
    kinds = {
        "sha256" if file.sha256 else "git blob" if file.git_blob else "unverified"
        for file in info.files.values()
    }
    return ", ".join(sorted(kinds))


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    cells = [
        (
            row["name"],
            "as in the files" if row["shape"] is None else "x".join(map(str, row["shape"])),
            f"{row['levels']}" + ("" if row["binarization"] == "none" else f", {row['binarization']}"),
            "by a rule" if row["splits"] is None else " / ".join(f"{n:,}" for n in row["splits"].values()),
            row["unit"],
            row["hashes"],
            "" if row["path"] is None else "here",
            row["title"],
        )
        for row in rows
    ]
    columns = ("name", "shape", "levels", "train / valid / test", "unit", "hashes", "", "")
    console.print(table("", columns, cells, right=False))


@dataclass(frozen=True)
class _Wanted:
    """A data set to fetch, and what of it is missing."""

    info: DatasetInfo
    path: Path | None
    files: list[str]

    def to_dict(self) -> dict[str, Any]:
        sizes = [self.info.files[name].size_bytes for name in self.files]
        return {
            "name": self.info.name,
            "path": None if self.path is None else str(self.path),
            "downloads": self.files,
            "bytes": None if None in sizes else sum(size for size in sizes if size is not None),
        }


@app.command("pull")
def pull(
    names: Names,
    dry_run: DryRun = False,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download data sets that are not on this machine. Prints the folder of each.

    A file takes its name only once its hash is that of the official one. A data set that is in FAME_DATA or
    in the cache is not downloaded again.

    Examples:

      fame datasets pull mnist cifar10

      fame datasets pull imagenet32 -n
    """
    output = Output(json=json, quiet=quiet)
    wanted = [_wanted(_fetchable(name), cache_dir) for name in names]
    if dry_run:
        rows = [each.to_dict() for each in wanted]
        lines = [f"{each.info.name} {name}" for each in wanted for name in each.files]
        output.result({"schema": PULL_SCHEMA, "datasets": rows}, "\n".join(lines))
        return
    rows = []
    for each in wanted:
        path = locate(each.info, None, cache_dir, offline, output.note)
        rows.append(each.to_dict() | {"path": str(path)})
    output.result({"schema": PULL_SCHEMA, "datasets": rows}, "\n".join(str(row["path"]) for row in rows))


def _fetchable(name: str) -> DatasetInfo:
    info = dataset_info(name)
    if info.family == FOLDER:
        raise UsageError(
            f"{name} is images of your own: there is nothing to fetch", "name them with --data PATH"
        )
    return info


def _wanted(info: DatasetInfo, cache_dir: Path | None) -> _Wanted:
    path, cache = find_dataset(info, None, cache_dir), dataset_cache(info, cache_dir)
    # What a folder of the user lacks is not put there.
    return _Wanted(info, path, missing_files(info, cache) if path in (None, cache) else [])


@app.command("path")
def path(
    name: Name,
    data: options.Data = None,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the folder of a data set, which is downloaded first if it is not on this machine.

    Examples:

      ls "$(fame datasets path mnist --offline)"
    """
    output = Output(json=json, quiet=quiet)
    folder = locate(_fetchable(name), data, cache_dir, offline, output.note)
    output.result({"schema": PATH_SCHEMA, "name": name, "path": str(folder)}, str(folder))


@app.command("verify")
def verify(
    names: Names,
    data: options.Data = None,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Hash the files of data sets on this machine, and the pixels of the test split that are scored.

    Downloads nothing. A file of which no official hash is known is called unverified. -q prints the sha256
    of the pixels. Exit code 5 if a file, or the pixels, are not the official ones.

    Examples:

      fame datasets verify mnist

      fame datasets verify cifar10 --data ~/data -q
    """
    output = Output(json=json, quiet=quiet)
    rows = [_verified(dataset_info(name), data, cache_dir) for name in names]
    pixels = "\n".join(row["test_pixels_sha256"] for row in rows)
    output.result(
        {"schema": VERIFY_SCHEMA, "datasets": rows}, pixels, lambda console: _show_verified(rows, console)
    )


def _verified(info: DatasetInfo, data: Path | None, cache_dir: Path | None) -> dict[str, Any]:
    """Return what the files and the test pixels of a data set are.

    Raises:
        UnavailableError: It is not on this machine.
        IntegrityError: A file, or the pixels, are not the official ones.
    """
    from famecli.data.dataset import fixed_levels, load_split

    folder = data if info.family == FOLDER else find_dataset(info, data, cache_dir)
    if folder is None and info.family != FOLDER:
        raise UnavailableError(f"{info.name} is not on this machine", f"fame datasets pull {info.name}")
    states = [] if folder is None else file_states(info, folder)
    if wrong := [state for state in states if state.state == "differs"]:
        found = ", ".join(f"{state.path} (sha256 {(state.sha256 or '')[:12]})" for state in wrong)
        raise IntegrityError(
            f"not the official files of {info.name}: {found}", "delete and download them again"
        )
    split = load_split(info.name, "test", data=data, cache_dir=cache_dir, offline=True)
    actual, expected = fixed_levels(split).sha256, info.pixels_sha256
    if expected not in (None, actual):
        raise IntegrityError(f"{info.name}: test pixels {actual[:12]}, expected {str(expected)[:12]}")
    return {
        "name": info.name,
        "path": str(folder),
        "files": [{"name": state.name, "sha256": state.sha256, "state": state.state} for state in states],
        "test_images": len(split.pixels),
        "test_pixels_sha256": actual,
        "test_pixels": "unverified" if expected is None else "official",
    }


def _show_verified(rows: list[dict[str, Any]], console: Console) -> None:
    for row in rows:
        console.print(printable(f"{row['name']} in {row['path']}"), markup=False, soft_wrap=True)
        cells = [(file["name"], file["state"], file["sha256"] or "") for file in row["files"]]
        test = f"pixels of {row['test_images']:,} test images"
        cells.append((test, row["test_pixels"], row["test_pixels_sha256"]))
        console.print(table("", ("", "", "sha256"), cells, right=False))
