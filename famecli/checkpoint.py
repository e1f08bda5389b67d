"""Checkpoints: one safetensors file is a whole model, with configuration, provenance and claimed NLL."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from famecli.config import ModelConfig, to_dict
from famecli.errors import ConfigError, InputError, IntegrityError, NumericsError, UsageError
from famecli.files import read_bytes, write_atomic
from famecli.header import CHECKPOINT_SCHEMA, METADATA_KEY, RAW, Header, canonical_json, parse_header
from famecli.model.fame import Fame

WeightsKind = Literal["ema", "raw"]


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory.

    Args:
        source: Where it was read from.
        model: With the weights asked for, on the CPU, in evaluation mode.
        weights: Which weights these are.
        metadata: Provenance (`training`, `provenance`) and measured NLL (`claim`), as stored.
        sha256: Of the file.
        weights_sha256: Of the names, shapes and values of these weights, whatever else the file holds.
    """

    source: str
    model: Fame
    weights: WeightsKind
    metadata: dict[str, Any]
    sha256: str
    weights_sha256: str

    @property
    def provenance(self) -> dict[str, Any]:
        """How it came to be: data set, images seen, versions; empty where the file does not say."""
        found = self.metadata.get("provenance")
        return found if isinstance(found, dict) else {}

    @property
    def claim(self) -> dict[str, Any] | None:
        """The NLL that the file claims, as `famecli.nll_report` measured it; None where it claims none."""
        found = self.metadata.get("claim")
        return found if isinstance(found, dict) else None


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> str:
    """Write a safetensors file atomically and return its sha256.

    Raises:
        NumericsError: A tensor has a value that is not finite; nothing is written.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"not saved: {name} has values that are not finite")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain, {METADATA_KEY: canonical_json(metadata)})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, schema: str) -> tuple[dict[str, Tensor], Header, str]:
    """Return tensors, header and sha256 of a file that `save_tensors` wrote with that schema.

    Raises:
        InputError: The file is missing, damaged, or of another kind.
    """
    return _parse_tensors(read_bytes(path, "checkpoint"), str(path), schema)


def _parse_tensors(content: bytes, source: str, schema: str) -> tuple[dict[str, Tensor], Header, str]:
    header = parse_header(content, len(content), source)
    found = header.metadata.get("schema")
    if found != schema:
        raise InputError(f"{source}: expected a file of schema {schema}, found {found!r}")
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise InputError(
            f"{source}: not a famecli checkpoint ({' '.join(str(error).split())[:120]})"
        ) from error
    return tensors, header, hashlib.sha256(content).hexdigest()


def save_checkpoint(
    path: Path,
    config: ModelConfig,
    ema: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None,
    facts: dict[str, Any],
) -> str:
    """Write a model and return the file's sha256.

    Args:
        path: Where to.
        config: The model's.
        ema: Averaged weights, which are the model.
        raw: Weights of the last step; None leaves them out.
        facts: JSON values under the keys `training`, `provenance` and `claim`.
    """
    tensors = dict(ema) | {RAW + name: tensor for name, tensor in (raw or {}).items()}
    hashes = {"ema": hash_weights(ema)} | ({} if raw is None else {"raw": hash_weights(raw)})
    metadata = {"schema": CHECKPOINT_SCHEMA, "model": to_dict(config), "weights_sha256": hashes, **facts}
    return save_tensors(path, tensors, metadata)


def load_checkpoint(path: Path, weights: WeightsKind = "ema") -> Checkpoint:
    """Return the model in the file `path`, on stdin if it is `-`; errors are those of `parse_checkpoint`."""
    return parse_checkpoint(read_bytes(path, "checkpoint"), str(path), weights)


def parse_checkpoint(content: bytes, source: str, weights: WeightsKind = "ema") -> Checkpoint:
    """Return the model in the content of a file, called `source` in errors.

    Raises:
        InputError: The file is missing, damaged, or its tensors are not those of its configuration.
        IntegrityError: The weights do not have the hash that was recorded with them.
        ConfigError: Its configuration is not possible.
        UsageError: It has no raw weights and these were asked for.
    """
    tensors, header, sha256 = _parse_tensors(content, source, CHECKPOINT_SCHEMA)
    try:
        config = ModelConfig.from_dict(header.metadata.get("model"))
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}", error.hint) from error
    # Each has weights, so this bounds the modules below, which take time and memory even without weights.
    if sum(stage.blocks for stage in config.stages) + config.decoder.layers > len(tensors):
        raise InputError(f"{source}: its configuration has more layers than it has tensors")
    with torch.device("meta"):
        expected = Fame(config).state_dict()
    names = list(expected) + [RAW + name for name in expected if header.has_raw]
    if odd := sorted(set(names) ^ set(tensors)):
        raise InputError(f"{source}: its configuration and its tensors disagree about {odd[0]!r}")
    if weights == "raw" and not header.has_raw:
        raise UsageError(f"{source} has no raw weights", "leave --weights out to use the averaged ones")
    chosen = {}
    for name, like in expected.items():
        tensor = tensors[(RAW if weights == "raw" else "") + name]
        if tensor.shape != like.shape or tensor.dtype != torch.float32:
            raise InputError(
                f"{source}: {name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"expected float32 {tuple(like.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{source}: {name} has values that are not finite")
        chosen[name] = tensor
    found = hash_weights(chosen)
    _check_hash(header.metadata.get("weights_sha256"), weights, found, source)
    model = Fame(config)
    model.load_state_dict(chosen)
    model.eval().requires_grad_(False)
    return Checkpoint(source, model, weights, header.metadata, sha256, found)


def _check_hash(recorded: object, weights: WeightsKind, found: str, source: str) -> None:
    """Check weights against the hash that was recorded with them."""
    expected = recorded.get(weights) if isinstance(recorded, dict) else None
    if expected != found:
        raise IntegrityError(
            f"{source}: its {weights} weights are not those that were saved (sha256 {found[:12]}, "
            f"recorded {str(expected)[:12]})",
            "the file is damaged: copy or download it again",
        )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()
