"""Commands on images of the user's own: every command reads them alike."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import error_of, fame, result_of, save_model, use_small_mnist
from support.user_images import COLOURS, GREYS, mixed, save, save_all

SMALL = [
    "--steps",
    "1",
    "--batch-size",
    "2",
    "--set",
    "decoder.layers=1",
    "--eval-every",
    "2",
    "--threads",
    "1",
]
FOLDER = ["--dataset", "folder", "--data"]
FACTS = {"provenance": {"dataset": "folder"}}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAME_DATA", raising=False)
    return save_model(tmp_path / "m.safetensors", "pixelcnn", (1, 8, 8), 256, facts=FACTS)


def latent_model() -> Path:
    return save_model(Path("v.safetensors"), "vae", (1, 8, 8), 256, facts=FACTS)


def commands(model: Path, images: str, one: str) -> list[list[str | Path]]:
    latent = latent_model()
    return [
        ["evaluate-nll", model, *FOLDER, images],
        ["evaluate-nll", model, images],
        ["train", "pixelcnn", *FOLDER, images, "-o", "run", *SMALL],
        ["reconstruct", latent, *FOLDER, images, "-o", "r.png"],
        ["reconstruct", latent, images, "-o", "r.png"],
        ["sample", model, "--complete", one, "--rows", "4", "-n", "1", "-o", "s.png"],
        ["sample", model, "--complete", "fine.png", "--mask", one, "-n", "1", "-o", "s.png"],
        ["compress", model, images, "-o", "x.fame"],
    ]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("kind", ["16 bits", "alpha", "CMYK"])
def test_every_command_refuses_what_would_be_lost_and_names_it(model: Path, kind: str, number: int) -> None:
    save(Path("fine.png"), GREYS[0])
    for index, grey in enumerate(GREYS[:20]):
        if kind == "16 bits":
            image = Image.fromarray(grey.astype(np.uint16) * 257)
        elif kind == "alpha":
            image = Image.fromarray(np.stack([0 * grey, grey], -1), "LA")
        else:
            image = Image.fromarray(COLOURS[index]).convert("CMYK")
        save(Path(f"in/{index:02}.{'jpg' if kind == 'CMYK' else 'png'}"), image)
    name = sorted(Path("in").iterdir())[0]
    words = commands(model, "in", str(name))[number]
    told = error_of(3, *words)
    assert "in/" in told
    assert {"16 bits": "16 bits", "alpha": "transparent", "CMYK": "CMYK"}[kind] in told
    assert "--convert" in told
    assert not any(Path(each).exists() for each in ("r.png", "s.png", "x.fame"))


@pytest.mark.parametrize("number", range(6))
def test_a_binary_model_takes_greys_only_with_convert(model: Path, number: int) -> None:
    bits = [
        save_model(Path(f"{name}.safetensors"), name, (1, 8, 8), facts=FACTS) for name in ("pixelcnn", "vae")
    ]
    for index, grey in enumerate(GREYS[:20]):
        save(Path(f"in/{index:02}.png"), grey)
    one, short = "in/00.png", ["--size", "tiny", "--steps", "1", "--batch-size", "2", "--set", "levels=2"]
    words: list[list[str | Path]] = [
        ["evaluate-nll", bits[0], "in"],
        ["evaluate-nll", bits[0], *FOLDER, "in", "--split", "all"],
        ["train", "pixelcnn", *FOLDER, "in", "-o", "run", *short],
        ["reconstruct", bits[1], "in", "-o", "r.npy"],
        ["sample", bits[0], "--complete", one, "--rows", "4", "-n", "1", "-o", "s.npy"],
        ["compress", bits[0], "in", "-o", "x.fame"],
    ]
    told = error_of(3, *words[number])
    assert ".png has a pixel of" in told
    assert "--convert takes the nearest levels" in told
    done = fame(*words[number], "--convert")
    assert done.code == 0, done.err
    assert "rounded to 2 levels: " in done.err
    if number == 4:
        np.testing.assert_array_equal(np.load("s.npy")[0, :4, :, 0], 255 * (GREYS[0][:4] > 127))
        # Pixels that are drawn anyway may be grey.
        save(Path("known.png"), np.concatenate([np.zeros((4, 8), np.uint8), GREYS[0][4:]]))
        assert (
            fame("sample", bits[0], "--complete", "known.png", "--rows", "4", "-n", "1", "-o", "t.npy").code
            == 0
        )


def test_every_command_lists_alike(model: Path) -> None:
    mixed(Path("mixed"))
    assert result_of("compress", model, "mixed", "-o", "x.fame")["images"] == 40
    assert result_of("evaluate-nll", model, "mixed")["data"]["images"] == 40
    made = result_of("reconstruct", latent_model(), "mixed", "-o", "r.png")
    assert len(made["images"]) == 40
    done = fame("evaluate-nll", model, "--data", "mixed")
    # This model does not record how its images were split, so every tenth one is test.
    assert "mixed: 40 images of 8x8, grey: 32 train, 4 valid, 4 test" in done.err
    assert "passed over: 2 .txt, 1 without ending, 1 .mp4" in done.err


def test_the_model_decides_the_channels(model: Path) -> None:
    save_all(Path("in"), np.repeat(GREYS[:20, :, :, None], 3, axis=3))
    np.save("in.npy", GREYS[:20])
    for files in (["in"], ["--data", "in"]):
        scored = result_of("evaluate-nll", model, *files)
        plain = result_of("evaluate-nll", model, *(word.replace("in", "in.npy") for word in files))
        assert scored["nats_per_image"] == plain["nats_per_image"]
    latent = save_model(Path("v.safetensors"), "vae", (1, 8, 8), 256, facts=FACTS)
    assert fame("reconstruct", latent, "in", "-o", "r.png").code == 0
    made = fame("train", "pixelcnn", *FOLDER, "in", *SMALL, "--set", "channels=1", "-o", "run")
    assert made.code == 0, made.err
    assert "channels = 1" in Path("run/config.toml").read_text()


def test_a_training_records_the_preparation_and_later_commands_follow_it(model: Path) -> None:
    rng = np.random.default_rng(3)
    for index in range(60):
        save(Path(f"in/{index:02}.png"), rng.integers(0, 256, (12 + index % 3, 14), np.uint8))
    assert "--resize 32" in error_of(3, "train", "pixelcnn", *FOLDER, "in", "-o", "run", *SMALL)
    words = ["train", "pixelcnn", *FOLDER, "in", "--resize", "8", "-o", "run", *SMALL]
    done = fame(*words)
    assert done.code == 0, done.err
    assert "60 images of 8x8" in done.err
    assert "by a hash of the pixels" in done.err
    count = result_of("info", "run")["provenance"]["data"]["train_images"]
    assert f"folder, {count} training images, cropped and resized to 8x8" in fame("info", "run").text
    assert "| preparation | cropped and resized to 8x8 |" in fame("info", "run", "--card").text
    assert fame("report", "run", "--samples", "0", "-o", "r.md").code == 0
    assert "the images of the data set folder were not given." in Path("r.md").read_text()
    recorded = result_of("info", "run")["provenance"]["preparation"]
    assert recorded == {"resize": 8, "crop": None, "pad": False, "convert": False, "rule": "pixels"}
    followed = result_of("evaluate-nll", "run", "--data", "in")
    typed = result_of("evaluate-nll", "run", "--data", "in", "--resize", "8", "--crop", "center")
    other = result_of("evaluate-nll", "run", "--data", "in", "--resize", "8", "--crop", "none")
    assert (
        followed["data"]["pixels_sha256"] == typed["data"]["pixels_sha256"] != other["data"]["pixels_sha256"]
    )
    assert fame("sample", "run", "--complete", "in/00.png", "--rows", "2", "-n", "1", "-o", "s.png").code == 0
    again = fame(*words)
    assert again.code == 0, again.err


def test_runs_made_before_keep_their_splits(model: Path) -> None:
    np.save("in.npy", GREYS[:40])
    words = ["train", "pixelcnn", *FOLDER, "in.npy", "-o", "run", *SMALL]
    assert fame(*words).code == 0
    from famecli.checkpoints.checkpoint import load_tensors, save_tensors

    tensors, header, _ = load_tensors(Path("run/state.safetensors"), "famecli/state/1")
    told = json.loads(json.dumps(header.metadata))
    for key in ("rule", "data"):
        del told["progress"][key]
    save_tensors(Path("run/state.safetensors"), tensors, told)
    done = fame(*words)
    assert done.code == 0, done.err
    assert "32 train, 4 valid, 4 test (of ten images in order the last is test" in done.err
    assert result_of("info", "run/last.safetensors")["provenance"]["preparation"]["rule"] == "tenth"


def test_compress_takes_all_images_of_ones_own(model: Path) -> None:
    save_all(Path("in"), GREYS)
    assert result_of("compress", model, "--data", "in", "-o", "x.fame")["images"] == len(GREYS)
    assert result_of("compress", model, "--data", "in", "--split", "test", "-o", "y.fame")["images"] < len(
        GREYS
    )


@pytest.mark.parametrize("words", [[], ["--batch-size", "2"]])
def test_too_few_images_for_a_training_are_told_at_once(model: Path, words: list[str]) -> None:
    save(Path("in/a.png"), GREYS[0])
    told = error_of(3, "train", "pixelcnn", *FOLDER, "in", "-o", "run", *words)
    least = words[-1] if words else "16"
    assert f"in has 0 training and 1 validation images: a training needs at least {least} and 1" in told
    assert "--batch-size takes fewer training images" in told
    assert not Path("run").exists()


def test_a_split_without_images_and_a_wrong_size_have_a_way_out(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Path("in/a.png"), GREYS[0])
    assert "hint: --split all takes all images" in error_of(3, "evaluate-nll", model, *FOLDER, "in")
    assert "hint: --resize 8 fits" in error_of(2, "evaluate-nll", model, "in", "--resize", "4")
    assert "hint: --resize 8 fits" in error_of(
        2, "evaluate-nll", model, "--data", "in", "--resize", "4", "--split", "all"
    )
    use_small_mnist(Path("data"), monkeypatch)
    assert "hint" not in error_of(2, "evaluate-nll", model, "--dataset", "mnist")


def test_compress_changes_images_only_when_told_and_says_so(model: Path) -> None:
    save(Path("in/a/1.png"), np.tile(GREYS[0], (2, 3)))
    save(Path("in/b/1.png"), GREYS[1])
    assert "or set --resize 8" in error_of(3, "compress", model, "in", "-o", "x.fame")
    words = ["compress", model, "in", "--resize", "8", "--crop", "none", "-o", "x.fame"]
    told = fame(*words).err
    assert (
        "warning: the file will hold changed images, not the originals: stretched and resized to 8x8" in told
    )
    fame("decompress", "x.fame", "--checkpoint", model, "-o", "out")
    for name in ("a/1.png", "b/1.png"):
        with Image.open(f"in/{name}") as image, Image.open(f"out/{name}") as restored:
            assert image.resize((8, 8), Image.Resampling.LANCZOS).tobytes() == restored.tobytes()
    unchanged = fame("compress", model, "in/b", "-o", "y.fame").err
    assert "changed images" not in unchanged


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["evaluate-nll", "m.safetensors", "--data", "-", "--resize", "8"],
            "--resize and --convert out",
        ),
        (
            ["compress", "m.safetensors", "--dataset", "mnist", "--resize", "8", "-o", "x.fame"],
            "--dataset folder",
        ),
        (["evaluate-nll", "m.safetensors", "--dataset", "mnist", "--resize", "8"], "--dataset folder"),
        (["train", "pixelcnn", "--dataset", "mnist", "--pad", "--resize", "8"], "--dataset folder"),
        (["train", "pixelcnn", *FOLDER, "a.png", "--pad"], "--resize 32"),
    ],
)
def test_preparations_are_for_images_of_ones_own(model: Path, words: list[str], told: str) -> None:
    save(Path("a.png"), GREYS[0])
    assert told in error_of(2, *words)


def test_a_checkpoint_among_images_and_other_words_get_hints(model: Path) -> None:
    save(Path("a.png"), GREYS[0])
    assert "name the checkpoint first" in error_of(
        3, "reconstruct", latent_model(), "a.png", model, "-o", "r.png"
    )
    save_all(Path("many"), GREYS[:3])
    assert "many has 3 images, expected one" in error_of(
        3, "sample", model, "--complete", "many", "--rows", "2", "-o", "s.png"
    )
    told = error_of(4, "train", "pixelcnn", "--dataset", "mnist", "--data", "many")
    assert "no files of mnist in many" in told
    assert "--dataset folder" in told


def test_first_weights_bring_their_model_their_data_set_and_its_preparation(model: Path) -> None:
    rng = np.random.default_rng(3)
    for index in range(60):
        save(Path(f"in/{index:02}.png"), rng.integers(0, 256, (12, 14), np.uint8))
    words = ["train", "pixelcnn", *FOLDER, "in", "--size", "tiny", "--resize", "8", "-o", "run", *SMALL]
    assert fame(*words).code == 0
    more = ["train", "--init", "run", "--steps", "2", "--batch-size", "2", "--threads", "1"]
    assert "their folder or file as --data" in error_of(2, *more, "-o", "more")
    config = fame(*more, "--data", "in", "--print-config").text
    assert 'preset = "pixelcnn"' in config
    assert "layers = 1" in config
    assert fame(*more, "--data", "in", "-o", "more").code == 0
    first, second = (result_of("info", name) for name in ("run", "more"))
    assert second["model"] == first["model"]
    for key in ("dataset", "preparation"):
        assert second["provenance"][key] == first["provenance"][key]
    # A run that has begun does not need the file.
    Path("run").rename("moved")
    again = fame(*more, *FOLDER, "in", "--resize", "8", "-o", "more")
    assert (again.code, again.text) == (0, "more/best.safetensors\n"), again.err
    assert error_of(2, *more, *FOLDER, "in", "--resize", "8", "-o", "other")
    Path("moved").rename("run")
    assert "is for images (1, 8, 8)" in error_of(2, *more, "--data", "in", "--resize", "4")
    # Words outrank the first weights.
    wider = fame(*more, "--data", "in", "--set", "decoder.layers=2", "--print-config").text
    assert "layers = 2" in wider
    assert "run is a pixelcnn, not a vae" in error_of(2, "train", "vae", *more[1:], "--data", "in")
    assert "layers = 8" in fame(*more, "--data", "in", "--size", "small", "--print-config").text
