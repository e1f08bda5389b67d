"""The header of a safetensors file, read and checked with the standard library alone. No torch here.

A famecli file has one metadata key, `famecli`, that holds canonical JSON: safetensors writes several keys in
random order, and one key keeps equal files equal byte for byte.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from famecli.errors import InputError

METADATA_KEY = "famecli"
CHECKPOINT_SCHEMA = "famecli/checkpoint/1"
# Before the names of the weights of the last step; those without it are the averaged ones.
RAW = "raw."
LARGEST_HEADER_BYTES = 1 << 20
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: safetensors' dtype name, shape, and bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, Any]

    @property
    def has_raw(self) -> bool:
        """Whether the weights of the last step are there too."""
        return any(name.startswith(RAW) for name in self.tensors)

    @property
    def parameters(self) -> int:
        """Number of averaged weights."""
        return sum(math.prod(info.shape) for name, info in self.tensors.items() if not name.startswith(RAW))


def canonical_json(data: object) -> str:
    """Return `data` as JSON with sorted keys and no spaces; equal data give equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parse_header(content: bytes, size: int, source: str) -> Header:
    """Return the checked header of a file.

    Args:
        content: The file from its start; the whole header at least, if the file is a good one.
        size: Bytes of the whole file.
        source: The file's name for errors.

    Raises:
        InputError: It is not a safetensors file that famecli wrote, or is truncated or inconsistent.
    """
    if len(content) < 8:
        raise InputError(f"{source}: not a safetensors file ({size} bytes)")
    length = int.from_bytes(content[:8], "little")
    if length > LARGEST_HEADER_BYTES or not content[8:9] == b"{":
        raise InputError(f"{source}: not a famecli checkpoint (no safetensors header at its start)")
    if 8 + length > min(size, len(content)):
        raise InputError(f"{source}: truncated inside its header ({size} bytes)")
    try:
        raw = _strict_json(content[8 : 8 + length].decode())
        metadata = _strict_json(raw.pop("__metadata__")[METADATA_KEY])
        tensors = {name: _tensor_info(entry) for name, entry in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: not a famecli checkpoint ({_reason(error)})") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{source}: not a famecli checkpoint (its metadata is no table)")
    _check_layout(tensors, size - 8 - length, source)
    return Header(tensors, metadata)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error} is missing"
    if isinstance(error, UnicodeDecodeError):
        return "its header is not text"
    return " ".join(str(error).split())[:120]


def _strict_json(text: str) -> Any:  # noqa: ANN401
    """Return what `text` says, read as `canonical_json` writes it: no key twice, no NaN or infinity."""
    return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key of its header stands there twice")
    return table


def _tensor_info(entry: dict[str, Any]) -> TensorInfo:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**48 for number in [*shape, start, end]):
        raise ValueError("a shape or offset is not a whole number in range")
    if end - start != math.prod(shape) * BYTES[entry["dtype"]]:
        raise ValueError("a tensor's size is not that of its shape")
    return TensorInfo(entry["dtype"], tuple(shape), start, end)


def _check_layout(tensors: dict[str, TensorInfo], size: int, source: str) -> None:
    """Check that the tensors follow each other without gaps and fill `size` bytes."""
    position = 0
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != position:
            raise InputError(f"{source}: tensors overlap or leave a gap at byte {position}")
        position = info.end
    if position != size:
        state = "truncated" if size < position else "longer than its header says"
        raise InputError(f"{source}: {state} ({size} bytes of tensors, {position} expected)")
