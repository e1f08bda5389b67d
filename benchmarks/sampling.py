"""Seconds to sample a batch in wavefronts, against one forward pass and against one pass per pixel.

    python benchmarks/sampling.py                        # untrained weights of --model and --size
    python benchmarks/sampling.py model.safetensors --json

Every figure is the median of --rounds; in a round each contender runs once, so that a busy moment of the
machine strikes all of them. Of the pixels of the naive sampler, which all cost the same, --naive-pixels are
timed, and the whole is extrapolated.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from famecli.checkpoint import load_checkpoint
from famecli.model.fame import Fame
from famecli.model.likelihoods import scale_levels
from famecli.presets import PRESETS, Size, model_config
from famecli.rng import BatchNoise, stream
from famecli.sampling.wavefront import WavefrontSampler

COLUMNS = {
    "batch": ("batch", "{}"),
    "wavefront": ("wavefront_s", "{:.3f} s"),
    "images/s": ("images_per_s", "{:.0f}"),
    "decoder forward": ("decoder_forward_s", "{:.3f} s"),
    "model forward": ("model_forward_s", "{:.3f} s"),
    "naive": ("naive_s", "{:.1f} s"),
    "model forwards per wavefront": ("per_model_forward", "{:.2f}"),
    "naive / wavefront": ("times_faster_than_naive", "{:.0f}"),
    "pixels differing": ("pixels_differing", "{}"),
}


def main() -> None:
    options = parse_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load(options)
    rows = []
    for batch in options.batches:
        rows.append(measure(model, batch, options.rounds, options.naive_pixels))
        if options.json:
            print(json.dumps(rows[-1]), flush=True)
    if not options.json:
        print(render(rows))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="weights; default: untrained ones")
    parser.add_argument("--model", choices=PRESETS, default="fame", help="without a checkpoint")
    parser.add_argument("--size", choices=get_args(Size), default="small", help="without a checkpoint")
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28], metavar=("C", "H", "W"))
    parser.add_argument("--levels", type=int, default=2, help="values of a channel, without a checkpoint")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64], metavar="IMAGES")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--naive-pixels", type=int, default=2, help="pixels of the naive sampler timed a round"
    )
    parser.add_argument("--threads", type=int, default=0, help="default: torch's own choice")
    parser.add_argument("--json", action="store_true", help="one JSON object per batch size")
    return parser.parse_args()


def load(options: argparse.Namespace) -> Fame:
    if options.checkpoint is not None:
        model = load_checkpoint(options.checkpoint).model
    else:
        torch.manual_seed(0)
        channels, height, width = options.shape
        model = Fame(model_config(options.model, options.size, (channels, height, width), options.levels))
    if not model.config.decoder.autoregressive:
        raise SystemExit(f"{model.config.preset} has no PixelCNN decoder, so there is nothing to compare")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def measure(model: Fame, batch: int, rounds: int, naive_pixels: int) -> dict[str, Any]:
    config, likelihood = model.config, model.likelihood
    pixels = config.height * config.width
    noise = BatchNoise(stream("benchmark", batch), model.device)
    condition = model.prior_condition(batch, noise)
    uniforms = torch.rand(batch, likelihood.uniforms, config.height, config.width, device=model.device)
    sampler = WavefrontSampler(model.decoder, likelihood, config.levels, config.height, config.width)
    x = sampler.sample(condition, uniforms)
    seconds = medians(
        {
            "wavefront": lambda: sampler.sample(condition, uniforms),
            "decoder_forward": lambda: model.pixel_parameters(x, condition),
            "model_forward": lambda: model(x, noise),
            "naive_part": lambda: naive_part(model, condition, uniforms, naive_pixels),
        },
        rounds,
    )
    naive = seconds["naive_part"] * pixels / naive_pixels
    return {
        "model": f"{config.preset} {'x'.join(map(str, config.image_shape))}, {config.levels} levels",
        "parameters": model.count_parameters(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": batch,
        "rounds": rounds,
        "naive_pixels_timed": naive_pixels,
        "naive_pixels": pixels,
        "wavefront_s": seconds["wavefront"],
        "decoder_forward_s": seconds["decoder_forward"],
        "model_forward_s": seconds["model_forward"],
        "naive_s": naive,
        "images_per_s": batch / seconds["wavefront"],
        "per_decoder_forward": seconds["wavefront"] / seconds["decoder_forward"],
        "per_model_forward": seconds["wavefront"] / seconds["model_forward"],
        "times_faster_than_naive": naive / seconds["wavefront"],
        "pixels_differing": sampler.verify(x, uniforms, condition),
    }


def naive_part(model: Fame, condition: Tensor | None, uniforms: Tensor, pixels: int) -> Tensor:
    """The first `pixels` turns of the loop of `famecli.sampling.naive`."""
    x = uniforms.new_zeros(len(uniforms), *model.config.image_shape)
    for index in range(pixels):
        row, column = divmod(index, model.config.width)
        parameters = model.decoder(scale_levels(x, model.config.levels), condition)[:, :, row, column]
        x[:, :, row, column] = model.likelihood.sample(parameters, uniforms[:, :, row, column])
    return x


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender, after one round that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def render(rows: list[dict[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    first = rows[0]
    lines = [
        f"{first['model']}, {first['parameters']} parameters, {first['threads']} threads, "
        f"torch {first['torch']}; medians of {first['rounds']} rounds; naive extrapolated from "
        f"{first['naive_pixels_timed']} of {first['naive_pixels']} pixels",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---:|' * len(COLUMNS)}",
    ]
    for row in rows:
        cells = [form.format(row[key]) for key, form in COLUMNS.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
