"""A compiled step of a training is the same step, and what is missing for one is said in two lines."""

import functools
from pathlib import Path

import pytest
import torch
from support.commands import process
from support.trainers import IN_PARTS, STEP_TOLERANCE, Gradients, farthest, snapshot, trainer_of
from torch import Tensor, nn

from famecli.errors import ExitCode
from famecli.training.trainer import StepRecord

STEPS = 3


def training(
    *, compiled: bool, accumulate: int = 1
) -> tuple[list[StepRecord], dict[str, Tensor], dict[str, Tensor]]:
    """Take some steps; return their records, the first one's gradient, and the last state."""
    torch.compiler.reset()
    with Gradients() as gradients:
        trainer = trainer_of("fame", IN_PARTS, accumulate=accumulate, compiled=compiled)
        records = [trainer.step() for _ in range(STEPS)]
    return records, gradients.first, snapshot(trainer)


def assert_same_training(accumulate: int) -> None:
    expected, expected_gradient, expected_state = training(compiled=False, accumulate=accumulate)
    found, gradient, state = training(compiled=True, accumulate=accumulate)
    assert farthest(gradient, expected_gradient) < STEP_TOLERANCE
    assert farthest(state, expected_state) < 10 * STEP_TOLERANCE
    for one, other in zip(found, expected, strict=True):
        assert one.nats == pytest.approx(other.nats, rel=STEP_TOLERANCE)
        assert one.rate == pytest.approx(other.rate, rel=STEP_TOLERANCE, abs=1e-6)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let steps be traced as they are for compilation, but not translated, and count operations of graphs."""
    graphs: list[int] = []
    whole = nn.Module.compile

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(len(graph.graph.nodes))
        return graph

    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(whole, backend=count))
    return graphs


# Tracing looks at tensors that have no gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_traced_steps_are_those_of_the_model(compilations: list[int], accumulate: int) -> None:
    assert_same_training(accumulate)
    assert sum(compilations) > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_steps_are_those_of_the_model() -> None:
    assert_same_training(1)


def test_a_model_that_is_not_compiled_is_not_traced(compilations: list[int]) -> None:
    training(compiled=False)
    assert compilations == []


def test_what_a_compiled_step_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    done = process("train", "vae", "--compile", "--dry-run", "--batch-size", "2")
    assert done.returncode == ExitCode.UNAVAILABLE
    said = done.stderr.decode().splitlines()
    assert said[-2].startswith("error: a step cannot be compiled: InvalidCxxCompiler")
    assert said[-1].startswith("hint: install a C++ compiler, or leave out --compile")
