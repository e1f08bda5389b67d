"""`fame info`: what a checkpoint says of itself, and without one what this machine has. No torch here."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from famecli import __version__
from famecli.checkpoints.card import model_card
from famecli.checkpoints.claims import FURTHER, protocol
from famecli.checkpoints.header import CHECKPOINT_SCHEMA, Header, parse_header, read_checkpoint
from famecli.checkpoints.history import before, described
from famecli.cli import options
from famecli.cli.machine import show_machine
from famecli.cli.sources import ModelChoice
from famecli.errors import ConfigError, InputError, UsageError, brief
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
    path = choice.path(output.note)
    content = read_checkpoint(path)
    header = parse_header(content, len(content), str(path))
    if header.metadata.get("schema") != CHECKPOINT_SCHEMA:
        raise InputError(
            f"{path} is no checkpoint but a file of schema {brief(repr(header.metadata.get('schema')))}"
        )
    facts = header_facts(path, header, content, tensors=tensors)
    try:
        rows = _rows(facts)
        text = model_card(checkpoint_name(path), facts) if card else ""
    except (ArithmeticError, AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its header is not that of a checkpoint ({brief(error)})") from error
    choice.check_trained_on((facts["provenance"] or {}).get("dataset"))
    if card:
        output.result(facts, text.removesuffix("\n"))
        return
    output.result(facts, facts["sha256"], lambda console: _show(facts, rows, console))


def checkpoint_name(path: Path) -> str:
    """Return what to call a checkpoint: its file's name, or its run's where all files have the same names."""
    return path.stem if path.stem not in ("best", "last") else path.resolve().parent.name


def header_facts(path: Path, header: Header, content: bytes, *, tensors: bool = False) -> dict[str, Any]:
    """Return what the `header` of the file `path` says, as `famecli/info/1`; `tensors` adds their shapes."""
    metadata = header.metadata
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "path": str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "file_schema": metadata.get("schema"),
        "parameters": header.parameters,
        "weights": ["ema", "raw"] if header.has_raw else ["ema"],
        **{key: metadata.get(key) for key in ("model", "training", "provenance", "claim")},
        FURTHER: metadata.get(FURTHER) or [],
    }
    if tensors:
        facts["tensors"] = {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            for name, tensor in sorted(header.tensors.items())
        }
    return facts


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


def _show(facts: dict[str, Any], rows: list[tuple[str, str]], console: Console) -> None:
    console.print(table("", ["", ""], rows, right=False))
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
