"""Time of wavefront sampling, against one forward pass and other exact samplers.

    python -m benchmarks.sampling                          # untrained weights of --model and --size
    python -m benchmarks.sampling model.safetensors --json
    python -m benchmarks.sampling --model pixelcnn --width 64 --layers 5 --peer ../pytorch-generative

Every figure is the median over --rounds rounds. Each contender runs once per round, so that other load on the
machine affects all of them. The samplers with a full pass per pixel (naive and peer) are timed on
--naive-pixels pixels and extrapolated, since all pixels cost the same.

Contenders: `wavefront`, ours, as `fame sample` runs it; `one_process`, ours without forked processes;
`decoder_forward` and `model_forward`, one forward pass without sampling;
`raster`, the same cached activations in raster order; `jacobi`, fixed-point iteration over the whole image
(arXiv:2002.03629); `naive`, one pass per pixel; `peer`, the loop of pytorch-generative's own `sample` over
its PixelCNN with as many layers and feature maps; `beside`, the weights of --beside in one process.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.checkpoints import run
from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.config.presets import PRESETS, Size, model_config
from famecli.errors import InputError, UsageError
from famecli.model.distributions import scale_levels
from famecli.model.fame import Fame
from famecli.rng import BatchNoise, stream
from famecli.runtime.devices import device_named
from famecli.sampling.generate import ImageDecoder
from famecli.sampling.plan import wavefront_plan
from famecli.sampling.sampler import Sampler

CONTENDERS = (
    "wavefront",
    "one_process",
    "decoder_forward",
    "model_forward",
    "raster",
    "jacobi",
    "naive",
    "peer",
    "beside",
)
COLUMNS = {
    "batch": ("batch", "{}"),
    "wavefront": ("wavefront_s", "{:.3f} s"),
    "images/s": ("images_per_s", "{:.0f}"),
    "one process": ("one_process_s", "{:.3f} s"),
    "decoder forward": ("decoder_forward_s", "{:.3f} s"),
    "wavefront / decoder forward": ("per_decoder_forward", "{:.2f}"),
    "wavefront / model forward": ("per_model_forward", "{:.2f}"),
    "raster": ("raster_s", "{:.2f} s"),
    "jacobi": ("jacobi_s", "{:.2f} s"),
    "naive": ("naive_s", "{:.1f} s"),
    "naive / wavefront": ("times_faster_than_naive", "{:.0f}"),
    "peer / wavefront": ("times_faster_than_peer", "{:.0f}"),
    "beside / wavefront": ("times_faster_than_beside", "{:.2f}"),
    "pixels differing": ("pixels_differing", "{}"),
}


def main() -> None:
    options = parse_options()
    for name in ("peer", "beside"):
        if name in (options.only or ()) and getattr(options, name) is None:
            raise UsageError(f"--only {name} lacks --{name}")
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load(options)
    peer = None if options.peer is None else peer_of(model, options.peer)
    rows = []
    for batch in options.batches:
        rows.append(measure(model, peer, batch, options))
        if options.json:
            print(json.dumps(rows[-1]), flush=True)
    if not options.json:
        print(render(rows))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, nargs="?", help="weights; default: untrained ones")
    parser.add_argument("--model", choices=PRESETS, default="fame", help="preset, without a checkpoint")
    parser.add_argument("--size", choices=get_args(Size), default="small", help="size, without a checkpoint")
    parser.add_argument("--width", type=int, help="feature maps of the decoder, without a checkpoint")
    parser.add_argument("--layers", type=int, help="layers of the decoder, without a checkpoint")
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28], metavar=("C", "H", "W"))
    parser.add_argument("--levels", type=int, default=2, help="values of a channel, without a checkpoint")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64], metavar="IMAGES")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--naive-pixels", type=int, default=2, help="pixels timed per round")
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, metavar="NAME", help="contenders; default: all"
    )
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="checkout of pytorch-generative")
    parser.add_argument("--beside", type=Path, metavar="FILE", help="checkpoint to compare speeds with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="decoder in bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; default: chosen by torch")
    parser.add_argument("--json", action="store_true", help="one JSON object per batch size")
    return parser.parse_args()


def load(options: argparse.Namespace) -> Fame:
    if options.checkpoint is not None:
        model = load_checkpoint(options.checkpoint).model
    else:
        torch.manual_seed(0)
        channels, height, width = options.shape
        config = model_config(options.model, options.size, (channels, height, width), options.levels)
        asked = {"width": options.width, "layers": options.layers}
        changes = {name: value for name, value in asked.items() if value is not None}
        decoder = dataclasses.replace(config.decoder, **changes)
        model = Fame(dataclasses.replace(config, decoder=decoder))
    if not model.config.decoder.autoregressive:
        raise UsageError(f"{model.config.preset} has no PixelCNN decoder, so there is nothing to compare")
    model.on(device_named(options.device))
    if options.bf16:
        model.decoder.bfloat16()
    return model.eval().requires_grad_(False)


def peer_of(model: Fame, folder: Path) -> torch.nn.Module:
    """Return the PixelCNN of pytorch-generative with as many layers and feature maps.

    Raises:
        InputError: `folder` is no checkout of pytorch-generative.
    """
    if not (folder / "pytorch_generative").is_dir():
        raise InputError(f"{folder} is no checkout of pytorch-generative")
    # Load the PixelCNN's modules alone: the packages import data sets, torchvision and more.
    for name in (
        "pytorch_generative",
        "pytorch_generative.models",
        "pytorch_generative.models.autoregressive",
    ):
        package = ModuleType(name)
        package.__path__ = [str(folder.joinpath(*name.split(".")))]
        sys.modules[name] = package
    from pytorch_generative.models.autoregressive.pixel_cnn import PixelCNN

    config = model.config
    peer: torch.nn.Module = PixelCNN(
        in_channels=config.channels,
        out_channels=config.channels,
        n_residual=config.decoder.layers,
        residual_channels=config.decoder.width // 2,
        head_channels=config.decoder.width,
    )
    return peer.eval().to(model.device)


@torch.no_grad()
def measure(
    model: Fame, peer: torch.nn.Module | None, batch: int, options: argparse.Namespace
) -> dict[str, Any]:
    noise = BatchNoise(stream("benchmark", batch), model.device)
    condition, uniforms = inputs_of(model, batch)
    sampler, raster = sampler_of(model), sampler_of(model, lag=model.decoder.grid[1])
    decoder = ImageDecoder(model)
    x = sampler.sample(condition, uniforms)
    part = options.naive_pixels
    contenders: dict[str, Callable[[], object]] = {
        "wavefront": lambda: decoder(condition, uniforms),
        "one_process": lambda: sampler.sample(condition, uniforms),
        "decoder_forward": lambda: model.pixel_parameters(x, condition),
        "model_forward": lambda: model(x.float(), noise),
        "raster": lambda: raster.sample(condition, uniforms),
        "jacobi": lambda: jacobi(model, condition, uniforms),
        "naive": lambda: naive_part(model, condition, uniforms, part),
    }
    if options.bf16:
        for name in ("decoder_forward", "model_forward", "jacobi", "naive"):
            contenders[name] = mixed(contenders[name], model.device.type)
    if peer is not None:
        contenders["peer"] = lambda: peer_part(peer, x, part)
    if options.beside is not None:
        other = load_checkpoint(options.beside).model.on(options.device).eval()
        others, inputs = sampler_of(other), inputs_of(other, batch)
        contenders["beside"] = lambda: others.sample(*inputs)
    wanted = options.only or list(contenders)
    seconds = medians({name: each for name, each in contenders.items() if name in wanted}, options.rounds)
    return row_of(model, seconds, batch, options) | {
        "pixels_differing": sampler.verify(x, uniforms, condition)
    }


def mixed(work: Callable[[], object], kind: str) -> Callable[[], object]:
    """Return work on a decoder in bfloat16 whose condition is float32."""

    def run() -> object:
        with torch.autocast(kind, torch.bfloat16):
            return work()

    return run


def sampler_of(model: Fame, lag: int | None = None) -> Sampler:
    return Sampler(model.decoder, model.likelihood, model.config.levels, lag=lag)


def inputs_of(model: Fame, batch: int) -> tuple[Tensor | None, Tensor]:
    """Return a condition drawn from the prior, and uniform numbers, for a number of images."""
    condition = model.prior_condition(batch, BatchNoise(stream("benchmark", batch), model.device))
    return condition, torch.rand(batch, *model.uniforms_shape, device=model.device)


def row_of(model: Fame, seconds: dict[str, float], batch: int, options: argparse.Namespace) -> dict[str, Any]:
    config = model.config
    pixels = config.height * config.width
    for name in {"naive", "peer"} & set(seconds):
        seconds[name] *= pixels / options.naive_pixels
    shape = "x".join(map(str, config.image_shape))
    row: dict[str, Any] = {
        "model": f"{config.preset} {shape}, {config.levels} levels, decoder {config.decoder.width} wide, "
        f"{config.decoder.layers} layers",
        "parameters": model.count_parameters(),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "precision": str(next(model.decoder.parameters()).dtype),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch": batch,
        "rounds": options.rounds,
        "naive_pixels_timed": options.naive_pixels,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    row |= {f"{name}_s": value for name, value in seconds.items()}
    ours = seconds.get("wavefront")
    if ours is not None:
        row["images_per_s"] = batch / ours
        for key, name in (("per_decoder_forward", "decoder_forward"), ("per_model_forward", "model_forward")):
            row[key] = ours / seconds[name] if name in seconds else None
        for key, name in (
            ("times_faster_than_naive", "naive"),
            ("times_faster_than_peer", "peer"),
            ("times_faster_than_beside", "beside"),
        ):
            row[key] = seconds[name] / ours if name in seconds else None
    return row


def jacobi(model: Fame, condition: Tensor | None, uniforms: Tensor) -> Tensor:
    """Sample by fixed-point iteration; the image is exact once an iteration changes nothing."""
    x = torch.zeros(len(uniforms), *model.config.image_shape, device=model.device)
    while True:
        parameters = model.pixel_parameters(x, condition).to(uniforms.dtype)
        after = model.likelihood.sample(parameters, uniforms)
        if torch.equal(after, x):
            return x
        x = after


def naive_part(model: Fame, condition: Tensor | None, uniforms: Tensor, pixels: int) -> Tensor:
    """Run the first `pixels` iterations of the naive loop in `famecli.sampling.sampler`."""
    config = model.config
    x = uniforms.new_zeros(len(uniforms), *config.image_shape)
    plan = wavefront_plan(config.height, config.width, model.decoder.grid[1], config.decoder.patch)
    for raster in plan.order[:pixels]:
        here = slice(None), slice(None), *divmod(raster, config.width)
        scaled = scale_levels(x, config.levels).to(next(model.decoder.parameters()).dtype)
        x[here] = model.likelihood.sample(model.decoder(scaled, condition)[here].float(), uniforms[here])
    return x


def peer_part(peer: torch.nn.Module, x: Tensor, pixels: int) -> None:
    """Run pytorch-generative's `sample` for `pixels` pixels: a pass and a draw for each."""
    images = torch.full_like(x, -1.0)
    for index in range(pixels):
        here = slice(None), slice(None), *divmod(index, x.shape[3])
        drawn = torch.distributions.Bernoulli(logits=peer(images)[here]).sample()
        images[here] = torch.where(images[here] < 0, drawn, images[here])


def medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each contender, after one warm-up round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, contender in contenders.items():
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            started = time.perf_counter()
            contender()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    first = rows[0]
    columns = {title: cell for title, cell in COLUMNS.items() if first.get(cell[0]) is not None}
    lines = [
        f"{first['model']}; {first['parameters']} parameters, {first['device']}, {first['precision']}, "
        f"{first['threads']} threads, torch {first['torch']}; medians of {first['rounds']} rounds",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---:|' * len(columns)}",
    ]
    for row in rows:
        cells = [form.format(row[key]) for key, form in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
