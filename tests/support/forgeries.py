"""Forged checkpoints, built without famecli's own code, to test its checks."""

import functools
import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.checkpoints.header import METADATA_KEY, SEAL_KEY
from famecli.config.schema import DecoderConfig, ModelConfig, StageConfig
from famecli.errors import ExitCode
from famecli.model.fame import Fame

# Exit codes of a refused checkpoint, and the allocation that reading may add to twice its size.
CODES = (ExitCode.BAD_INPUT, ExitCode.INTEGRITY)
ROOM_BYTES = 50 << 20


def smallest() -> ModelConfig:
    decoder = DecoderConfig(autoregressive=True, width=1, layers=0, first_kernel=3)
    return ModelConfig("pixelcnn", "bernoulli", 1, 2, 2, 2, decoder=decoder)


def ladder() -> ModelConfig:
    """Return a model with all parts: two stages, one of them dense, and a conditioned decoder."""
    return ModelConfig(
        "fame",
        "bernoulli",
        1,
        2,
        2,
        2,
        decoder=DecoderConfig(autoregressive=True, width=2, layers=1, first_kernel=3, condition=2),
        stages=(
            StageConfig(width=2, blocks=1, latents=1),
            StageConfig(width=2, blocks=0, stride=2, latents=1, dense=True),
        ),
    )


def attending() -> ModelConfig:
    """Return a normalised model with attention on a non-square grid of patches."""
    decoder = DecoderConfig(
        True,
        width=2,
        layers=1,
        first_kernel=3,
        condition=2,
        patch=2,
        attention=(1,),
        heads=1,
        attention_width=3,
    )
    stages = (StageConfig(width=2, blocks=0, latents=1),)
    return ModelConfig(
        "fame", "bernoulli", 1, 4, 6, 2, decoder=decoder, stages=stages, normalised=True, bounded_latents=True
    )


def random_weights(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator)
        for name, value in Fame(config).state_dict().items()
    }


def save_smallest(path: Path) -> dict[str, Tensor]:
    weights = random_weights(smallest(), 0)
    save_checkpoint(path, smallest(), weights, None, {"training": {"lr": 0.1}})
    return weights


@functools.cache
def smallest_file() -> bytes:
    """Return the smallest possible checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "smallest"
        save_smallest(path)
        return path.read_bytes()


@functools.cache
def ladder_file() -> bytes:
    """Return a checkpoint with averaged and raw weights of `ladder`, loaded once: first loads are slow."""
    return _file_of(ladder())


@functools.cache
def attending_file() -> bytes:
    """Return a checkpoint with averaged and raw weights of `attending`, loaded once."""
    return _file_of(attending())


def _file_of(config: ModelConfig) -> bytes:
    ema, raw = random_weights(config, 0), random_weights(config, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_checkpoint(path, config, ema, raw, {"training": {"lr": 0.1}})
        assert load_checkpoint(path).model.config == config
        return path.read_bytes()


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def file_bytes(header: dict[str, Any] | bytes, body: bytes) -> bytes:
    """Return a safetensors file, built from the format's description."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def sealed_text(metadata: Mapping[str, Any]) -> str:
    """Return metadata with a valid seal, whatever they contain."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"))
    return json.dumps({SEAL_KEY: hashlib.sha256(text.encode()).hexdigest(), **metadata})


def with_metadata(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a file with changed metadata, sealed anew unless the change was to the seal."""
    header, body = parts(content)
    metadata = json.loads(header["__metadata__"][METADATA_KEY])
    del metadata[SEAL_KEY]
    change(metadata)
    header["__metadata__"][METADATA_KEY] = sealed_text(metadata)
    return file_bytes(header, body)
