"""Run folders, and parsed pages of `fame report`."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from famecli.config.resolve import to_toml
from famecli.config.schema import TrainConfig, to_dict
from famecli.report.metrics import METRICS
from support.commands import PROVENANCE, fame, random_model, save_model, use_small_mnist
from support.forgeries import with_metadata

FEW = ("--samples", "4", "--images", "3")
HOSTILE = "<script>alert('1')</script><img src=x onerror=alert(2)> | `x` **y** [z](http://z) \"&amp;"
TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "article",
        "h1",
        "h2",
        "h3",
        "p",
    ),
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "div", "img", "details"),
    *("summary", "pre", "svg", "desc", "rect", "text", "path", "line", "circle", "polygon", "clippath", "g"),
    *("defs", "lineargradient", "stop"),
}


LINE: dict[str, Any] = {
    "step": 4,
    "images": 24,
    "split": "train",
    "nats_per_image": 90.5,
    "bits_per_dim": 0.17,
    "kl_bits": [2.0, 4.0],
    "elapsed_s": 7200.0,
    "grad_norm": 3.0,
}


class Page(HTMLParser):
    """A parsed HTML page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.heads: list[str] = []
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "h2" and data.strip():
            self.heads.append(data)
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)

    def images(self, alt: str) -> list[np.ndarray]:
        """Return the pixels of the images whose alt text begins with `alt`."""
        sources = [a["src"] for tag, a in self.tags if tag == "img" and a["alt"].startswith(alt)]
        contents = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
        return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


def make_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to `folder`, create a small MNIST and a run there, and return the run's relative path."""
    use_small_mnist(folder / "data", monkeypatch)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    return make_run(Path("run"))


def make_run(folder: Path, preset: str = "fame", training: TrainConfig | None = None, **facts: Any) -> Path:
    """Write a run: weights, configuration, and metrics with two training lines and two validations."""
    training = TrainConfig() if training is None else training
    folder.mkdir(exist_ok=True)
    model = random_model(preset, (1, 28, 28), 2, 0)
    save_model(
        folder / "best.safetensors",
        preset,
        facts={"training": to_dict(training), "provenance": PROVENANCE, **facts},
    )
    (folder / "config.toml").write_text(to_toml(model.config, training))
    kl = {"kl_bits": [1.0, 2.0] if model.config.stochastic_layers else []}
    checks = {"split": "valid", "stderr_nats": 1.5, "valid_images": 12}
    lines = []
    for images, nats, more in (
        (320, 300.0, {}),
        (320, 280.0, checks),
        (640, 200.0, {}),
        (640, 190.25, checks),
    ):
        lines.append({"images": images, "elapsed_s": images * 5.0, "nats_per_image": nats, **kl, **more})
    write_lines(folder / METRICS, *lines)
    return folder


def change_metadata(path: Path, **changes: Any) -> None:
    path.write_bytes(with_metadata(path.read_bytes(), lambda table: table.update(changes)))


def page_of(*words: str | Path) -> Page:
    done = fame("report", *words, *FEW, "--offline", "--force", "-o", "a.html")
    assert (done.code, done.text) == (0, "a.html\n"), done.err
    return Page(Path("a.html"))


def write_lines(path: Path, *changes: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(LINE | change) + "\n" for change in changes))
    return path
