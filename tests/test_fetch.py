"""Downloads from a real server on this machine, and where files are looked for."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from support.data import small_mnist
from support.loopback import FaultServer

from famecli.data.cache import find_dataset, locate
from famecli.data.fetch import fetch_file, is_offline
from famecli.data.registry import DATASETS, DatasetInfo
from famecli.errors import InputError, IntegrityError, UnavailableError
from famecli.files import cache_root

CONTENT = bytes(range(256)) * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def info(server: FaultServer, tmp_path: Path) -> DatasetInfo:
    """Return a small data set that only `server` has."""
    (tmp_path / "source").mkdir()
    info = small_mnist(tmp_path / "source")
    server.files = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    return replace(info, mirrors=(server.url,))


def test_a_good_file_is_put_in_place_and_announced_before(server: FaultServer, tmp_path: Path) -> None:
    server.files["file"] = CONTENT
    target, messages = tmp_path / "made" / "file", []

    def report(message: str) -> None:
        assert not server.asked
        messages.append(message)

    assert fetch_file([server.url + "file"], SHA256, target, size_bytes=len(CONTENT), report=report) == target
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    assert messages == [f"downloading file from 127.0.0.1:{server.server_port} (0.0 MB)"]


WRONG = {
    "one byte": bytes([CONTENT[0] ^ 1]) + CONTENT[1:],
    "shorter": CONTENT[:-1],
    "longer": CONTENT + b"x",
    "much longer": CONTENT * 100,
    "empty": b"",
    "a page": b"<!DOCTYPE html><title>Sign in</title>",
}


@pytest.mark.parametrize("sent", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("size_bytes", [None, len(CONTENT)])
def test_another_file_is_an_integrity_error_and_leaves_nothing(
    server: FaultServer, tmp_path: Path, sent: bytes, size_bytes: int | None
) -> None:
    server.files["file"] = sent
    with pytest.raises(IntegrityError, match=r"127\.0\.0\.1"):
        fetch_file([server.url + "file"], SHA256, tmp_path / "file", size_bytes=size_bytes)
    assert not list(tmp_path.iterdir())


def test_a_wrong_download_leaves_the_old_file_as_it_was(server: FaultServer, tmp_path: Path) -> None:
    server.files["file"] = WRONG["one byte"]
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(IntegrityError):
        fetch_file([server.url + "file"], SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("page", ["absent", "loop", "local", "truncated"])
def test_a_server_that_fails_is_followed_by_the_next(server: FaultServer, tmp_path: Path, page: str) -> None:
    server.files = dict.fromkeys(["file", "loop", "local", "truncated"], CONTENT)
    server.faults = {"loop": "loop", "local": "local", "truncated": "truncated"}
    with pytest.raises(UnavailableError) as caught:
        fetch_file([server.url + page], SHA256, tmp_path / "file")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    fetch_file([server.url + page, server.url + "file"], SHA256, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_no_server_at_all_is_unavailable(server: FaultServer, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="ConnectionError"):
        fetch_file(["http://127.0.0.1:1/file"], SHA256, tmp_path / "file")


def test_a_gzip_file_is_not_unpacked_on_the_way(
    server: FaultServer, info: DatasetInfo, tmp_path: Path
) -> None:
    name, file = next(iter(info.files.items()))
    server.script = ["encoded"]
    fetch_file([server.url + name], file.sha256, tmp_path / name)


def test_a_right_file_is_not_downloaded_again(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    fetch_file([server.url + "file"], SHA256, tmp_path / "file")
    assert not server.asked


@pytest.mark.parametrize("name", ["FAME_OFFLINE", "HF_HUB_OFFLINE", "--offline"])
def test_offline_never_connects(
    server: FaultServer, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["file"] = CONTENT
    monkeypatch.setenv(name, "1")
    offline = name == "--offline"
    assert is_offline(offline)
    with pytest.raises(UnavailableError):
        fetch_file([server.url + "file"], SHA256, tmp_path / "file", offline=offline)
    (tmp_path / "file").write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        fetch_file([server.url + "file"], SHA256, tmp_path / "file", offline=offline)
    assert not server.asked


def test_a_place_that_cannot_be_written_is_unavailable(server: FaultServer, tmp_path: Path) -> None:
    server.files["file"] = CONTENT
    (tmp_path / "no folder").touch()
    with pytest.raises(UnavailableError, match="cannot store"):
        fetch_file([server.url + "file"], SHA256, tmp_path / "no folder" / "file")


def test_the_cache_is_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "by environment"))
    assert cache_root() == tmp_path / "by environment"
    assert cache_root(tmp_path / "by option") == tmp_path / "by option"
    assert (tmp_path / "by option" / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172")
    monkeypatch.setenv("FAME_CACHE", "~no-such-user/cache")
    with pytest.raises(InputError, match="~no-such-user/cache: ~ stands for no home folder"):
        cache_root()
    monkeypatch.delenv("FAME_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert cache_root() == tmp_path / "famecli"


def test_a_data_set_is_downloaded_once(server: FaultServer, info: DatasetInfo, tmp_path: Path) -> None:
    folder = locate(info, cache_dir=tmp_path / "cache")
    assert sorted(path.name for path in folder.iterdir()) == sorted(info.files)
    assert sorted(server.asked) == sorted(info.files)
    assert locate(info, cache_dir=tmp_path / "cache", offline=True) == folder
    assert locate(info, cache_dir=tmp_path / "cache") == folder
    assert len(server.asked) == len(info.files)


def test_a_broken_off_download_goes_on_with_the_missing_files(
    server: FaultServer, info: DatasetInfo, tmp_path: Path
) -> None:
    name = list(info.files)[2]
    content = server.files.pop(name)
    with pytest.raises(UnavailableError, match="status 404"):
        locate(info, cache_dir=tmp_path / "cache")
    server.files[name] = content
    server.asked.clear()
    locate(info, cache_dir=tmp_path / "cache")
    assert name in server.asked
    assert len(server.asked) == 2


def test_folders_come_before_the_cache_and_the_option_first(
    server: FaultServer, info: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "source").rename(root / "mnist")
    assert locate(info, root) == locate(info, root / "mnist") == root / "mnist"
    monkeypatch.setenv("FAME_DATA", str(root))
    assert locate(info) == root / "mnist"
    monkeypatch.setenv("FAME_DATA", str(root / "mnist"))
    assert locate(info) == root / "mnist"
    with pytest.raises(InputError, match="elsewhere"):
        locate(info, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(UnavailableError, match="elsewhere"):
        locate(info, tmp_path / "elsewhere")
    assert not server.asked


def test_a_data_folder_without_this_data_set_does_not_hide_the_cache(
    server: FaultServer, info: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAME_DATA", str(tmp_path))
    with pytest.raises(UnavailableError) as caught:
        locate(info, cache_dir=tmp_path / "cache", offline=True)
    assert "FAME_DATA" in caught.value.hint
    assert not server.asked
    assert locate(info, cache_dir=tmp_path / "cache") == tmp_path / "cache" / "datasets" / "mnist"


# As people have them: archives or what is in them, gzipped or not.
FILES_OF = {
    "mnist": ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"],
    "mnist-static": ["binarized_mnist_test.amat"],
    "omniglot": ["chardata.mat"],
    "omniglot-28": ["images_background.zip"],
    "omniglot-small": ["images_background_small1.zip", "images_background_small2.zip"],
    "cifar10": ["cifar-10-batches-bin/test_batch.bin"],
    "imagenet32": ["Imagenet32_val_npz/val_data.npz"],
    "imagenet32-old": ["valid_32x32.tar"],
}


def put(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("layout", ["flat", "by name", "by family", "links"])
def test_one_folder_serves_every_data_set(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    places = {
        name: root / {"flat": ".", "by name": name}.get(layout, name.partition("-")[0]) for name in FILES_OF
    }
    for name, names in FILES_OF.items():
        put(tmp_path / places[name].name if layout == "links" else places[name], names)
    if layout == "links":
        for name in {place.name for place in places.values()}:
            (root / name).symlink_to(tmp_path / name)
    monkeypatch.setenv("FAME_DATA", str(root))
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    for info in DATASETS.values():
        if info.name in FILES_OF:
            assert find_dataset(info) == find_dataset(info, root) == places[info.name], info.name
    assert find_dataset(DATASETS["mnist-grey"]) == places["mnist"]
    assert server.asked == []


def test_the_folder_that_lacks_fewest_files_is_chosen(tmp_path: Path) -> None:
    info = DATASETS["mnist"]
    put(tmp_path, list(info.files)[:1])
    assert find_dataset(info, tmp_path) == tmp_path
    put(tmp_path / "mnist", list(info.files))
    assert find_dataset(info, tmp_path) == tmp_path / "mnist"
    put(tmp_path, list(info.files))
    assert find_dataset(info, tmp_path) == tmp_path


def test_a_part_of_a_data_set_in_fame_data_does_not_hide_the_cache(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, root, cache = DATASETS["mnist-static"], tmp_path / "root", tmp_path / "cache"
    folder, names = cache / "datasets" / "mnist-static", list(info.files)
    monkeypatch.setenv("FAME_DATA", str(root))
    put(root, ["binarized_mnist_test.amat"])
    assert locate(info, cache_dir=cache, offline=True) == root
    put(folder, [name for name in names if name != "binarized_mnist_test.amat"])
    # Each split is read where it is.
    places = {split: locate(info, cache_dir=cache, offline=True, split=split) for split in info.splits}
    assert places == {"train": folder, "valid": folder, "test": root}
    put(folder, names)
    assert locate(info, cache_dir=cache, offline=True) == folder
    put(root, names)
    assert locate(info, cache_dir=cache, offline=True) == root
    assert locate(info, folder, cache) == folder
    assert server.asked == []
