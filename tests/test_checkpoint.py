"""Headers and checkpoints."""

import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.forgeries import file_bytes, parts, random_weights, save_smallest, smallest, with_metadata

from famecli.checkpoints.checkpoint import (
    RAW,
    hash_weights,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from famecli.checkpoints.header import (
    CHECKPOINT_SCHEMA,
    LARGEST_HEADER_BYTES,
    METADATA_KEY,
    SEAL_KEY,
    TensorInfo,
    canonical_json,
    parse_header,
)
from famecli.checkpoints.provenance import Provenance
from famecli.config.presets import PRESETS, model_config
from famecli.config.schema import to_dict
from famecli.errors import (
    ConfigError,
    ExitCode,
    FameError,
    InputError,
    IntegrityError,
    NumericsError,
    UsageError,
)

GOLDEN_FILE = (
    b"\x10\x01\x00\x00\x00\x00\x00\x00"
    rb'{"__metadata__":{"famecli":"{\"n\":{\"a\":0.1,\"b\":1},\"schema\":\"x/1\",'
    rb'\"sha256\":\"6054b3f6f7d0ff52610af137dfdf66c6245eb531d0bdc5e4addd79c570543de6\"}"},'
    rb'"b":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},'
    rb'"a":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}'
    b"      \x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@"
)
GOLDEN_HEADER = (
    r'{"__metadata__":{"famecli":"{\"model\":{\"bounded_latents\":false,\"channels\":1,'
    r"\"decoder\":{\"attention\":[],\"attention_width\":0,\"autoregressive\":true,"
    r"\"condition\":0,\"first_kernel\":3,\"heads\":4,\"kernel\":3,\"lag\":2,\"layers\":0,\"patch\":1,"
    r"\"positions\":false,\"width\":1},\"height\":2,\"levels\":2,\"likelihood\":\"bernoulli\",\"mixtures\":10,"
    r"\"normalised\":false,\"preset\":\"pixelcnn\",\"stages\":[],\"width\":2},"
    r"\"schema\":\"famecli/checkpoint/1\","
    r"\"sha256\":\"ec4aadcbcbca3420881761464c8f640254c06a73fe6ece8caa79bb2aaf8b2483\","
    r"\"training\":{\"lr\":0.1},\"weights_sha256\":"
    r'{\"ema\":\"a6ae470339a5d14337c498ccc962182fd9d40f2b26be49827c664362cb4fe6f3\"}}"},'
    r'"decoder.first.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
    r'"decoder.first.weight":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[4,28]},'
    r'"decoder.head1.bias":{"dtype":"F32","shape":[1],"data_offsets":[28,32]},'
    r'"decoder.head1.weight":{"dtype":"F32","shape":[1,1,1,1],"data_offsets":[32,36]},'
    r'"decoder.head2.bias":{"dtype":"F32","shape":[1],"data_offsets":[36,40]},'
    r'"decoder.head2.weight":{"dtype":"F32","shape":[1,1,1,1],"data_offsets":[40,44]}}'
)


def refused(path: Path, content: bytes, kind: type[FameError] = InputError) -> str:
    """Return the one line with which `content` is refused; it names the file."""
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    return message


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_come_back_bit_for_bit(tmp_path: Path, preset: str) -> None:
    config, path = model_config(preset, "tiny", (1, 9, 7), 2), tmp_path / "model.safetensors"
    ema, raw = random_weights(config, 1), random_weights(config, 2)
    digest = save_checkpoint(path, config, ema, raw, {"training": {"lr": 1 / 3}, "claim": None})
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for kind, expected in (("ema", ema), ("raw", raw)):
        loaded = load_checkpoint(path, kind)  # type: ignore[arg-type]
        found = loaded.model.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert (loaded.model.config, loaded.weights, loaded.sha256) == (config, kind, digest)
        assert loaded.metadata["training"] == {"lr": 1 / 3}
        assert loaded.weights_sha256 == hash_weights(expected)
        assert not loaded.model.training
        assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_equal_saves_are_equal_bytes_with_one_metadata_key(tmp_path: Path) -> None:
    config = model_config("fame", "tiny", (1, 8, 8), 2)
    weights = random_weights(config, 3)
    backwards = dict(reversed(weights.items()))
    facts = {"training": {"b": 1, "a": 2}, "claim": {"nats": 0.1}}
    save_checkpoint(tmp_path / "a", config, weights, None, facts)
    save_checkpoint(tmp_path / "b", config, backwards, None, dict(reversed(facts.items())))
    content = (tmp_path / "a").read_bytes()
    assert content == (tmp_path / "b").read_bytes()
    header, _ = parts(content)
    assert list(header["__metadata__"]) == ["famecli"]
    text = header["__metadata__"]["famecli"]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    own = {
        "schema": CHECKPOINT_SCHEMA,
        # Models without classes lack the key, so that older readers take them.
        "model": {key: value for key, value in to_dict(config).items() if key != "classes"},
        "weights_sha256": {"ema": hash_weights(weights)},
    }
    found = json.loads(text)
    digest = found.pop(SEAL_KEY)
    assert found == own | facts
    assert digest == hashlib.sha256(canonical_json(found).encode()).hexdigest()


def test_canonical_json_knows_no_order_and_no_nan() -> None:
    assert canonical_json({"b": [1, 0.1], "a": "é"}) == '{"a":"\\u00e9","b":[1,0.1]}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_the_format_is_the_golden_one(tmp_path: Path) -> None:
    path = tmp_path / "golden"
    tensors = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([7])}
    save_tensors(path, tensors, {"schema": "x/1", "n": {"b": 1, "a": 0.1}})
    assert path.read_bytes() == GOLDEN_FILE
    loaded, header, digest = load_tensors(path, "x/1")
    assert digest == hashlib.sha256(GOLDEN_FILE).hexdigest()
    assert header.tensors == {"a": TensorInfo("F32", (1, 2), 8, 16), "b": TensorInfo("I64", (1,), 0, 8)}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    save_smallest(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert content[8 : 8 + length].decode().rstrip(" ") == GOLDEN_HEADER
    assert (8 + length) % 8 == 0


def test_the_hash_of_weights_is_that_of_names_shapes_and_values() -> None:
    weights = {"b": torch.ones(2, 3), "a": torch.zeros(1)}
    text = b"a (1,)\n" + bytes(4) + b"b (2, 3)\n" + struct.pack("<6f", *[1.0] * 6)
    assert hash_weights(weights) == hashlib.sha256(text).hexdigest()
    channels_last = {"w": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)}
    assert hash_weights(channels_last) == hash_weights({"w": torch.arange(24.0).view(1, 2, 3, 4)})
    assert hash_weights({"a": torch.zeros(1), "b": torch.ones(3, 2)}) != hash_weights(weights)


def test_weights_that_were_changed_are_noticed(tmp_path: Path) -> None:
    config, path = model_config("fame", "tiny", (1, 9, 7), 2), tmp_path / "model.safetensors"
    save_checkpoint(path, config, random_weights(config, 1), random_weights(config, 2), {})
    content = bytearray(path.read_bytes())
    # A low bit of the last number, which belongs to the averaged weights.
    content[-4] ^= 1
    path.write_bytes(content)
    load_checkpoint(path, "raw")
    with pytest.raises(IntegrityError, match="ema weights are not those that were saved"):
        load_checkpoint(path)


def test_metadata_that_were_changed_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_smallest(path)
    content = path.read_bytes()
    # The same weights, masked otherwise.
    path.write_bytes(content.replace(rb"\"lag\":2", rb"\"lag\":1"))
    with pytest.raises(IntegrityError, match="metadata are not those that were saved"):
        load_checkpoint(path)
    path.write_bytes(with_metadata(content, lambda metadata: metadata["model"]["decoder"].update(lag=1)))
    assert load_checkpoint(path).model.config.decoder.lag == 1


def test_metadata_without_a_seal_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_smallest(path)
    content = path.read_bytes()
    # One bit, which makes the seal a key like another.
    assert "key 'sha256' is missing" in refused(path, content.replace(rb"\"sha256\":", rb"\"sha25v\":"))
    for recorded in (None, "", [], "0" * 64):
        forged = with_metadata(content, lambda metadata: metadata.update({SEAL_KEY: recorded}))  # noqa: B023
        path.write_bytes(forged)
        with pytest.raises(IntegrityError, match="metadata are not those that were saved"):
            load_checkpoint(path)


def test_facts_that_are_unknown_are_carried_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_smallest(path)
    before = load_checkpoint(path)
    odd = {"colour": {"a": [1, None]}, "": 5, "__class__": "x", "raw.": "../x"}
    path.write_bytes(with_metadata(path.read_bytes(), lambda metadata: metadata.update(odd)))
    loaded = load_checkpoint(path)
    assert loaded.metadata == before.metadata | odd
    assert (loaded.weights_sha256, loaded.model.config) == (before.weights_sha256, before.model.config)
    assert (loaded.provenance, loaded.claims) == (Provenance(), [])


def test_raw_weights_may_be_left_out_but_then_not_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "m"
    save_smallest(path)
    assert not any(name.startswith(RAW) for name in parts(path.read_bytes())[0])
    with pytest.raises(UsageError, match="raw"):
        load_checkpoint(path, "raw")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    save_smallest(path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    for size in [*range(0, 20), length - 1, length, length + 7, length + 8, length + 9, len(content) - 1]:
        message = refused(path, content[:size])
        assert "truncated" in message or "not a" in message
    assert "longer" in refused(path, content + b"x")


@pytest.mark.parametrize("name", ["", "a folder", "absent"])
def test_what_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a folder").mkdir()
    with pytest.raises(InputError, match="cannot read checkpoint"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "start",
    [
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q\x00." + bytes(100),
        b"<!doctype html><html></html>",
        struct.pack("<Q", LARGEST_HEADER_BYTES + 1) + b"{}" + bytes(100),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        file_bytes(b"{" + b'"a":{' * 3000, b""),
        file_bytes(b'{"a":\xff}', b""),
        file_bytes(b'{"a":1e', b""),
        file_bytes(b'{"a":' + b"9" * 5000 + b"}", b""),
        file_bytes({}, b""),
        file_bytes({"__metadata__": None}, b""),
        file_bytes({"__metadata__": {"format": "pt"}}, b""),
        file_bytes({"__metadata__": {METADATA_KEY: 5}}, b""),
        file_bytes({"__metadata__": {METADATA_KEY: "[]"}}, b""),
        file_bytes({"__metadata__": {METADATA_KEY: "{"}}, b""),
        file_bytes({"__metadata__": {METADATA_KEY: '{"schema":"famecli/state/1"}'}}, b""),
        file_bytes({"__metadata__": {METADATA_KEY: "{}"}}, b""),
    ],
    ids=lambda start: repr(start[8:40]),
)
def test_other_files_are_refused(tmp_path: Path, start: bytes) -> None:
    assert refused(tmp_path / "other", start)


@pytest.mark.parametrize("place", ["tensor", "entry", "metadata"])
def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / "twice"
    save_smallest(path)
    header, body = parts(path.read_bytes())
    text = json.dumps(header)
    entry = '"decoder.first.bias": {"dtype": "F32",'
    old, new = {
        "tensor": (
            entry,
            '"decoder.first.bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, ' + entry,
        ),
        "entry": (entry, entry + ' "dtype": "F32",'),
        "metadata": (r"\"training\":", r"\"training\":1,\"training\":"),
    }[place]
    assert old in text
    assert "twice" in refused(path, file_bytes(text.replace(old, new, 1).encode(), body))


BIAS = "decoder.first.bias"
LAST = "decoder.head2.weight"


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (BIAS, {"data_offsets": [4, 8]}, "overlap or leave a gap"),
        (LAST, {"data_offsets": [36, 40]}, "overlap or leave a gap"),
        (LAST, {"data_offsets": [44, 48]}, "overlap or leave a gap"),
        (LAST, {"data_offsets": [40, 48]}, "size does not match its shape"),
        (LAST, {"data_offsets": [44, 40]}, "size does not match its shape"),
        (LAST, {"data_offsets": [-4, 0]}, "not a whole number in range"),
        (LAST, {"data_offsets": [40.0, 44.0]}, "not a whole number in range"),
        (LAST, {"data_offsets": [40]}, "not a famecli checkpoint"),
        (LAST, {"data_offsets": None}, "not a famecli checkpoint"),
        (LAST, {"shape": [True]}, "not a whole number in range"),
        (LAST, {"shape": "1"}, "not a whole number in range"),
        (LAST, {"shape": [2**47, 2**47, 0], "data_offsets": [44, 44]}, ""),
        (LAST, {"shape": [0, 2**47, 2**47], "data_offsets": [44, 44]}, ""),
        (LAST, {"dtype": "F8_E4M3"}, "key 'F8_E4M3' is missing"),
        (LAST, {"dtype": ["F32"]}, "not a famecli checkpoint"),
        (LAST, {"dtype": "I32"}, f"{LAST} is I32"),
        (LAST, {"dtype": "BF16", "shape": [2, 1, 1, 1]}, f"{LAST} is BF16"),
        (LAST, {"shape": [1]}, f"{LAST} is (1,), expected (1, 1, 1, 1)"),
        (LAST, {"more": float("nan")}, "NaN"),
        (LAST, {"more": 5}, "a tensor has the unexpected key 'more'"),
        ("__metadata__", {"more": 5}, "its metadata has the unexpected key 'more'"),
        ("__metadata__", {"format": "pt"}, "its metadata has the unexpected key 'format'"),
    ],
)
def test_tensors_that_lie_wrong_are_refused(
    tmp_path: Path, name: str, entry: dict[str, Any], message: str
) -> None:
    path = tmp_path / "wrong"
    save_smallest(path)
    header, body = parts(path.read_bytes())
    header[name] |= entry
    assert message in refused(path, file_bytes(header, body))


def test_missing_additional_and_renamed_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    save_smallest(path)
    header, body = parts(path.read_bytes())
    without = {name: entry for name, entry in header.items() if name != LAST}
    assert "asks for 11 weights, it has 10" in refused(path, file_bytes(without, body[:-4]))
    place = {"dtype": "F32", "shape": [1], "data_offsets": [40, 44]}
    assert "disagree about" in refused(path, file_bytes(without | {"other": place}, body))
    for name, more_weights in (("a\nb", True), ("raw.a", False), ("", True), ("\ud800", True)):
        for dtype, size in (("U8", 1), ("F32", 4)):
            entry = {"dtype": dtype, "shape": [1], "data_offsets": [44, 44 + size]}
            message = "weights, it has 12" if more_weights else "disagree about"
            found = refused(path, file_bytes(header | {name: entry}, body + bytes(size)))
            assert ("is U8, expected F32" if dtype == "U8" else message) in found
        message = "disagree about" if more_weights else "asks for 11 weights, it has 10"
        assert message in refused(path, file_bytes(without | {name: header[LAST]}, body))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_neither_loaded_nor_saved(tmp_path: Path, value: float) -> None:
    path = tmp_path / "m"
    weights = save_smallest(path)
    header, body = parts(path.read_bytes())
    assert f"{LAST} has values that are not finite" in refused(
        path, file_bytes(header, body[:-4] + struct.pack("<f", value))
    )
    before = path.read_bytes()
    weights[LAST][0] = value
    for ema, raw in ((weights, None), (random_weights(smallest(), 0), weights)):
        with pytest.raises(NumericsError, match=LAST):
            save_checkpoint(path, smallest(), ema, raw, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["model"].update(colour=1), "unknown key 'colour'"),
        (lambda m: m["model"].update({"a\nb": 1}), r"unknown key 'a\nb'"),
        (lambda m: m["model"]["decoder"].update(depth=1), "decoder: unknown key 'depth'"),
        (lambda m: m["model"].pop("levels"), "key 'levels' is missing"),
        (lambda m: m["model"].update(levels="2"), "levels: expected int"),
        (lambda m: m["model"].update(height=10**9), "height = 1000000000 is outside"),
        (lambda m: m.pop("model"), "expected a table of keys"),
    ],
)
def test_an_impossible_configuration_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = tmp_path / "config"
    save_smallest(path)
    content = with_metadata(path.read_bytes(), change)
    assert message in refused(path, content, ConfigError)


def test_a_header_is_read_from_the_start_of_a_file_alone() -> None:
    length = int.from_bytes(GOLDEN_FILE[:8], "little")
    header = parse_header(GOLDEN_FILE[: 8 + length], len(GOLDEN_FILE), "x")
    assert header.metadata == {"n": {"a": 0.1, "b": 1}, "schema": "x/1"}
    with pytest.raises(InputError, match="x: truncated"):
        parse_header(GOLDEN_FILE[: 7 + length], len(GOLDEN_FILE), "x")
