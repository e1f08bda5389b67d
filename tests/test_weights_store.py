"""Where weights are looked for and fetched from."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from support.commands import save_model
from support.loopback import FaultServer

from famecli.checkpoints.index import index, weights_folder
from famecli.checkpoints.store import Named, Store
from famecli.checkpoints.urls import addresses, parse_url
from famecli.data.fetch import file_sha256
from famecli.errors import InputError, IntegrityError, UnavailableError, UsageError

HASH = "ab" * 32


def test_weights_are_fetched_once_and_announced(far: str, server: FaultServer, tmp_path: Path) -> None:
    messages: list[str] = []
    store = Store(tmp_path / "cache", report=messages.append)
    assert store.find(index()[far]) is None
    path = store.get(far)
    assert path is not None
    assert path.is_relative_to(tmp_path / "cache" / "weights")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == index()[far].sha256
    assert server.asked == ["mirror/far-model.safetensors"]
    assert len(messages) == 1
    assert "127.0.0.1" in messages[0]
    for offline in (False, True):
        assert Store(tmp_path / "cache", offline).get(far) == path == store.find(index()[far])
    assert len(server.asked) == 1
    assert list(store.installed()) == [Named(far, path, index()[far].sha256)]


def test_weights_of_the_package_come_first(far: str, server: FaultServer, tmp_path: Path) -> None:
    inside = tmp_path / "package" / index()[far].file
    inside.write_bytes(b"whatever the package has")
    assert Store(tmp_path / "cache").get(far) == inside
    assert not server.asked


def test_the_address_in_the_environment_comes_before_the_mirrors(
    far: str, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = server.files["mirror/far-model.safetensors"]
    server.files["own/far-model.safetensors"] = content
    for base in ("own", "own/"):
        monkeypatch.setenv("FAME_WEIGHTS_URL", server.url + base)
        Store(tmp_path / base.replace("/", "-")).get(far)
    assert server.asked == ["own/far-model.safetensors"] * 2
    # Where it has a wrong file, or none, mirrors have their turn.
    for sent in (content[:-1], None):
        server.files.pop("own/far-model.safetensors")
        server.files |= {} if sent is None else {"own/far-model.safetensors": sent}
        assert Store(tmp_path / f"cache-{sent is None}").get(far)
        assert server.asked[-2:] == ["own/far-model.safetensors", "mirror/far-model.safetensors"]
        server.files["own/far-model.safetensors"] = b""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "far-model.safetensors").write_bytes(content)
    server.asked.clear()
    monkeypatch.setenv("FAME_WEIGHTS_URL", folder.as_uri())
    assert Store(tmp_path / "from folder").get(far)
    assert not server.asked
    monkeypatch.setenv("FAME_WEIGHTS_URL", str(folder))
    with pytest.raises(UsageError, match="not a supported URL"):
        Store(tmp_path / "no URL").get(far)


def test_a_damaged_copy_is_fetched_again(far: str, server: FaultServer, tmp_path: Path) -> None:
    path = Store(tmp_path).get(far)
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(IntegrityError):
        Store(tmp_path, offline=True).get(far)
    Store(tmp_path).get(far)
    assert path.read_bytes() == content


@pytest.mark.parametrize("fault", ["one byte wrong", "page", "404", "loop"])
def test_no_other_file_takes_the_name(far: str, server: FaultServer, tmp_path: Path, fault: str) -> None:
    server.script = [fault]
    with pytest.raises((IntegrityError, UnavailableError)):
        Store(tmp_path / "cache").get(far)
    assert not list((tmp_path / "cache" / "weights").iterdir())


@pytest.mark.parametrize("how", ["--offline", "FAME_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_never_asks(
    far: str, server: FaultServer, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how != "--offline":
        monkeypatch.setenv(how, "1")
    store = Store(tmp_path, offline=how == "--offline")
    for word in (far, f"{server.url}x#sha256={HASH}"):
        with pytest.raises(UnavailableError, match="downloads are off"):
            store.get(word)
    assert not server.asked


def test_weights_without_an_address_say_what_to_do(far: str, tmp_path: Path) -> None:
    entry = dataclasses.replace(index()[far], mirrors=())
    assert addresses(entry) == []
    with pytest.raises(UnavailableError, match="no address") as caught:
        Store(tmp_path).fetch(entry)
    assert "FAME_WEIGHTS_URL" in caught.value.hint
    path = Store(tmp_path).cached(entry.name, entry.sha256)
    path.parent.mkdir()
    path.write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        Store(tmp_path).fetch(entry)


def test_urls_need_a_hash_or_a_file_of_the_index(far: str, server: FaultServer, tmp_path: Path) -> None:
    store, content = Store(tmp_path / "cache"), b"some checkpoint"
    server.files["some where/it is.safetensors"] = content
    sha256, url = hashlib.sha256(content).hexdigest(), f"{server.url}some%20where/it%20is.safetensors"
    for bad in (url, url + "#"):
        with pytest.raises(UsageError, match="without a hash") as caught:
            store.get(bad)
        assert "#sha256=" in caught.value.hint
    assert not server.asked
    path = store.get(f"{url}#sha256={sha256}")
    assert path is not None
    assert path.read_bytes() == content
    assert path.parent == store.folder
    assert store.get(f"{url}#SHA256={sha256.upper()}") == path
    assert Store(tmp_path / "cache", offline=True).get(f"{url}#sha256={sha256}") == path
    assert len(server.asked) == 1
    with pytest.raises(IntegrityError):
        store.get(f"{url}#sha256={HASH}")
    # A file name of the index stands for its hash; a hash that is typed, for itself.
    assert store.get(f"{server.url}mirror/far-model.safetensors") == store.find(index()[far])
    with pytest.raises(IntegrityError):
        store.get(f"{server.url}mirror/far-model.safetensors#sha256={HASH}")


@pytest.mark.parametrize(
    "path", ["../../../x", "..%2F..%2F..%2Fx", ".hidden", "", "%00", "a" * 300, "x%0Ay", "~", "C:%5Cx"]
)
def test_no_url_names_a_path_outside_the_cache(server: FaultServer, tmp_path: Path, path: str) -> None:
    store = Store(tmp_path / "cache")
    with pytest.raises((UnavailableError, IntegrityError)):
        store.get(f"{server.url}{path}#sha256={HASH}")
    assert {each.name for each in tmp_path.iterdir()} == {"cache"}
    assert {each.name for each in store.folder.iterdir()} == set()


HUB = "https://huggingface.co/org/repo/resolve"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("hf://org/repo/a.safetensors@v1.0", f"{HUB}/v1.0/a.safetensors"),
        ("hf://org/repo/a.safetensors", f"{HUB}/main/a.safetensors"),
        ("hf://org/repo", f"{HUB}/main/model.safetensors"),
        ("HF://org/repo/@v1", f"{HUB}/v1/model.safetensors"),
        (
            "hf://org/repo/in/folder/a b.safetensors@refs/pr/1",
            f"{HUB}/refs%2Fpr%2F1/in/folder/a%20b.safetensors",
        ),
        ("https://host/a?b=c", "https://host/a?b=c"),
        ("file:///a", "file:///a"),
    ],
)
def test_addresses(text: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert parse_url(text) == (url, "")
    assert parse_url(f"{text}#sha256={HASH}") == (url, HASH)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host/a",
        "://a",
        "hf://org",
        "hf://org@v1",
        "hf://.org/repo",
        "hf:///a/b",
        "hf://org/../a@v1",
        "https://[/a",
        "https://host/a#md5=00",
        "https://host/a#sha256=00",
        f"https://host/a#sha256={HASH}0",
        f"https://host/a#{HASH}",
    ],
)
def test_what_is_no_address_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_url(text)
    assert "\n" not in str(caught.value)


def test_hub_addresses_are_fetched(
    far: str, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    content = server.files["mirror/far-model.safetensors"]
    server.files["org/repo/resolve/v1/far-model.safetensors"] = content
    server.files["org/repo/resolve/v1/other.safetensors"] = content
    # This server has no hashes, as the hub has.
    with pytest.raises(UnavailableError):
        Store(tmp_path / "1").get("hf://org/repo/other.safetensors@v1")
    word = f"hf://org/repo/other.safetensors@v1#sha256={index()[far].sha256}"
    assert Store(tmp_path / "1").get(word)
    assert Store(tmp_path / "2").get("hf://org/repo/far-model.safetensors@v1")
    monkeypatch.setenv("FAME_WEIGHTS_URL", "hf://org/repo@v1")
    assert Store(tmp_path / "3").get(far)
    assert set(server.asked) == {
        "org/repo/resolve/v1/far-model.safetensors",
        "org/repo/resolve/v1/other.safetensors",
    }


def test_imported_weights_have_their_hash_for_a_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert list(store.imported()) == []
    path = store.folder / "imported" / "my-model" / f"{HASH}.safetensors"
    path.parent.mkdir(parents=True)
    path.touch()
    (path.parent / "no hash.safetensors").touch()
    assert list(store.imported()) == [Named("my-model", path, HASH)]
    assert store.get("my-model") == path
    assert store.get("other") is None


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "my-model.safetensors", "vae", (1, 8, 8))


@pytest.mark.parametrize(
    "name", ["..", "a/b", "a\\b", ".a", "a b", "a.safetensors", "a" * 101, "ä", "a\n", "-a", "../x"]
)
def test_names_of_kept_files_are_plain_words(model: Path, tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "cache")
    with pytest.raises(InputError, match="cannot be a name"):
        store.keep(model, name)
    assert not store.folder.exists()


def test_a_kept_file_is_there_under_its_name(model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    kept = store.keep(model)
    assert kept == Named("my-model", kept.path, hashlib.sha256(model.read_bytes()).hexdigest())
    assert kept.path.read_bytes() == model.read_bytes()
    assert list(store.imported()) == [kept] == [store.keep(model)]
    kept.path.write_bytes(b"damaged")
    assert store.keep(model).path.read_bytes() == model.read_bytes()


def test_files_of_the_index_go_where_fetched_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, entry = Store(tmp_path / "cache"), index()["fame-mnist"]
    packaged = weights_folder() / entry.file
    copy = tmp_path / "any name.safetensors"
    copy.write_bytes(packaged.read_bytes())
    assert store.keep(copy) == Named(entry.name, packaged, entry.sha256)
    monkeypatch.setattr("famecli.checkpoints.store.weights_folder", lambda: tmp_path / "empty")
    path = store.keep(copy).path
    assert path == store.find(entry) == store.cached(entry.name, entry.sha256)
    assert path.read_bytes() == packaged.read_bytes()
    # A damaged one is mended.
    path.write_bytes(b"damaged")
    store.keep(copy)
    assert path.read_bytes() == packaged.read_bytes()
    assert store.get(entry.name) == path
    assert store.remove(entry.name) == [path]
    assert store.find(entry) is None


def test_a_name_of_the_index_is_for_its_file_alone(model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    with pytest.raises(IntegrityError, match="fame-mnist"):
        store.keep(model, "fame-mnist")
    assert not store.folder.exists()


def test_a_name_is_taken_over_only_by_force(model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    first = store.keep(model, "mine")
    other = save_model(tmp_path / "other.safetensors", "lvae", (1, 8, 8))
    with pytest.raises(InputError, match="another checkpoint is called mine") as caught:
        store.keep(other, "mine")
    assert "`force`" in caught.value.hint
    assert first.path.exists()
    second = store.keep(other, "mine", force=True)
    assert list(store.imported()) == [second]
    assert second.path.stem == hashlib.sha256(other.read_bytes()).hexdigest()


def test_a_refused_pull_leaves_the_cache_as_it_was(model: Path, tmp_path: Path) -> None:
    store, url = Store(tmp_path / "cache"), f"{model.as_uri()}#sha256={file_sha256(model)}"
    store.keep(save_model(tmp_path / "other.safetensors", "lvae", (1, 8, 8)), "taken")
    located = store.locate(url)
    with pytest.raises(InputError, match="another checkpoint is called taken"):
        store.pull(located, "taken")
    assert list(store.folder.glob("*.safetensors")) == []
    cached = store.get(url)
    with pytest.raises(InputError, match="another checkpoint is called taken"):
        store.pull(located, "taken")
    assert list(store.folder.glob("*.safetensors")) == [cached]
    # The copy under the name takes the place of the other.
    kept = store.pull(located, "mine")
    assert list(store.folder.glob("*.safetensors")) == []
    assert Store(tmp_path / "cache", offline=True).get(url) == kept.path


def test_what_is_no_checkpoint_is_not_kept(model: Path, tmp_path: Path) -> None:
    store, other = Store(tmp_path / "cache"), tmp_path / "x.safetensors"
    for content in (b"", b"PK\3\4" + bytes(600), b"\x80\4" + bytes(600), model.read_bytes()[:-1]):
        other.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.safetensors"):
            store.keep(other)
    content = model.read_bytes()
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"x\.safetensors"):
        store.keep(other)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="cannot read"):
            store.keep(path)
    assert not store.folder.exists()


def test_a_cache_that_cannot_be_written_is_an_input_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Store(tmp_path / "file").keep(model)


def test_only_files_of_the_name_are_removed(far: str, model: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache")
    fetched, kept, other = store.get(far), store.keep(model, "far"), store.keep(model, "far-model-2")
    assert store.remove(far) == [fetched]
    assert store.remove("far") == [kept.path]
    assert list(store.imported()) == [other]
    for name in (far, "far"):
        with pytest.raises((UnavailableError, UsageError)):
            store.remove(name)
    for name in ("", "..", "../x", "*", "far-model-?"):
        with pytest.raises(UsageError):
            store.remove(name)
    assert other.path.exists()


def test_weights_of_the_package_are_not_removed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="part of the package"):
        Store(tmp_path / "cache").remove("fame-mnist")
    assert (weights_folder() / index()["fame-mnist"].file).exists()
