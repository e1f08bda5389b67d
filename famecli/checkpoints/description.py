"""A checkpoint described by its header: model, training, provenance, claimed NLLs. No torch here."""

import hashlib
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from famecli.checkpoints.header import CHECKPOINT_SCHEMA, Header, parse_header, read_checkpoint
from famecli.checkpoints.provenance import Provenance, parse_provenance
from famecli.config.schema import ModelConfig
from famecli.errors import ConfigError, InputError, truncate
from famecli.nll.record import NllRecord, parse_nll

FURTHER = "further_claims"
INFO_SCHEMA = "famecli/info/1"


@dataclass(frozen=True)
class Description:
    """Checkpoint as its header describes it.

    Args:
        path: Path of the file.
        sha256: SHA-256 of the file.
        header: Tensors and metadata.
        model: Configuration of the model.
        provenance: Last training, and the trainings before it.
        claims: Claimed NLLs, the one on the most images first.
    """

    path: Path
    sha256: str
    header: Header
    model: ModelConfig
    provenance: Provenance
    claims: tuple[NllRecord, ...]

    @property
    def name(self) -> str:
        """Name of the file, or of the run's folder for `best` and `last`, names that all runs share."""
        stem = self.path.stem
        return stem if stem not in ("best", "last") else self.path.resolve().parent.name

    @property
    def kinds(self) -> list[str]:
        """Kinds of stored weights: `ema`, and `raw` if the weights of the last step are stored, too."""
        return ["ema", "raw"] if self.header.has_raw else ["ema"]

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 recorded with the averaged weights; None where it is not recorded."""
        return weights_hash_in(self.header.metadata)

    def claimed(self) -> tuple[NllRecord, ...]:
        """Return the claims, at least one.

        Raises:
            InputError: The checkpoint claims no NLL.
        """
        if not self.claims:
            hint = f"fame evaluate-nll {shlex.quote(str(self.path))} --record FILE"
            raise InputError(f"{self.path} claims no NLL", hint)
        return self.claims

    def document(self, *, tensors: bool = False) -> dict[str, Any]:
        """Return the document `famecli/info/1`.

        Args:
            tensors: Whether the document lists dtypes and shapes of tensors.
        """
        header = self.header
        stored = {key: header.metadata.get(key) for key in ("model", "training", "provenance", "claim")}
        found = {
            "schema": INFO_SCHEMA,
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": header.file_bytes,
            "file_schema": header.metadata["schema"],
            "parameters": header.parameters,
            "weights": self.kinds,
            **stored,
            FURTHER: header.metadata.get(FURTHER) or [],
        }
        if tensors:
            found["tensors"] = {
                name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
                for name, tensor in sorted(header.tensors.items())
            }
        return found


def describe(path: Path, content: bytes | None = None) -> Description:
    """Return the description of the checkpoint `path`, or on stdin for `-`.

    Args:
        path: Path of the file.
        content: Content of the file; None to read it.

    Raises:
        InputError: The file cannot be read, or is no checkpoint.
        IntegrityError: Its metadata do not have their recorded hash.
        ConfigError: Its configuration, its provenance or a claim is invalid; the message names the file.
    """
    content = read_checkpoint(path) if content is None else content
    header = parse_header(content, len(content), str(path))
    header.check_schema(CHECKPOINT_SCHEMA, str(path))
    metadata = header.metadata
    return Description(
        path,
        hashlib.sha256(content).hexdigest(),
        header,
        model_in(metadata, str(path)),
        parse_provenance(metadata, f"{path}: provenance"),
        tuple(parse_nll(each, f"{path}: claim") for each in claims_in(metadata)),
    )


def model_in(metadata: Mapping[str, Any], source: str) -> ModelConfig:
    """Return the configuration of the model in the metadata of the file `source`.

    Raises:
        ConfigError: The configuration is invalid.
    """
    try:
        return ModelConfig.from_dict(metadata.get("model"))
    except ConfigError as error:
        raise ConfigError(f"{source}: {truncate(error, 400)}", error.hint) from error


def weights_hash_in(metadata: Mapping[str, Any], kind: str = "ema") -> str | None:
    """Return the SHA-256 in metadata of the weights of a kind, `ema` or `raw`; None if they have none."""
    hashes = metadata.get("weights_sha256")
    found = hashes.get(kind) if isinstance(hashes, dict) else None
    return found if isinstance(found, str) else None


def claims_in(metadata: Mapping[str, Any]) -> list[Any]:
    """Return the claims in a checkpoint's metadata as stored, the one on the most images first."""
    further = metadata.get(FURTHER)
    every = [metadata.get("claim"), *(further if isinstance(further, list) else [])]
    return [claim for claim in every if claim is not None]


def readable_claims(metadata: Mapping[str, Any]) -> list[NllRecord]:
    """Return the claims in metadata; malformed ones are left out."""
    found = []
    for each in claims_in(metadata):
        with suppress(ConfigError):
            found.append(parse_nll(each, "claim"))
    return found


def with_claim(metadata: Mapping[str, Any], claim: dict[str, Any]) -> dict[str, Any]:
    """Return the keys `claim` and `further_claims` of metadata with one more claim.

    Claims about other weights are dropped, and so is an earlier one of the same data set, split and
    estimator. The claim about most images comes first; among equals, the one with the fewest draws.

    Raises:
        ConfigError: An earlier claim is malformed.
    """
    own = parse_nll(claim, "claim")
    found = []
    for each in claims_in(metadata):
        earlier = parse_nll(each, "claim")
        if earlier.weights_sha256 == own.weights_sha256 and not earlier.same_kind(own):
            found.append(each)

    def order(each: dict[str, Any]) -> tuple[int, int]:
        record = parse_nll(each, "claim")
        return -(record.data.images or 0), record.importance_samples

    first, *others = sorted([*found, claim], key=order)
    return {"claim": first} | ({FURTHER: others} if others else {})
