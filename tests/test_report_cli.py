"""`fame report`: words and files that do not fit, runs that lack something, what is written where."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import error_of, fame, save_model
from support.reports import FEW, Page, change_metadata, make_place, make_run, page_of

from famecli.data.dataset import load_split
from famecli.report.metrics import METRICS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_place(tmp_path, monkeypatch)


def test_without_test_images_the_page_says_what_is_missing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAME_DATA")
    monkeypatch.setenv("FAME_CACHE", str(Path("cache").absolute()))
    done = fame("report", run, *FEW, "--evaluate", "--offline", "-o", "a.html")
    assert done.code == 0
    assert "warning: no test images" in done.err
    page = Page(Path("a.html"))
    reason = "mnist is not on this machine, and downloads are off."
    assert f"run: not measured: {reason}" in page.text
    assert f"run: no reconstructions without test images: {reason}" in page.text
    assert f"run: no maps without test images: {reason}" in page.text
    assert len(page.images("4 samples")) == len([tag for tag, _ in page.tags if tag == "img"]) == 1


def test_warnings_name_flags(run: Path) -> None:
    own = save_model(Path("own.safetensors"), "vae", (1, 8, 8), facts={"provenance": {"dataset": "folder"}})
    done = fame("report", own, *FEW, "-o", "a.html")
    assert "(pass their folder or file as --data)" in done.err
    assert "`data`" not in done.err


def test_runs_without_usable_weights_still_have_curves(run: Path) -> None:
    change_metadata(run / "best.safetensors", weights_sha256=None)
    page = page_of(run, "--evaluate")
    assert "run: nothing is drawn: no hash of its weights is recorded" in page.text
    assert "NLL over images seen: run" in page.words
    (run / "best.safetensors").unlink()
    page = page_of(run)
    assert "run: nothing is drawn: there is no checkpoint yet." in page.text
    assert {"Samples", "Reconstructions", "Bits per pixel"} & set(page.heads) == set()
    assert "190.25 +- 1.50" in page.text
    (run / "config.toml").unlink()
    assert "no checkpoint in run" in error_of(3, "report", run, "-o", "b.html")


def test_damaged_weights_are_an_error(run: Path) -> None:
    path = run / "best.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "are not those that were saved" in error_of(5, "report", run, "-o", "b.html")


def test_a_killed_run_and_a_damaged_one(run: Path) -> None:
    path = run / METRICS
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    page = page_of(run)
    assert f"the last line of its {METRICS} is unfinished" in page.text
    assert "280.00 +- 1.50" in page.text
    path.write_bytes(b"x" + whole)
    assert f"{METRICS}, line 1: not a record" in error_of(3, "report", run, "-o", "b.html")
    assert not Path("b.html").exists()
    path.unlink()
    assert f"run: no curve: there is no {METRICS} beside it." in page_of(run).text
    path.write_bytes(b"")
    assert f"run: no curve: its {METRICS} has no line yet." in page_of(run).text


def test_a_checkpoint_file_has_no_curve(run: Path) -> None:
    page = page_of(run / "best.safetensors")
    assert "Report: run/best" in page.text
    assert "no curve" in page.text
    state = Path("state.safetensors")
    shutil.copy(run / "best.safetensors", state)
    change_metadata(state, schema="famecli/state/1")
    assert "expected a file of schema famecli/checkpoint/1" in error_of(3, "report", state, "-o", "b.html")


def test_images_can_be_left_out(run: Path) -> None:
    done = fame("report", run, "--samples", "0", "--images", "0", "-o", "a.html")
    assert done.code == 0, done.err
    page = Page(Path("a.html"))
    assert {"Samples", "Reconstructions", "Bits per pixel"} & set(page.heads) == set()
    assert "test images" not in page.text


def test_test_images_are_read_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(
        "famecli.report.collect.load_split",
        lambda name, *words, **more: reads.append(name) or load_split(name, *words, **more),
    )
    page_of(run, make_run(Path("other")))
    assert reads == ["mnist"]


def test_nothing_is_written_over_without_force(run: Path) -> None:
    for name, other in (("a.html", "a.html"), ("a.md", "a.md"), ("b.md", "b_files/x")):
        Path(other).parent.mkdir(exist_ok=True)
        Path(other).write_text("mine")
        assert "--force" in error_of(3, "report", run, "-o", name)
        assert Path(other).read_text() == "mine"
    Path("c.html").mkdir()
    assert "in the way" in error_of(3, "report", run, "-o", "c.html", "--force")
    assert "mkdir -p" in error_of(3, "report", run, "-o", "no/a.html")
    assert fame("report", run, *FEW, "-o", "a.html", "--force").code == 0
    assert Path("a.html").read_text() != "mine"


def test_the_default_name_is_the_first_free_one(run: Path) -> None:
    for name in ("report.html", "report-2.html"):
        assert fame("report", run, *FEW, "-q").text == f"{name}\n"
        assert Path(name).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "-o", "a.pdf"), "not a name of a page"),
        (("run", "-o", "-"), "not a name of a page"),
        (("run", "--limit", "5"), "--limit is for --evaluate"),
        (("-",), "nothing comes through stdin"),
        (("run", "--data", "-"), "nothing comes through stdin"),
        (("nobody",), "nobody"),
        (("run", "fame-mnist", "run/"), "run/ is named twice"),
        (("fame-mnist", "fame-mnist"), "fame-mnist is named twice"),
        ((), "Missing argument"),
    ],
)
def test_words_that_do_not_fit(run: Path, words: tuple[str, ...], message: str) -> None:
    assert message in error_of(2, "report", *words)
    assert not list(Path().glob("*.html"))


def test_a_date_that_is_none_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    assert "SOURCE_DATE_EPOCH=today" in error_of(2, "report", run, *FEW, "-o", "a.html")


def test_runs_on_photos_of_two_sizes_each_see_their_own(tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "test"
    photos.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    paths = []
    for side in (8, 4):
        preparation = {"resize": None if side == 8 else side}
        facts = {"provenance": {"dataset": "folder", "images_seen": 8, "preparation": preparation}}
        paths.append(
            save_model(tmp_path / f"{side}.safetensors", "pixelcnn", (3, side, side), 256, facts=facts)
        )
    words = (
        "--data",
        photos.parent,
        "--evaluate",
        "--samples",
        "0",
        "--images",
        "0",
        "-o",
        tmp_path / "a.html",
    )
    done = fame("report", *paths, *words)
    assert done.code == 0
    assert "no test images" not in done.err
