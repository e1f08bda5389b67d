"""The header of a safetensors file, read and checked with the standard library alone. No torch here.

A famecli file has one metadata key, `famecli`, that holds canonical JSON: safetensors writes several keys in
random order, and one key keeps equal files equal byte for byte.
"""

import hashlib
import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from famecli.errors import InputError, IntegrityError, truncate
from famecli.files import STDIN, open_input, read_up_to

METADATA_KEY = "famecli"
# Metadata key that holds the SHA-256 of all other keys.
SEAL_KEY = "sha256"
CHECKPOINT_SCHEMA = "famecli/checkpoint/1"
# Prefix of the weights of the last step; names without it are averaged weights.
RAW = "raw."
LARGEST_HEADER_BYTES = 1 << 20
DAMAGED = "the file is damaged: copy or download it again"
TENSOR_KEYS = {"dtype", "shape", "data_offsets"}
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorInfo:
    """Dtype, shape and byte range of one tensor, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """Header of a safetensors file.

    Args:
        tensors: Tensors by name.
        metadata: Metadata of famecli.
        file_bytes: Size of the whole file.
    """

    tensors: dict[str, TensorInfo]
    metadata: dict[str, Any]
    file_bytes: int

    @property
    def has_raw(self) -> bool:
        """Whether the file has the weights of the last step, too."""
        return any(name.startswith(RAW) for name in self.tensors)

    @property
    def parameters(self) -> int:
        """Number of averaged weights."""
        return sum(math.prod(info.shape) for name, info in self.tensors.items() if not name.startswith(RAW))

    def check_schema(self, schema: str, source: str) -> None:
        """Check the schema of a file.

        Raises:
            InputError: The file `source` has another schema.
        """
        if (found := self.metadata.get("schema")) != schema:
            raise InputError(f"{source}: expected a file of schema {schema}, found {truncate(repr(found))}")


def canonical_json(data: object) -> str:
    """Return `data` as JSON with sorted keys and no spaces; equal data give equal text."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def seal(metadata: dict[str, Any]) -> str:
    """Return metadata as canonical JSON with its own hash, which `parse_header` checks and removes."""
    plain = json.loads(canonical_json(metadata))
    return canonical_json(plain | {SEAL_KEY: _digest(plain)})


def _unseal(table: dict[str, str]) -> tuple[dict[str, Any], bool]:
    """Return the metadata of famecli, and whether they have their recorded hash."""
    text = table.pop(METADATA_KEY)
    if table:
        raise ValueError(f"its metadata has the unexpected key {truncate(repr(next(iter(table))))}")
    metadata = _strict_json(text)
    if not isinstance(metadata, dict):
        raise TypeError("its metadata is not a table")
    recorded = metadata.pop(SEAL_KEY)
    return metadata, recorded == _digest(metadata)


def _digest(metadata: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(metadata).encode()).hexdigest()


def read_checkpoint(path: Path) -> bytes:
    """Return the content of the safetensors file `path`, or on stdin for `-`.

    The header is checked before the rest is read, and no more is read than it says: a large file of another
    kind costs little.

    Raises:
        InputError: The file cannot be read, or its header or size is wrong.
        IntegrityError: Its metadata do not have their recorded hash.
    """
    with open_input(path, "checkpoint") as file:
        start = read_up_to(file, 8 + LARGEST_HEADER_BYTES)
        header = parse_header(start, None if path == STDIN else _size(file), str(path))
        content = start + read_up_to(file, header.file_bytes + 1 - len(start))
    _check_size(header, len(content), str(path))
    return content


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file, without reading its tensors.

    Raises:
        InputError: The file cannot be read, or was not written by famecli.
        IntegrityError: Its metadata do not have their recorded hash.
    """
    with open_input(path, "checkpoint") as file:
        return parse_header(read_up_to(file, 8 + LARGEST_HEADER_BYTES), _size(file), str(path))


def _size(file: BinaryIO) -> int | None:
    """Return the size of a regular file; None for pipes and devices."""
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def parse_header(content: bytes, size: int | None, source: str) -> Header:
    """Return the checked header of a file.

    Args:
        content: Start of the file, with the whole header.
        size: Bytes of the whole file; None where they are not known.
        source: Name of the file, for errors.

    Raises:
        InputError: The file was not written by famecli, or is truncated or inconsistent.
        IntegrityError: Its metadata do not have their recorded hash.
    """
    if len(content) < 8:
        raise InputError(f"{source}: not a safetensors file ({len(content)} bytes)")
    length = int.from_bytes(content[:8], "little")
    if length > LARGEST_HEADER_BYTES or not content[8:9] == b"{":
        raise InputError(f"{source}: not a famecli checkpoint (no safetensors header at its start)")
    if 8 + length > len(content):
        raise InputError(f"{source}: truncated inside its header ({len(content)} bytes)")
    try:
        raw = _strict_json(content[8 : 8 + length].decode())
        metadata, intact = _unseal(raw.pop("__metadata__"))
        tensors = {name: _tensor_info(entry) for name, entry in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: not a famecli checkpoint ({_reason(error)})") from error
    if not intact:
        raise IntegrityError(f"{source}: its metadata are not those that were saved", DAMAGED)
    header = Header(tensors, metadata, 8 + length + _layout_bytes(tensors, source))
    if size is not None:
        _check_size(header, size, source)
    return header


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {truncate(error)} is missing"
    return "its header is not text" if isinstance(error, UnicodeDecodeError) else truncate(error)


def _strict_json(text: str) -> Any:  # noqa: ANN401
    """Return the value of a JSON text, which must have no repeated keys, NaN or infinity."""
    return json.loads(
        text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite_float
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{truncate(name)} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_constant(text)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key appears twice in its header")
    return table


def _tensor_info(entry: dict[str, Any]) -> TensorInfo:
    if odd := entry.keys() - TENSOR_KEYS:
        raise ValueError(f"a tensor has the unexpected key {truncate(repr(min(odd)))}")
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**48 for number in [*shape, start, end]):
        raise ValueError("a shape or offset is not a whole number in range")
    if end - start != math.prod(shape) * BYTES[entry["dtype"]]:
        raise ValueError("a tensor's size does not match its shape")
    return TensorInfo(entry["dtype"], tuple(shape), start, end)


def _layout_bytes(tensors: dict[str, TensorInfo], source: str) -> int:
    """Return the bytes of all tensors, after a check that there are no gaps between them."""
    position = 0
    for info in sorted(tensors.values(), key=lambda info: (info.start, info.end)):
        if info.start != position:
            raise InputError(f"{source}: tensors overlap or leave a gap at byte {position}")
        position = info.end
    return position


def _check_size(header: Header, size: int, source: str) -> None:
    if header.file_bytes != size:
        state = "truncated" if size < header.file_bytes else "longer than its header says"
        raise InputError(f"{source}: {state} ({size} bytes, {header.file_bytes} expected)")
