"""The file of coded images: what is not whole, or says what is not possible, is refused in one line."""

import dataclasses
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.codes import BITS, images_of, packed, sealed, set_to
from support.commands import save_model
from support.mutants import judge, mutant

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.coding import compress, container
from famecli.coding.codec import Coded
from famecli.coding.container import (
    CodedFile,
    FileHeader,
    Machine,
    from_bytes,
    hash_levels,
    read_file,
    run_lengths,
    to_bytes,
)
from famecli.errors import ExitCode, FameError, InputError, IntegrityError

LEVELS = np.arange(5 * 12, dtype=np.uint8).reshape(5, 1, 3, 4) % 2
REFUSALS = (ExitCode.BAD_INPUT, ExitCode.INTEGRITY)


def whole() -> CodedFile:
    header = FileHeader(
        schema=container.SCHEMA,
        name="tiny",
        weights="ema",
        weights_sha256="ab" * 32,
        shape=(1, 3, 4),
        levels=2,
        names=("a.png", "b c.png", "é.png", "d.e.png", "7.png"),
        first=0,
        levels_sha256=hash_levels(LEVELS),
        initial_bits=32,
        bits=((0, 3), (1,)),
        groups=((1, 2), (3, 1)),
        machine=Machine.here(),
    )
    return CodedFile(header, np.array([5, 6, 7, 8], np.uint32))


def test_a_file_says_what_was_written() -> None:
    file = whole()
    found = from_bytes(to_bytes(file), "x.fame")
    assert found.header == file.header
    np.testing.assert_array_equal(found.payload, file.payload)
    coded = found.coded()
    assert (coded.groups, coded.images, coded.net_bits) == ((1, 1, 3), 5, 96)
    assert to_bytes(found) == to_bytes(file)
    assert found.header.file_names() == list(file.header.names or ())


def test_the_layout_is_that_of_the_document() -> None:
    content = to_bytes(whole())
    assert content[:8] == b"\x89fame\r\n\x1a"
    assert content[8:12] == b"\x01\0\0\0"
    length = int.from_bytes(content[12:16], "little")
    assert json.loads(zlib.decompress(content[16 : 16 + length]))["schema"] == "famecli/coded/1"
    assert content[16 + length : -4] == np.array([5, 6, 7, 8], "<u4").tobytes()
    assert content[-4:] == zlib.crc32(content[:-4]).to_bytes(4, "little")


def test_numbers_stand_for_names() -> None:
    header = dataclasses.replace(whole().header, names=None, first=998)
    found = from_bytes(to_bytes(CodedFile(header, whole().payload)), "x.fame").header
    assert found.file_names() == [f"{number:06d}.png" for number in range(998, 1003)]


def test_other_images_are_told() -> None:
    file = whole()
    file.check(LEVELS)
    with pytest.raises(IntegrityError, match="not those that were coded"):
        file.check(1 - LEVELS)


def test_the_hint_names_what_differs() -> None:
    here = Machine.here()
    assert "damaged" in here.advice()
    other = dataclasses.replace(here, torch_version="1.2.3")
    assert other.advice() == f"it was written with torch 1.2.3 (here {here.torch_version})"


def test_every_cut_is_told(tmp_path: Path) -> None:
    content = to_bytes(whole())
    path = tmp_path / "x.fame"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FameError, match=r"x\.fame") as caught:
            read_file(path)
        # Before the magic is whole it could be any file.
        assert caught.value.exit_code == (ExitCode.INTEGRITY if length >= 8 else ExitCode.BAD_INPUT)
    path.write_bytes(content + b"\0")
    with pytest.raises(IntegrityError, match="damaged or cut off"):
        read_file(path)


def test_every_flipped_bit_is_told() -> None:
    content = to_bytes(whole())
    for position in range(8 * len(content)):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(FameError) as caught:
            from_bytes(bytes(changed), "x.fame")
        assert caught.value.exit_code in REFUSALS


def test_mutants_are_refused_or_the_same() -> None:
    content = to_bytes(whole())
    for number in range(300):
        name, changed = mutant(content, 1, number)
        verdict = judge(lambda changed=changed: from_bytes(changed, "x.fame"), name, "x.fame", REFUSALS)
        assert verdict.error is not None or changed == content, name


def set_machine(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda data: data["machine"].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_to(schema="famecli/coded/2"), "schema"),
        (set_to(weights="both"), "none of ema, raw"),
        (set_to(weights_sha256="zz"), "no name or hashes"),
        (set_to(levels_sha256="AB" * 32), "no name or hashes"),
        (set_to(name="n" * 201), "no name or hashes"),
        (set_to(shape=[3, 4]), "shape"),
        (set_to(shape=[1, 0, 4]), "shape"),
        (set_to(shape=[1, 1 << 40, 4]), "shape"),
        (set_to(levels=1), "levels"),
        (set_to(levels=257), "levels"),
        (set_to(initial_bits=-1), "initial bits"),
        (set_to(initial_bits=129), "more initial bits than payload bits"),
        (set_to(bits=[[17]]), "more than 16 bits"),
        (set_to(bits=[[-1]]), "more than 16 bits"),
        (set_to(groups=[]), "0 images"),
        (set_to(groups=[[0, 5]]), "invalid groups of images"),
        (set_to(groups=[[5]]), "invalid groups of images"),
        (set_to(groups=[[1025, 1]]), "invalid groups of images"),
        (set_to(groups=[[1, 1 << 60]]), "images of shape"),
        (set_to(groups=[[1, 4]]), "5 names for 4 images"),
        (set_to(names=None, first=-1), "from number -1"),
        (set_to(names=["a.png"] * 5), "appears twice"),
        (set_to(names=["a.png", "b.png", "c.png", "d.png", "../e.png"]), "is not a plain name"),
        (set_to(extra=1), "unknown key"),
        (set_to(machine=None), "expected a table"),
        (set_machine(processor="x" * 101), "a machine described in more than 100 characters"),
        (lambda data: data.pop("groups"), "missing"),
    ],
)
def test_impossible_headers_are_refused(change: Callable[[dict[str, Any]], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        from_bytes(sealed(to_bytes(whole()), change), "x.fame")


LIMITS = {
    "LARGEST_GROUP": ("invalid groups of images", 3),
    "LARGEST_IMAGES": ("5 images of shape", 5),
    "LARGEST_VALUES": ("5 images of shape", 5 * 12),
    "LARGEST_SIDE": ("images of shape", 4),
    "LARGEST_HEADER_BYTES": ("too long for one file|no header of coded images", None),
    "LARGEST_NAME_BYTES": ("is longer than", 7),
    "LARGEST_PATH_BYTES": ("is longer than", 7),
    "MOST_BITS": ("latents of more than", 3),
    "MOST_CLASSES": ("labels of impossible classes", 2),
    "LONGEST_TEXT": ("a machine described in more", None),
    "LARGEST_FILE_BYTES": ("more than [0-9,]+ bytes|larger than [0-9,]+ bytes", None),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_what_a_reader_refuses_is_not_written(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CodedFile(dataclasses.replace(whole().header, labels=(0, 1, 1, 0, 1)), whole().payload)
    (tmp_path / "x.fame").write_bytes(to_bytes(file))
    words, least = LIMITS[limit]
    if least is not None:
        monkeypatch.setattr(container, limit, least)
        assert from_bytes(to_bytes(file), "x.fame").header == file.header
    monkeypatch.setattr(container, limit, 10 if least is None else least - 1)
    with pytest.raises(InputError, match=words):
        read_file(tmp_path / "x.fame")
    with pytest.raises(InputError, match=words):
        to_bytes(file)


def test_headers_in_another_writing_are_refused() -> None:
    content = to_bytes(whole())
    length = int.from_bytes(content[12:16], "little")
    text = zlib.decompress(content[16 : 16 + length])
    for header in (b"", b"x", zlib.compress(b" " + text), zlib.compress(text) + b"x", zlib.compress(b"[1")):
        with pytest.raises(InputError, match="no header of coded images"):
            from_bytes(packed(content, header), "x.fame")


def test_a_header_that_unpacks_to_too_much_is_refused() -> None:
    names = tuple(f"{'n' * 190}{number}.png" for number in range(5))
    many = names * (container.LARGEST_HEADER_BYTES // (5 * 190))
    for some, message in ((many[:-5000], "names for 5 images"), (many, "no header of coded images")):
        large = sealed(to_bytes(whole()), set_to(names=some))
        assert len(large) < container.LARGEST_HEADER_BYTES // 20
        with pytest.raises(InputError, match=message):
            from_bytes(large, "x.fame")
    with pytest.raises(InputError, match="5 images are too long"):
        to_bytes(CodedFile(dataclasses.replace(whole().header, names=many), whole().payload))


def test_payloads_of_odd_bytes_and_other_versions_are_refused() -> None:
    content = to_bytes(whole())
    length = int.from_bytes(content[12:16], "little")
    with pytest.raises(InputError, match="whole number of words"):
        from_bytes(packed(content, content[16 : 16 + length], b"12345"), "x.fame")
    with pytest.raises(InputError, match="version 4 of the format"):
        from_bytes(content[:8] + b"\x04\0\0\0" + content[12:], "x.fame")
    with pytest.raises(InputError, match="not a file of coded images"):
        from_bytes(b"PNG", "x.fame")


def test_groups_are_counted() -> None:
    assert run_lengths((1, 1, 3, 64, 64, 64, 2)) == ((1, 2), (3, 1), (64, 3), (2, 1))
    assert run_lengths(()) == ()
    assert Coded(np.zeros(2, np.uint32), 0, (), ()).images == 0


def test_a_file_holds_what_is_encoded_or_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(save_model(tmp_path / "m.safetensors", "pixelcnn", BITS))
    monkeypatch.setattr(compress, "LARGEST_GROUP", 2)
    file = compress.encode_images(checkpoint, images_of(5), group=2048)
    assert file.coded().groups == (2, 2, 1)
    monkeypatch.setattr(container, "LARGEST_VALUES", 5 * 20 - 1)
    done: list[int] = []
    with pytest.raises(InputError, match="5 images are too many for one file, which holds up to 4"):
        compress.encode_images(checkpoint, images_of(5), advance=done.append)
    assert not done
