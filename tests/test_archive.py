"""Archives and arrays: what is read equals what independent writers wrote, and what is hostile is refused."""

import contextlib
import gzip
import io
import resource
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.archives import MIB, npy_bytes, read_tar, read_zip, tar_bytes, zip_bytes
from support.data import flipped

from famecli.data.archive import LARGEST_DEFLATE_RATIO, ends_with, opened, read_file, zip_members
from famecli.data.arrays import npz_arrays, read_arrays, read_stream
from famecli.errors import FameError, InputError

FILES = {f"folder/{number:03}.bin": bytes([number]) * (100 + 512 * (number % 3)) for number in range(40)}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_are_read_as_written(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(FILES | {"other.txt": b"not wanted"}, mode))
    assert read_tar(path) == FILES
    assert list(read_tar(path)) == list(FILES)


def test_zips_are_read_as_written_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes(dict(reversed(FILES.items())) | {"other.txt": b"not wanted"}))
    assert read_zip(path) == FILES
    assert list(read_zip(path)) == sorted(FILES)
    with opened(path) as file:
        names = [name for name, *_ in zip_members(file, "", ends_with("007.bin"), MIB)]
    assert names == ["folder/007.bin"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_damaged_archive_is_read_or_an_input_error(tmp_path: Path, kind: str) -> None:
    files = dict(list(FILES.items())[:3])
    content = zip_bytes(files) if kind == "zip" else tar_bytes(files, "w:gz" if kind == "tar.gz" else "w")
    read = read_zip if kind == "zip" else read_tar
    path = tmp_path / "damaged"
    for position in range(0, len(content), 5 if kind == "tar" else 1):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        with contextlib.suppress(InputError):
            found = read(path)
            if kind == "tar":
                # A tar has checksums of headers alone.
                assert {name: len(each) for name, each in found.items()} == {
                    name: len(each) for name, each in files.items()
                }
            else:
                # A zip has no checksum of the names in its directory, which may no longer be wanted.
                assert found.items() <= files.items()
                assert kind == "zip" or len(found) == 3


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_cut_archive_is_an_input_error(tmp_path: Path, kind: str) -> None:
    files = dict(list(FILES.items())[:3])
    content = zip_bytes(files) if kind == "zip" else tar_bytes(files, "w:gz" if kind == "tar.gz" else "w")
    # A header and a block for one image, two blocks for the second, three for the third.
    end = 9 * 512 if kind == "tar" else len(content)
    path = tmp_path / "cut"
    for length in (*range(0, end, 31), *range(0, end, 512), end - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cut"):
            (read_zip if kind == "zip" else read_tar)(path)


@pytest.mark.parametrize("end", [512, 1024, 10240, 20480])
def test_a_tar_needs_an_end_but_no_padding(tmp_path: Path, end: int) -> None:
    content = tar_bytes(FILES).rstrip(b"\0")
    content += bytes(-len(content) % 512 + end)
    for each in (content, gzip.compress(content), gzip.compress(content) + bytes(512)):
        (tmp_path / "a.tar").write_bytes(each)
        assert read_tar(tmp_path / "a.tar") == FILES


def write_bombs(folder: Path, mib: int) -> tuple[Path, Path, Path]:
    """Write archives of zeros piece by piece, so that this process never holds them."""
    tar, pax, packed = folder / "tar", folder / "pax", folder / "zip"
    member, header = tarfile.TarInfo("a.bin"), tarfile.TarInfo("x")
    member.size = header.size = mib * MIB
    header.type = tarfile.XHDTYPE
    with tarfile.open(tar, "w:gz", compresslevel=1) as archive, Path("/dev/zero").open("rb") as zeros:
        archive.addfile(member, zeros)
    with gzip.open(pax, "wb", 1) as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(mib):
            stream.write(bytes(MIB))
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        target.open("a.bin", "w") as content,
    ):
        for _ in range(mib):
            content.write(bytes(MIB))
    return tar, pax, packed


def test_bombs_are_refused_without_being_unpacked(tmp_path: Path) -> None:
    tar, pax, packed = write_bombs(tmp_path, 64)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in (tar, pax):
        with pytest.raises(InputError, match=str(path)):
            read_tar(path)
    with pytest.raises(InputError, match=r"a\.bin claims"):
        read_zip(packed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 20_000


def test_a_zip_that_claims_more_than_deflate_can_is_refused(tmp_path: Path) -> None:
    content = bytearray(zip_bytes({"a.bin": b"12345"}))
    directory = content.index(b"PK\x01\x02")
    struct.pack_into("<I", content, directory + 24, 7 * LARGEST_DEFLATE_RATIO + 1)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="claims"):
        read_zip(tmp_path / "a.zip")


def test_a_tar_with_a_huge_size_in_a_header_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.bin")
    member.size = 1 << 40
    path = tmp_path / "a.tar"
    path.write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(InputError, match="claims"):
        read_tar(path)


def test_links_and_devices_in_tars_are_passed_over(tmp_path: Path) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("../../etc/passwd.bin")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    (tmp_path / "a.tar").write_bytes(target.getvalue())
    assert read_tar(tmp_path / "a.tar") == {}


def test_a_file_larger_than_it_may_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    assert read_file(tmp_path / "file", 11) == bytes(11)
    for path, limit in (
        (tmp_path / "file", 10),
        (tmp_path, 10),
        (tmp_path / "absent", 10),
        (Path("/dev/zero"), 10),
    ):
        with pytest.raises(InputError, match=str(path)):
            read_file(path, limit)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 2, 2, 3), (0, 3, 3)])
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_arrays_are_read_as_numpy_wrote_them(
    tmp_path: Path, kind: str, shape: tuple[int, ...], order: str
) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8).copy(order=order)  # type: ignore[call-overload]
    path = tmp_path / f"a.{'npy' if kind == 'npy' else 'npz'}"
    if kind == "npy":
        np.save(path, array)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, array, labels=np.arange(3))
    assert next(iter(read_arrays(path).values())).tobytes() == array.tobytes()


def test_arrays_of_images_in_an_npz_are_found_by_name(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 3), np.uint8)
    np.savez(tmp_path / "two.npz", first=images, second=images + 1, labels=np.zeros(2, np.uint8))
    np.savez(tmp_path / "none.npz", labels=np.zeros(2, np.uint8))
    assert list(read_arrays(tmp_path / "two.npz")) == ["first", "second"]
    np.testing.assert_array_equal(read_arrays(tmp_path / "two.npz", "second")["second"], images + 1)
    with pytest.raises(InputError, match="no array 'third' in it, found first uint8"):
        read_arrays(tmp_path / "two.npz", "third")
    with pytest.raises(InputError, match=r"found labels uint8 \(2,\)"):
        read_arrays(tmp_path / "none.npz")
    with (
        pytest.raises(InputError, match="several arrays of images: first, second"),
        (tmp_path / "two.npz").open("rb") as file,
    ):
        read_stream(file, "stdin", lambda shape: None)


def test_pickles_in_arrays_are_refused_and_never_run(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    array = np.array([[[Bad()]]], dtype=object)
    (tmp_path / "a.npy").write_bytes(npy_bytes(array, pickled=True))
    np.savez(tmp_path / "a.npz", data=array)
    with pytest.raises(InputError, match="pickled"):
        read_arrays(tmp_path / "a.npy")
    with pytest.raises(InputError, match="pickled"), opened(tmp_path / "a.npz") as file:
        list(npz_arrays(file, "a.npz"))
    assert not (tmp_path / "ran").exists()


def test_npy_of_another_type_or_size_is_an_input_error(tmp_path: Path) -> None:
    content = npy_bytes(np.zeros((2, 3, 4), np.uint8))
    path = tmp_path / "a.npy"
    for wrong in (
        npy_bytes(np.zeros((2, 3, 4))),
        content + b"x",
        content[:-1],
        content[:9],
        b"",
        content[:6],
    ):
        path.write_bytes(wrong)
        with pytest.raises(InputError):
            read_arrays(path)


def test_npy_never_allocates_what_only_the_header_promises(tmp_path: Path) -> None:
    content = npy_bytes(np.zeros((2, 3, 4), np.uint8))
    # numpy tells it of memory that is asked for, also where none of it is touched.
    tracemalloc.start()
    for shape in (b"(9999999, 9, 9)", b"(2, 3, -4)", b"(0, 4294967296)", b"(True, 3, 4)"):
        changed = content.replace(b"(2, 3, 4), }".ljust(30), (shape + b", }").ljust(30))
        assert len(changed) == len(content)
        assert shape in changed
        with pytest.raises(InputError):
            read_stream(io.BytesIO(changed), "a", lambda shape: None)
    with pytest.raises(InputError):
        read_stream(io.BytesIO(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99)), "a", lambda shape: None)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < MIB


def test_npy_with_any_byte_flipped_is_read_or_a_known_error(tmp_path: Path) -> None:
    content = npy_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    path = tmp_path / "a.npy"
    for _, changed in flipped(content):
        path.write_bytes(changed)
        with contextlib.suppress(FameError):
            read_arrays(path)
