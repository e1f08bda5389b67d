"""Hostile checkpoints by the thousand: seeded damage does no harm, or is refused soon and in little memory.

Structural mutants are sealed anew after their edit, so that what they changed reaches the deeper checks.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import fame
from support.forgeries import (
    CODES,
    ROOM_BYTES,
    attending,
    attending_file,
    file_bytes,
    ladder,
    ladder_file,
    parts,
    smallest_file,
    with_metadata,
)
from support.mutants import BYTE_MUTATIONS, EDGES, Mutation, Source, edit_json, judge, memory_limit, mutant

from famecli.checkpoints.checkpoint import Checkpoint, parse_checkpoint
from famecli.checkpoints.header import parse_header
from famecli.config.schema import ModelConfig, to_dict
from famecli.errors import ExitCode


@pytest.fixture(scope="module")
def good() -> bytes:
    return ladder_file()


@pytest.fixture(scope="module")
def small() -> bytes:
    return smallest_file()


def edit_header(content: bytes, source: Source) -> bytes:
    """Change one place of the header."""
    header, body = parts(content)
    edit_json(header, source)
    return file_bytes(header, body)


def edit_metadata(content: bytes, source: Source) -> bytes:
    """Change one place of the metadata and seal them anew."""
    return with_metadata(content, lambda metadata: edit_json(metadata, source))


def edit_model(content: bytes, source: Source) -> bytes:
    """Change one to three places of the model's configuration and seal anew."""

    def change(metadata: dict[str, Any]) -> None:
        for _ in range(source.integers(1, 4)):
            edit_json(metadata["model"], source)

    return with_metadata(content, change)


def edit_length(content: bytes, source: Source) -> bytes:
    """Give the header another length."""
    length = (int(source.integers(len(content) + 9)), EDGES[source.integers(len(EDGES))])[source.integers(2)]
    return length.to_bytes(8, "little") + content[8:]


def edit_body(content: bytes, source: Source) -> bytes:
    """Flip a bit of a weight."""
    start = 8 + int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    changed[source.integers(start, len(content))] ^= 1 << source.integers(8)
    return bytes(changed)


STRUCTURAL: tuple[Mutation, ...] = (edit_header, edit_metadata, edit_model, edit_length, edit_body)


def same_model(loaded: Checkpoint, original: Checkpoint) -> bool:
    """Return whether weights, configuration and all that the file says are what was saved."""
    return (loaded.weights_sha256, loaded.model.config, loaded.metadata) == (
        original.weights_sha256,
        original.model.config,
        original.metadata,
    )


def attack(content: bytes, seed: int, count: int, mutations: tuple[Mutation, ...], *, exact: bool) -> int:
    """Load `count` mutants and return how many could be; if `exact`, those have to be the whole original."""
    original, loaded = parse_checkpoint(content, "FILE"), 0
    with memory_limit(ROOM_BYTES):
        for number in range(count):
            name, changed = mutant(content, seed, number, mutations)
            found = judge(lambda: parse_checkpoint(changed, "FILE"), name, "FILE", CODES)  # noqa: B023
            if found.error is None:
                loaded += 1
                assert found.value.weights_sha256 == original.weights_sha256, name
                assert not exact or same_model(found.value, original), name
    return loaded


DAMAGE: tuple[Mutation, ...] = (*BYTE_MUTATIONS, edit_length, edit_body)


def test_random_damage_is_refused_or_did_no_harm(small: bytes) -> None:
    """5,000 mutants by bytes; a file that is loaded all the same is the original in every value."""
    assert attack(small, 1, 5000, DAMAGE, exact=True) > 0


def test_forged_files_are_refused_or_have_the_weights_that_they_say(small: bytes, good: bytes) -> None:
    """5,000 mutants of three models that are right up to one place."""
    assert attack(small, 2, 3000, STRUCTURAL, exact=False) > 100
    assert attack(good, 3, 1000, STRUCTURAL, exact=False) > 20
    assert attack(attending_file(), 8, 1000, STRUCTURAL, exact=False) > 20


@pytest.mark.slow
def test_a_hundred_thousand_mutants(small: bytes, good: bytes) -> None:
    assert attack(small, 4, 60_000, DAMAGE, exact=True)
    assert attack(small, 5, 30_000, STRUCTURAL, exact=False)
    assert attack(good, 6, 10_000, STRUCTURAL, exact=False)


@pytest.mark.parametrize("config", [ladder(), attending()], ids=["ladder", "attention"])
def test_configurations_are_refused_before_anything_is_allocated(config: ModelConfig) -> None:
    """1,000 mutated configurations against one file, half of them made as large as ranges allow."""
    good = ladder_file() if config == ladder() else attending_file()
    header = parse_header(good, len(good), "x")
    accepted = 0
    with memory_limit(ROOM_BYTES):
        for number in range(1000):
            source = np.random.default_rng([7, number])
            table = to_dict(config)
            if number % 2:
                enlarge(table, source)
            else:
                edit_json(table, source)
            changed = with_metadata(good, lambda metadata: metadata.update(model=table))  # noqa: B023
            found = judge(lambda: parse_checkpoint(changed, "FILE"), f"configuration {number}", "FILE", CODES)  # noqa: B023
            accepted += found.error is None
    assert header.parameters < 1000
    assert 20 < accepted < 500


def enlarge(table: dict[str, Any], source: Source) -> None:
    """Set some sizes of a configuration to large ones that are allowed, each for itself."""
    sizes = {"height": 1024, "width": 1024, "mixtures": 64, "levels": 256}
    for name in sizes:
        if source.random() < 0.3:
            table[name] = int(source.integers(1, sizes[name] + 1)) if name != "levels" else 2
    for part in (table["decoder"], *table["stages"]):
        for name, most in (
            ("width", 4096),
            ("blocks", 2),
            ("layers", 2),
            ("latents", 4096),
            ("condition", 4096),
            ("attention_width", 4096),
        ):
            if name in part and source.random() < 0.3:
                part[name] = int(source.integers(1, most + 1))
    if source.random() < 0.5:
        decoder, heads = table["decoder"], int(source.integers(1, 65))
        decoder |= {
            "patch": 2 ** int(source.integers(3)),
            "heads": heads,
            "attention_width": 64 // heads * heads,
        }
        decoder["attention"] = list(range(1, decoder["layers"] + 1))
    if source.random() < 0.3:
        table["stages"] = [*table["stages"], table["stages"][0] | {"latents": 4096, "dense": True}]


@pytest.mark.parametrize("seed", range(2))
def test_info_shows_any_metadata_or_refuses(tmp_path: Path, good: bytes, seed: int) -> None:
    facts = {
        "training": {"lr": 0.1},
        "provenance": {"dataset": "mnist", "images_seen": 5, "steps": 5, "seconds": 1.5, "threads": 1},
        "claim": {
            "data": {"dataset_id": "d", "split": "s", "images": 5, "binarization": "b", "pixels_sha256": "0"},
            "nats_per_image": 1.0,
            "stderr_nats_per_image": 1.0,
            "bits_per_dim": 1.0,
            "bound": "elbo",
            "importance_samples": 1,
        },
    }
    content = with_metadata(good, lambda metadata: metadata.update(facts))
    path, codes = tmp_path / "file", set()
    for number in range(60):
        _, changed = mutant(content, 10 + seed, number, (edit_metadata, edit_header))
        path.write_bytes(changed)
        done = fame("info", path, *(["--json"] if number % 3 else ["--tensors"]))
        codes.add(done.code)
        assert done.code in (0, *CODES), done.err
        assert "Traceback" not in done.err
        assert done.code == 0 or len(done.err.splitlines()) <= 2
        assert "\x1b" not in done.text + done.err
    assert codes >= {0, ExitCode.BAD_INPUT}
