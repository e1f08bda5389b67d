"""`fame weights push`."""

from typing import Annotated

import typer

from famecli.checkpoints import hub
from famecli.checkpoints.description import describe
from famecli.checkpoints.header import read_checkpoint
from famecli.checkpoints.store import checkpoint_file
from famecli.checkpoints.urls import HubFile
from famecli.cli.grouping import grouped
from famecli.cli.groups import Common, Network
from famecli.cli.sources import complete_weights
from famecli.data.fetch import is_offline
from famecli.errors import UnavailableError, UsageError
from famecli.files import STDIN

Repository = Annotated[str, typer.Argument(metavar="ORG/REPO", help="Repository on the Hugging Face Hub.")]
Pushed = Annotated[
    str,
    typer.Argument(
        metavar="CKPT", help="File, run folder or name of weights.", autocompletion=complete_weights
    ),
]
Branch = Annotated[
    str | None,
    typer.Option("--revision", metavar="BRANCH", help="Branch to write to, made if missing (default: main)."),
]
Licence = Annotated[
    str | None, typer.Option("--license", metavar="ID", help="Licence of the weights, for the card: mit, ...")
]
Private = Annotated[bool, typer.Option("--private", help="Make a missing repository a private one.")]


@grouped
def push(
    repository: Repository,
    ckpt: Pushed,
    revision: Branch = None,
    licence: Licence = None,
    private: Private = False,
    *,
    network: Network,
    common: Common,
) -> None:
    """Upload a checkpoint with its model card to the Hugging Face Hub. Prints its address with hash.

    A missing repository is made. `hf auth login` or HF_TOKEN give the token. The card replaces README.md.

    Examples:

      fame weights push ORG/REPO run/

      fame weights push ORG/REPO run/best.safetensors --revision v1 --license mit --private
    """
    output, place = common.output(), HubFile.parse(f"{repository}@{revision or ''}")
    if ckpt == str(STDIN):
        raise UsageError("a checkpoint on stdin has no name for the repository", "name a file")
    store = network.store(output)
    if is_offline(store.offline):
        raise UnavailableError("nothing is uploaded: the network is off", "run without --offline")
    path = checkpoint_file(ckpt, store)
    content = read_checkpoint(path)
    # Deferred: torch takes seconds to load, and the checks above need none.
    from famecli.checkpoints.checkpoint import parse_checkpoint

    parse_checkpoint(content, str(path))
    found = hub.push(describe(path, content), place, licence=licence, private=private or None)
    row = {"repository": place.repository, "file": place.file, "sha256": found.sha256, "pinned": found.pinned}
    output.result({"schema": "famecli/weights-push/1"} | row, found.pinned)
