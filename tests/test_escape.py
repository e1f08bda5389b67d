"""Texts of checkpoints and command lines, wherever they are shown: nothing acts, no secret appears."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import CLAIM, PROVENANCE, Done, fame, save_model
from support.forgeries import with_metadata
from support.loopback import FaultServer

from famecli import escape
from famecli.errors import ArgumentError

SECRETS = ("hunter2", "hunter3", "hunter4")
URL = "https://me:hunter2@host.example/a/file.safetensors?token=hunter3#key=hunter4"
PAYLOAD = (
    f"\x1b[2J\x07\n| a | `b` |\r\n- <script>c()</script> [d](javascript:e) ![f](g) \u202e\x9b31m {URL} ```"
)
# Values that must be right, or the file is refused.
CHECKED = {"schema", "part", "likelihood", "bound", "ema", "raw", "sha256", "start", "optimizer"}
FACTS = {
    "provenance": PROVENANCE
    | {
        "precision": "fp32",
        "versions": {"torch": "2.6"},
        "init": {
            "source": "x",
            "sha256": "ab",
            "weights_sha256": "cd",
            "past": [{"dataset": "mnist", "images_seen": 5}],
        },
        "more": "text",
    },
    "training": {"lr": 0.1, "optimizer": "muon", "seed": 1, "batch_size": "many", "beta": ["x"]},
    "claim": CLAIM | {"precision": "fp32", "name": "model"},
    "further_claims": [CLAIM | {"importance_samples": 7}],
}


def planted(value: Any, key: str = "") -> Any:
    """Return metadata with the payload in each text that is not checked."""
    if isinstance(value, dict):
        return {name: planted(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [planted(each, key) for each in value]
    return PAYLOAD if isinstance(value, str) and key not in CHECKED else value


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the payload in all texts."""
    path = save_model(tmp_path_factory.mktemp("hostile") / "m.safetensors", shape=(1, 8, 8), facts=FACTS)
    content = with_metadata(path.read_bytes(), lambda told: told.update(planted(dict(told))))
    path.write_bytes(content)
    assert content.count(b"hunter2") > 14
    return path


def check(text: str) -> None:
    """Check that a text has nothing that acts on a terminal, and no secret."""
    assert not [secret for secret in SECRETS if secret in text]
    odd = {character for character in text if not character.isprintable() and character != "\n"}
    assert odd == set()


def shown(done: Done) -> str:
    assert done.code in (0, 2, 3, 4, 5, 7), done.err
    assert "Traceback" not in done.err
    check(done.text + done.err)
    return done.text


def test_every_command_shows_the_texts_of_a_checkpoint_harmlessly(hostile: Path, tmp_path: Path) -> None:
    images = tmp_path / "x.npy"
    np.save(images, np.zeros((2, 8, 8, 1), np.uint8))
    cache = ("--cache-dir", tmp_path / "cache")
    commands: list[tuple[str | Path, ...]] = [
        ("info", hostile),
        ("info", hostile, "--tensors"),
        ("info", hostile, "--card"),
        ("info", hostile, "--json"),
        ("info", hostile, "-q"),
        ("sample", hostile, "-n", "1", "-o", tmp_path / "x.png"),
        ("evaluate-nll", hostile),
        ("verify", hostile, "--checks", "causality"),
        ("verify", hostile, "--checks", "causality,claims", "--json"),
        ("weights", "pull", hostile, "--name", "hostile", *cache),
        ("weights", "list", *cache),
        ("weights", "list", "--json", *cache),
        ("weights", "verify", "hostile", "--claims", *cache),
        ("report", hostile, "-o", tmp_path / "r.html", "--samples", "1", "--images", "0"),
        ("report", hostile, "-o", tmp_path / "r.md", "--samples", "1", "--images", "0"),
    ]
    for words in commands:
        text = shown(fame(*words))
        if "--json" in words:
            assert text.isascii()
            json.loads(text)
    done = fame("evaluate-nll", hostile, "--data", "-", stdin=images.read_bytes())
    assert done.code == 0, done.err
    shown(done)
    done = fame("evaluate-nll", hostile, "--data", "-", "--json", "--with-images", stdin=images.read_bytes())
    document = planted(json.loads(shown(done)))
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps(document))
    assert fame("compare", scores, scores).code == 0
    for words in (("compare", scores, scores), ("compare", scores, scores, "--json")):
        shown(fame(*words))
    for page in tmp_path.glob("r.*"):
        check(page.read_text())
        assert "<script" not in page.read_text().lower()


def test_a_card_keeps_its_form(hostile: Path) -> None:
    plain = fame(
        "info", save_model(hostile.with_name("plain.safetensors"), shape=(1, 8, 8), facts=FACTS), "--card"
    )
    assert plain.code == 0
    lines = shown(fame("info", hostile, "--card")).splitlines()
    assert len(lines) == len(plain.text.splitlines())
    end = lines.index("---", 1)
    for line in lines[end:]:
        bare = re.sub(r"\\.", "", line)
        assert "<" not in bare
        assert "](" not in bare
        if line.startswith("|"):
            assert bare.count("|") == 3, line
    keys = [[line.partition(":")[0] for line in text[1:end]] for text in (lines, plain.text.splitlines())]
    assert keys[0] == keys[1]
    assert len(json.loads(lines[1 + keys[0].index("datasets")].partition(": ")[2])) == 1


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("https://me:secret@host/file", "https://host/file"),
        ("https://me:se@cr:et@host/file", "https://host/file"),
        ("HTTPS://token@host", "HTTPS://host"),
        ("--init=https://me:secret@host/f?sig=secret", "--init=https://host/f?..."),
        ("'https://host/f?a=secret'", "'https://host/f?...'"),
        ("https://host/f?a=secret#sha256=ab", "https://host/f?...#sha256=ab"),
        ("https://host/f#secret", "https://host/f"),
        ("https://host/f?a='b'&sig=secret", "https://host/f?..."),
        ("\"https://host/f?a='b'#sig=secret\", https://host/f.", '"https://host/f?...", https://host/f.'),
        ("https://host/f#sha256=ab&sig=secret", "https://host/f"),
        ("'https://host/f#sha256=AB': no such file", "'https://host/f#sha256=AB': no such file"),
        ("add it: https://host/f?a=secret#sha256=...", "add it: https://host/f?...#sha256=..."),
        ("hf://org/repo/file@v1", "hf://org/repo/file@v1"),
        ("http://[::1/?secret", "http://[::1/?..."),
        ("mail me@host", "mail me@host"),
        ("two http://a:secret@b/ and http://c:secret@d/", "two http://b/ and http://d/"),
    ],
)
def test_urls_are_shown_without_secrets(text: str, public: str) -> None:
    assert escape.redacted(text) == public
    assert escape.printable(text) == public
    error = ArgumentError(text, text)
    assert (str(error), error.hint) == (public, public)


@pytest.mark.parametrize("text", ["a.", "a://", "://h?", "://h#", "://h?a,"])
def test_long_texts_take_linear_time(text: str) -> None:
    started_s = time.process_time()
    assert escape.redacted(f"x://me@h {text * 20_000}").startswith("x://h ")
    assert time.process_time() - started_s < 2


@pytest.mark.parametrize(
    "url", [URL, f"{URL.partition('#')[0]}#sha256={'ab' * 32}", "ftp://me:hunter2@host/x"]
)
@pytest.mark.parametrize(
    "words",
    [
        ("info", "{}"),
        ("sample", "{}", "--json"),
        ("weights", "pull", "{}", "--dry-run", "--json"),
        ("weights", "pull", "{}"),
        ("weights", "path", "{}"),
        ("report", "{}", "-o", "x.html"),
        ("train", "--init={}"),
        ("compress", "{}", "{}"),
        ("info", "--no-such-option={}"),
        ("{}",),
    ],
)
def test_no_command_shows_the_secrets_of_a_url(
    words: tuple[str, ...], url: str, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAME_OFFLINE", "1")
    done = fame(*(word.format(url) for word in words))
    check(done.text + done.err)


def test_a_run_keeps_no_secrets(server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save_model(tmp_path / "first.safetensors", "pixelcnn", (1, 8, 8), 256)
    info = json.loads(fame("info", first, "--json").text)
    server.files["first.safetensors?token=hunter3"] = first.read_bytes()
    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    address = f"http://me:hunter2@127.0.0.1:{server.server_port}/first.safetensors?token=hunter3"
    run = tmp_path / "run"
    done = fame(
        "train", "pixelcnn", "--size", "tiny", "--dataset", "folder", "--data", tmp_path / "images",
        "--images", "8", "--batch-size", "4", "--eval-every", "8", "-o", run,
        f"--init={address}#sha256={info['sha256']}",
    )  # fmt: skip
    assert done.code == 0, done.err
    check(done.text + done.err)
    for path in run.iterdir():
        content = path.read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in content], path
