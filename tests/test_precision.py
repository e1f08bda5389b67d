"""`fame train --precision`: what `auto` takes, what is recorded of it, and what a run goes on in."""

from pathlib import Path

import pytest
import torch
from support.outcomes import Command, error_lines
from torch.nn.modules.module import register_module_forward_pre_hook

from famecli.checkpoints.checkpoint import load_checkpoint, load_tensors, save_tensors
from famecli.config.schema import Precision
from famecli.runtime.distributed import Group
from famecli.training.run import STATE_SCHEMA

STATE = Path("run/state.safetensors")
COMMAND = ("pixelcnn", "--steps", 3, "-o", "run")


def let_hardware_multiply_bf16(monkeypatch: pytest.MonkeyPatch, does: bool) -> None:
    """Let the answer of `multiplies_bf16` be `does` for CPUs, and wrong for all else."""
    monkeypatch.setattr(
        "famecli.training.setup.multiplies_bf16", lambda device: does if device == "cpu" else not does
    )


def told(outcome_err: str) -> list[str]:
    """Return the lines that tell of a precision that was not typed."""
    return [line for line in outcome_err.splitlines() if line.startswith("precision ")]


def recorded() -> tuple[str, str | None]:
    """Return the precision in the run's state, and in its checkpoint."""
    metadata = load_tensors(STATE, STATE_SCHEMA)[1].metadata
    return metadata["progress"]["precision"], load_checkpoint(
        Path("run/last.safetensors")
    ).provenance.precision


@pytest.mark.parametrize(
    ("does", "expected", "line"),
    [
        (True, "bf16", "precision bf16: cpu multiplies bfloat16 in hardware"),
        (False, "fp32", "precision fp32: cpu does not multiply bfloat16 in hardware"),
    ],
)
@pytest.mark.parametrize("words", [(), ("--precision", "auto")])
def test_auto_goes_by_the_hardware(
    train: Command,
    monkeypatch: pytest.MonkeyPatch,
    does: bool,
    expected: Precision,
    line: str,
    words: tuple[str, ...],
) -> None:
    seen: list[bool] = []

    def watch(*_: object) -> None:
        # Validations are in single precision.
        if torch.is_grad_enabled():
            seen.append(torch.is_autocast_enabled("cpu"))

    let_hardware_multiply_bf16(monkeypatch, does)
    watching = register_module_forward_pre_hook(watch)
    try:
        outcome = train(*COMMAND, *words)
    finally:
        watching.remove()
    assert (outcome.code, told(outcome.err)) == (0, [line])
    assert recorded() == (expected, expected)
    assert set(seen) == {does}


@pytest.mark.parametrize("does", [True, False])
@pytest.mark.parametrize("typed", ["fp32", "bf16"])
def test_a_precision_that_is_typed_is_taken(
    train: Command, monkeypatch: pytest.MonkeyPatch, does: bool, typed: str
) -> None:
    let_hardware_multiply_bf16(monkeypatch, does)
    outcome = train(*COMMAND, "--precision", typed)
    assert (outcome.code, told(outcome.err)) == (0, [])
    assert recorded() == (typed, typed)


@pytest.mark.parametrize("began", ["fp32", "bf16"])
@pytest.mark.parametrize("does", [True, False])
def test_a_resumed_run_keeps_its_own_precision(
    train: Command, monkeypatch: pytest.MonkeyPatch, began: str, does: bool
) -> None:
    assert train(*COMMAND, "--precision", began, "--max-time", "0s").code == 75
    let_hardware_multiply_bf16(monkeypatch, does)
    outcome = train(*COMMAND)
    assert outcome.code == 0
    assert f"resumed at 6 images from {STATE} in {began}" in outcome.err
    assert recorded() == (began, began)
    other = {"fp32": "bf16", "bf16": "fp32"}[began]
    # Who types another one gets it, from here on.
    assert train(*COMMAND, "--precision", other).code == 0
    assert recorded() == (other, other)
    assert f"in {other}" in train(*COMMAND).err


def test_a_run_that_tells_no_precision_began_in_single(
    train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(*COMMAND, "--precision", "bf16", "--max-time", "0s").code == 75
    tensors, header, _ = load_tensors(STATE, STATE_SCHEMA)
    progress = {key: value for key, value in header.metadata["progress"].items() if key != "precision"}
    save_tensors(STATE, tensors, header.metadata | {"progress": progress})
    let_hardware_multiply_bf16(monkeypatch, True)
    assert f"from {STATE} in fp32" in train(*COMMAND).err
    save_tensors(STATE, tensors, header.metadata | {"progress": progress | {"precision": "fp8"}})
    (line,) = error_lines(train(*COMMAND))
    assert "progress: precision = 'fp8' is none of fp32, bf16" in line


def test_a_dry_run_takes_the_same_precision(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    let_hardware_multiply_bf16(monkeypatch, True)
    outcome = train("pixelcnn", "--dry-run")
    assert told(outcome.err) == ["precision bf16: cpu multiplies bfloat16 in hardware"]


def test_an_unknown_precision_names_all(train: Command) -> None:
    outcome = train("pixelcnn", "--precision", "fp8")
    assert outcome.code == 2
    assert "is not one of 'fp32', 'bf16', 'auto'" in outcome.err


@pytest.mark.parametrize(("own", "least", "expected"), [(1, 1, True), (1, 0, False), (0, 0, False)])
def test_a_group_has_what_all_its_processes_have(
    monkeypatch: pytest.MonkeyPatch, own: int, least: int, expected: bool
) -> None:
    # The largest of the negated answers is that of the least capable.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda found, kind: found.fill_(-least))
    assert Group(0, 2).all(bool(own)) == expected
    assert Group().all(bool(own)) == bool(own)
