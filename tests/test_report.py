"""`fame report`: what is on the page, down to the bytes of its images."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from support.commands import CLAIM, PROVENANCE, error_of, fame, random_model, real_mnist, result_of
from support.models import randomise
from support.reports import FEW, HOSTILE, LINE, TAGS, Page, change_metadata, make_place, make_run, page_of

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.checkpoints.index import weights_folder
from famecli.config.schema import TrainConfig, to_dict
from famecli.data.dataset import fixed_levels, load_split
from famecli.data.image_writers import levels_to_bytes
from famecli.escape import fenced, markdown
from famecli.grids import grid
from famecli.model.fame import Fame
from famecli.nll.evaluate import pixel_bits
from famecli.report.page import _time as training_time
from famecli.report.pictures import coloured, shown_bits
from famecli.report.render import MARKDOWN
from famecli.sampling.generate import generate
from famecli.sampling.reconstruction import Settings, reconstruct


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_place(tmp_path, monkeypatch)


def test_the_page_needs_nothing_else(run: Path) -> None:
    page = page_of(run)
    assert {tag for tag, _ in page.tags} <= TAGS
    for _, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("href", "style", "srcset")
        ]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
    assert "@import" not in page.source
    (policy,) = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    ids = re.findall(r' id="([^"]+)"', page.source)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"#([\w-]+)\)", page.source)) <= set(ids)


def test_the_page_has_all_parts(run: Path) -> None:
    page = page_of(run)
    assert page.heads == [
        *("Negative log-likelihood", "Runs", "Learning curves", "KL divergence", "Samples"),
        *("Reconstructions", "Bits per pixel", "Configuration"),
    ]
    for part in (
        "Report: run",
        "famecli 0.",
        "torch 2.",
        "1970-01-02",
        "seed 0",
        "190.25 +- 1.50",
        "640",
        "[model]",
    ):
        assert part in page.text, part
    titles = {title for title in page.words if title.startswith(("NLL over", "KL divergence of"))}
    assert titles == {
        "NLL over images seen: run",
        "NLL over minutes of training: run",
        "KL divergence of each stochastic layer: run",
    }
    rows = re.findall(r"layer \d.*?</tr>", page.source)
    # 1 and 2 bits.
    assert [re.findall(r"<td[^>]*>([^<]*)", row)[1:] for row in rows] == [
        ["0.693", "1.000", "33.3 %"],
        ["1.386", "2.000", "66.7 %"],
    ]


# Three of the seven images, spread evenly.
TEST_IMAGES = [0, 2, 4]


def test_images_are_the_models_own(run: Path) -> None:
    page = page_of(run, "--seed", "3")
    model = load_checkpoint(run / "best.safetensors").model
    (samples,) = page.images("4 samples")
    np.testing.assert_array_equal(samples, grid(levels_to_bytes(generate(model, range(3, 7)), 2))[:, :, 0])
    levels = fixed_levels(load_split("mnist", "test"), 0, TEST_IMAGES).levels
    before = np.repeat(levels_to_bytes(levels, 2), 3, axis=3)
    after = np.repeat(levels_to_bytes(reconstruct(model, levels, Settings(seed=3))[:, 0], 2), 3, axis=3)
    (rebuilt,) = page.images("Test images of mnist, below each its reconstruction")
    np.testing.assert_array_equal(rebuilt, grid(np.concatenate([before, after]), 3))
    ((_, bits),) = pixel_bits(model, levels, 3, numbers=TEST_IMAGES)
    (maps,) = page.images("Test images, below each the bits per pixel")
    np.testing.assert_array_equal(maps, grid(np.concatenate([before, coloured(bits, shown_bits([bits]))]), 3))
    assert ", ".join(f"{each.sum():,.0f}" for each in bits) in page.text


DIFFER = "The bits of a pixel are not comparable between models of different decoder.patch"


@pytest.mark.parametrize("patches", [(1, 1), (1, 2), (2, 2, 1), (4,)])
def test_maps_have_one_scale_where_patches_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patches: tuple[int, ...]
) -> None:
    make_place(tmp_path, monkeypatch)
    runs = [Path(f"run{number}") for number in range(len(patches))]
    bits, levels = [], fixed_levels(load_split("mnist", "test"), 0, TEST_IMAGES).levels
    for number, (folder, patch) in enumerate(zip(runs, patches, strict=True)):
        config = random_model("fame", (1, 28, 28), 2, 0).config
        # Their bits differ in size, so that one scale would be seen.
        sized = replace(config, decoder=replace(config.decoder, patch=patch))
        model = randomise(Fame(sized), number, torch.float32, gain=1 + number)
        folder.mkdir()
        save_checkpoint(
            folder / "best.safetensors", model.config, model.state_dict(), None, {"provenance": PROVENANCE}
        )
        bits.append(next(pixel_bits(model.on("cpu"), levels, 0, numbers=TEST_IMAGES))[1])
    page = page_of(*runs)
    before = np.repeat(levels_to_bytes(levels, 2), 3, axis=3)
    order = sorted(range(len(patches)), key=lambda number: patches.index(patches[number]))
    highs = [
        shown_bits([each for each, other in zip(bits, patches, strict=True) if other == own])
        for own in patches
    ]
    assert len(set(highs)) == len(set(patches))
    found = page.images("Test images, below each the bits per pixel")
    for number, picture in zip(order, found, strict=True):
        expected = np.concatenate([before, coloured(bits[number], highs[number])])
        np.testing.assert_array_equal(picture, grid(expected, 3))
    assert page.text.count(DIFFER) == int(len(set(patches)) > 1)
    titles = {title for title in page.words if title.startswith("Colours of the maps")}
    if len(set(patches)) > 1:
        assert titles == {f"Colours of the maps, decoder.patch = {patch}" for patch in patches}
    else:
        assert titles == {"Colours of the maps"}


def test_a_run_shows_the_whole_chain_of_its_trainings(run: Path) -> None:
    assert "initial weights" not in page_of(run).text
    past = [
        {"dataset": "mnist", "images_seen": 5_000, "seconds": 7200.0, "threads": 2, "seed": 3},
        {"dataset": "omniglot", "images_seen": 90_000, "seconds": 1800.0, "device": "cuda", "seed": 4},
    ]
    init = {"weights_sha256": "ab" * 32, "past": past}
    change_metadata(run / "best.safetensors", provenance=PROVENANCE | {"seconds": 3600.0, "init": init})
    page = page_of(run)
    assert (
        f"run: initial weights {'ab' * 8}; 5,000 of mnist (4.00 hours of one thread, seed 3), "
        "then 90,000 of omniglot (0.50 hours of one GPU, seed 4), "
        "then 640 of mnist (1.00 hours of one thread, seed 0): "
        "5.00 hours of one thread and 0.50 hours of one GPU in all."
    ) in page.text


def test_runs_stand_side_by_side_in_blocks_of_their_own(run: Path) -> None:
    page = page_of(run, make_run(Path("other")))
    sections = page.source.split("<section>")[1:]
    for title in ("KL divergence", "Samples", "Reconstructions", "Bits per pixel"):
        (section,) = [each for each in sections if f"<h2>{title}</h2>" in each]
        blocks = re.findall(r"<article>\s*<h3>(.*?)</h3>.*?<figure>.*?</article>", section, re.DOTALL)
        assert blocks == ["run", "other"], title
    # A single run needs no heading.
    assert "<h3>" not in page_of(run).source


def test_equal_seeds_make_equal_pages(run: Path) -> None:
    first = page_of(run)
    assert page_of(run, "--threads", "1").source == first.source
    other = page_of(run, "--seed", "1")
    for alt in ("4 samples", "Test images of", "Test images, below"):
        assert (other.images(alt)[0] != first.images(alt)[0]).any(), alt


def test_markdown_has_the_same_with_files_beside_it(run: Path) -> None:
    page = page_of(run)
    done = fame("report", run, *FEW, "-o", "my report.md", "-q")
    assert (done.code, done.text) == (0, "my report.md\n"), done.err
    text = Path("my report.md").read_text()
    for head in page.heads:
        assert f"\n## {head}\n" in text
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    images = [child for token in tokens for child in token.children or [] if child.type == "image"]
    files = {path.name for path in Path("my report_files").iterdir()}
    assert {str(image.attrs["src"]) for image in images} == {f"my%20report_files/{name}" for name in files}
    assert len(files) == 3 + 1 + 3
    (samples,) = page.images("4 samples")
    with Image.open("my report_files/samples-1.png") as large:
        np.testing.assert_array_equal(np.asarray(large)[::2, ::2], samples)
        np.testing.assert_array_equal(np.asarray(large)[1::2, 1::2], samples)
    assert text.count("\n| layer ") == 2
    assert "190.25 +- 1.50" in text


def test_what_files_say_is_text(run: Path) -> None:
    model = to_dict(random_model("fame", (1, 28, 28), 2, 0).config) | {"preset": HOSTILE}
    told = {
        "dataset": HOSTILE,
        "device": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "init": {"weights_sha256": HOSTILE},
    }
    change_metadata(run / "best.safetensors", model=model, provenance=told)
    evil = Path(HOSTILE.replace("/", ""))
    run.rename(evil)
    page = page_of(evil)
    assert {tag for tag, _ in page.tags} <= TAGS
    assert {tag: a for tag, a in page.tags if "onerror" in a} == {}
    assert page.text.count(HOSTILE) >= 3
    assert page.text.count(evil.name[:20]) >= 3
    done = fame("report", evil, *FEW, "-o", "a.md")
    assert done.code == 0, done.err
    text = Path("a.md").read_text()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    blocks = "".join(token.content for token in tokens if token.type == "html_block")
    assert set(re.findall(r"<[^>]*>?", blocks)) == {"<details>", "<summary>", "</summary>", "</details>"}
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "text_special", "image", "softbreak"}
    for path in Path("a_files").glob("*.svg"):
        assert "<script" not in path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "# a",
        "- a",
        "1. a",
        "+ a",
        "a\n\nb",
        "$x$ ~~y~~ _z_",
        "&lt;",
        "<!-- x",
        "```",
        "===",
        "\\<b>",
    ],
)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown(text))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert all(child.type in ("text", "text_special") for child in tokens[1].children or [])
    assert "".join(child.content for child in tokens[1].children or []) == " ".join(text.split())


@pytest.mark.parametrize("name", ["1", "-", "*x*", "<b>"])
def test_a_sentence_of_a_template_shows_what_it_is_given_as_text(name: str) -> None:
    sentence = MARKDOWN.from_string("{% filter line %}{{ name }}.\n  Then{{ name }} more.{% endfilter %}")
    tokens = MarkdownIt("commonmark").parse(sentence.render(name=name))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert all(child.type in ("text", "text_special") for child in tokens[1].children or [])
    assert "".join(child.content for child in tokens[1].children or []) == f"{name}. Then{name} more."


def test_code_stays_within_its_fence() -> None:
    code = "a = 1\n```\n<script>\n````"
    tokens = MarkdownIt("commonmark").parse(f"before\n\n{fenced(code, 'toml')}\n\nafter")
    assert [token.content for token in tokens if token.type == "fence"] == [code + "\n"]
    assert tokens[-2].content == "after"


def test_a_model_without_latents_says_so_in_one_line(run: Path) -> None:
    page = page_of(make_run(Path("plain"), "pixelcnn"))
    assert "plain: no latents, so there are no reconstructions and no KL divergence." in page.text
    assert {"Reconstructions", "KL divergence"} & set(page.heads) == set()
    assert page.images("Test images, below each the bits per pixel")
    assert "exact, seed 0" in page.text


def test_two_runs_share_charts_and_show_what_differs(run: Path) -> None:
    other = make_run(Path("other"), training=TrainConfig(lr=0.25))
    page = page_of(run, other)
    assert page.words.count("NLL over images seen: run, other") == 1
    table = page.source[page.source.index('<th scope="col">Key') :].split("</table>")[0]
    assert re.findall(r'row">([^<]*)', table) == ["train.lr"]
    assert re.findall(r"<td[^>]*>([^<]*)", table) == ["0.004", "0.25"]
    Path("far").mkdir()
    equal = page_of(run, make_run(Path("far/run")))
    assert "The runs have equal configurations." in equal.text
    assert "run (2)" in equal.text


def photos(train_sha256: str) -> dict[str, Any]:
    """Return the provenance of a run on images of the user's own."""
    sizes = {"train_images": 30, "valid_images": 5, "test_images": 5}
    return {"dataset": "folder", "data": {"dataset": "folder", "train_sha256": train_sha256, **sizes}}


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ({}, {"dataset": "mnist-fixed"}, False),
        (photos("ab" * 32), photos("cd" * 32), False),
        (photos("ab" * 32), photos("ab" * 32), True),
    ],
)
def test_runs_on_other_data_have_charts_of_their_own(
    run: Path, first: dict[str, Any], second: dict[str, Any], alike: bool
) -> None:
    other = make_run(Path("other"))
    for folder, facts in ((run, first), (other, second)):
        change_metadata(folder / "best.safetensors", provenance=PROVENANCE | facts)
    titles = {word for word in page_of(run, other).words if word.startswith("NLL over images seen: ")}
    expected = ["run, other"] if alike else ["run", "other"]
    assert titles == {f"NLL over images seen: {names}" for names in expected}


def test_evaluate_measures_what_evaluate_nll_does(run: Path) -> None:
    words = ("--limit", "5", "--seed", "2")
    document = result_of("report", run, *FEW, "--evaluate", *words, "-o", "a.html")
    expected = result_of("evaluate-nll", run, *words)
    measured, validated = document["runs"][0]["nlls"]
    assert (measured["origin"], validated["origin"]) == ("measured", "validation")
    for key in (
        "nats_per_image",
        "stderr_nats_per_image",
        "bits_per_dim",
        "bound",
        "seed",
        "terms_nats_per_image",
    ):
        assert measured[key] == expected[key], key
    for key in ("dataset_id", "split", "images", "binarization", "pixels_sha256"):
        assert measured["data"][key] == expected["data"][key], key
    assert measured["weights_sha256"] == expected["checkpoint"]["weights_sha256"]
    text = Page(Path("a.html")).text
    assert f"{expected['nats_per_image']:.2f} +- {expected['stderr_nats_per_image']:.2f}" in text
    assert "mnist test, 5 images" in text
    for digits in (expected["data"]["pixels_sha256"], expected["checkpoint"]["weights_sha256"]):
        assert digits in text
        assert text.count(digits[:16]) >= 2


def test_json_has_the_figures_of_the_page(run: Path) -> None:
    document = result_of("report", run, *FEW, "-o", "a.md")
    assert document["schema"] == "famecli/report/1"
    assert (document["out"], document["seed"], document["differences"]) == ("a.md", 0, {})
    assert all(Path(name).is_file() for name in document["files"])
    assert len(document["files"]) == len(list(Path("a_files").iterdir()))
    (told,) = document["runs"]
    assert told["validations"][-1] == {
        "images": 640,
        "hours": pytest.approx(3200 / 3600),
        "nats_per_image": 190.25,
        "bits_per_dim": LINE["bits_per_dim"],
        "kl_nats": pytest.approx([np.log(2), 2 * np.log(2)]),
    }
    assert (told["images_seen"], told["samples"], len(told["decoder_bits"])) == (640, 4, 3)
    assert told["parameters"] == sum(w.numel() for w in random_model("fame", (1, 28, 28), 2, 0).parameters())
    assert told["missing"] == []


def test_a_claim_is_shown_and_one_for_other_weights_as_such(run: Path) -> None:
    own = load_checkpoint(run / "best.safetensors").weights_sha256
    for digits, words in ((own, "claimed by the checkpoint"), ("cd" * 32, "for other weights than its own")):
        change_metadata(run / "best.safetensors", claim=CLAIM | {"weights_sha256": digits})
        text = page_of(run).text
        assert "81.25 +- 0.50" in text
        assert "IWAE, K = 100" in text
        assert words in text
        assert ("other weights" in text) == (digits != own)
    one = CLAIM | {"bound": "elbo", "importance_samples": 1, "nats_per_image": 90.5, "weights_sha256": own}
    curve = [{"importance_samples": 1, "nats_per_image": 88.125, "bits_per_dim": 0.1}]
    further = [CLAIM | {"weights_sha256": own, "curve": curve}]
    change_metadata(run / "best.safetensors", claim=one, further_claims=further)
    text = page_of(run).text
    assert text.index("90.50 +- 0.50") < text.index("IWAE, K = 100 (K = 1: 88.12 nats)")
    change_metadata(run / "best.safetensors", claim=CLAIM | {"nats_per_image": "low"}, further_claims=[])
    assert "best.safetensors: claim: nats_per_image" in error_of(3, "report", run, "-o", "b.html")


def test_named_weights_claim_and_measure_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAME_DATA", str(real_mnist()))
    words = ("--samples", "0", "--images", "2", "--evaluate", "--limit", "256", "-o", tmp_path / "a.html")
    (told,) = result_of("report", "fame-mnist", *words)["runs"]
    measured, claim, *further = told["nlls"]
    header = load_checkpoint(weights_folder() / "fame-mnist.safetensors").metadata["claim"]
    assert header is not None
    again = result_of("evaluate-nll", "fame-mnist", "--dataset", "mnist", "--limit", "256")
    assert measured["nats_per_image"] == pytest.approx(again["nats_per_image"], abs=1e-3)
    assert claim["data"]["images"] == 10_000
    assert claim["nats_per_image"] == header["nats_per_image"]
    assert {each["importance_samples"] for each in further} == {100}


@pytest.mark.parametrize(("hours", "shown"), [(0.05, "3.0 min"), (1.99, "119.4 min"), (2.0, "2.00 h")])
def test_short_trainings_are_told_in_minutes(hours: float, shown: str) -> None:
    assert training_time(hours) == shown
