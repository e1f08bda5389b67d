"""Hostile images and data: readers answer mutants with their content or one line, soon, in little memory.

Single faults of each format stand in the tests of its reader.
"""

import gzip
import io
import os
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.io
from PIL import Image, PngImagePlugin
from support.archives import (
    COMPRESSED,
    MAT_HEADER,
    element,
    matrix,
    npy_bytes,
    read_tar,
    read_zip,
    tar_bytes,
    zip_bytes,
)
from support.data import amat, image_bytes, png_claiming, random_pixels
from support.mutants import BYTE_MUTATIONS, judge, memory_limit, mutant

from famecli.data.arrays import idx_header, read_arrays, read_idx
from famecli.data.drawings import read_mat
from famecli.data.handwritten import parse_amat
from famecli.data.image_files import image_header
from famecli.data.preparation import Preparation
from famecli.data.reading import read_images
from famecli.errors import ExitCode, FameError

MIB = 1 << 20
ROOM_BYTES = 64 * MIB
CODES = (ExitCode.BAD_INPUT,)
SHAPE = (3, 8, 8)
Read = Callable[[Path], Any]


class Family(NamedTuple):
    """A format: a good file, its reader, how many mutants, and what wraps mutants of its inside."""

    content: bytes
    read: Read
    count: int
    wrap: Callable[[bytes], bytes] = lambda content: content


def picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    image = Image.fromarray(random_pixels(1, 3, 8)[0])
    return image_bytes(image.convert(mode), kind, **options)


def read_picture(path: Path) -> Any:
    [(_, pixels)] = read_images([path], SHAPE, Preparation(convert=True))
    shape = image_header(str(path), path.read_bytes()).shape
    assert (pixels.shape, pixels.dtype, shape[1:]) == (SHAPE, np.uint8, (8, 8))
    return pixels


def text_png() -> bytes:
    """Return a PNG with text, compressed text, a palette and transparency."""
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 50)
    text.add_text("c", "d" * 50, zip=True)
    text.add_itxt("e", "f" * 50, "de", "g", zip=True)
    return picture("PNG", "P", pnginfo=text, transparency=3)


def idx() -> bytes:
    return idx_header((3, 4, 5)) + bytes(range(60))


def named_tar(**files: bytes) -> bytes:
    """Return a tar with a name too long for its header, a pax header, and a sparse file's flags."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo("folder/" * 20 + name + ".bin")
            member.size, member.pax_headers = len(content), {"comment": "é" * 30}
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def plain_mat(**arrays: np.ndarray) -> bytes:
    target = io.BytesIO()
    scipy.io.savemat(target, arrays)
    return target.getvalue()


def packed_mat(content: bytes) -> bytes:
    return MAT_HEADER + element(COMPRESSED, zlib.compress(content, 1))


def archived_npy(content: bytes) -> bytes:
    """Return an npz whose sums are right, whatever the array in it is."""
    return zip_bytes({"arr_0.npy": content})


IMAGES = random_pixels(2, 1, 5)
BITS = np.random.default_rng(0).integers(0, 2, (2, 784), np.uint8)
FAMILIES: dict[str, Family] = {
    "PNG": Family(picture("PNG"), read_picture, 300),
    "PNG with text": Family(text_png(), read_picture, 300),
    "PNG, interlaced greys of 16 bits": Family(
        image_bytes(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)), read_picture, 200
    ),
    "JPEG": Family(picture("JPEG"), read_picture, 300),
    "JPEG, progressive": Family(picture("JPEG", "L", progressive=True), read_picture, 200),
    "WEBP": Family(picture("WEBP"), read_picture, 200),
    "WEBP, lossless": Family(picture("WEBP", "RGBA", lossless=True), read_picture, 200),
    "BMP": Family(picture("BMP"), read_picture, 200),
    "BMP with a palette": Family(picture("BMP", "P"), read_picture, 200),
    "IDX": Family(idx(), read_idx, 1000),
    "IDX, gzipped": Family(gzip.compress(idx()), read_idx, 500),
    "IDX in a right gzip": Family(idx(), read_idx, 500, partial(gzip.compress, compresslevel=1)),
    "mat": Family(plain_mat(a=np.arange(6.0).reshape(2, 3)), partial(read_mat, names=["a"]), 1000),
    "mat, compressed": Family(packed_mat(matrix()), partial(read_mat, names=["a"]), 400),
    "mat in a right stream": Family(matrix(), partial(read_mat, names=["a"]), 600, packed_mat),
    "npy": Family(npy_bytes(IMAGES), read_arrays, 1000),
    "npz": Family(archived_npy(npy_bytes(IMAGES)), read_arrays, 1000),
    "npy in a right npz": Family(npy_bytes(IMAGES), read_arrays, 1000, archived_npy),
    "amat": Family(amat(BITS), lambda path: parse_amat(path.read_bytes(), str(path)), 1000),
    "tar": Family(tar_bytes({"a.bin": b"x" * 700, "b.bin": b""}), read_tar, 500),
    "tar with long names": Family(named_tar(a=b"x" * 700, b=b""), read_tar, 700),
    "tar, gzipped": Family(tar_bytes({"a.bin": b"x" * 700}, "w:gz"), read_tar, 300),
    "tar in a right gzip": Family(
        named_tar(a=b"x" * 700), read_tar, 500, partial(gzip.compress, compresslevel=1)
    ),
    "zip": Family(zip_bytes({"a.bin": b"x" * 700, "b.bin": b"", "c/d.bin": b"y"}), read_zip, 2000),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_mutants_are_read_or_refused(tmp_path: Path, family: Family) -> None:
    path = tmp_path / "FILE"
    path.write_bytes(family.wrap(family.content))
    family.read(path)
    refused = 0
    with memory_limit(ROOM_BYTES):
        for number in range(family.count):
            name, changed = mutant(family.content, len(family.content), number, BYTE_MUTATIONS)
            path.write_bytes(family.wrap(changed))
            refused += judge(lambda: family.read(path), name, "FILE", CODES).error is not None
    assert refused > family.count // 20


def test_mutants_are_enough() -> None:
    counts = {
        kind: sum(family.count for name, family in FAMILIES.items() if name.split()[0].strip(",") == kind)
        for kind in ("IDX", "mat", "tar", "zip", "amat")
    }
    arrays = sum(family.count for family in FAMILIES.values() if family.read is read_arrays)
    pictures = sum(family.count for family in FAMILIES.values() if family.read is read_picture)
    assert (counts, arrays, pictures) == (
        {"IDX": 2000, "mat": 2000, "tar": 2000, "zip": 2000, "amat": 1000},
        3000,
        2100,
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes, side: int = 8) -> bytes:
    """Return a grey PNG with more chunks before its pixels, which are all there."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def zeros(mib: int) -> bytes:
    """Return `mib` MiB of zeros, compressed a thousandfold."""
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(MIB)) for _ in range(mib)) + packer.flush()


def bmp_claiming(width: int, height: int) -> bytes:
    return picture("BMP")[:18] + struct.pack("<ii", width, height) + picture("BMP")[26:]


def jpeg_claiming(width: int, height: int) -> bytes:
    content = picture("JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def webp_claiming(width: int, height: int) -> bytes:
    content = picture("WEBP")
    place = content.index(b"\x9d\x01\x2a") + 3
    return content[:place] + struct.pack("<HH", width, height) + content[place + 4 :]


def animation(kind: str) -> bytes:
    target = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(100)]
    frames[0].save(target, kind, save_all=True, append_images=frames[1:])
    return target.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of 2**31 - 1 squared": lambda: png_claiming(2**31 - 1, 2**31 - 1),
    "PNG of 50,000 squared": lambda: png_claiming(50_000, 50_000),
    "PNG of 8 x 10**6": lambda: png_claiming(8, 10**6),
    "BMP of 2**31 - 1 squared": lambda: bmp_claiming(2**31 - 1, 2**31 - 1),
    "BMP of -2**31 rows": lambda: bmp_claiming(8, -(2**31)),
    "BMP of 60,000 squared": lambda: bmp_claiming(60_000, 60_000),
    "JPEG of 65,535 squared": lambda: jpeg_claiming(65_535, 65_535),
    "WEBP of 16,383 squared": lambda: webp_claiming(16_383, 16_383),
    "PNG with 300 MiB of text": lambda: png_with(chunk(b"zTXt", b"a\0\0" + zeros(300))),
    "PNG with 300 MiB of international text": lambda: png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(300))),
    "PNG with a profile of 300 MiB": lambda: png_with(chunk(b"iCCP", b"a\0\0" + zeros(300))),
    "PNG with 50,000 texts": lambda: png_with(
        *[chunk(b"tEXt", b"a%d\0" % number + b"b" * 100) for number in range(50_000)]
    ),
    "WEBP of 100 frames": lambda: animation("WEBP"),
    "PNG of 100 frames": lambda: animation("PNG"),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_decompression_bombs_stay_small(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = tmp_path / "FILE"
    path.write_bytes(make())
    with memory_limit(ROOM_BYTES + 2 * path.stat().st_size):
        judge(lambda: read_picture(path), "bomb", "FILE", CODES, within_s=1.0)


def test_pixels_beyond_the_image_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "FILE"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zeros(300)) + chunk(b"IEND", b""))
    with memory_limit(ROOM_BYTES):
        judge(lambda: read_picture(path), "pixels", "FILE", CODES, within_s=1.0)


def hostile_tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 4) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, size
    return member.tobuf(tarfile.GNU_FORMAT) + b"evil".ljust(512, b"\0") + bytes(1024)


def hostile_zip(name: str, mode: int = 0o100644) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        member = zipfile.ZipInfo("placeholder.bin")
        member.external_attr = mode << 16
        archive.writestr(member, "evil")
    return target.getvalue().replace(b"placeholder.bin", name.encode().ljust(15, b"_"))


NAMES = (
    "../evil.bin",
    "../../../tmp/evil.bin",
    "/tmp/evil.bin",
    "//evil.bin",
    "a/../../evil.bin",
    "..\\evil.bin",
    "C:\\evil.bin",
    "\\\\host\\a.bin",
    "con.bin",
    "a\nb.bin",
    "\x1b[31m.bin",
    "~root/.bin",
    "-rf.bin",
    ".bin",
    "a" * 90 + ".bin",
)
KINDS = (
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
    tarfile.DIRTYPE,
    tarfile.GNUTYPE_SPARSE,
    tarfile.CONTTYPE,
)


def test_archives_with_hostile_names_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """57 archives: 15 names in tar and zip, other kinds of members with 3 names, links in zips."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    files: list[tuple[bytes, Read]] = [(hostile_tar(name), read_tar) for name in NAMES]
    files += [(hostile_zip(name[:15]), read_zip) for name in NAMES]
    files += [(hostile_tar(name, kind, "/etc/passwd"), read_tar) for kind in KINDS for name in NAMES[:3]]
    files += [
        (hostile_zip(name, mode), read_zip) for name in NAMES[:1] for mode in (0o120777, 0o060666, 0o010666)
    ]
    assert len(files) == 57
    for content, read in files:
        path = inside / "FILE"
        path.write_bytes(content)
        with memory_limit(ROOM_BYTES):
            judge(lambda: read(path), repr(content[:40]), "FILE", CODES)  # noqa: B023
        path.unlink()
    assert os.listdir(inside) == []
    assert os.listdir(tmp_path) == ["inside"]
    assert not Path("/tmp/evil.bin").exists()


READERS: dict[str, Read] = {
    "IDX": read_idx,
    "mat": partial(read_mat, names=["a"]),
    "npz": read_arrays,
    "tar": read_tar,
    "zip": read_zip,
    "image": read_picture,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_no_file_is_refused(tmp_path: Path, read: Read) -> None:
    loop, pipe = tmp_path / "loop", tmp_path / "pipe"
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    (tmp_path / "empty").touch()
    places = [tmp_path, loop, tmp_path / "absent", tmp_path / "empty", Path("/dev/null"), Path("/dev/zero")]
    # A pipe has to have a writer, lest a reader that opens it waits for one for ever.
    writer = threading.Thread(target=pipe.write_bytes, args=(b"x",), daemon=True)
    writer.start()
    for path in [*places, pipe]:
        with memory_limit(4 * ROOM_BYTES):
            error = judge(lambda: read(path), str(path), str(path), CODES, within_s=1.0).error  # noqa: B023
        assert isinstance(error, FameError), path
    # Where no reader opened it, the writer still waits; it may also have ended just now.
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer.join()
    os.close(end)
