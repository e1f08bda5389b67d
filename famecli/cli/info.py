"""`fame info`: what a checkpoint says of itself, and without one what this machine has. No torch here."""

from typing import Annotated, Any

import typer
from rich.console import Console

from famecli import __version__
from famecli.checkpoints.card import model_card
from famecli.checkpoints.description import FURTHER, Description, describe
from famecli.checkpoints.provenance import in_words
from famecli.cli import options
from famecli.cli.machine import show_machine
from famecli.cli.sources import ModelChoice
from famecli.config.schema import StageConfig, to_dict
from famecli.errors import UsageError
from famecli.nll.record import NllRecord
from famecli.output import Output, printable, table
from famecli.runtime.environment import SCHEMA, environment

Tensors = Annotated[bool, typer.Option("--tensors", help="List the tensors.")]
Card = Annotated[bool, typer.Option("--card", help="Print a model card in Markdown.")]
Machine = Annotated[
    bool, typer.Option("--machine", help="Show the processor, and what is computed how on it.")
]


def info(
    context: typer.Context,
    checkpoint: options.CheckpointArgument = None,
    dataset: options.Dataset = None,
    model: options.Model = None,
    tensors: Tensors = False,
    card: Card = False,
    machine: Machine = False,
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
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
    output = Output(json=json, quiet=quiet)
    nothing = checkpoint is None and dataset is None and model is None
    if machine:
        if not nothing or tensors or card:
            raise UsageError("--machine is about no checkpoint", "leave all else but --json and -q out")
        show_machine(output)
        return
    if nothing:
        facts = environment()
        output.result(facts, __version__, lambda console: _show_environment(facts, console))
        return
    picked = options.picking(context, checkpoint, dataset)
    choice = ModelChoice(checkpoint, picked, model, "ema", "cpu", None, cache_dir, offline)
    _describe(choice, output, tensors=tensors, card=card)


def _describe(choice: ModelChoice, output: Output, *, tensors: bool, card: bool) -> None:
    """Print what the checkpoint says that was chosen.

    Raises:
        InputError: It is none, or not as famecli writes it.
    """
    described = describe(choice.path(output.note))
    choice.check_trained_on(described.provenance.dataset)
    facts = _facts(described, tensors=tensors)
    if card:
        output.result(facts, model_card(described).removesuffix("\n"))
        return
    output.result(facts, described.sha256, lambda console: _show(described, console, tensors=tensors))


def _facts(described: Description, *, tensors: bool) -> dict[str, Any]:
    """Return the document `famecli/info/1`; `tensors` adds their shapes."""
    header = described.header
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "path": str(described.path),
        "sha256": described.sha256,
        "bytes": header.file_bytes,
        "file_schema": header.metadata["schema"],
        "parameters": header.parameters,
        "weights": described.kinds,
        **{key: header.metadata.get(key) for key in ("model", "training", "provenance", "claim")},
        FURTHER: header.metadata.get(FURTHER) or [],
    }
    if tensors:
        facts["tensors"] = {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            for name, tensor in sorted(header.tensors.items())
        }
    return facts


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
        ("stages", "; ".join(map(_stage, model.stages)) or "none"),
        ("decoder", ", ".join(f"{key} {value}" for key, value in to_dict(model.decoder).items())),
        ("trained on", str(past.dataset)),
        ("images seen", f"{past.images_seen:,} in {past.steps or 0:,} steps"),
        *((("before that", in_words(past.past)),) if past.past else ()),
        (
            "training time",
            f"{past.seconds / 60:,.1f} minutes{cpu_time} ({past.device}, {past.threads} threads)",
        ),
        ("claims", "nothing yet: fame evaluate-nll --record" if first is None else _claim(first)),
        *(("claims, too", _claim(claim)) for claim in further if claim is not None),
    ]


def _show(described: Description, console: Console, *, tensors: bool) -> None:
    console.print(table("", ["", ""], _rows(described), right=False))
    for name, tensor in sorted(described.header.tensors.items()) if tensors else ():
        console.print(printable(f"{name} {tensor.dtype} {list(tensor.shape)}"), markup=False)


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


def _show_environment(facts: dict[str, Any], console: Console) -> None:
    rows = [
        ("famecli", facts["version"]),
        ("python", f"{facts['python']} ({facts['executable']})"),
        ("platform", facts["platform"]),
        *((name, str(found)) for name, found in facts["packages"].items()),
        ("cache", facts["cache"]),
        ("weights", ", ".join(facts["weights"])),
    ]
    console.print(table("", ["", ""], rows, right=False))
