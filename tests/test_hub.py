"""`fame weights push` and `pull hf://ORG/REPO`, against a hub on this machine."""

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.classes import conditional
from support.commands import CLAIM, PROVENANCE, error_of, fame, process, result_of, save_model
from support.hub import TOKEN, HubServer, hub_server

from famecli.checkpoints import header
from famecli.checkpoints.card import model_card
from famecli.checkpoints.checkpoint import save_checkpoint
from famecli.checkpoints.description import describe
from famecli.checkpoints.hub import locate, push
from famecli.checkpoints.urls import HubFile
from famecli.errors import UnavailableError

huggingface_hub = pytest.importorskip("huggingface_hub")
# The library's own.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
CIFAR = {
    "data": CLAIM["data"] | {"dataset_id": "cifar10", "binarization": "none"},  # type: ignore[operator]
    "bits_per_dim": 3.38123,
    "stderr_bits_per_dim": 0.0067,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub with the user's token, and an empty cache."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name in ("FAME_OFFLINE", "HF_HUB_OFFLINE", "FAME_WEIGHTS_URL", "FAME_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The hub's storage of chunks cannot be on this machine; this is the way without it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("famecli.data.fetch.FIRST_PAUSE_S", 0.001)
    huggingface_hub.close_session()
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        # As the library reads it when it starts.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url.rstrip("/"))
        monkeypatch.setattr("huggingface_hub.constants.HF_URL_HOSTS", frozenset({"127.0.0.1"}))
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    facts = {"provenance": PROVENANCE, "claim": CLAIM}
    return save_model(tmp_path / "first.safetensors", "vae", (1, 8, 8), facts=facts)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return save_model(tmp_path / "second.safetensors", "lvae", (1, 8, 8))


def sha256_of(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_what_is_pushed_is_pulled(hub: HubServer, model: Path, other: Path) -> None:
    first = result_of("weights", "push", "org/my-model", model, "--license", "cc-by-4.0")
    assert first["schema"] == "famecli/weights-push/1"
    repository = hub.repositories["org/my-model"]
    commit = repository.revisions["main"]
    pinned = f"hf://org/my-model/model.safetensors@{commit}#sha256={sha256_of(model)}"
    assert (first["pinned"], first["sha256"]) == (pinned, sha256_of(model))
    assert repository.files("main") == {
        "model.safetensors": model.read_bytes(),
        "README.md": model_card(describe(model), "org/my-model", "cc-by-4.0").encode(),
    }
    assert fame("weights", "push", "org/my-model", other, "--revision", "next", "-q").code == 0
    assert fame("weights", "push", "org/my-model", other).code == 0
    # What a name stands for follows the revision; a name that is taken is not replaced.
    old = result_of("weights", "pull", f"hf://org/my-model@{commit}")["weights"][0]
    assert (old["name"], old["pinned"], sha256_of(old["path"])) == ("my-model", pinned, sha256_of(model))
    assert "another checkpoint is called my-model" in error_of(3, "weights", "pull", "hf://org/my-model")
    words = ("hf://org/my-model", "--revision", "next", "--name", "newer")
    new = result_of("weights", "pull", *words)["weights"][0]
    assert (new["name"], sha256_of(new["path"])) == ("newer", sha256_of(other))
    # Both have a name without a network, and so has the first one's pinned address.
    for word, sha256 in (("my-model", old), ("newer", new), (pinned, old)):
        assert result_of("info", word, "--offline")["sha256"] == sha256_of(sha256["path"])
    assert sorted(fame("weights", "list", "-q").text.split()[-2:]) == ["my-model", "newer"]
    assert not list((Path(old["path"]).parents[2]).glob("*.safetensors"))


def test_an_address_takes_the_place_of_a_checkpoint(hub: HubServer, model: Path) -> None:
    commit = hub.add("org/repo", model_safetensors=model.read_bytes())
    for word in ("hf://org/repo", "hf://org/repo@main", f"hf://org/repo/model.safetensors@{commit}"):
        assert result_of("info", word)["sha256"] == sha256_of(model)
    # One download serves them all.
    assert len([path for path, _ in hub.tokens if path.startswith("/cdn")]) == 1
    assert "downloads are off" in error_of(4, "info", "hf://org/repo", "--offline")
    hub.repositories["org/repo"].commit("main", {"in/folder/other.safetensors": model.read_bytes()})
    row = result_of("weights", "pull", "hf://org/repo/in/folder/other.safetensors")["weights"][0]
    assert (row["name"], sha256_of(row["path"])) == ("other", sha256_of(model))


def test_the_token_goes_to_the_hub_alone(hub: HubServer, model: Path, tmp_path: Path) -> None:
    words = ("weights", "push", "org/secret", model, "--private")
    told = [fame(*words), fame("weights", "pull", "hf://org/secret"), fame("weights", "list")]
    assert [each.code for each in told] == [0, 0, 0]
    assert hub.repositories["org/secret"].private
    asked = {token for path, token in hub.tokens if not path.startswith(("/cdn", "/upload"))}
    elsewhere = {token for path, token in hub.tokens if path.startswith(("/cdn", "/upload"))}
    assert (asked, elsewhere) == ({f"Bearer {TOKEN}"}, {None})
    assert not any(TOKEN in each.text + each.err for each in told)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept
    assert not any(TOKEN.encode() in path.read_bytes() for path in kept)


def test_the_hub_learns_nothing_about_the_machine(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/repo", model_safetensors=model.read_bytes())
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")
    done = process("weights", "pull", "hf://org/repo")
    assert done.returncode == 0, done.stderr
    assert {path.split("/")[1] for path, _ in hub.tokens} == {"org", "cdn"}
    assert hub.agents
    assert not any("torch" in agent for agent in hub.agents)


def test_without_a_token_private_repositories_are_out_of_reach(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    commit = hub.add("org/secret", private=True, model_safetensors=model.read_bytes())
    pinned = f"hf://org/secret@{commit}#sha256={sha256_of(model)}"
    assert "HF_TOKEN" in error_of(4, "weights", "pull", "hf://org/secret")
    assert "status 401" in error_of(4, "weights", "pull", pinned)
    assert "HF_TOKEN" in error_of(4, "weights", "push", "org/secret", model)
    (tmp_path / "none").write_text(TOKEN + "\n")
    assert fame("weights", "pull", pinned).code == 0


Setup = Callable[[HubServer], object]
FAULTS: dict[str, tuple[Setup, str, int, str]] = {
    "no repository": (lambda hub: None, "hf://org/none", 4, "has no org/none, or it is private"),
    "no revision": (lambda hub: None, "hf://org/repo@v9", 4, "org/repo has no revision v9"),
    "no file": (lambda hub: None, "hf://org/repo/other.safetensors", 4, "has no other.safetensors at main"),
    "401": (lambda hub: hub.statuses.update(resolve=401), "hf://org/repo", 4, "HF_TOKEN"),
    "403": (lambda hub: hub.statuses.update(resolve=403), "hf://org/repo", 4, "HF_TOKEN"),
    "429": (lambda hub: hub.statuses.update(resolve=429), "hf://org/repo", 4, "status 429"),
    "503": (lambda hub: hub.statuses.update(resolve=503), "hf://org/repo", 4, "status 503"),
    "404 of the content": (lambda hub: hub.faults.update({"cdn": "404"}), "hf://org/repo", 4, "status 404"),
    "503 of the content": (lambda hub: hub.faults.update({"cdn": "503"}), "hf://org/repo", 4, "status 503"),
    "truncated": (lambda hub: hub.faults.update({"cdn": "truncated"}), "hf://org/repo", 4, "5 times"),
    "longer": (lambda hub: hub.faults.update({"cdn": "longer"}), "hf://org/repo", 5, "more bytes"),
    "another file": (
        lambda hub: hub.faults.update({"cdn": "one byte wrong"}), "hf://org/repo", 5, "another file"
    ),
    "a page": (lambda hub: hub.faults.update({"cdn": "page"}), "hf://org/repo", 5, "another file"),
    "wrong hash": (
        lambda hub: hub.headers.update({"X-Linked-Etag": f'"{"ab" * 32}"'}), "hf://org/repo", 5, "abababab"
    ),
    "no hash": (lambda hub: hub.headers.update({"X-Linked-Etag": '"abc"'}), "hf://org/repo", 4, "#sha256"),
    "a commit that is none": (
        lambda hub: hub.headers.update({"X-Repo-Commit": "../../x\x1b[31m"}), "hf://org/repo", 4, "no commit"
    ),
    "a size that is none": (
        lambda hub: hub.headers.update({"X-Linked-Size": "many"}), "hf://org/repo", 4, "no commit"
    ),
    "no checkpoint": (
        lambda hub: hub.add("org/repo", model_safetensors=b"PK\3\4" + bytes(600)),
        "hf://org/repo", 3, "error: ",
    ),
    "a wrong hash of the user": (lambda hub: None, f"hf://org/repo#sha256={'ab' * 32}", 5, "abababab"),
    "no ORG": (lambda hub: None, "hf://repo", 2, "names no repository"),
    "no REPO": (lambda hub: None, "hf://org/..", 2, "names no repository"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_pull_leaves_nothing(hub: HubServer, model: Path, tmp_path: Path, fault: str) -> None:
    hub.add("org/repo", model_safetensors=model.read_bytes())
    setup, word, code, text = FAULTS[fault]
    setup(hub)
    if found := hub.faults.pop("cdn", ""):
        hub.faults[f"cdn/{sha256_of(model)}?signature=secret"] = found
    told = error_of(code, "weights", "pull", word)
    assert text in told
    assert "secret" not in told
    assert "\x1b" not in told
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_file_that_is_too_large_is_neither_fetched_nor_pushed(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/repo", model_safetensors=model.read_bytes())
    hub.headers["X-Linked-Size"] = str(2**30 + 1)
    assert "1,073,741,825 bytes, more than 1,024 MiB" in error_of(4, "weights", "pull", "hf://org/repo")
    assert [path for path, _ in hub.tokens] == ["/org/repo/resolve/main/model.safetensors"]
    monkeypatch.setattr("famecli.checkpoints.hub.LARGEST_BYTES", model.stat().st_size - 1)
    assert "bytes, more than" in error_of(4, "weights", "push", "org/repo", model)
    assert len(hub.tokens) == 1


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("repos/create", 401, "HF_TOKEN"),
        ("repos/create", 403, "HF_TOKEN"),
        ("branch", 403, "HF_TOKEN"),
        ("validate-yaml", 400, "status 400"),
        ("preupload", 403, "HF_TOKEN"),
        ("batch", 503, "status 503"),
        ("upload/", 403, "HF_TOKEN"),
        ("commit", 412, "status 412"),
        ("commit", 413, "status 413"),
    ],
)
def test_a_failed_push_says_why(hub: HubServer, model: Path, path: str, status: int, text: str) -> None:
    hub.statuses[path] = status
    told = error_of(4, "weights", "push", "org/repo", model, "--revision", "v1")
    assert text in told
    assert TOKEN not in told


def test_a_push_checks_the_file_before_and_after(hub: HubServer, model: Path, tmp_path: Path) -> None:
    damaged, content = tmp_path / "damaged.safetensors", model.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    error_of(5, "weights", "push", "org/repo", damaged)
    assert "names no repository" in error_of(2, "weights", "push", "org", model)
    for path in (model, damaged, tmp_path / "none.safetensors"):
        assert "the network is off" in error_of(4, "weights", "push", "org/repo", path, "--offline")
    assert not hub.tokens
    hub.headers["X-Linked-Etag"] = f'"{"ab" * 32}"'
    assert "abababab" in error_of(5, "weights", "push", "org/repo", model)


def test_a_push_reads_the_checkpoint_once(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, paths = header.open_input, []

    def counted(path: Path, kind: str) -> Any:
        paths.append(path)
        return read(path, kind)

    monkeypatch.setattr(header, "open_input", counted)
    assert fame("weights", "push", "org/repo", model).code == 0
    assert paths == [model]


def test_a_slow_hub_is_given_up(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/repo", model_safetensors=model.read_bytes())
    hub.script = ["silence"]
    for name in ("checkpoints.hub", "data.fetch"):
        monkeypatch.setattr(f"famecli.{name}.PATIENCE_S", 0.2)
    assert "not done in" in error_of(4, "weights", "pull", "hf://org/repo")
    monkeypatch.setattr("famecli.checkpoints.hub.SLOWEST_BYTES_PER_S", 1e9)
    wait = hub.stop_stalling.wait
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.create_repo", lambda *_, **__: wait(20))
    with pytest.raises(UnavailableError, match="not done in"):
        push(describe(model), HubFile("org/repo"))


def test_a_hub_that_is_not_there(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert "127.0.0.1:1" in error_of(4, "weights", "pull", "hf://org/repo")
    assert "127.0.0.1:1" in error_of(4, "weights", "push", "org/repo", model)


def test_without_the_library_the_extra_is_named(
    hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.add("org/repo", model_safetensors=model.read_bytes())
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "famecli.checkpoints.hub.find_spec", lambda name: None if name == "huggingface_hub" else find(name)
    )
    for words in (("pull", "hf://org/repo"), ("push", "org/repo", model)):
        assert "hint: pip install 'famecli[hub]'" in error_of(4, "weights", *words)
    with pytest.raises(UnavailableError):
        locate(HubFile("org/repo"))
    # Public files with a hash need no library.
    words = ("pull", f"hf://org/repo@{commit}#sha256={sha256_of(model)}")
    assert result_of("weights", *words)["weights"][0]["name"] == "repo"


def card_of(path: Path, repository: str = "") -> Any:
    text = model_card(describe(path), repository, "mit")
    return huggingface_hub.ModelCard(text, ignore_metadata_errors=False)


@pytest.mark.parametrize(
    ("shape", "levels", "claim", "value", "unit"),
    [((1, 8, 8), 2, {}, 81.25, "nats/image"), ((3, 8, 8), 256, CIFAR, 3.3812, "bits/dim")],
)
def test_the_page_shows_the_nll_with_its_protocol(
    tmp_path: Path, shape: tuple[int, int, int], levels: int, claim: dict[str, Any], value: float, unit: str
) -> None:
    facts = {"provenance": PROVENANCE, "claim": CLAIM | claim}
    path = save_model(tmp_path / "model.safetensors", "vae", shape, levels, facts=facts)
    data = card_of(path, "org/name").data
    (result,) = data.eval_results
    assert (data.model_name, data.library_name, data.license) == ("name", "famecli", "mit")
    assert (result.task_type, result.metric_type) == ("unconditional-image-generation", "nll")
    assert result.metric_value == value
    assert f"NLL, {unit} (IWAE, K = 100, seed 3" in result.metric_name
    for part in ("test", "10,000 images", "binarization"):
        assert part in result.dataset_name
    assert result.dataset_args == {"pixels_sha256": "ab" * 32}


def test_a_model_with_classes_is_not_called_unconditional(tmp_path: Path) -> None:
    model = conditional("vae")
    facts = {"provenance": PROVENANCE, "claim": CLAIM | {"given": "label"}}
    save_checkpoint(tmp_path / "m.safetensors", model.config, model.state_dict(), None, facts)
    card = card_of(tmp_path / "m.safetensors")
    assert "unconditional" not in str(card)
    assert (card.data.pipeline_tag, card.data.tags) == (None, ["class-conditional-image-generation"])
    (result,) = card.data.eval_results
    assert result.task_type == "class-conditional-image-generation"


HOSTILE = [
    'x"\n---\nlicense: other\n# ',
    "a: [b, {c\n- d: !!python/object/apply:os.system ['true']",
    "\u2028\x00\x1b[31m\ud83d\U0001f600'\"\\",
    "--- |\n...\n%TAG ! tag:x,0:\n&a *a",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_field_breaks_out_of_a_card(tmp_path: Path, text: str) -> None:
    claim = CLAIM | {"data": CLAIM["data"] | {"dataset_id": text, "split": text, "binarization": text}}  # type: ignore[operator]
    facts = {"provenance": PROVENANCE | {"dataset": text}, "claim": claim}
    card = card_of(save_model(tmp_path / "model.safetensors", "vae", (1, 8, 8), facts=facts))
    assert set(card.data.to_dict()) == {
        "license", "library_name", "pipeline_tag", "datasets", "model-index",
    }  # fmt: skip
    (result,) = card.data.eval_results
    assert (card.data.license, result.metric_value, len(card.data.datasets)) == ("mit", 81.25, 1)
    assert card.text.lstrip().startswith("# model\n")
