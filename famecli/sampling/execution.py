"""Execution of the sampler's operations: matrix products, CPU threads, CUDA graphs."""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from famecli.runtime.processor import Routine

GraphMode = Literal["auto", "on", "off"]
MOST_GRAPHS = 2
WARM_UPS = 3
# Products run one after another, and each waits for its slowest thread, so small ones use one thread.
# Measured number of multiplications from which threads save time on an idle machine.
THREADED_WORK = 2**23
# Largest number of images for which a pass uses one thread: on a busy machine two threads take 20 to 50 times
# as long to load weights or to score an image.
FEW_IMAGES = 32
# Number of typical steps timed on one thread, and least number timed on all threads.
SINGLES = 2
PATIENCE = 4


class Products:
    """Matrix products into existing memory, without gradients; float32 uses the faster library.

    Results of oneDNN equal those of `torch.mm` to rounding. `torch.mm` computes what oneDNN does not: other
    dtypes than float32, other devices than the CPU, empty matrices, and everything where torch lacks oneDNN.

    Args:
        routine: Library to use, see `famecli.runtime.processor`.
    """

    def __init__(self, routine: Routine) -> None:
        self.onednn = routine == "onednn" and has_linear()

    def write(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        """Write `weight @ x` into `out`.

        Args:
            weight: Matrix `(outputs, inputs)`.
            x: Matrix `(inputs, columns)`, of any strides.
            out: Matrix `(outputs, columns)`, of any strides.
        """
        if self._by_onednn(weight, x):
            out.copy_(_linear(weight, x))
        else:
            torch.mm(weight, x, out=out)

    def add(self, weight: Tensor, x: Tensor, out: Tensor) -> None:
        """Add `weight @ x` to `out`; arguments are those of `write`."""
        if self._by_onednn(weight, x):
            out.add_(_linear(weight, x))
        else:
            out.addmm_(weight, x)

    def add_each(self, weights: Tensor, x: Tensor, out: Tensor) -> None:
        """Add `weights[i] @ x[i]` to `out[i]` for each of N matrices."""
        if not self.onednn:
            out.baddbmm_(weights, x)
            return
        for each in zip(weights, x, out, strict=True):
            self.add(*each)

    def _by_onednn(self, weight: Tensor, x: Tensor) -> bool:
        single = weight.dtype == x.dtype == torch.float32 and weight.device.type == "cpu"
        return self.onednn and single and weight.numel() > 0 and x.numel() > 0


def _linear(weight: Tensor, x: Tensor) -> Tensor:
    # The routine transposes its second matrix, and is a hundred times slower if rows are not contiguous.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(
        weight.contiguous(), x.contiguous().mT, None, "none", [], ""
    )
    return product


def has_linear() -> bool:
    """Return whether this torch has the oneDNN routine that `Products` calls."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def threads_for(work: int) -> AbstractContextManager[None]:
    """Return a context with one CPU thread if products are small; see `threads`.

    Args:
        work: Multiplications in the largest product; products below `THREADED_WORK` are small.
    """
    return threads(one=work < THREADED_WORK)


@contextmanager
def threads(*, one: bool) -> Iterator[None]:
    """Run torch on one CPU thread, or on as many as before, whose number is restored afterwards."""
    before = torch.get_num_threads()
    if one:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadTrial:
    """Runs the first typical steps on one thread and the others on all threads, unless that is slower.

    When other programs keep all cores busy, each product waits for its last thread to get a core: a step can
    take a hundred times as long on two threads as on one. With more than two threads, rounding may depend on
    their number. A sample must not depend on timing, so all threads are used then.

    Args:
        steps: Number of steps in total; with too few for a trial all threads are used.
        clock_s: Function that returns the time in seconds.
    """

    def __init__(self, steps: int, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self.clock_s = clock_s
        self.all = torch.get_num_threads()
        self.single_s: list[float] = []
        self.all_s: list[float] = []
        self.over = self.all != 2 or steps <= SINGLES + PATIENCE

    @contextmanager
    def step(self, pixels: int, *, typical: bool) -> Iterator[None]:
        """Set torch's threads for one step.

        Args:
            pixels: Number of pixels in the step.
            typical: Whether the time of the step counts in the trial.
        """
        if self.over:
            yield
            return
        single = len(self.single_s) < SINGLES
        torch.set_num_threads(1 if single else self.all)
        start_s = self.clock_s()
        yield
        if typical:
            (self.single_s if single else self.all_s).append((self.clock_s() - start_s) / pixels)
        # The mean of all threads includes rare long waits; the minimum of one thread excludes its own waits.
        if len(self.all_s) >= PATIENCE and fmean(self.all_s) > min(self.single_s):
            torch.set_num_threads(1)
            self.over = True


class GraphRunner:
    """Runs loops eagerly, or on a GPU as CUDA graphs that are captured once for each key.

    The first run is eager, and the first replay is compared with it. With "auto", a graph that cannot be
    captured or whose result differs causes one warning, and everything is eager from then on.

    Args:
        mode: "auto", "on" (a failure is an error) or "off".
        capturing: Function that captures a loop; None for `capture`.
    """

    def __init__(
        self,
        mode: GraphMode = "auto",
        capturing: Callable[[Callable[[], None]], torch.cuda.CUDAGraph] | None = None,
    ) -> None:
        self.mode, self.capture = mode, capture if capturing is None else capturing
        self.graphs: OrderedDict[Hashable, torch.cuda.CUDAGraph] = OrderedDict()

    def run(self, key: Hashable, loop: Callable[[], None], result: Tensor) -> None:
        """Run `loop`, which fills `result`.

        Args:
            key: Value that determines the loop's kernels and memory.
            loop: Function that reads its inputs from memory that stays in place, draws no random numbers,
                and reads no value of a tensor on the host.
            result: Tensor that the loop fills, compared after the first replay.

        Raises:
            RuntimeError: With "on": the loop cannot be captured, or the graph's result differs.
        """
        if self.mode == "off" or result.device.type != "cuda":
            loop()
        elif key in self.graphs:
            self.graphs.move_to_end(key)
            self.graphs[key].replay()
        else:
            self._first_run(key, loop, result)

    def _first_run(self, key: Hashable, loop: Callable[[], None], result: Tensor) -> None:
        loop()
        expected = result.clone()
        try:
            graph = self.capture(loop)
            graph.replay()
            if not torch.equal(result, expected):
                raise RuntimeError("its result differs from that of the eager loop")
        except RuntimeError as error:
            if self.mode == "on":
                raise
            warnings.warn(f"no CUDA graph is used: {error}", RuntimeWarning, stacklevel=2)
            self.mode = "off"
            result.copy_(expected)
            return
        self.graphs[key] = graph
        if len(self.graphs) > MOST_GRAPHS:
            self.graphs.popitem(last=False)


def capture(loop: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """Return the graph of `loop`, captured after some warm-up runs on a separate stream.

    Source: the warm-up that docs.pytorch.org/docs/stable/notes/cuda.html asks for, "CUDA Graphs".
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            loop()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loop()
    return graph
