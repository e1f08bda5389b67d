import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
import torch
from support.models import make_decoder, model_around
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from famecli.config.schema import DecoderConfig
from famecli.model.distributions import Bernoulli, Likelihood, LogisticMixture
from famecli.sampling.execution import GraphRunner
from famecli.sampling.sampler import Sampler

LIKELIHOODS = [Bernoulli(1), LogisticMixture(1, 256, 3), LogisticMixture(3, 256, 3)]


class FakeGraph:
    """Stands for a captured graph: replaying it runs the loop, or does something else."""

    def __init__(self, loop: Callable[[], None]) -> None:
        self.loop, self.replays = loop, 0

    def replay(self) -> None:
        self.replays += 1
        self.loop()


class OnGpu(Tensor):
    """A tensor that says it is on a GPU, so that a runner takes its GPU path."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda")


def on_gpu(values: Tensor) -> Tensor:
    return values.as_subclass(OnGpu)


def fill(result: Tensor, value: float) -> Callable[[], None]:
    def loop() -> None:
        result.fill_(value)

    return loop


class Captures(list[FakeGraph]):
    """Captures loops, and holds their graphs."""

    def __call__(self, loop: Callable[[], None]) -> Any:
        self.append(FakeGraph(loop))
        return self[-1]


def test_a_loop_is_captured_once_for_each_key() -> None:
    result, captured = on_gpu(torch.zeros(3)), Captures()
    runner = GraphRunner("auto", captured)
    for key in ("a", "a", "b", "a"):
        runner.run(key, fill(result, 7.0), result)
    assert len(captured) == 2
    assert [graph.replays for graph in captured] == [3, 1]
    assert result.tolist() == [7.0] * 3


def test_the_graph_used_longest_ago_is_dropped() -> None:
    result, captured = on_gpu(torch.zeros(1)), Captures()
    runner = GraphRunner("auto", captured)
    for key in ("a", "b", "a", "c", "a", "b"):
        runner.run(key, lambda: None, result)
    assert len(captured) == 4
    assert list(runner.graphs) == ["a", "b"]


def test_a_differing_graph_is_given_up_with_a_warning() -> None:
    result, captured = on_gpu(torch.zeros(1)), Captures()
    runner = GraphRunner("auto", lambda loop: captured(fill(result, -1.0)))
    with pytest.warns(RuntimeWarning, match="differs from that of the eager loop"):
        runner.run("a", fill(result, 1.0), result)
    assert result.tolist() == [1.0]
    assert runner.mode == "off"
    runner.run("a", fill(result, 2.0), result)
    assert result.tolist() == [2.0]


def test_a_failed_capture_is_an_error_only_if_graphs_are_demanded() -> None:
    def refuse(loop: Callable[[], None]) -> NoReturn:
        raise RuntimeError("operation not permitted when stream is capturing")

    result = on_gpu(torch.zeros(1))
    with pytest.raises(RuntimeError, match="not permitted"):
        GraphRunner("on", refuse).run("a", lambda: None, result)
    with pytest.warns(RuntimeWarning, match="not permitted"):
        GraphRunner("auto", refuse).run("a", lambda: None, result)


class Slices(TorchFunctionMode):
    """Slices and copies by operators: Python's own switch to the GPU, which a build without CUDA cannot."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__:
            return self.part(*args)
        if func is Tensor.__setitem__:
            return torch.ops.aten.copy_(self.part(*args[:2]), args[2])
        if func is Tensor.copy_:
            return torch.ops.aten.copy_(*args)
        if func is Tensor.__iter__:
            return iter(torch.unbind(*args))
        if func is Tensor.contiguous:
            return torch.ops.aten.contiguous(*args)
        return func(*args, **(kwargs or {}))

    def part(self, tensor: Tensor, index: Any) -> Tensor:
        dimension = 0
        for each in index if isinstance(index, tuple) else (index,):
            if each is None:
                tensor = tensor.unsqueeze(dimension)
            elif isinstance(each, int):
                tensor = tensor.select(dimension, each)
                continue
            else:
                start, stop, step = each.indices(tensor.shape[dimension])
                assert step == 1
                tensor = tensor.narrow(dimension, start, max(0, stop - start))
            dimension += 1
        return tensor


def sample_on(
    device: str,
    likelihood: Likelihood,
    channels: int,
    dtype: torch.dtype,
    completing: bool,
    patch: int = 1,
    attention: tuple[int, ...] = (),
    positions: bool = False,
) -> Tensor:
    """All steps of a sampler whose tensors are made on `device`, without graphs."""
    layout = {"patch": patch, "attention": attention, "positions": positions}
    sizes = DecoderConfig(True, 8, 2, kernel=5, condition=4, **layout)  # type: ignore[arg-type]
    levels = 2 if isinstance(likelihood, Bernoulli) else 256
    torch.set_default_dtype(dtype)
    with torch.device(device):
        config = model_around(sizes, (4, 3), channels, levels)
        decoder = make_decoder(dataclasses.replace(config, normalised=patch > 1))
        condition, uniforms = torch.empty(3, 4, *config.grid), torch.empty(3, likelihood.uniforms, 4, 3)
        known, mask = torch.zeros(3, channels, 4, 3), torch.zeros(3, 1, 4, 3, dtype=torch.bool)
    sampler = Sampler(decoder, likelihood, levels, graph="off")
    if completing:
        return sampler.sample(condition, uniforms, known=known, mask=mask)
    return sampler.sample(condition, uniforms)


@pytest.fixture
def no_first_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A build of torch without CUDA can fake its tensors, but not its random numbers.
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda self: None)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("no_first_weights")
@pytest.mark.parametrize(
    ("patch", "attention", "positions"),
    [(1, (), False), (1, (), True), (1, (1, 2), False), (2, (), False), (2, (2,), False), (2, (2,), True)],
)
@pytest.mark.parametrize(
    ("channels", "likelihood", "dtype", "completing"),
    [
        (1, Bernoulli(1), torch.float32, False),
        (1, LogisticMixture(1, 256, 3), torch.float32, True),
        (3, LogisticMixture(3, 256, 3), torch.bfloat16, False),
    ],
    ids=["binary", "grey", "rgb"],
)
def test_the_step_loop_runs_on_fake_cuda_tensors(
    channels: int,
    likelihood: Likelihood,
    dtype: torch.dtype,
    completing: bool,
    patch: int,
    attention: tuple[int, ...],
    positions: bool,
) -> None:
    # Fake tensors refuse to give their values to the host, and to meet a tensor of another device.
    with FakeTensorMode(), Slices():
        sampled = sample_on("cuda", likelihood, channels, dtype, completing, patch, attention, positions)
    assert sampled.shape == (3, channels, 4, 3)
    assert sampled.device.type == "cuda"
    assert sampled.dtype == dtype


class Looking(Bernoulli):
    """Reads a value on the host."""

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        return torch.ops.aten._local_scalar_dense(parameters.sum()) * uniforms  # type: ignore[no-any-return]


class Elsewhere(Bernoulli):
    """Has a tensor on another device."""

    def sample(self, parameters: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
        return uniforms + torch.ones(1, 1, 1, device="cpu")


@pytest.mark.usefixtures("no_first_weights")
def test_fake_tensors_notice_a_look_at_a_value() -> None:
    with FakeTensorMode(), Slices(), pytest.raises(DataDependentOutputException):
        sample_on("cuda", Looking(1), 1, torch.float32, completing=False)


@pytest.mark.usefixtures("no_first_weights")
def test_fake_tensors_notice_a_tensor_of_another_device() -> None:
    with FakeTensorMode(), Slices(), pytest.raises(RuntimeError, match="cpu"):
        sample_on("cuda", Elsewhere(1), 1, torch.float32, completing=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=["binary", "grey", "rgb"])
@pytest.mark.parametrize(
    ("patch", "attention", "positions"), [(1, (), False), (1, (), True), (2, (2,), False), (2, (2,), True)]
)
def test_a_real_graph_equals_the_eager_loop(
    likelihood: Likelihood, dtype: torch.dtype, patch: int, attention: tuple[int, ...], positions: bool
) -> None:
    channels = 3 if likelihood is LIKELIHOODS[2] else 1
    levels = 2 if isinstance(likelihood, Bernoulli) else 256
    torch.manual_seed(0)
    sizes = DecoderConfig(True, width=32, layers=3, patch=patch, attention=attention, positions=positions)
    config = model_around(sizes, (16, 16), channels, levels)
    decoder = make_decoder(config).to("cuda", dtype).requires_grad_(False)
    if positions:
        # They are zero at first.
        decoder.position.normal_(std=0.1)
    uniforms = torch.rand(40, likelihood.uniforms, 16, 16, device="cuda")
    eager = Sampler(decoder, likelihood, levels, graph="off").sample(None, uniforms)
    sampler = Sampler(decoder, likelihood, levels, graph="on")
    for _ in range(3):
        assert torch.equal(sampler.sample(None, uniforms), eager)
    assert sampler.verify(eager, uniforms, None) <= (0.01 if dtype == torch.float32 else 0.2) * eager.numel()
