"""`fame datasets`, and fetching of what a split needs."""

import dataclasses
import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.data import amat, random_pixels, split_by_pixels, write_images
from support.loopback import FaultServer
from support.outcomes import Command, error_lines

from famecli.data.cache import locate, missing_files
from famecli.data.dataset import fixed_levels, load_split
from famecli.data.fetch import fetch_file, git_blob
from famecli.data.registry import DATASETS, DataFile, DatasetInfo, dataset_info
from famecli.errors import IntegrityError

SPLITS = {"train": 3, "valid": 2, "test": 4}


@pytest.fixture
def static(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> DatasetInfo:
    """A small mnist-static that only `server` has, and an empty cache in `tmp_path / "cache"`."""
    files = {}
    for split, count in SPLITS.items():
        content = amat(np.random.default_rng(count).integers(0, 2, (count, 784), np.uint8))
        name = f"binarized_mnist_{split}.amat"
        server.files[name] = content
        files[name] = DataFile(hashlib.sha256(content).hexdigest(), len(content), splits=(split,))
    changes = {"files": files, "splits": SPLITS, "mirrors": (server.url,), "pixels_sha256": None}
    info = dataclasses.replace(dataset_info("mnist-static"), **changes)  # type: ignore[arg-type]
    monkeypatch.setitem(DATASETS, "mnist-static", info)
    return info


def rows(out: str) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(out)["datasets"]}


def test_list_names_all_and_says_which_are_here(
    fame: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAME_DATA", str(data))
    monkeypatch.setenv("FAME_CACHE", str(data / "cache"))
    assert fame("datasets", "list", "-q").out.split() == list(DATASETS)
    found = rows(fame("datasets", "list", "--json").out)
    assert list(found) == list(DATASETS)
    assert {name for name, row in found.items() if row["path"]} == {"mnist", "mnist-fixed", "mnist-grey"}
    assert found["mnist"]["path"] == str(data)
    assert found["cifar10"]["shape"] == [3, 32, 32]
    assert found["cifar10"]["splits"] == {"train": 45_000, "valid": 5_000, "test": 10_000}
    assert found["omniglot"]["hashes"] == "git blob"
    assert found["folder"]["shape"] is None
    text = fame("datasets", "list").out
    assert all(name in text for name in DATASETS)


def test_pull_fetches_once_and_path_says_where(
    fame: Command, static: DatasetInfo, server: FaultServer, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "datasets" / "mnist-static"
    planned = fame("datasets", "pull", "mnist-static", "-n", "--json")
    size = sum(len(page) for page in server.files.values())
    expected = {"name": "mnist-static", "path": None, "downloads": list(static.files), "bytes": size}
    assert rows(planned.out) == {"mnist-static": expected}
    assert not server.asked
    assert fame("datasets", "path", "mnist-static", "--offline").code == 4
    assert fame("datasets", "pull", "mnist-static").out == f"{folder}\n"
    assert sorted(server.asked) == sorted(static.files)
    assert fame("datasets", "path", "mnist-static", "--offline").out == f"{folder}\n"
    assert rows(fame("datasets", "pull", "mnist-static", "--json").out)["mnist-static"]["downloads"] == []
    assert len(server.asked) == len(static.files)


def test_a_split_is_all_that_is_downloaded_for_it(
    static: DatasetInfo, server: FaultServer, tmp_path: Path
) -> None:
    assert len(load_split("mnist-static", "test").pixels) == 4
    assert server.asked == ["binarized_mnist_test.amat"]
    folder = tmp_path / "cache" / "datasets" / "mnist-static"
    assert missing_files(static, folder) == ["binarized_mnist_train.amat", "binarized_mnist_valid.amat"]
    assert missing_files(static, folder, "test") == []
    assert locate(static) == folder
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("mnist", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
        ("mnist-fixed", ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
        ("imagenet32", ["Imagenet32_val_npz.zip"]),
        ("imagenet32-old", ["valid_32x32.tar"]),
    ],
)
def test_test_images_need_no_training_images(name: str, needed: list[str], tmp_path: Path) -> None:
    info = dataset_info(name)
    assert missing_files(info, tmp_path, "test") == needed
    for split in ("train", "valid"):
        assert missing_files(info, tmp_path, split) == [file for file in info.files if file not in needed]


def test_verify_prints_files_and_the_pixels_that_are_scored(
    fame: Command, static: DatasetInfo, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = fame("datasets", "verify", "mnist-static")
    assert (missing.code, server.asked) == (4, [])
    assert "fame datasets pull mnist-static" in missing.err
    scored = fixed_levels(load_split("mnist-static", "test")).sha256
    assert fame("datasets", "verify", "mnist-static", "-q").out == f"{scored}\n"
    row = rows(fame("datasets", "verify", "mnist-static", "--json").out)["mnist-static"]
    assert row["test_pixels_sha256"] == scored
    assert row["test_pixels"] == "unverified"
    states = {file["name"]: file["state"] for file in row["files"]}  # type: ignore[attr-defined]
    assert states == dict.fromkeys(static.files, "missing") | {"binarized_mnist_test.amat": "official"}
    monkeypatch.setitem(DATASETS, "mnist-static", dataclasses.replace(static, pixels_sha256=scored))
    assert "official" in fame("datasets", "verify", "mnist-static").out
    monkeypatch.setitem(DATASETS, "mnist-static", dataclasses.replace(static, pixels_sha256="0" * 64))
    wrong = fame("datasets", "verify", "mnist-static")
    assert wrong.code == 5
    assert scored[:12] in error_lines(wrong)[0]


def test_verify_finds_a_file_that_differs(fame: Command, static: DatasetInfo, tmp_path: Path) -> None:
    folder = locate(static)
    (folder / "binarized_mnist_train.amat").write_bytes(b"other")
    wrong = fame("datasets", "verify", "mnist-static")
    assert wrong.code == 5
    assert "binarized_mnist_train.amat" in error_lines(wrong)[0]


def test_verify_knows_a_file_that_was_gzipped_again(
    fame: Command, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "mnist", dataclasses.replace(DATASETS["mnist"], pixels_sha256=None))
    for path in list(data.glob("*-ubyte.gz"))[:2]:
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    row = rows(fame("datasets", "verify", "mnist", "--data", data, "--json").out)["mnist"]
    assert [file["state"] for file in row["files"]] == ["official"] * 4  # type: ignore[attr-defined]
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    assert fame("datasets", "verify", "mnist", "--data", data).code == 5


def test_unpacked_files_of_unknown_hash_are_called_unverified(
    fame: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(dataset_info("imagenet32"), splits={"train": 8, "valid": 2, "test": 4})
    monkeypatch.setitem(DATASETS, "imagenet32", info)
    np.savez(tmp_path / "val_data.npz", data=np.zeros((4, 3072), np.uint8))
    row = rows(fame("datasets", "verify", "imagenet32", "--data", tmp_path, "--json").out)["imagenet32"]
    states = {file["name"]: file["state"] for file in row["files"]}  # type: ignore[attr-defined]
    assert states == {"Imagenet32_train_npz.zip": "missing", "Imagenet32_val_npz/val_data.npz": "unverified"}


def test_own_images_are_verified_but_not_fetched(fame: Command, tmp_path: Path) -> None:
    greys = random_pixels(40)
    folder = write_images(tmp_path / "images", greys[..., 0])
    row = rows(fame("datasets", "verify", "folder", "--data", folder, "--json").out)["folder"]
    images = greys.transpose(0, 3, 1, 2)
    expected = np.ascontiguousarray(images[split_by_pixels(images)["test"]])
    assert row["test_pixels_sha256"] == hashlib.sha256(expected.tobytes()).hexdigest()
    for words in (["pull", "folder"], ["path", "folder"], ["verify", "folder"], ["pull", "mnits"], ["path"]):
        assert fame("datasets", *words).code == 2


def test_a_file_may_be_known_by_its_git_name_alone(server: FaultServer, tmp_path: Path) -> None:
    content = bytes(range(256)) * 9
    server.files["file"] = content
    # As `git hash-object` says.
    name = hashlib.sha1(b"blob 2304\0" + content).hexdigest()
    target = fetch_file([server.url + "file"], None, tmp_path / "file", blob=name)
    assert git_blob(target) == name
    target.unlink()
    server.files["file"] = content[:-1] + b"x"
    with pytest.raises(IntegrityError, match="git blob"):
        fetch_file([server.url + "file"], None, target, blob=name)
    assert not target.exists()


def test_pickles_in_fame_data_do_not_hide_the_download(
    static: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = dataclasses.replace(static, pickles=("bad.pkl",))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bad.pkl").touch()
    monkeypatch.setenv("FAME_DATA", str(tmp_path / "data"))
    assert locate(info) == tmp_path / "cache" / "datasets" / "mnist-static"


def test_the_docs_have_the_hashes_that_are_compared() -> None:
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text().partition("## Hashes")[2]
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \|.*\| (?:`([0-9a-f]{64})`|never measured) \|$", text, re.MULTILINE
    )
    assert {name: sha256 or None for name, sha256 in rows} == {
        name: info.pixels_sha256 for name, info in DATASETS.items() if info.files
    }
