"""Ablations of the sampler: chunk, slots, order and threads, interleaved in one run.

    python -m benchmarks.variants --width 64 --batch 64

Prints a Markdown table: median seconds, and the ratio to the package's choice. It checks that all variants
draw the same images.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.checkpoints import run
from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.model.decoder import Decoder
from famecli.model.distributions import Bernoulli
from famecli.sampling import execution, packing
from famecli.sampling.sampler import Sampler

SIDE = 28


def main() -> None:
    options = parse_options()
    torch.manual_seed(0)
    sizes = DecoderConfig(autoregressive=True, width=options.width, layers=options.layers)
    config = ModelConfig("benchmark", "bernoulli", 1, SIDE, SIDE, 2, decoder=sizes)
    decoder = Decoder(config, 1).requires_grad_(False)
    uniforms = torch.rand(options.batch, 1, SIDE, SIDE)
    cases = variants(decoder, uniforms)
    found: dict[str, list[float]] = {name: [] for name in cases}
    expected = cases["as it is"]()
    for turn in range(options.rounds + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            images = case()
            if turn:
                found[name].append(time.perf_counter() - started)
            assert torch.equal(images, expected), name
    base = statistics.median(found["as it is"])
    print(
        f"decoder of {options.layers} layers, {options.width} maps; {options.batch} images of {SIDE}x{SIDE}\n"
    )
    print("| variant | seconds | ratio |\n|---|---:|---:|")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times):.3f} | {statistics.median(times) / base:.2f} |")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


def variants(decoder: Decoder, uniforms: torch.Tensor) -> dict[str, Callable[[], torch.Tensor]]:
    def sampler(
        slots: int = packing.SLOTS, chunk: int | None = None, lag: int | None = None
    ) -> Callable[[], torch.Tensor]:
        made = Sampler(decoder, Bernoulli(1), 2, chunk=chunk, lag=lag)
        before, packing.SLOTS = packing.SLOTS, slots
        # The first use allocates memory.
        made.sample(None, uniforms)
        packing.SLOTS = before
        return lambda: made.sample(None, uniforms)

    def with_threads(number: int) -> Callable[[], torch.Tensor]:
        run = sampler()

        def call() -> torch.Tensor:
            before = torch.get_num_threads()
            settings = execution.THREADED_WORK, execution.SINGLES, execution.PATIENCE
            torch.set_num_threads(number)
            execution.THREADED_WORK, execution.SINGLES, execution.PATIENCE = 0, 0, SIDE**2
            try:
                return run()
            finally:
                torch.set_num_threads(before)
                execution.THREADED_WORK, execution.SINGLES, execution.PATIENCE = settings

        return call

    return {
        "as it is": sampler(),
        "chunks of 32 images": sampler(chunk=32),
        "chunks of 128 images": sampler(chunk=128),
        "ring of 4 slots": sampler(slots=4),
        "all slots kept": sampler(slots=SIDE + 2 * (SIDE - 1)),
        "raster order": sampler(lag=decoder.grid[1]),
        "one thread always": with_threads(1),
        "all threads always": with_threads(torch.get_num_threads()),
    }


if __name__ == "__main__":
    run(main)
