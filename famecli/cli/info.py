"""`fame info`: metadata of a checkpoint, or versions and processor of this machine. No torch here."""

from typing import Annotated, Any

import typer
from rich.console import Console

from famecli import __version__
from famecli.checkpoints.card import model_card
from famecli.checkpoints.description import Description, describe
from famecli.checkpoints.index import index
from famecli.checkpoints.provenance import in_words
from famecli.cli.grouping import grouped
from famecli.cli.groups import Common, typed
from famecli.cli.sources import CheckpointSource
from famecli.config.schema import StageConfig, to_dict
from famecli.errors import UsageError
from famecli.nll.record import NllRecord
from famecli.output import FittedTable, say
from famecli.runtime.environment import environment
from famecli.runtime.environment import machine as describe_machine

Tensors = Annotated[bool, typer.Option("--tensors", help="List the tensors.")]
Card = Annotated[bool, typer.Option("--card", help="Print a model card in Markdown.")]
Processor = Annotated[
    bool, typer.Option("--machine", help="Show the processor, and the routines chosen for it.")
]


@grouped
def info(
    context: typer.Context,
    *,
    source: CheckpointSource,
    tensors: Tensors = False,
    card: Card = False,
    machine: Processor = False,
    common: Common,
) -> None:
    """Show a checkpoint's model, training and NLL. Weights are hashed, not loaded.

    Without a checkpoint, shows versions and folders, for bug reports; with --machine, the processor. -q
    prints the sha256 of the checkpoint, else the version, or with --machine the precision that --precision
    auto of fame train takes.

    Examples:

      fame info run/best.safetensors

      fame info --dataset mnist --json

      fame info fame-mnist --card > README.md

      fame info

      fame info --machine
    """
    output = common.output()
    # FAME_DATASET names nothing: it is meant for all commands.
    nothing = source.checkpoint is source.model is None and not typed(context, "dataset")
    if machine:
        if not nothing or tensors or card:
            raise UsageError("--machine is about no checkpoint", "leave out all but --json and -q")
        facts = describe_machine()
        output.result(facts, facts["precision"], lambda console: _show_rows(_machine_rows(facts), console))
    elif nothing:
        if tensors or card:
            raise UsageError("--tensors and --card are about a checkpoint", "add its file or name")
        facts = environment(index())
        output.result(facts, __version__, lambda console: _show_rows(_environment_rows(facts), console))
    else:
        if card and tensors and not output.json:
            raise UsageError("--card and --tensors both want stdout", "leave one of them out, or add --json")
        source = source.picked(context)
        described = describe(source.path(output))
        source.check_trained_on(described.provenance.dataset)
        facts = described.document(tensors=tensors)
        if card:
            # By the hub's identifiers, which are those of SPDX in lower case.
            licences = {each.sha256: each.licence.lower() for each in index().values()}
            card_text = model_card(described, licence=licences.get(described.sha256))
            output.result(facts, card_text.removesuffix("\n"))
        else:
            output.result(facts, described.sha256, lambda console: _show(described, console, tensors=tensors))


def _show_rows(rows: list[tuple[str, str]], console: Console) -> None:
    console.print(FittedTable("", ["", ""], rows, right=False))


def _rows(described: Description) -> list[tuple[str, str]]:
    """Return labels and values for people."""
    model, past, header = described.model, described.provenance, described.header
    first, *further = described.claims or (None,)
    cpu_time = "" if past.cpu_seconds is None else f", {past.cpu_seconds / 60:,.1f} of CPU time"
    return [
        ("file", f"{described.path} ({header.file_bytes:,} bytes)"),
        ("sha256", described.sha256),
        ("model", f"{model.preset}, {header.parameters:,} parameters, {'+'.join(described.kinds)}"),
        (
            "images",
            f"{model.channels}x{model.height}x{model.width}, {model.levels} levels, {model.likelihood}",
        ),
        *((("classes", f"{len(model.classes)}: {', '.join(model.classes)}"),) if model.classes else ()),
        ("stages", "; ".join(map(_stage, model.stages)) or "none"),
        ("decoder", ", ".join(f"{key} {value}" for key, value in to_dict(model.decoder).items())),
        ("trained on", past.trained_on or "not recorded"),
        ("images seen", f"{past.images_seen:,} in {past.steps or 0:,} steps"),
        *((("before that", in_words(past.past)),) if past.past else ()),
        (
            "training time",
            f"{past.seconds / 60:,.1f} minutes{cpu_time} ({past.device}, {past.threads} CPU threads)",
        ),
        ("claims", "nothing yet: fame evaluate-nll --record" if first is None else _claim(first)),
        *(("claims, too", _claim(claim)) for claim in further if claim is not None),
    ]


def _show(described: Description, console: Console, *, tensors: bool) -> None:
    _show_rows(_rows(described), console)
    for name, tensor in sorted(described.header.tensors.items()) if tensors else ():
        say(console, f"{name} {tensor.dtype} {list(tensor.shape)}")


def _stage(stage: StageConfig) -> str:
    latents = f", {stage.latents} {'dense latents' if stage.dense else 'latent maps'}"
    return f"width {stage.width}, stride {stage.stride}{latents if stage.latents else ''}"


def _claim(claim: NllRecord) -> str:
    stderr, bits = claim.stderr_nats_per_image, claim.bits_per_dim
    spread = "" if stderr is None else f" +- {stderr:.3f}"
    per_dim = "" if bits is None else f", {bits:.5f} bits/dim"
    return (
        f"{claim.nats_per_image:.3f}{spread} nats/image{per_dim} "
        f"({claim.estimator}; {claim.data}, data {str(claim.data.pixels_sha256)[:16]})"
    )


def _environment_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("famecli", facts["version"]),
        ("python", f"{facts['python']} ({facts['executable']})"),
        ("platform", facts["platform"]),
        *((name, str(found)) for name, found in facts["packages"].items()),
        ("cache", facts["cache"]),
        ("weights", ", ".join(facts["weights"])),
    ]


def _machine_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    maker = ", ".join((facts["vendor"] or "unknown vendor", f"family {facts['family']}"))
    bf16 = "multiplied in hardware" if facts["bf16_in_hardware"] else "not multiplied in hardware"
    return [
        ("processor", f"{facts['processor']} ({maker})"),
        ("instructions", ", ".join(facts["instructions"]) or "unknown"),
        ("cores", str(facts["cores"])),
        ("torch", f"{facts['torch']}, {facts['torch_capability']}, oneDNN: {facts['onednn']}"),
        ("bfloat16", f"{bf16}; fame train --precision auto takes {facts['precision']}"),
        ("products in fp32", f"{facts['fp32_products']}: {facts['fp32_products_reason']}"),
    ]
