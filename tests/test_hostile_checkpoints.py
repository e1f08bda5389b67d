"""Hostile checkpoints: whatever the bytes are, the answer is one line, soon, in little memory, or the model.

`tests/test_checkpoint.py` has single faults of header, layout and values, `tests/test_hostile_mutants.py` has
seeded damage by the thousand; here are attacks, and places that are no file.
"""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import error_of
from support.forgeries import (
    CODES,
    ROOM_BYTES,
    attending_file,
    file_bytes,
    ladder,
    ladder_file,
    parts,
    with_metadata,
)
from support.mutants import judge, memory_limit
from torch.nn.modules.module import register_module_parameter_registration_hook

from famecli.checkpoints.checkpoint import load_checkpoint, parse_checkpoint
from famecli.checkpoints.header import LARGEST_HEADER_BYTES, METADATA_KEY, SEAL_KEY, parse_header
from famecli.errors import FameError, InputError

FIRST, DEEP = "decoder.first.bias", "stages.1.recognition.layer.weight"


@pytest.fixture(scope="module")
def good() -> bytes:
    return ladder_file()


def header_with(**entries: Any) -> Callable[[bytes], bytes]:
    """Return what adds tensors, or changes some, in the header of a file."""

    def change(content: bytes) -> bytes:
        header, body = parts(content)
        for name, entry in entries.items():
            header[name] = header.get(name, {}) | entry
        return file_bytes(header, body)

    return change


def renamed(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header, body = parts(content)
        text = json.dumps(header)
        assert f'"{old}"' in text
        return file_bytes(text.replace(f'"{old}"', f'"{new}"', 1).encode(), body)

    return change


def model_with(**changes: Any) -> Callable[[bytes], bytes]:
    """Return what changes the model's configuration in a file; `decoder_` and `stage_` go into the tables."""

    def change(metadata: dict[str, Any]) -> None:
        model = metadata["model"]
        for key, value in changes.items():
            table, _, name = key.rpartition("__")
            target = {"decoder": model["decoder"], "stage": model["stages"][0], "": model}[table]
            target[name] = value

    return lambda content: with_metadata(content, change)


def metadata_with(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: with_metadata(content, lambda metadata: metadata.update(changes))


def text_with(old: str, new: str) -> Callable[[bytes], bytes]:
    """Return what changes the text of the metadata, which stands in the header as a string."""

    def change(content: bytes) -> bytes:
        header, body = parts(content)
        text = header["__metadata__"][METADATA_KEY]
        assert old in text
        header["__metadata__"][METADATA_KEY] = text.replace(old, new, 1)
        return file_bytes(header, body)

    return change


def body_with(value: float, place: int = -4) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + struct.pack("<f", value) + content[len(content) + place + 4 :]


def empty_tensors(count: int) -> dict[str, Any]:
    return {f"{number:05}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(count)}


def zipped(content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", content)
    return target.getvalue()


def padded(content: bytes, header_bytes: int) -> bytes:
    header, body = parts(content)
    return file_bytes(json.dumps(header).encode().ljust(header_bytes), body)


HUGE_STAGE = {"width": 4096, "blocks": 0, "stride": 1, "latents": 4096, "dense": True}
WIDE = {"decoder__width": 4096}
HAND_MADE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda content: b"", "not a safetensors file"),
    "one byte": (lambda content: b"{", "not a safetensors file"),
    "zeros": (lambda content: bytes(5000), "no safetensors header"),
    "gzipped": (gzip.compress, "no safetensors header"),
    "a zip with a pickle in it": (zipped, "no safetensors header"),
    "a pickle": (
        lambda content: b"\x80\x04\x95" + bytes(8) + b"\x8c\x05posix\x8c\x06system",
        "no safetensors",
    ),
    "a page": (lambda content: b"<!DOCTYPE html><title>404</title>" + bytes(900), "no safetensors header"),
    "a pointer of Git LFS": (
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid",
        "no safetensors",
    ),
    "a PNG": (lambda content: b"\x89PNG\r\n\x1a\n" + content, "no safetensors header"),
    "twice": (lambda content: 2 * content, "longer than its header says"),
    "a byte too many": (lambda content: content + b"\0", "longer than its header says"),
    "a byte too few": (lambda content: content[:-1], "truncated"),
    "header of 2**64 - 1": (lambda content: b"\xff" * 8 + content[8:], "no safetensors header"),
    "header of 1 MiB and a byte": (
        lambda content: padded(content, LARGEST_HEADER_BYTES + 1),
        "no safetensors",
    ),
    "header in UTF-16": (
        lambda content: file_bytes('{"a":1}'.encode("utf-16"), b""),
        "no safetensors header",
    ),
    "header that opens with a mark": (lambda content: file_bytes(b"\xef\xbb\xbf{}", b""), "no safetensors"),
    "header that ends in NULs": (
        lambda content: file_bytes(b"{}" + bytes(8), b""),
        "not a famecli checkpoint",
    ),
    "list nested 200,000 deep": (lambda content: file_bytes(b'{"a":' + b"[" * 200_000, b""), "not a famecli"),
    "tables nested 100,000 deep": (lambda content: file_bytes(b'{"a":' * 100_000, b""), "not a famecli"),
    "number of a million digits": (
        lambda content: file_bytes(b'{"a":' + b"7" * 10**6 + b"}", b""),
        "not a fame",
    ),
    "100,000 empty tensors": (
        lambda content: file_bytes(empty_tensors(100_000), b""),
        "no safetensors header",
    ),
    "12,000 empty tensors": (lambda content: header_with(**empty_tensors(12_000))(content), "disagree about"),
    "path as a tensor's name": (renamed(FIRST, "../../../etc/passwd"), "disagree about"),
    "name of another system's path": (renamed(FIRST, r"C:\\x\\\\..\\nul"), "disagree about"),
    "control characters in a name": (renamed(FIRST, r"\u001b[2J\n\u202e"), "disagree about"),
    "name of 100,000 letters": (renamed(FIRST, "x" * 100_000), "disagree about"),
    "weight of 0 x 2**47": (
        header_with(x={"dtype": "F32", "shape": [0, 2**47], "data_offsets": [0, 0]}),
        "about 'x'",
    ),
    "raw weight too many": (
        header_with(**{"raw.x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
        "raw.x",
    ),
    "raw weight missing": (renamed(f"raw.{FIRST}", "raw.decoder"), "disagree about"),
    "raw weight of another type": (header_with(**{f"raw.{FIRST}": {"dtype": "I32"}}), f"raw.{FIRST} is I32"),
    "weight of half the size, twice": (
        header_with(**{DEEP: {"dtype": "F64", "shape": [2, 1]}}),
        f"{DEEP} is F64",
    ),
    "weight of bfloat16": (header_with(**{DEEP: {"dtype": "BF16", "shape": [2, 4]}}), f"{DEEP} is BF16"),
    "weight turned round": (
        header_with(**{"decoder.head2.weight": {"shape": [2, 1, 1, 1]}}),
        "head2.weight is (2, 1, 1, 1)",
    ),
    "two weights in one place": (header_with(**{DEEP: {"data_offsets": [0, 16]}}), "overlap or leave a gap"),
    "weight that is NaN": (body_with(float("nan"), -400), "not finite"),
    "weight that is infinite": (body_with(-float("inf"), -400), "not finite"),
    "shape of 2.0": (header_with(**{FIRST: {"shape": [2.0]}}), "whole number"),
    "metadata with NaN": (text_with("0.1", "NaN"), "NaN is not a JSON number"),
    "metadata with 1e999": (text_with("0.1", "1e999"), "1e999 is not a JSON number"),
    "metadata with a key twice": (text_with('"training"', '"schema": 1, "training"'), "twice"),
    "metadata of another schema": (metadata_with(schema="famecli/checkpoint/2"), "expected a file of schema"),
    "schema of 100,000 letters": (metadata_with(schema="x" * 100_000), "expected a file of schema"),
    "hash of another file": (metadata_with(weights_sha256={"ema": "0" * 64}), "not those that were saved"),
    "hash of several lines": (
        metadata_with(weights_sha256={"ema": "a\nb\x1b[31m"}),
        "not those that were saved",
    ),
    "hash of no weights": (metadata_with(weights_sha256=None), "not those that were saved"),
    "no seal": (text_with('"sha256"', '"sha25v"'), "key 'sha256' is missing"),
    "metadata of another program": (header_with(__metadata__={"format": "pt"}), "unexpected key 'format'"),
    "seal of something else": (
        metadata_with(**{SEAL_KEY: "0" * 64}),
        "metadata are not those that were saved",
    ),
    "seal that is no text": (metadata_with(**{SEAL_KEY: [[[]]]}), "metadata are not those that were saved"),
    "model that is a list": (metadata_with(model=[1, 2]), "expected a table of keys"),
    "key of 100,000 letters": (model_with(**{"x" * 100_000: 1}), "unknown key"),
    "preset that is no text": (model_with(preset=5), "preset: expected str"),
    "preset of several lines and wrong sides": (
        model_with(preset="a\nb", height="a\nb"),
        "height: expected int",
    ),
    "side of 10**40": (model_with(height=10**40), "is outside"),
    "side of -1": (model_with(height=-1), "is outside"),
    "side of true": (model_with(height=True), "height: expected int"),
    "2 channels": (model_with(channels=2), "neither grey"),
    "65 stages": (model_with(stages=[HUGE_STAGE] * 65), "at most 64"),
    "10,000 stages": (model_with(stages=[{"width": 1, "blocks": 0}] * 10_000), "at most 64"),
    "stages of 4096 maps": (
        model_with(stages=[HUGE_STAGE] * 32, height=1024, width=1024),
        "asks for 2,779,712,196,542,555",
    ),
    "256 blocks": (model_with(stage__blocks=256), "more layers than it has tensors"),
    "256 layers": (model_with(decoder__layers=256), "more layers than it has tensors"),
    "width of 4096": (model_with(decoder__width=4096), "weights, it has 481"),
    "window of 31": (model_with(decoder__first_kernel=31), "weights, it has 481"),
    "dense latents that are not": (model_with(stage__dense=True), "weights, it has 481"),
    "another likelihood": (model_with(likelihood="logistic-mixture"), "weights, it has 481"),
}


EVERY_LAYER = list(range(1, 257))
MISSES = "weights, it has 401"
# Of a model with attention over 2 by 3 patches.
ATTENTION: dict[str, tuple[dict[str, Any], str]] = {
    "over 4,194,304 places": ({"height": 1024, "width": 1024, "decoder__patch": 1}, "over 1048576 patches"),
    "over 65,536 patches": ({"height": 1024, "width": 1024, "decoder__patch": 4}, "over 65536 patches"),
    "over one patch too many": (
        {"height": 2 * 4097, "width": 1, "decoder__patch": 2},
        "height = 8194 is out",
    ),
    "over 4,097 places": (
        {"height": 241, "width": 17, "decoder__patch": 1},
        "over 4097 patches, at most 4096",
    ),
    "over 4,096 patches": ({"height": 128, "width": 128}, MISSES),
    "over 4,096 patches of 4,096 maps": ({"height": 256, "width": 256, "decoder__patch": 4} | WIDE, MISSES),
    "patch of 4 under 4,096 maps": ({"decoder__patch": 4} | WIDE, MISSES),
    "patch of 4": ({"decoder__patch": 4}, MISSES),
    "patch of 3": ({"decoder__patch": 3}, "decoder.patch = 3 is none of 1, 2, 4"),
    "patch of 0": ({"decoder__patch": 0}, "decoder.patch = 0 is outside 1 to 4"),
    "patch of 8": ({"decoder__patch": 8}, "decoder.patch = 8 is outside 1 to 4"),
    "256 layers": ({"decoder__layers": 256, "decoder__attention": EVERY_LAYER}, "more layers than it has"),
    "2 layers": ({"decoder__layers": 2, "decoder__attention": [1, 2]}, MISSES),
    "layers that are not there": (
        {"decoder__attention": [2]},
        "are not increasing numbers of layers, 1 to 1",
    ),
    "layer 0": ({"decoder__attention": [0]}, "are not increasing numbers of layers, 1 to 1"),
    "a layer 100,000 times": ({"decoder__attention": [1] * 100_000}, "decoder.attention = [1, 1"),
    "a layer of 10**40": ({"decoder__attention": [10**40]}, "are not increasing numbers of layers"),
    "layers nested": ({"decoder__attention": [[1]]}, "attention[0]: expected int"),
    "layers that are text": ({"decoder__attention": "1"}, "attention: expected a list"),
    "4,096 features": ({"decoder__attention_width": 4096}, MISSES),
    "features in 64 heads": ({"decoder__attention_width": 4096, "decoder__heads": 64}, MISSES),
    "2 heads of 3 features": ({"decoder__heads": 2}, "decoder.heads = 2 does not divide 3 features"),
    "no heads": ({"decoder__heads": 0}, "decoder.heads = 0 is outside 1 to 64"),
    "65 heads": ({"decoder__heads": 65}, "decoder.heads = 65 is outside"),
    "no attention": ({"decoder__attention": []}, MISSES),
    "no causality": ({"decoder__autoregressive": False}, "decoder.attention needs decoder.autoregressive"),
    "normalised that is a number": ({"normalised": 1}, "normalised: expected bool"),
}


@pytest.mark.parametrize(("changes", "message"), ATTENTION.values(), ids=ATTENTION)
def test_attention_and_patches_are_refused_before_anything_is_built(
    changes: dict[str, Any], message: str
) -> None:
    content = model_with(**changes)(attending_file())
    built: list[str] = []
    watching = register_module_parameter_registration_hook(lambda _, name, weight: built.append(name))
    try:
        with memory_limit(ROOM_BYTES):
            error = judge(
                lambda: parse_checkpoint(content, "FILE"), message, "FILE", CODES, within_s=1.0
            ).error
    finally:
        watching.remove()
    assert built == []
    assert error is not None
    assert message in str(error)


@pytest.mark.parametrize(
    ("height", "width"), [(6, 4), (3, 6), (4, 5)], ids=["turned round", "a row less", "a column less"]
)
def test_a_grid_of_as_many_patches_is_told_by_the_places(height: int, width: int) -> None:
    """Of images of 4 by 6 pixels: those that need as many patches are loaded, if in as many rows."""
    content = model_with(height=height, width=width)(attending_file())
    if (height, width) == (6, 4):
        with pytest.raises(
            InputError, match=r"attention.position is \(1, 2, 2, 3\), expected \(1, 2, 3, 2\)"
        ):
            parse_checkpoint(content, "x")
    else:
        assert parse_checkpoint(content, "x").model.config.grid == (2, 3)


@pytest.mark.parametrize(("make", "message"), HAND_MADE.values(), ids=HAND_MADE)
def test_hand_made_files_are_refused(good: bytes, make: Callable[[bytes], bytes], message: str) -> None:
    content = make(good)
    assert content != good
    with memory_limit(ROOM_BYTES + 2 * len(content)):
        error = judge(lambda: parse_checkpoint(content, "FILE"), message, "FILE", CODES, within_s=1.0).error
    assert error is not None
    assert message in str(error)


def test_the_largest_header_is_read(good: bytes) -> None:
    assert parse_checkpoint(padded(good, LARGEST_HEADER_BYTES), "x").model.config == ladder()


@pytest.mark.parametrize("raw", [False, True])
def test_weights_that_nobody_asked_for_may_be_anything_but_the_others_not(good: bytes, raw: bool) -> None:
    spoiled = body_with(float("nan"))(good)
    name = max(parse_header(good, len(good), "x").tensors.items(), key=lambda item: item[1].end)[0]
    touched = "raw" if name.startswith("raw.") else "ema"
    untouched = "ema" if touched == "raw" else "raw"
    assert parse_checkpoint(spoiled, "x", untouched).weights == untouched  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not finite"):
        parse_checkpoint(spoiled, "x", touched)  # type: ignore[arg-type]


def test_what_is_no_file_is_read_as_far_as_needed_or_refused(tmp_path: Path, good: bytes) -> None:
    loop, sparse, pipe = tmp_path / "loop", tmp_path / "sparse", tmp_path / "pipe"
    loop.symlink_to(loop)
    with sparse.open("wb") as file:
        file.write(good)
        file.truncate(1 << 40)
    os.mkfifo(pipe)
    for path in (
        tmp_path,
        loop,
        sparse,
        tmp_path / "absent",
        Path("/dev/null"),
        Path("/dev/zero"),
        Path("/dev/full"),
    ):
        with memory_limit(ROOM_BYTES):
            error = judge(lambda: load_checkpoint(path), str(path), str(path), CODES).error  # noqa: B023
        assert error is not None
        assert len(error_of(3, "info", path).splitlines()) <= 2
    for content in (good, good + b"x", bytes(100)):
        writer = threading.Thread(target=write_into, args=(pipe, content))
        writer.start()
        assert (judge(lambda: load_checkpoint(pipe), "pipe", str(pipe), CODES).error is None) == (
            content == good
        )
        writer.join()


def write_into(pipe: Path, content: bytes) -> None:
    try:
        pipe.write_bytes(content)
    except BrokenPipeError:
        return


def test_stdin_without_end_is_left_after_its_first_megabyte() -> None:
    code = "import itertools, sys\nfor _ in itertools.count(): sys.stdout.buffer.write(b'x' * 65536)"
    command = f'"{sys.executable}" -c "{code}" 2> /dev/null | "{sys.executable}" -m famecli info -'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: -: not a famecli checkpoint")


def test_a_closed_stdin_is_one_line() -> None:
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m famecli info - <&-'], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: cannot read checkpoint -: stdin is closed\n"


def test_an_error_is_one_line_whatever_names_are(tmp_path: Path) -> None:
    path = tmp_path / "two\nlines\x1b[31m\u202e"
    path.write_bytes(b"x")
    lines = error_of(3, "info", path).splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable()
    with pytest.raises(FameError):
        load_checkpoint(path)
