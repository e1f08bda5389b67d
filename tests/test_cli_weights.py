"""`fame weights`, and names and URLs in place of a checkpoint."""

import hashlib
import io
import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from support.commands import IMPORTS, PROVENANCE, error_of, fame, real_mnist, result_of, save_model
from support.commands import use_small_mnist as small
from support.loopback import FaultServer

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.checkpoints.description import with_claim
from famecli.checkpoints.header import parse_header
from famecli.checkpoints.index import default_weights, entry_of, index, weights_folder
from famecli.errors import InputError

SHIPPED = "fame-mnist"
FIRST_KEY = "first_256_nats_per_image"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    for name in ("FAME_WEIGHTS_URL", "HF_HUB_OFFLINE", "FAME_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def claiming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that claims its NLL on 7 small images, as it was measured."""
    small(tmp_path / "data", monkeypatch)
    model = save_model(tmp_path / "model.safetensors", "vae")
    result_of("evaluate-nll", model, "--record", tmp_path / "claiming.safetensors")
    return tmp_path / "claiming.safetensors"


def claim_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    found: dict[str, Any] = parse_header(content, len(content), "").metadata["claim"]
    return found


def changed(path: Path, **change: object) -> Path:
    """Write the model of `path` again with another claim, and return its path; None leaves a key out."""
    loaded = load_checkpoint(path)
    claim = {key: value for key, value in (claim_of(path) | change).items() if value is not None}
    target = path.with_name("changed.safetensors")
    facts = {"provenance": PROVENANCE, "claim": claim}
    save_checkpoint(target, loaded.model.config, loaded.model.state_dict(), None, facts)
    return target


def test_the_list_has_index_and_imports(claiming: Path) -> None:
    assert fame("weights", "pull", claiming, "--name", "mine", "-q").code == 0
    found = result_of("weights", "list")
    assert found["schema"] == "famecli/weights-list/1"
    *package, mine = found["weights"]
    assert [row["name"] for row in package] == list(index())
    shipped = next(row for row in package if row["name"] == SHIPPED)
    assert shipped["sha256"] == index()[SHIPPED].sha256
    assert (shipped["where"], mine["where"]) == ("package", "imported")
    assert shipped["path"] == str(weights_folder() / f"{SHIPPED}.safetensors")
    assert set(shipped) == set(mine)
    assert (mine["dataset"], mine["model"], mine["licence"]) == ("mnist", "vae", None)
    assert mine["nats_per_image"] == claim_of(claiming)["nats_per_image"]
    assert fame("weights", "list", "-q").text.split() == [*index(), "mine"]
    lines = fame("weights", "list").text.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*index(), "mine"]
    for line, entry in zip(lines[1:], index().values(), strict=False):
        nats, stderr = entry.nll.nats_per_image, entry.nll.stderr_nats_per_image
        assert stderr is not None
        per_dim = 3 * 32 * 32 * math.log(2)
        bits = f"{nats / per_dim:.3f} +- {stderr / per_dim:.3f} bits/dim"
        assert (bits if entry.dataset == "cifar10" else f"{nats:.2f} +- {stderr:.2f} nats") in line


def test_a_model_without_a_claim_is_listed(tmp_path: Path) -> None:
    fame("weights", "pull", save_model(tmp_path / "silent.safetensors", "vae", (1, 8, 8)))
    row = result_of("weights", "list")["weights"][-1]
    assert (row["name"], row["nats_per_image"], row["where"]) == ("silent", None, "imported")
    assert "silent" in fame("weights", "list").text


def test_installed_leaves_out_what_is_elsewhere(far: str) -> None:
    assert result_of("weights", "list")["weights"][0]["path"] is None
    assert "not here" in fame("weights", "list").text
    assert result_of("weights", "list", "--installed")["weights"] == []
    fame("weights", "pull", far)
    assert result_of("weights", "list", "--installed")["weights"][0]["where"] == "cache"


def test_pull_and_path_fetch_once(far: str, server: FaultServer, cache: Path) -> None:
    planned = result_of("weights", "pull", "--all", "-n")
    assert planned["weights"][0]["urls"] == [f"{server.url}mirror/far-model.safetensors"]
    assert not server.asked
    assert not (cache / "weights").exists()
    first = result_of("weights", "pull", "--all")["weights"][0]
    assert (first["name"], first["fetched"]) == (far, True)
    assert Path(first["path"]).is_relative_to(cache)
    assert result_of("weights", "pull", far)["weights"][0]["fetched"] is False
    assert fame("weights", "path", far).text == first["path"] + "\n"
    assert fame("weights", "path", far, "--offline", "-q").text == first["path"] + "\n"
    assert len(server.asked) == 1
    assert fame("weights", "pull", far, "-n").text == first["path"] + "\n"


def test_nothing_large_is_loaded_for_what_is_here() -> None:
    for words in (["list"], ["path", SHIPPED], ["verify"], ["pull", "--all"]):
        argv = [sys.executable, "-c", IMPORTS, "weights", *words, "-q"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        printed = done.stdout.splitlines()
        assert printed[:-1], words
        assert printed[-1] == "0", words


def test_pull_wants_names_or_all() -> None:
    assert "--all" in error_of(2, "weights", "pull")
    assert "--all" in error_of(2, "weights", "pull", SHIPPED, "--all")
    for command in ("pull", "path", "verify"):
        assert f"did you mean {SHIPPED}?" in error_of(2, "weights", command, "fame-mnits")


def test_failures_have_their_codes(far: str, server: FaultServer) -> None:
    assert "downloads are off" in error_of(4, "weights", "pull", far, "--offline")
    assert "downloads are off" in error_of(4, "weights", "path", far, "--offline")
    assert "weights pull" in error_of(4, "weights", "verify", far)
    assert not server.asked
    server.script = ["404"]
    assert "status 404" in error_of(4, "weights", "pull", far)
    server.script = ["one byte wrong"]
    assert "another file" in error_of(5, "weights", "path", far)
    assert "without a hash" in error_of(2, "weights", "path", server.url + "x")


def test_names_and_urls_take_the_place_of_a_checkpoint(
    far: str,
    server: FaultServer,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = index()[far]
    url = f"{server.url}mirror/far-model.safetensors#sha256={entry.sha256}"
    small(tmp_path / "data", monkeypatch)
    commands = [["info"], ["sample"], ["evaluate-nll"], ["reconstruct", "--dataset", "mnist"]]
    training = ["train", "vae", "-o", "run", "--batch-size", "6", "--init"]
    for word in (far, url):
        for words in (*([*each, word] for each in commands), [*training, word]):
            error = error_of(4, *words, "--offline")
            assert "downloads are off" in error
            assert f"{word.partition('#')[0]} is not on this machine" in error
    assert not server.asked
    for word, folder in ((far, "1"), (url, "2")):
        found = result_of("info", word, "--cache-dir", tmp_path / folder)
        assert found["sha256"] == entry.sha256
        assert Path(found["path"]).is_relative_to(tmp_path / folder)
    assert not (cache / "weights").exists()
    done = fame("sample", far, "-n", "2", "-o", "-", "--cache-dir", tmp_path / "1", "--offline")
    assert np.load(io.BytesIO(done.out)).shape == (2, 8, 8, 1)
    done = fame("sample", url, "-n", "2", "-o", "x.npz")
    assert done.code == 0
    assert f"downloading {far}" in done.err
    assert len(server.asked) == 3
    assert result_of("info", "--dataset", "mnist", "--model", "fame")["sha256"] == entry.sha256


def test_keeping_a_file_needs_no_network(
    far: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, other = fame("weights", "path", far).text.strip(), tmp_path / "other"
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found = result_of("weights", "pull", path, "--cache-dir", other)
    assert found["schema"] == "famecli/weights-pull/1"
    (row,) = found["weights"]
    # Its hash says which weights it is.
    assert (row["name"], row["fetched"]) == (far, True)
    assert fame("weights", "path", far, "--offline", "--cache-dir", other).text == row["path"] + "\n"
    assert fame("weights", "verify", "-q", "--cache-dir", other).text == f"{far}\n"


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("a socket was opened")


def test_kept_files_are_models_with_names(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.safetensors", "vae", (1, 8, 8))
    planned = result_of("weights", "pull", model, "--name", "mine", "-n")
    assert planned["weights"] == [{"name": "mine", "path": None, "urls": [str(model)]}]
    assert "mine" not in fame("weights", "list", "-q").text.split()
    path = fame("weights", "pull", model, "--name", "mine").text
    found = result_of("info", "mine", "--offline")
    assert found["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert fame("weights", "path", "mine").text == found["path"] + "\n" == path
    assert fame("weights", "pull", "mine").text == path
    other = save_model(tmp_path / "other.safetensors", "lvae", (1, 8, 8))
    assert "--force" in error_of(3, "weights", "pull", other, "--name", "mine")
    assert fame("weights", "pull", other, "--name", "mine", "--force").code == 0
    assert result_of("info", "mine")["model"]["preset"] == "lvae"
    assert "sha256" in error_of(5, "weights", "pull", model, "--name", SHIPPED)
    assert "cannot be a name" in error_of(3, "weights", "pull", model, "--name", "../x")
    assert "cannot read" in error_of(3, "weights", "pull", tmp_path / "absent")
    assert "one checkpoint file" in error_of(2, "weights", "pull", model, other, "--name", "mine")


def test_removed_weights_are_gone(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.safetensors", "vae", (1, 8, 8))
    path = fame("weights", "pull", model, "--name", "mine").text.strip()
    found = result_of("weights", "rm", "mine")
    assert found == {"schema": "famecli/weights-rm/1", "name": "mine", "removed": [path]}
    assert not Path(path).exists()
    assert model.exists()
    assert "mine" in error_of(2, "weights", "rm", "mine")
    assert "part of the package" in error_of(2, "weights", "rm", SHIPPED)
    fame("weights", "pull", model, "--name", "mine")
    assert fame("weights", "rm", "mine").text == path + "\n"


def test_a_changed_file_is_code_5_and_told_which(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fame("weights", "pull", save_model(tmp_path / f"{name}.safetensors", "vae", (1, 8, 8)))
    path = Path(fame("weights", "path", "a").text.strip())
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = fame("weights", "verify", "--json")
    assert done.code == 5
    states = {row["name"]: row["state"] for row in json.loads(done.out)["weights"]}
    assert states == dict.fromkeys(index(), "right") | {"a": "wrong", "b": "right"}
    assert fame("weights", "verify", "b").code == 0
    assert fame("weights", "verify", "-q").text.split() == [*index(), "b"]


def test_a_claim_is_measured_anew(claiming: Path) -> None:
    claim = claim_of(claiming)
    assert claim[FIRST_KEY] == claim["nats_per_image"]
    fame("weights", "pull", claiming, "--name", "mine")
    row = result_of("weights", "verify", "mine", "--claims")["weights"][0]
    assert row["state"] == "right"
    assert row["claim"]["images"] == 7
    assert row["claim"]["measured_nats_per_image"] == pytest.approx(claim["nats_per_image"], abs=1e-5)
    assert "right" in fame("weights", "verify", "mine", "--claims").text
    assert "no NLL of its first 5" in fame("weights", "verify", "mine", "--claims", "--limit", "5").err


@pytest.mark.parametrize(("dataset", "levels"), [("mnist", 2), ("mnist-grey", 256)])
def test_a_verified_claim_is_shown_in_the_unit_of_the_images(
    dataset: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path / "data", monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    model, claiming = (
        save_model(tmp_path / "model.safetensors", "vae", levels=levels),
        tmp_path / "c.safetensors",
    )
    nll = result_of("evaluate-nll", model, "--dataset", dataset, "--record", claiming)
    fame("weights", "pull", claiming, "--name", "mine")
    shown = f"{nll['nats_per_image']:.4f} nats" if levels == 2 else f"{nll['bits_per_dim']:.5f} bits/dim"
    text = fame("weights", "verify", "mine", "--claims").text
    assert text.count(shown) == 2, (shown, text)
    assert "right" in text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"nats_per_image": 1.0}, 7),
        ({"bound": "iwae"}, 7),
        ({"seed": 1}, 7),
        ({"importance_samples": 2}, 7),
        ({"seed": -1}, 3),
        ({"seed": True}, 3),
        ({"importance_samples": 0}, 3),
        ({"data": 1}, 3),
    ],
)
def test_a_wrong_claim_is_code_7(claiming: Path, change: dict[str, object], code: int) -> None:
    fame("weights", "pull", changed(claiming, **change), "--name", "mine")
    assert fame("weights", "verify", "mine").code == 0
    done = fame("weights", "verify", "mine", "--claims", "--json")
    assert done.code == code, done.err
    assert json.loads(done.out)["weights"][0]["state"] == ("wrong" if code == 7 else "not measured")


def test_a_claim_is_right_within_a_thousandth(claiming: Path) -> None:
    nats = claim_of(claiming)["nats_per_image"]
    for offset, code in ((9e-4, 0), (-9e-4, 0), (1.2e-3, 7), (-1.2e-3, 7)):
        fame("weights", "pull", changed(claiming, nats_per_image=nats + offset), "--name", "mine", "--force")
        assert fame("weights", "verify", "mine", "--claims").code == code


def test_a_claim_about_other_pixels_is_code_5(claiming: Path) -> None:
    data = claim_of(claiming)["data"]
    other = changed(claiming, data=data | {"pixels_sha256": "0" * 64})
    fame("weights", "pull", other, "--name", "mine")
    assert "the claim is about" in fame("weights", "verify", "mine", "--claims").err
    assert fame("weights", "verify", "mine", "--claims").code == 5


def test_the_first_images_of_a_long_claim(claiming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 3 images were recorded beside the mean of all 7."""
    monkeypatch.setattr("famecli.nll.record.FIRST_IMAGES", 3)
    target = claiming.with_name("again.safetensors")
    result_of("evaluate-nll", claiming, "--record", target)
    claim, whole = claim_of(target), result_of("evaluate-nll", claiming, "--with-images")
    assert claim[FIRST_KEY] == pytest.approx(sum(whole["image_nats"][:3]) / 3, abs=1e-4)
    assert abs(claim[FIRST_KEY] - claim["nats_per_image"]) > 0.1
    fame("weights", "pull", target, "--name", "mine")
    for limit, images, nats in (("3", 3, claim[FIRST_KEY]), ("9", 7, claim["nats_per_image"])):
        row = result_of("weights", "verify", "mine", "--claims", "--limit", limit)["weights"][0]
        assert (row["claim"]["images"], row["claim"]["claimed_nats_per_image"]) == (images, nats)
    wrong = changed(target, **{FIRST_KEY: claim[FIRST_KEY] + 0.01})
    fame("weights", "pull", wrong, "--name", "mine", "--force")
    assert fame("weights", "verify", "mine", "--claims", "--limit", "3").code == 7
    assert fame("weights", "verify", "mine", "--claims", "--limit", "7").code == 0
    old = changed(target, **{FIRST_KEY: None})
    fame("weights", "pull", old, "--name", "mine", "--force")
    done = fame("weights", "verify", "mine", "--claims", "--limit", "3")
    assert done.code == 4
    assert "hint: fame weights verify mine --claims --limit 7" in done.err
    assert fame("weights", "verify", "mine", "--claims", "--limit", "7").code == 0


def test_claims_by_other_estimators_are_kept_and_measured_anew(claiming: Path) -> None:
    target = claiming.with_name("again.safetensors")
    result_of("evaluate-nll", claiming, "--record", target)
    few = ("--limit", "5", "--record", target, "--force")
    for words in (("-k", "4"), ("-k", "2"), ("-k", "4", "--seed", "3")):
        result_of("evaluate-nll", target, *words, *few)
    facts = result_of("info", target)
    further = facts["further_claims"]
    assert facts["claim"]["bound"] == "elbo"
    assert [(each["importance_samples"], each["seed"]) for each in further] == [(2, 0), (4, 3)]
    assert further[1]["curve"][0]["importance_samples"] == 1
    card = fame("info", target, "--card").text
    assert f"{further[1]['nats_per_image']:.2f}" in card
    assert "on 5 images of mnist, test, where K = 1 gives" in card
    assert fame("info", target).text.count("claims, too") == 2
    entry = entry_of(target)
    assert [(each.importance_samples, each.data.images) for each in entry.further] == [(2, 5), (4, 5)]

    fame("weights", "pull", target, "--name", "mine")
    verify = ("weights", "verify", "mine", "--claims")
    assert result_of(*verify)["weights"][0]["further"] == []
    row = result_of(*verify, "--further")["weights"][0]
    assert [each["images"] for each in (row["claim"], *row["further"])] == [7, 5, 5]
    assert row["further"][1]["measured_nats_per_image"] == pytest.approx(
        further[1]["nats_per_image"], abs=1e-5
    )
    assert fame(*verify, "--further").text.count("right") == 3
    loaded = load_checkpoint(target)
    facts["further_claims"][1]["nats_per_image"] += 0.01
    wrong = {key: facts[key] for key in ("provenance", "claim", "further_claims")}
    save_checkpoint(target, loaded.model.config, loaded.model.state_dict(), None, wrong)
    fame("weights", "pull", target, "--name", "mine", "--force")
    assert fame(*verify).code == 0
    assert fame(*verify, "--further").code == 7


def test_claims_about_other_weights_go(claiming: Path) -> None:
    metadata = {"claim": claim_of(claiming), "further_claims": 7}
    other = claim_of(claiming) | {"weights_sha256": "0" * 64, "bound": "iwae"}
    assert with_claim(metadata, other) == {"claim": other}
    fewer = claim_of(claiming) | {"importance_samples": 9}
    fewer["data"] = fewer["data"] | {"images": 3}
    assert with_claim(metadata, fewer) == {"claim": claim_of(claiming), "further_claims": [fewer]}
    more = claim_of(claiming) | {"bound": "iwae", "importance_samples": 9}
    for first, second in ((claim_of(claiming), more), (more, claim_of(claiming))):
        found = with_claim({"claim": first}, second)
        assert found == {"claim": claim_of(claiming), "further_claims": [more]}
    # An older claim need not say how many images it is about.
    for images in ({"images": None}, {}):
        older = fewer | {"data": {name: fewer["data"][name] for name in ("dataset_id", "split")} | images}
        found = with_claim({"claim": older}, claim_of(claiming))
        assert found == {"claim": claim_of(claiming), "further_claims": [older]}
    both = {"claim": fewer, "further_claims": []}
    assert with_claim(both, claim_of(claiming))["claim"] == claim_of(claiming)
    with pytest.raises(InputError, match="claim"):
        with_claim({"claim": {"data": 3}}, fewer)


def test_the_claim_of_the_package_is_true() -> None:
    path = weights_folder() / default_weights(None, None).file
    if FIRST_KEY not in claim_of(path):
        pytest.skip("recorded before its first images were")
    assert fame("weights", "verify", SHIPPED, "--claims", "--data", real_mnist()).code == 0
