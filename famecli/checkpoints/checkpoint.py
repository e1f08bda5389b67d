"""Checkpoints: one safetensors file is a whole model, with configuration, provenance and claimed NLL."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from famecli.checkpoints.header import (
    CHECKPOINT_SCHEMA,
    DAMAGED,
    METADATA_KEY,
    RAW,
    Header,
    parse_header,
    read_checkpoint,
    seal,
)
from famecli.config.schema import ModelConfig, to_dict
from famecli.errors import ConfigError, InputError, IntegrityError, NumericsError, UsageError, brief
from famecli.files import write_atomic
from famecli.model.fame import Fame, count_parameters

WeightsKind = Literal["ema", "raw"]
# Of stored weights; whatever they are stored in, the model has them in single precision.
DTYPES = ("F32", "F16")


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
        """The NLL that the file claims, as `famecli.nll.report` measured it; None where it claims none."""
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
    content = safetensors.torch.save(plain, {METADATA_KEY: seal(metadata)})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, schema: str) -> tuple[dict[str, Tensor], Header, str]:
    """Return tensors, header and sha256 of a file that `save_tensors` wrote with that schema.

    Raises:
        InputError: The file is missing, damaged, or of another kind.
    """
    content = read_checkpoint(path)
    header = _header(content, str(path), schema)
    return _tensors(content, str(path)), header, hashlib.sha256(content).hexdigest()


def _header(content: bytes, source: str, schema: str) -> Header:
    header = parse_header(content, len(content), source)
    found = header.metadata.get("schema")
    if found != schema:
        raise InputError(f"{source}: expected a file of schema {schema}, found {brief(repr(found))}")
    return header


def _tensors(content: bytes, source: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise InputError(f"{source}: not a famecli checkpoint ({brief(error)})") from error


def save_checkpoint(
    path: Path,
    config: ModelConfig,
    ema: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None,
    facts: dict[str, Any],
) -> str:
    """Write a model and return the file's sha256.

    Weights that are all numbers in half precision, as `rounded` makes them, are stored in it.

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
    # A trained weight differs at once, so this costs a save in training next to nothing.
    if all(torch.equal(tensor.half().float(), tensor) for tensor in tensors.values()):
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    return save_tensors(path, tensors, metadata)


def rounded(checkpoint: Checkpoint) -> Checkpoint:
    """Return the model with its weights rounded to half precision, in which its file is half as large.

    It computes in single precision all the same; what is claimed of the former weights is not about these.

    Raises:
        NumericsError: A weight is too large for half precision.
    """
    weights = {name: tensor.half().float() for name, tensor in checkpoint.model.state_dict().items()}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"{checkpoint.source}: {name} has weights too large for half precision")
    model = Fame(checkpoint.model.config).on(checkpoint.model.device)
    model.load_state_dict(weights)
    model.eval().requires_grad_(False)
    return dataclasses.replace(checkpoint, model=model, weights_sha256=hash_weights(weights))


def load_checkpoint(path: Path, weights: WeightsKind = "ema") -> Checkpoint:
    """Return the model in the file `path`, on stdin if it is `-`; errors are those of `parse_checkpoint`."""
    return parse_checkpoint(read_checkpoint(path), str(path), weights)


def parse_checkpoint(content: bytes, source: str, weights: WeightsKind = "ema") -> Checkpoint:
    """Return the model in the content of a file, called `source` in errors.

    Raises:
        InputError: The file is missing, damaged, or its tensors are not those of its configuration.
        IntegrityError: Weights or metadata do not have the hash that was recorded with them.
        ConfigError: Its configuration is not possible.
        UsageError: It has no raw weights and these were asked for.
    """
    header = _header(content, source, CHECKPOINT_SCHEMA)
    try:
        config = ModelConfig.from_dict(header.metadata.get("model"))
    except ConfigError as error:
        raise ConfigError(f"{source}: {brief(error, 400)}", error.hint) from error
    _check_size(config, header, source)
    if weights == "raw" and not header.has_raw:
        raise UsageError(f"{source} has no raw weights", "leave --weights out to use the averaged ones")
    model = Fame(config)
    _check_tensors(model, header, source)
    tensors = _tensors(content, source)
    prefix = RAW if weights == "raw" else ""
    chosen = {name: tensors[prefix + name].float() for name in model.state_dict()}
    for name, tensor in chosen.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{source}: {name} has values that are not finite")
    found = hash_weights(chosen)
    _check_hash(header.metadata.get("weights_sha256"), weights, found, source)
    model.load_state_dict(chosen)
    model.eval().requires_grad_(False)
    sha256 = hashlib.sha256(content).hexdigest()
    return Checkpoint(source, model, weights, header.metadata, sha256, found)


def _check_size(config: ModelConfig, header: Header, source: str) -> None:
    """Check that a file has as many weights as its configuration asks for, before they are allocated."""
    # Of each block and layer, since modules take time and memory of their own.
    decoder = config.decoder
    fewest = (
        8 * sum(stage.blocks for stage in config.stages) + 4 * decoder.layers + 5 * len(decoder.attention)
    )
    if fewest > len(header.tensors):
        raise InputError(f"{source}: its configuration has more layers than it has tensors")
    for name, info in header.tensors.items():
        if info.dtype not in DTYPES:
            raise InputError(f"{source}: {brief(name)} is {info.dtype}, expected {' or '.join(DTYPES)}")
    expected = count_parameters(config)
    if header.parameters != expected:
        raise InputError(
            f"{source}: its configuration asks for {expected:,} weights, it has {header.parameters:,}"
        )


def _check_tensors(model: Fame, header: Header, source: str) -> None:
    """Check that a file has the weights of `model` in their shapes, and nothing else."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected = shapes | ({RAW + name: shape for name, shape in shapes.items()} if header.has_raw else {})
    if odd := sorted(set(expected) ^ set(header.tensors)):
        raise InputError(f"{source}: its configuration and its tensors disagree about {brief(repr(odd[0]))}")
    for name, shape in expected.items():
        if header.tensors[name].shape != shape:
            raise InputError(f"{source}: {name} is {header.tensors[name].shape}, expected {shape}")


def _check_hash(recorded: object, weights: WeightsKind, found: str, source: str) -> None:
    """Check weights against the hash that was recorded with them."""
    expected = recorded.get(weights) if isinstance(recorded, dict) else None
    if expected != found:
        raise IntegrityError(
            f"{source}: its {weights} weights are not those that were saved (sha256 {found[:12]}, "
            f"recorded {brief(expected, 15)})",
            DAMAGED,
        )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()
