"""`fame info`: what a checkpoint says of itself, and without one what this machine has. No torch here."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from famecli import __version__
from famecli.checkpoints.card import checkpoint_info, model_card
from famecli.checkpoints.claims import FURTHER, protocol
from famecli.checkpoints.history import before, described
from famecli.cli.groups import Common, grouped
from famecli.cli.sources import CheckpointSource
from famecli.errors import ConfigError, InputError, UsageError, brief
from famecli.output import printable, table
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
    """Show what a checkpoint says of itself: model, training, claimed NLL. Weights are hashed, not loaded.

    Without a checkpoint, shows versions and folders, for reports of defects; with --machine, the processor.
    -q prints the sha256 of the file, or the version, or the precision that trainings take on the processor.

    Examples:

      fame info run/best.safetensors

      fame info --dataset mnist --json

      fame info fame-mnist --card > README.md

      fame info

      fame info --machine
    """
    output = common.output()
    nothing = source.checkpoint is source.dataset is source.model is None
    if machine:
        if not nothing or tensors or card:
            raise UsageError("--machine is about no checkpoint", "leave all else but --json and -q out")
        facts = describe_machine()
        output.result(facts, facts["precision"], lambda console: _show_rows(_machine_rows(facts), console))
    elif nothing:
        facts = environment()
        output.result(facts, __version__, lambda console: _show_rows(_environment_rows(facts), console))
    else:
        source = source.picked(context)
        path = source.path(output)
        facts = checkpoint_info(path, tensors=tensors)
        try:
            rows = _rows(facts)
            text = model_card(checkpoint_name(path), facts) if card else ""
        except (ArithmeticError, AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: its header is not that of a checkpoint ({brief(error)})") from error
        source.check_trained_on((facts["provenance"] or {}).get("dataset"))
        if card:
            output.result(facts, text.removesuffix("\n"))
        else:
            output.result(facts, facts["sha256"], lambda console: _show(facts, rows, console))


def checkpoint_name(path: Path) -> str:
    """Return the name of a checkpoint's file, or of its run where all files have the same names."""
    return path.stem if path.stem not in ("best", "last") else path.resolve().parent.name


def _rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return labels and values for people; any error means that the header is not as famecli writes it."""
    model, provenance = facts["model"] or {}, facts["provenance"] or {}
    return [
        ("file", f"{facts['path']} ({facts['bytes']:,} bytes)"),
        ("sha256", facts["sha256"]),
        ("model", f"{model.get('preset')}, {facts['parameters']:,} parameters, {'+'.join(facts['weights'])}"),
        (
            "images",
            f"{model.get('channels')}x{model.get('height')}x{model.get('width')}, "
            f"{model.get('levels')} levels, {model.get('likelihood')}",
        ),
        ("stages", "; ".join(_stage(stage) for stage in model.get("stages", [])) or "none"),
        ("decoder", ", ".join(f"{key} {value}" for key, value in (model.get("decoder") or {}).items())),
        ("trained on", str(provenance.get("dataset"))),
        ("images seen", f"{provenance.get('images_seen') or 0:,} in {provenance.get('steps') or 0:,} steps"),
        *((("before that", described(past)),) if (past := before(provenance)) else ()),
        (
            "training time",
            f"{(provenance.get('seconds') or 0) / 60:,.1f} minutes{_cpu_time(provenance)} "
            f"({provenance.get('device')}, {provenance.get('threads')} threads)",
        ),
        ("claims", _claim(facts["claim"])),
        *(("claims, too", _claim(claim)) for claim in facts[FURTHER]),
    ]


def _cpu_time(provenance: dict[str, Any]) -> str:
    seconds = provenance.get("cpu_seconds")
    return "" if seconds is None else f", {seconds / 60:,.1f} of CPU time"


def _show_rows(rows: list[tuple[str, str]], console: Console) -> None:
    console.print(table("", ["", ""], rows, right=False))


def _show(facts: dict[str, Any], rows: list[tuple[str, str]], console: Console) -> None:
    _show_rows(rows, console)
    for name, tensor in facts.get("tensors", {}).items():
        console.print(printable(f"{name} {tensor['dtype']} {tensor['shape']}"), markup=False)


def _stage(stage: dict[str, Any]) -> str:
    latents = f", {stage['latents']} {'dense latents' if stage['dense'] else 'latent maps'}"
    return f"width {stage['width']}, stride {stage['stride']}{latents if stage['latents'] else ''}"


def _claim(claim: dict[str, Any] | None) -> str:
    if not claim:
        return "nothing yet: fame evaluate-nll --record"
    data, stderr = claim["data"], claim["stderr_nats_per_image"]
    spread = "" if stderr is None else f" +- {stderr:.3f}"
    return (
        f"{claim['nats_per_image']:.3f}{spread} nats/image, {claim['bits_per_dim']:.5f} bits/dim "
        f"({protocol(claim, data)}, data {data['pixels_sha256'][:16]})"
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
        ("instructions", ", ".join(facts["instructions"]) or "none that are told of"),
        ("cores", str(facts["cores"])),
        ("torch", f"{facts['torch']}, {facts['torch_capability']}, oneDNN: {facts['onednn']}"),
        ("bfloat16", f"{bf16}; fame train --precision auto takes {facts['precision']}"),
        ("products in fp32", f"{facts['fp32_products']}: {facts['fp32_products_reason']}"),
    ]
