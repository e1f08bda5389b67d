"""Bundles of weights: hostile ones are refused before anything is stored."""

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.commands import save_model

from famecli.checkpoints import bundle as weights_bundle
from famecli.checkpoints.bundle import check_all, read_members, store_all, write_bundle
from famecli.checkpoints.index import index, weights_folder
from famecli.checkpoints.store import Store
from famecli.errors import FameError, InputError, IntegrityError

SHAPE = (1, 8, 8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "my-model.safetensors", "vae", SHAPE)


def bring(store: Store, path: Path, name: str | None = None, *, force: bool = False) -> dict[str, Path]:
    check_all(store, path, name, force=force)
    return {arrival.name: target for arrival, target in store_all(store, path, name)}


def bundle(path: Path, *members: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for info, content in members:
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def member(name: str, **facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in facts.items():
        setattr(info, key, value)
    return info


def test_a_bundle_brings_models_to_another_machine(store: Store, model: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other.safetensors", "lvae", SHAPE)
    write_bundle(tmp_path / "b.tar", {"b-model": model, "a-model": other})
    with tarfile.open(tmp_path / "b.tar") as tar:
        assert tar.getnames() == ["a-model.safetensors", "b-model.safetensors"]
    found = bring(store, tmp_path / "b.tar")
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "a-model": other.read_bytes(),
        "b-model": model.read_bytes(),
    }
    assert {each.name: each.path for each in store.imported()} == found
    # Bringing it again changes nothing.
    assert bring(store, tmp_path / "b.tar") == found


def test_equal_models_make_equal_bundles(model: Path, tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_bundle(tmp_path / name, {"a": model})
        os.utime(model, (0, 0))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    (tmp_path / "absent").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        write_bundle(tmp_path / "3", {"a": tmp_path / "nothing"})
    assert not (tmp_path / "3").exists()


def test_files_of_the_index_go_where_fetched_ones_do(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = index()["fame-mnist"]
    packaged = weights_folder() / entry.file
    copy = tmp_path / "any name.safetensors"
    copy.write_bytes(packaged.read_bytes())
    assert bring(store, copy) == {entry.name: packaged}
    monkeypatch.setattr("famecli.checkpoints.store.weights_folder", lambda: tmp_path / "empty")
    (path,) = bring(store, copy).values()
    assert path == store.find(entry) == store.get(entry.name) == store.cached(entry.name, entry.sha256)
    assert path.read_bytes() == packaged.read_bytes()
    # A damaged one is mended.
    path.write_bytes(b"damaged")
    bring(store, copy)
    assert path.read_bytes() == packaged.read_bytes()


def test_a_name_of_the_index_is_for_its_file_alone(store: Store, model: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "b.tar", {"fame-mnist": model})
    for path, name in ((tmp_path / "b.tar", None), (model, "fame-mnist")):
        with pytest.raises(IntegrityError, match="fame-mnist"):
            bring(store, path, name)
    assert not store.folder.exists()


def test_a_name_is_taken_over_only_by_force(store: Store, model: Path, tmp_path: Path) -> None:
    (first,) = bring(store, model, "mine").values()
    other = save_model(tmp_path / "other.safetensors", "lvae", SHAPE)
    with pytest.raises(InputError, match="another checkpoint is called mine") as caught:
        bring(store, other, "mine")
    assert "--force" in caught.value.hint
    assert first.exists()
    (second,) = bring(store, other, "mine", force=True).values()
    assert [each.path for each in store.imported()] == [second]
    assert second.stem == hashlib.sha256(other.read_bytes()).hexdigest()


GOOD = b"content"
HOSTILE: dict[str, Callable[[Path], Path]] = {
    "parent": lambda path: bundle(path, (member("../x.safetensors"), GOOD)),
    "absolute": lambda path: bundle(path, (member("/tmp/x.safetensors"), GOOD)),
    "folder": lambda path: bundle(path, (member("a/x.safetensors"), GOOD)),
    "backslash": lambda path: bundle(path, (member("..\\x.safetensors"), GOOD)),
    "hidden": lambda path: bundle(path, (member(".x.safetensors"), GOOD)),
    "suffix": lambda path: bundle(path, (member("x.pt"), GOOD)),
    "no name": lambda path: bundle(path, (member(".safetensors"), GOOD)),
    "control": lambda path: bundle(path, (member("x\x1b[2J.safetensors"), GOOD)),
    "symlink": lambda path: bundle(
        path, (member("x.safetensors", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")
    ),
    "hardlink": lambda path: bundle(
        path, (member("x.safetensors", type=tarfile.LNKTYPE, linkname="/etc/passwd"), b"")
    ),
    "device": lambda path: bundle(path, (member("x.safetensors", type=tarfile.CHRTYPE), b"")),
    "fifo": lambda path: bundle(path, (member("x.safetensors", type=tarfile.FIFOTYPE), b"")),
    "directory": lambda path: bundle(path, (member("x.safetensors", type=tarfile.DIRTYPE), b"")),
    "sparse": lambda path: bundle(path, (member("x.safetensors", type=tarfile.GNUTYPE_SPARSE), b"")),
    "pax": lambda path: bundle(
        path, (member("x.safetensors", pax_headers={"path": "../x"}), GOOD), kind=tarfile.PAX_FORMAT
    ),
    "long name": lambda path: bundle(
        path, (member("x" * 200 + ".safetensors"), GOOD), kind=tarfile.GNU_FORMAT
    ),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("after", [False, True], ids=["first", "after a good one"])
def test_hostile_bundles_are_refused_whole(
    store: Store, model: Path, tmp_path: Path, make: Callable[[Path], Path], after: bool
) -> None:
    path = make(tmp_path / "b.tar")
    if after:
        write_bundle(tmp_path / "good.tar", {"good": model})
        good = (tmp_path / "good.tar").read_bytes()
        end = 512 + -(-model.stat().st_size // 512) * 512
        path.write_bytes(good[:end] + path.read_bytes())
    with path.open("rb") as file, pytest.raises(InputError):
        list(read_members(file, "b.tar"))
    before = {each.name for each in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"b\.tar") as caught:
        bring(store, path)
    assert "\n" not in str(caught.value)
    assert {each.name for each in tmp_path.iterdir()} - before <= {"cache"}
    assert not store.folder.exists()


def test_a_bundle_without_weights_is_none(store: Store, tmp_path: Path) -> None:
    for content in (bytes(1024), b""):
        with pytest.raises(InputError, match="without weights"):
            list(read_members(io.BytesIO(content), "b.tar"))
    with pytest.raises(InputError):
        bring(store, bundle(tmp_path / "b.tar"))


def test_a_size_that_is_not_there_takes_no_memory(store: Store, tmp_path: Path) -> None:
    for size in (1 << 32, 1 << 40, 513):
        info = member("x.safetensors", size=size)
        (tmp_path / "b.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(512))
        with pytest.raises(InputError):
            bring(store, tmp_path / "b.tar")
    block = bytearray(member("x.safetensors").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 12
    total = sum(block[:148]) + sum(block[156:512]) + 256
    block[148:156] = b"%06o\0 " % total
    with pytest.raises(InputError, match="-1 bytes"):
        list(read_members(io.BytesIO(bytes(block)), "b.tar"))


def test_names_are_not_twice_in_it_and_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = bundle(tmp_path / "b.tar", (member("x.safetensors"), GOOD), (member("x.safetensors"), GOOD))
    with pytest.raises(InputError, match="twice"):
        list(read_members(io.BytesIO(twice.read_bytes()), "b.tar"))
    monkeypatch.setattr(weights_bundle, "MOST_MEMBERS", 2)
    many = bundle(tmp_path / "c.tar", *((member(f"x{each}.safetensors"), GOOD) for each in range(3)))
    with pytest.raises(InputError, match="more than 2"):
        list(read_members(io.BytesIO(many.read_bytes()), "c.tar"))


def test_damaged_bundles_fail_in_one_way_only(store: Store, model: Path, tmp_path: Path) -> None:
    path, generator = tmp_path / "b.tar", np.random.default_rng(0)
    write_bundle(path, {"a": model})
    whole = path.read_bytes()
    for _ in range(200):
        content = bytearray(whole)
        place = int(generator.integers(600))
        content[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(content[: int(generator.integers(len(content)))])
        with pytest.raises(FameError) as caught:
            bring(store, path)
        assert "\n" not in str(caught.value)
    assert not store.folder.exists()


def test_what_is_no_checkpoint_is_not_imported(store: Store, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "x.safetensors"
    for content in (b"", b"PK\3\4" + bytes(600), b"\x80\4" + bytes(600), model.read_bytes()[:-1]):
        other.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.safetensors"):
            bring(store, other)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="cannot read"):
            bring(store, path)
    with pytest.raises(InputError, match="cannot be a name"):
        bring(store, model, "../x")
    assert not store.folder.exists()


def test_a_cache_that_cannot_be_written_is_an_input_error(model: Path) -> None:
    with tempfile.NamedTemporaryFile() as file, pytest.raises(InputError, match="cannot write"):
        bring(Store(Path(file.name)), model)
