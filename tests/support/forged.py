"""Forged checkpoints with consistent seals, and what the commands make of them.

Structure-aware and seeded: `forged(seed, number)` depends on its arguments alone. Run many in one process by

    PYTHONPATH=tests python -m support.forged --count 2000
"""

import argparse
import io
import json
import math
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from famecli.checkpoints.checkpoint import hash_weights, load_checkpoint
from famecli.checkpoints.header import CHECKPOINT_SCHEMA, METADATA_KEY, seal
from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, model_config
from famecli.config.schema import ModelConfig, to_dict
from famecli.errors import ConfigError, ExitCode
from famecli.model.fame import Fame
from famecli.verification import runner, subject
from support.commands import CLAIM, PROVENANCE, Done, fame
from support.forgeries import attending, ladder, smallest
from support.models import all_images
from support.mutants import memory_limit, peak_kib

Source = np.random.Generator
ROOM_BYTES = 1 << 30
SLOWEST_S, SLOWEST_VERIFY_S = 10.0, 30.0
MOST_PARAMETERS = 100_000
# A sum of log(estimate / exact) above this has a chance of less than one in a million.
MOST_NATS = 14.0
IMAGES, SAMPLES = 6, 10
REFUSED = (ExitCode.BAD_INPUT, ExitCode.INTEGRITY)
CODES = {
    "info": REFUSED,
    "evaluate-nll": (*REFUSED, ExitCode.NUMERICS),
    "sample": (*REFUSED, ExitCode.NUMERICS),
    "verify": (*REFUSED, ExitCode.NUMERICS, ExitCode.GATE),
}
SHAPES = ((1, 2, 2, 2), (1, 3, 3, 2), (1, 8, 8, 2), (1, 5, 6, 256), (3, 4, 4, 256), (1, 28, 28, 2))
TEXTS = (
    "",
    "\x1b[2J",
    "a\nb | c",
    "<script>",
    "javascript:x",
    "[x](javascript:y)",
    "\u202e",
    "https://u:p@h/?t=1",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 10**14, 10**16, 1e-300, 1e300, 0.5)


def any_of(source: Source, *choices: Any) -> Any:
    return choices[source.integers(len(choices))]


def change_keys(table: dict[str, Any], source: Source) -> None:
    """Set up to three keys of a configuration to values at the ends of their ranges, or between."""
    decoder, stages = table["decoder"], table["stages"]
    changes = [
        lambda: decoder.update(lag=int(any_of(source, 1, 2, 7, 64, 1024))),
        lambda: decoder.update(first_kernel=int(any_of(source, 1, 3, 9, 31))),
        lambda: decoder.update(kernel=int(any_of(source, 1, 3, 5, 15))),
        lambda: decoder.update(layers=int(any_of(source, 0, 1, 3, 40))),
        lambda: decoder.update(patch=int(any_of(source, 1, 2, 4))),
        lambda: decoder.update(attention=[1], heads=1),
        lambda: decoder.update(width=int(any_of(source, 1, 2, 33))),
        lambda: table.update(mixtures=int(any_of(source, 1, 3, 64))),
        lambda: table.update(normalised=not table["normalised"]),
        lambda: table.update(bounded_latents=not table["bounded_latents"]),
        lambda: table.update(height=int(any_of(source, 1, 2, 13, 64, 1024))),
        lambda: table.update(width=int(any_of(source, 1, 2, 13, 64, 1024))),
        lambda: table.update(preset=any_of(source, *TEXTS)),
        lambda: [stage.update(latents=int(any_of(source, 1, 2, 65))) for stage in stages],
        lambda: [stage.update(stride=int(any_of(source, 1, 2))) for stage in stages],
        lambda: [stage.update(dense=bool(source.integers(2))) for stage in stages],
        lambda: [stage.update(blocks=int(any_of(source, 0, 1, 12))) for stage in stages],
    ]
    for change in source.permutation(len(changes))[: source.integers(4)]:
        changes[change]()


def forged_config(source: Source) -> ModelConfig:
    """Return a valid configuration of a small model, some of its keys at the ends of their ranges."""
    while True:
        channels, height, width, levels = any_of(source, *SHAPES)
        preset = any_of(source, *PRESETS)
        config = model_config(preset, "tiny", (channels, height, width), levels)
        config = any_of(source, config, config, config, smallest(), ladder(), attending())
        table = to_dict(config)
        change_keys(table, source)
        try:
            config = ModelConfig.from_dict(table)
        except ConfigError:
            continue
        if count_parameters(config) <= MOST_PARAMETERS:
            return config


def forged_values(shape: torch.Size, source: Source) -> Tensor:
    """Return the values of a weight: ordinary, or of some extreme kind."""
    spread = 1.0 / math.sqrt(max(1, math.prod(shape[1:])))
    values = source.standard_normal(shape) * spread
    kind = source.integers(24)
    if kind == 0:
        values = values * 10.0 ** source.integers(-44, 39)
    elif kind == 1:
        values = np.full(shape, any_of(source, 0.0, -0.0, 1e-45, 1e-38, 3e38, -3e38, 16_692.3, -104.0, 88.0))
    elif kind == 2 and values.size:
        values.flat[source.integers(values.size)] = any_of(source, 3e38, -3e38, 1e-45, 65_504.0, -1e4)
    elif kind == 3:
        values = np.round(values * 2) * any_of(source, 1.0, 1e3, 2.0**24)
    elif kind == 4:
        values = values + any_of(source, 16_692.3, -32_768.0, 2.0**24, -20.0)
    return torch.from_numpy(np.clip(values, -3.4e38, 3.4e38)).float()


def forged_metadata(source: Source) -> dict[str, Any]:
    """Return provenance, settings and claim; some texts act on terminals or pages, some numbers are odd."""

    def altered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: altered(each) for key, each in value.items()}
        if isinstance(value, list):
            return [altered(each) for each in value]
        if source.random() > 0.04:
            return value
        return any_of(source, *TEXTS) if isinstance(value, str) else any_of(source, *NUMBERS)

    facts = {
        "provenance": PROVENANCE,
        "claim": CLAIM,
        "training": {"lr": 0.1, "optimizer": "muon", "seed": 0},
    }
    return altered(facts) if source.random() < 0.5 else {}


def forged(seed: int, number: int) -> tuple[ModelConfig, bytes]:
    """Return the configuration and the content of a checkpoint with right hashes."""
    source = np.random.default_rng([seed, number])
    config = forged_config(source)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Fame(config).state_dict().items()}
    weights = {name: forged_values(shape, source) for name, shape in shapes.items()}
    if config.stages and source.random() < 0.3:
        # Zeros cut the decoder off from the latents, so that the exact likelihood is known.
        for name in weights:
            if ".condition." in name:
                weights[name] = torch.zeros_like(weights[name])
    told = {
        "schema": CHECKPOINT_SCHEMA,
        "model": to_dict(config),
        "weights_sha256": {"ema": hash_weights(weights)},
    }
    return config, safetensors.torch.save(weights, {METADATA_KEY: seal(forged_metadata(source) | told)})


def checked(done: Done, name: str, command: str) -> Done:
    """Check the exit code and the texts of a command."""
    assert done.code in (0, *CODES[command]), f"{name}: {command} ended with {done.code}: {done.err[-500:]}"
    shown = done.text + done.err
    assert "Traceback" not in shown, f"{name}: {command}: {shown[-500:]}"
    odd = {letter for letter in shown if not letter.isprintable() and letter != "\n"}
    assert not odd, f"{name}: {command} shows {odd!r}"
    assert done.code == 0 or sum(line.startswith("error: ") for line in done.err.splitlines()) == 1
    return done


def attack(seed: int, number: int, folder: Path, verify: Sequence[str] = ()) -> dict[str, int]:
    """Run all commands on one forged checkpoint and return their exit codes.

    Args:
        seed: Seed of all files.
        number: Number of the file.
        folder: Empty folder for the files of the attack.
        verify: Further words for `fame verify`.

    Raises:
        AssertionError: A command crashed, took too long or too much, or gave a false likelihood.
    """
    name = f"file {number} of seed {seed}"
    config, content = forged(seed, number)
    path, images = folder / "forged.safetensors", io.BytesIO()
    path.write_bytes(content)
    levels = np.random.default_rng([seed, number, 1]).integers(
        0, config.levels, (IMAGES, *config.image_shape)
    )
    if config.dimensions <= 9 and config.levels == 2:
        levels = all_images(*config.image_shape).numpy()
    np.save(images, (levels * (255 // (config.levels - 1))).transpose(0, 2, 3, 1).astype(np.uint8))
    commands: dict[str, tuple[tuple[str | Path, ...], bytes]] = {
        "info": (("info", path), b""),
        "info --card": (("info", path, "--card"), b""),
        "evaluate-nll": (
            ("evaluate-nll", path, "-k", str(SAMPLES), "--data", "-", "--json", "--with-images"),
            images.getvalue(),
        ),
        "sample": (("sample", path, "-n", "1", "-o", folder / "x.png", "--force"), b""),
        "verify": (("verify", path, "--data", folder, "--offline", *verify), b""),
    }
    drawn = subject.SAMPLES[config.likelihood]
    flop = runner.checks_flop(config, count_parameters(config), runner.CHECKS, drawn, 1, 64)
    if flop > runner.LONG_FLOP:
        # It is announced as long: all but the checks whose time grows with the number of steps.
        commands["verify"] = ((*commands["verify"][0], "--checks", "batch,normalisation,latents"), b"")
    codes = {}
    for command, (words, stdin) in commands.items():
        started_s = time.process_time()
        with memory_limit(ROOM_BYTES):
            done = checked(fame(*words, stdin=stdin), name, command.split()[0])
        seconds = time.process_time() - started_s
        most_s = SLOWEST_VERIFY_S if command == "verify" else SLOWEST_S
        assert seconds <= most_s, f"{name}: {command} took {seconds:.1f} s"
        codes[command] = done.code
        if command == "evaluate-nll" and done.code == 0:
            check_likelihood(path, levels, done, name)
    return codes


@torch.no_grad()
def check_likelihood(path: Path, levels: np.ndarray, done: Done, name: str) -> None:
    """Check that no likelihood is better than the exact one, where that can be computed."""
    nats = np.array(json.loads(done.text)["image_nats"])
    model = load_checkpoint(path).model
    if len(levels) == model.config.levels**model.config.dimensions:
        # The estimates are unbiased, so their sum over all images has the mean 1.
        assert np.logaddexp.reduce(-nats) <= MOST_NATS, f"{name}: probabilities sum to {np.exp(-nats).sum()}"
    exact = exact_nats(model, levels)
    if exact is None or not np.isfinite(exact).all():
        return
    gain = float((exact - nats).sum())
    most = 1e-4 * (1.0 + np.abs(exact).sum()) + (MOST_NATS if model.config.stochastic_layers else 0.0)
    assert gain <= most, f"{name}: {gain} nats better than exact"


def exact_nats(model: Fame, levels: np.ndarray) -> np.ndarray | None:
    """Return the exact NLLs of images in nats, `(N,)`; None if the decoder reads latents.

    The network runs in float32, since its rounding is part of the model that is sampled and measured:
    squares of features above 1e19 overflow in `normalise`, so float64 gives another model. Any network that
    sees earlier pixels alone gives valid probabilities. Their logarithms are computed in float64.
    """
    config, zeros = model.config, None
    if config.stochastic_layers:
        # Without autoregression, the first layer reads the latents, too.
        read = any(bool(value.any()) for key, value in model.state_dict().items() if ".condition." in key)
        if read or not config.decoder.autoregressive:
            return None
        zeros = torch.zeros(len(levels), config.decoder.condition, *config.grid)
    x = torch.from_numpy(levels)
    parameters = model.pixel_parameters(x, zeros).double()
    nats: np.ndarray = -model.likelihood.log_prob(x.double(), parameters).flatten(1).sum(1).numpy()
    return nats


def main() -> None:
    """Attack many files in one process, and print what became of them."""
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int, default=2000)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    found: Counter[tuple[str, int]] = Counter()
    failures = []
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.first, given.first + given.count):
            try:
                found.update(attack(given.seed, number, Path(folder)).items())
            except AssertionError as error:
                failures.append(str(error))
                print(str(error)[:600], flush=True)
            except Exception as error:
                failures.append(f"file {number}")
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(f"file {number}: {error!r:.300} in {where.filename}:{where.lineno}", flush=True)
            done = number + 1 - given.first
            if done % 50 == 0:
                print(
                    f"{done:,} files, {len(failures):,} failed, {time.monotonic() - started_s:.0f} s",
                    flush=True,
                )
    for (command, code), count in sorted(found.items()):
        print(f"{command:14} code {code}: {count:,}")
    print(
        f"{given.count - len(failures):,} of {given.count:,} files, {time.monotonic() - started_s:.0f} s, "
        f"peak {peak_kib() >> 10} MiB"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
