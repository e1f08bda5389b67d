"""`fame datasets`: the data sets, their folders, and whether their files are the official ones."""

from typing import Annotated, Any

import typer
from rich.console import Console

from famecli.cli.grouping import App, grouped
from famecli.cli.groups import Common, DryRun, Network, ShortDryRun, complete_dataset
from famecli.cli.sources import DataSource
from famecli.data.cache import locate
from famecli.data.registry import DATASETS, FOLDER, DatasetInfo, dataset_info
from famecli.errors import UsageError
from famecli.output import FittedTable, say

SCHEMA = "famecli/datasets/1"
PULL_SCHEMA = "famecli/datasets-pull/1"
PATH_SCHEMA = "famecli/datasets-path/1"
VERIFY_SCHEMA = "famecli/datasets-verify/1"

app = App(help="List, fetch and verify data sets.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Data set; fame datasets list names all.",
        autocompletion=complete_dataset,
    ),
]
Names = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="Data sets; fame datasets list names all.",
        autocompletion=complete_dataset,
    ),
]


@app.command("list")
@grouped
def list_datasets(*, data: DataSource, network: Network, common: Common) -> None:
    """List the data sets: images, splits, unit of the NLL, and whether they are on this machine.

    -q prints only the names. --json adds files with hashes, citation, and the sha256 of the test pixels.

    Examples:

      fame datasets list

      fame datasets list --json | jq '.datasets[] | select(.path) | .name'
    """
    from famecli.data.status import describe_dataset

    rows = [describe_dataset(info, data.data, network.cache_dir) for info in DATASETS.values()]
    names = "\n".join(DATASETS)
    common.output().result({"schema": SCHEMA, "datasets": rows}, names, lambda console: _show(rows, console))


def _show(rows: list[dict[str, Any]], console: Console) -> None:
    cells = [
        (
            row["name"],
            "" if row["path"] is None else "here",
            "as in files" if row["shape"] is None else "x".join(map(str, row["shape"])),
            f"{row['levels']}" + ("" if row["binarization"] == "none" else f", {row['binarization']}"),
            "by a rule" if row["splits"] is None else " / ".join(f"{n:,}" for n in row["splits"].values()),
            row["unit"],
            row["hashes"],
            row["title"],
        )
        for row in rows
    ]
    columns = ("name", "where", "shape", "levels", "train / valid / test", "unit", "hashes", "title")
    console.print(FittedTable("", columns, cells, right=False))


@app.command("pull")
@grouped
def pull(
    names: Names,
    *,
    dry_run: DryRun = False,
    short_dry_run: ShortDryRun = False,
    network: Network,
    common: Common,
) -> None:
    """Download data sets that are not on this machine. Prints the folder of each.

    A file gets its name only after its hash matches the official one. A data set that is in FAME_DATA or in
    the cache is not downloaded again.

    Examples:

      fame datasets pull mnist cifar10

      fame datasets pull imagenet32 --dry-run
    """
    from famecli.data.status import missing_downloads

    output, cache_dir = common.output(), network.cache_dir
    dry_run = dry_run or short_dry_run
    infos = [_fetchable(name) for name in names]
    rows = [missing_downloads(info, cache_dir) for info in infos]
    lines = [f"{row['name']} {name}" for row in rows for name in row["downloads"]]
    if not dry_run:
        for info, row in zip(infos, rows, strict=True):
            row["path"] = str(locate(info, None, cache_dir, network.offline, output.note))
        lines = [row["path"] for row in rows]
    if not lines:
        output.note("nothing to download")
    output.result({"schema": PULL_SCHEMA, "datasets": rows}, "\n".join(lines))


def _fetchable(name: str) -> DatasetInfo:
    info = dataset_info(name)
    if info.family == FOLDER:
        raise UsageError(
            f"{name} is images of your own: there is nothing to fetch",
            "fame train and fame evaluate-nll take them by --data",
        )
    return info


@app.command("path")
@grouped
def path(name: Name, *, data: DataSource, network: Network, common: Common) -> None:
    """Print the folder of a data set, after downloading it if it is not on this machine.

    Examples:

      ls "$(fame datasets path mnist --offline)"
    """
    output = common.output()
    folder = locate(_fetchable(name), data.data, network.cache_dir, network.offline, output.note)
    output.result({"schema": PATH_SCHEMA, "name": name, "path": str(folder)}, str(folder))


@app.command("verify")
@grouped
def verify(names: Names, *, data: DataSource, network: Network, common: Common) -> None:
    """Hash the files of data sets on this machine, and the pixels of the test split that are scored.

    Downloads nothing. A file without a known official hash is unverified. -q prints the sha256 of the pixels.
    Exit code 5: files or pixels are not the official ones.

    Examples:

      fame datasets verify mnist

      fame datasets verify cifar10 --data ~/data -q
    """
    from famecli.data.status import verify_dataset

    rows = [verify_dataset(dataset_info(name), data.data, network.cache_dir) for name in names]
    pixels = "\n".join(row["test_pixels_sha256"] for row in rows)
    document = {"schema": VERIFY_SCHEMA, "datasets": rows}
    common.output().result(document, pixels, lambda console: _show_verified(rows, console))


def _show_verified(rows: list[dict[str, Any]], console: Console) -> None:
    for row in rows:
        say(console, f"{row['name']} in {row['path']}")
        cells = [(file["name"], file["state"], file["sha256"] or "") for file in row["files"]]
        test = f"pixels of {row['test_images']:,} test images"
        cells.append((test, row["test_pixels"], row["test_pixels_sha256"]))
        console.print(FittedTable("", ("", "", "sha256"), cells, right=False))
