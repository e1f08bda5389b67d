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

from famecli.checkpoints.description import model_in, readable_claims, weights_hash_in
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
from famecli.checkpoints.provenance import Provenance, parse_provenance
from famecli.config.costs import check_costs, count_parameters
from famecli.config.schema import ModelConfig, to_dict
from famecli.errors import ArgumentError, InputError, IntegrityError, NumericsError, truncate
from famecli.files import write_atomic
from famecli.model.fame import Fame
from famecli.nll.record import NllRecord
from famecli.rng import Seeded
from famecli.sampling.execution import threads

WeightsKind = Literal["ema", "raw"]
# Dtypes of stored weights; the model uses float32.
DTYPES = ("F32", "F16")


@dataclass(frozen=True)
class Checkpoint:
    """A model in memory, with what its file records.

    Args:
        source: Name of the file.
        model: Model in evaluation mode, on the CPU when loaded.
        weights: Kind of its weights.
        metadata: Metadata of the file as stored, with `training`, `provenance` and `claim`.
        sha256: SHA-256 of the file.
        weights_sha256: SHA-256 of names, shapes and values of the weights.
    """

    source: str
    model: Fame
    weights: WeightsKind
    metadata: dict[str, Any]
    sha256: str
    weights_sha256: str

    @property
    def reference(self) -> dict[str, str]:
        """Name and hash of the file, and kind of the weights, for documents."""
        return {"name": self.source, "sha256": self.sha256, "weights": self.weights}

    @property
    def provenance(self) -> Provenance:
        """Trainings that made the weights.

        Raises:
            ConfigError: The record of trainings is malformed.
        """
        return parse_provenance(self.metadata, f"{self.source}: provenance")

    @property
    def claims(self) -> list[NllRecord]:
        """Claimed NLLs, the one on the most images first; malformed ones are left out."""
        return readable_claims(self.metadata)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any], *, replace: bool = True
) -> str:
    """Write a safetensors file atomically and return its SHA-256; see `write_atomic` for `replace`.

    Raises:
        NumericsError: A tensor has a value that is not finite. Nothing is written.
        InputError: The file cannot be written, or another exists and is not replaced.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"not saved: {name} has values that are not finite")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain, {METADATA_KEY: seal(metadata)})
    write_atomic(path, content, replace=replace)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, schema: str) -> tuple[dict[str, Tensor], Header, str]:
    """Return tensors, header and SHA-256 of a file that `save_tensors` wrote with a schema.

    Raises:
        InputError: The file is missing, damaged, or of another kind.
        IntegrityError: Its metadata do not have their recorded hash.
    """
    content = read_checkpoint(path)
    header = parse_header(content, len(content), str(path))
    header.check_schema(schema, str(path))
    return _tensors(content, str(path)), header, hashlib.sha256(content).hexdigest()


def _tensors(content: bytes, source: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise InputError(f"{source}: not a famecli checkpoint ({truncate(error)})") from error


def save_checkpoint(
    path: Path,
    config: ModelConfig,
    ema: Mapping[str, Tensor],
    raw: Mapping[str, Tensor] | None,
    facts: dict[str, Any],
    *,
    replace: bool = True,
) -> str:
    """Write a model and return the SHA-256 of the file.

    Weights are stored in half precision if it holds all of them exactly, as after `rounded`.

    Args:
        path: Path of the file.
        config: Configuration of the model.
        ema: Averaged weights, the default when loading.
        raw: Weights of the last step; None leaves them out.
        facts: JSON values under the keys `training`, `provenance` and `claim`.
        replace: Whether an existing file is replaced.

    Raises:
        NumericsError: A weight is not finite. Nothing is written.
        InputError: The file cannot be written, or another exists and is not replaced.
    """
    tensors = dict(ema) | {RAW + name: tensor for name, tensor in (raw or {}).items()}
    hashes = {"ema": hash_weights(ema)} | ({} if raw is None else {"raw": hash_weights(raw)})
    model = to_dict(config)
    if not config.classes:
        # Older readers do not know the key.
        del model["classes"]
    metadata = {"schema": CHECKPOINT_SCHEMA, "model": model, "weights_sha256": hashes, **facts}
    # During training, the first tensor already needs single precision, so the check is cheap.
    if all(torch.equal(tensor.half().float(), tensor) for tensor in tensors.values()):
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
    return save_tensors(path, tensors, metadata, replace=replace)


def rounded(checkpoint: Checkpoint) -> Checkpoint:
    """Return the model with its weights rounded to half precision, for a file of half the size.

    The model still computes in single precision. Claims about the former weights do not hold for it.

    Raises:
        NumericsError: A weight is too large for half precision.
    """
    weights = {name: tensor.half().float() for name, tensor in checkpoint.model.state_dict().items()}
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"{checkpoint.source}: {name} has weights too large for half precision")
    with Seeded(0):
        model = Fame(checkpoint.model.config)
    model.on(checkpoint.model.device).load_state_dict(weights)
    model.eval().requires_grad_(False)
    return dataclasses.replace(checkpoint, model=model, weights_sha256=hash_weights(weights))


def load_checkpoint(path: Path, weights: WeightsKind = "ema") -> Checkpoint:
    """Return the model in the file `path`, or on stdin for `-`.

    Errors are those of `read_checkpoint` and `parse_checkpoint`.
    """
    with threads(one=True):
        return parse_checkpoint(read_checkpoint(path), str(path), weights)


def parse_checkpoint(content: bytes, source: str, weights: WeightsKind = "ema") -> Checkpoint:
    """Return the model in the content of a file.

    Args:
        content: Content of the file.
        source: Name of the file, for errors.
        weights: Kind of weights.

    Raises:
        InputError: The file is damaged, its tensors are not those of its configuration, or its model is too
            large to be used (`check_costs`).
        IntegrityError: Weights or metadata do not have their recorded hash.
        ConfigError: The configuration is invalid.
        ArgumentError: Raw weights were requested, and the file has none.
    """
    header = parse_header(content, len(content), source)
    header.check_schema(CHECKPOINT_SCHEMA, source)
    config = model_in(header.metadata, source)
    _check_size(config, header, source)
    check_costs(config, header.parameters, source)
    if weights == "raw" and not header.has_raw:
        raise ArgumentError(f"{source} has no raw weights", "leave `weights` out to use the averaged ones")
    with Seeded(0):
        model = Fame(config)
    _check_tensors(model, header, source)
    tensors = _tensors(content, source)
    prefix = RAW if weights == "raw" else ""
    chosen = {name: tensors[prefix + name].float() for name in model.state_dict()}
    for name, tensor in chosen.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{source}: {name} has values that are not finite")
    found = hash_weights(chosen)
    _check_hash(weights_hash_in(header.metadata, weights), weights, found, source)
    model.load_state_dict(chosen)
    model.eval().requires_grad_(False)
    sha256 = hashlib.sha256(content).hexdigest()
    return Checkpoint(source, model, weights, header.metadata, sha256, found)


def _check_size(config: ModelConfig, header: Header, source: str) -> None:
    """Check that a file has as many weights as its configuration needs, before they are allocated."""
    # Lower bound of tensors per block and layer, since building modules takes time and memory, too.
    decoder = config.decoder
    fewest = (
        8 * sum(stage.blocks for stage in config.stages) + 4 * decoder.layers + 5 * len(decoder.attention)
    )
    if fewest > len(header.tensors):
        raise InputError(f"{source}: its configuration has more layers than it has tensors")
    for name, info in header.tensors.items():
        if info.dtype not in DTYPES:
            raise InputError(f"{source}: {truncate(name)} is {info.dtype}, expected {' or '.join(DTYPES)}")
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
        raise InputError(
            f"{source}: its configuration and its tensors disagree about {truncate(repr(odd[0]))}"
        )
    for name, shape in expected.items():
        if header.tensors[name].shape != shape:
            raise InputError(f"{source}: {name} is {header.tensors[name].shape}, expected {shape}")


def _check_hash(expected: str | None, weights: WeightsKind, found: str, source: str) -> None:
    """Check weights against their recorded hash."""
    if expected != found:
        raise IntegrityError(
            f"{source}: its {weights} weights are not those that were saved (sha256 {found[:12]}, "
            f"recorded {truncate(expected, 15)})",
            DAMAGED,
        )


def hash_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()
