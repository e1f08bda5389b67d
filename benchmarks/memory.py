"""Peak memory of the sampler against that of one forward pass of the same decoder.

    python -m benchmarks.memory --width 64 --batch 64

Each case runs in its own process: nothing (the floor), one pass without gradients, and the sampler. Prints
the peak resident memory above the floor, in MiB.
"""

import argparse
import json
import resource
import subprocess
import sys

import torch

from benchmarks.checkpoints import run
from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.model.fame import Fame
from famecli.sampling.sampler import Sampler

CASES = ("nothing", "forward", "sampler")


def main() -> None:
    options = parse_options()
    if options.case:
        print(peak_mib(options))
        return
    found = {}
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--case", case]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            # The process has printed its error.
            sys.exit(done.returncode)
        found[case] = float(done.stdout)
    forward, sampler = (found[case] - found["nothing"] for case in ("forward", "sampler"))
    row = {"forward_mib": forward, "sampler_mib": sampler, "sampler_per_forward": sampler / forward}
    print(json.dumps(vars(options) | row))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28], metavar=("C", "H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args()


@torch.no_grad()
def peak_mib(options: argparse.Namespace) -> float:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    channels, height, width = options.shape
    sizes = DecoderConfig(autoregressive=True, width=options.width, layers=options.layers)
    levels = 2 if channels == 1 else 256
    config = ModelConfig(
        "benchmark",
        "bernoulli" if levels == 2 else "logistic-mixture",
        channels,
        height,
        width,
        levels,
        decoder=sizes,
    )
    model = Fame(config).on("cpu")
    decoder, likelihood = model.decoder, model.likelihood
    if options.case == "forward":
        decoder(torch.rand(options.batch, channels, height, width), None)
    elif options.case == "sampler":
        uniforms = torch.rand(options.batch, likelihood.uniforms, height, width)
        Sampler(decoder, likelihood, levels).sample(None, uniforms)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(main)
