"""A loop of the same kernels on the same memory, replayed as one CUDA graph."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Literal

import torch
from torch import Tensor

GraphMode = Literal["auto", "on", "off"]
MOST_GRAPHS = 2
WARM_UPS = 3


class GraphRunner:
    """Runs loops, on a GPU as graphs that are captured once for each key.

    A first run is also taken eagerly and compared with the replay. With "auto", a graph that cannot be
    captured or whose result differs is given up with one warning, and everything is eager from then on.

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
            key: What decides the loop's kernels and memory.
            loop: Takes its inputs from memory that stays where it is; draws no random numbers, and reads no
                value of a tensor on the host.
            result: What is compared.

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
    """Return the graph of `loop`, captured after some runs on a stream of its own.

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
