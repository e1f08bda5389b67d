"""Words of a command line are obeyed or refused, never passed over; shells can complete them."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import save_model
from support.outcomes import Command, error_lines
from typer.main import get_command

from famecli.checkpoints.index import index
from famecli.cli.app import app
from famecli.config.presets import PRESETS, SIZES
from famecli.data.registry import DATASETS


@pytest.fixture
def tiny_vae(fame: Command, data: Path) -> str:
    """A file with the whole configuration of a tiny vae."""
    Path("vae.toml").write_text(fame("train", "vae", "--size", "tiny", "--print-config").out)
    return "vae.toml"


@pytest.mark.parametrize(
    ("words", "both"),
    [
        (("pixelcnn",), ("'vae'", "pixelcnn")),
        (("--size", "paper"), ("tiny", "paper")),
        (("vae", "--size", "small"), ("tiny", "small")),
        (("fame", "--size", "tiny"), ("'vae'", "fame")),
    ],
)
def test_a_model_or_size_that_a_file_contradicts_is_refused(
    fame: Command, tiny_vae: str, words: tuple[str, ...], both: tuple[str, str]
) -> None:
    for dry in ((), ("--print-config",), ("--dry-run",)):
        outcome = fame("train", *words, "--config", tiny_vae, *dry)
        (line,) = error_lines(outcome)
        assert outcome.code == 2
        assert tiny_vae in line
        assert all(word in line for word in both)


@pytest.mark.parametrize(
    "words", [(), ("vae",), ("--size", "tiny"), ("vae", "--size", "tiny", "--set", "decoder.layers=3")]
)
def test_words_that_a_file_agrees_with_are_accepted(
    fame: Command, tiny_vae: str, words: tuple[str, ...]
) -> None:
    printed = fame("train", *words, "--config", tiny_vae, "--print-config")
    assert printed.code == 0
    assert ("layers = 3" in printed.out) == ("--set" in words)


def test_a_setting_that_contradicts_the_model_is_refused(fame: Command, data: Path) -> None:
    outcome = fame("train", "lvae", "--set", "preset=vae", "--print-config")
    (line,) = error_lines(outcome)
    assert outcome.code == 2
    assert "--set has model.preset = 'vae', not lvae" in line


def test_a_part_of_a_model_in_a_file_says_nothing_of_size(fame: Command, data: Path) -> None:
    Path("part.toml").write_text("[model.decoder]\nlayers = 3\n")
    printed = fame("train", "vae", "--size", "small", "--config", "part.toml", "--print-config")
    assert (printed.code, "layers = 3" in printed.out) == (0, True)


def test_a_finished_run_with_more_images_names_the_words_that_go_on(train: Command) -> None:
    assert train("vae", "--images", 12, "-o", "run").code == 0
    refused = train("vae", "--images", 24, "-o", "run")
    (line,) = error_lines(refused)
    assert refused.code == 3
    assert "train.total_images = 12, now it is 24" in line
    hint = refused.err.splitlines()[-1]
    assert "--init run and another --out" in hint
    assert train("vae", "--images", 24, "--init", "run", "-o", "further").code == 0
    # With fewer images the weights are no start of what was asked for.
    assert "--init" not in train("vae", "--images", 6, "-o", "run").err


def test_compare_names_the_commands_that_measure_models(fame: Command, data: Path) -> None:
    model = save_model(Path("m.safetensors"))
    Path("a run").mkdir()
    for name in ("b.json", "mine.json"):
        Path(name).write_text("{}")
    # Words, the file that each model among them is measured into, and the files to compare.
    for words, measured, compared in (
        ((model, "a run"), {str(model): "a.json", "a run": "b-2.json"}, ["a.json", "b-2.json"]),
        (("a run", "fame-mnist"), {"a run": "a.json", "fame-mnist": "b-2.json"}, ["a.json", "b-2.json"]),
        (("pixelcnn-mnist", "b.json"), {"pixelcnn-mnist": "a.json"}, ["a.json", "b.json"]),
        (("mine.json", "a run"), {"a run": "b-2.json"}, ["mine.json", "b-2.json"]),
        (("-", "a run"), {"a run": "b-2.json"}, ["-", "b-2.json"]),
    ):
        outcome = fame("compare", *words)
        assert (outcome.code, len(error_lines(outcome))) == (2, 1)
        commands = outcome.err.splitlines()[-1].partition("--data PATH: ")[2].split("; ")
        *measuring, comparing = map(shlex.split, commands)
        assert measuring == [
            ["fame", "evaluate-nll", each, "--json", "--with-images", ">", file]
            for each, file in measured.items()
        ]
        assert comparing == ["fame", "compare", *compared]


@pytest.mark.parametrize("command", ["evaluate-nll", "sample", "reconstruct", "compress", "verify"])
@pytest.mark.parametrize("words", [("--weights", "foo"), ("--model", "foo")])
def test_words_are_checked_before_anything_is_fetched(
    fame: Command, data: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: tuple[str, str]
) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("something is fetched")

    monkeypatch.setattr("famecli.checkpoints.store.Store.fetch", fetch)
    outcome = fame(command, "--dataset", "cifar10", *words)
    (line,) = error_lines(outcome)
    assert (outcome.code, "'foo'" in line) == (2, True)


def test_n_is_a_number_of_images_wherever_help_shows_it() -> None:
    group = get_command(app)
    commands = {**group.commands, **group.commands["weights"].commands, **group.commands["datasets"].commands}
    shown = {
        (name, option.name)
        for name, command in commands.items()
        for option in command.params
        if "-n" in option.opts and not getattr(option, "hidden", False)
    }
    assert shown == {("sample", "number"), ("reconstruct", "number")}


def test_the_earlier_spelling_of_dry_run_is_still_accepted(fame: Command, train: Command) -> None:
    assert fame("weights", "pull", "fame-mnist", "-n") == fame("weights", "pull", "fame-mnist", "--dry-run")
    planned = fame("datasets", "pull", "imagenet32", "-n", "--json")
    assert json.loads(planned.out)["datasets"][0]["downloads"]
    assert train("vae", "-n", "-q", "-o", "run").out.strip().isdecimal()
    assert not Path("run").exists()
    assert "-n" not in shlex.split(fame("weights", "pull", "--help").out)


def complete(line: str) -> list[str]:
    """Return what bash is offered for the last word of a command line."""
    variables = {"_FAME_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    script = "import sys; sys.argv = ['fame']; from famecli.cli.app import main; main()"
    environment = os.environ | variables
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=False)
    return done.stdout.decode().split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("fame train pixel", [name for name in PRESETS if name.startswith("pixel")]),
        ("fame train fame --size ", list(SIZES)),
        ("fame train --dataset mnist", [name for name in DATASETS if name.startswith("mnist")]),
        ("fame datasets pull cifar", ["cifar10"]),
        ("fame train --track ", ["tensorboard", "wandb", "mlflow"]),
        ("fame sample --model lv", ["lvae"]),
        *((f"fame {command} pixelcnn-", None) for command in ("sample", "info", "report", "weights pull")),
        ("fame train --init pixelcnn-", None),
    ],
)
def test_shells_complete_names(line: str, offered: list[str] | None) -> None:
    weights = [name for name in index() if name.startswith("pixelcnn-")]
    assert complete(line) == (weights if offered is None else offered)


def test_shells_complete_names_of_imported_weights(
    fame: Command, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAME_CACHE", str(tmp_path / "cache"))
    model = save_model(Path("m.safetensors"))
    assert fame("weights", "pull", model, "--name", "own-digits").code == 0
    assert complete("fame sample own") == ["own-digits"]


@pytest.fixture
def photos(fame: Command, data: Path) -> np.ndarray:
    """Three images of 8x8 in `photos/` and its subfolder, and in `photos.npy`; a model for them."""
    save_model(Path("m.safetensors"), "pixelcnn", (3, 8, 8), 256)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    Path("photos").mkdir()
    for index_, image in enumerate(images):
        Image.fromarray(image).save(f"photos/{index_}.png")
    np.save("photos.npy", images)
    return images


def test_evaluate_nll_scores_files(fame: Command, photos: np.ndarray) -> None:
    def nats(*words: str) -> list[float]:
        outcome = fame("evaluate-nll", "m.safetensors", *words, "--json", "--with-images")
        assert outcome.code == 0, outcome.err
        found: list[float] = json.loads(outcome.out)["image_nats"]
        return found

    # The model is exact, so an image's NLL depends on nothing else.
    whole = nats("photos.npy")
    assert len(whole) == 3
    assert nats("photos") == pytest.approx(whole, rel=1e-6)
    assert nats("photos/2.png", "photos/0.png") == pytest.approx([whole[2], whole[0]], rel=1e-6)


def test_files_of_equal_names_are_scored(fame: Command, photos: np.ndarray) -> None:
    Path("other").mkdir()
    Image.fromarray(photos[1]).save("other/0.png")
    scored = fame("evaluate-nll", "m.safetensors", "photos/0.png", "other/0.png", "--json")
    assert json.loads(scored.out)["data"]["images"] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("photos", "--split", "valid"), 2, "--split"),
        (("photos", "--data", "photos"), 2, "--data"),
        (("photos", "--ais", "2", "--simulated", "2"), 2, "--simulated"),
        (("photos", "--record", "claim.safetensors"), 2, "--record"),
        (("absent.png",), 3, "absent.png"),
        (("small.png",), 3, "small.png"),
    ],
)
def test_files_do_not_go_with_words_about_other_images(
    fame: Command, photos: np.ndarray, words: tuple[str, ...], code: int, message: str
) -> None:
    Image.fromarray(photos[0, :4]).save("small.png")
    outcome = fame("evaluate-nll", "m.safetensors", *words)
    (line,) = error_lines(outcome)
    assert (outcome.code, message in line) == (code, True), outcome.err


# Wrong commands, their exit codes, and what their errors say. None of them needs torch.
WRONG = [
    ("train vae --config fame.toml", 2, "fame.toml has model.preset = 'fame', not vae"),
    ("train vae --init fame-mnist", 2, "fame-mnist is a fame, not a vae"),
    ("train vae --config fame.toml --data photos", 2, "fame.toml has model.preset = 'fame', not vae"),
    ("train vae --size huge", 2, "huge"),
    ("train vae --images 3 --epochs 2", 2, "exclude each other"),
    ("train vae --set decoder.layers=none", 3, "decoder: layers"),
    ("train vae --set decoder.leyers=3", 3, "leyers"),
    ("train vae --dataset foo", 2, "foo"),
    ("train vae --dataset folder", 2, "--data"),
    ("train vae --resize 8", 2, "--dataset folder"),
    ("train vae --dataset folder --data x --pad", 2, "--resize 32"),
    ("train vae --preview", 2, "--sample-every"),
    ("train vae --dataset folder --data nosuch", 3, "no such file or folder"),
    ("train vae --data photos", 4, "hint: for images of your own, add --dataset folder"),
    ("train vae --init nosuch.safetensors", 3, "no such file"),
    ("train vae --config nosuch.toml", 3, "nosuch.toml"),
    ("evaluate-nll fame-mnist nosuch.png", 3, "nosuch.png: no such file or folder"),
    ("evaluate-nll run other", 2, "other is a model, where images are expected: run is the model here"),
    ("evaluate-nll fame-mnist vae-mnist", 2, "vae-mnist is a model"),
    ("reconstruct fame-mnist other", 2, "other is a model"),
    ("reconstruct fame-mnist nosuch/", 3, "nosuch/: no such file or folder"),
    ("compress fame-mnist nosuch.npz::x", 3, "nosuch.npz: no such file or folder"),
    ("evaluate-nll - -", 2, "both come through stdin"),
    ("evaluate-nll run - -", 2, "both come through stdin"),
    ("reconstruct - -", 2, "both come through stdin"),
    ("reconstruct - --interpolate - photos/a.png", 2, "both come through stdin"),
    ("sample - --complete - --rows 3", 2, "both come through stdin"),
    ("sample run --complete - --mask -", 2, "both come through stdin"),
    ("compress - -", 2, "both come through stdin"),
    ("decompress - --checkpoint -", 2, "both come through stdin"),
    ("train vae --device foo", 2, "unknown device 'foo'"),
    ("train vae --print-config --json", 2, "--print-config prints TOML"),
    ("evaluate-nll foo", 2, "called foo"),
    ("evaluate-nll foo.safetensors", 3, "no such file"),
    ("evaluate-nll --weights foo", 2, "foo"),
    ("evaluate-nll --dataset foo", 2, "foo"),
    ("evaluate-nll --model foo", 2, "foo"),
    ("evaluate-nll --chains 3", 2, "--ais"),
    ("evaluate-nll -k 3 --ais 3", 2, "exclude each other"),
    ("evaluate-nll --simulated 3", 2, "--ais"),
    ("evaluate-nll --simulated 3 --ais 3 --resize 8", 2, "--resize or --convert is for"),
    ("evaluate-nll --with-images", 2, "--json"),
    ("evaluate-nll --per-image fame.toml", 3, "exists"),
    ("evaluate-nll --batch-size 0", 2, "--batch-size"),
    ("evaluate-nll --resize 0", 2, "--resize"),
    ("evaluate-nll --device cuda:x", 2, "unknown device"),
    ("sample --rows 3", 2, "--complete"),
    ("sample --complete x.png", 2, "--rows"),
    ("sample --complete x.png --rows 3 --decoder mean", 2, "--decoder mean"),
    ("sample --resize 5 --convert", 2, "--resize and --convert prepare the image of --complete"),
    ("sample --temperature 0", 2, "--temperature"),
    ("sample foo", 2, "called foo"),
    ("sample -o fame.toml", 3, "fame.toml"),
    ("reconstruct foo", 2, "called foo"),
    ("reconstruct --interpolate 1 --x", 2, "--interpolate"),
    (f"reconstruct fame-mnist --interpolate 1 {5000 * '9'}", 2, "no split has so many images"),
    ("reconstruct fame-mnist --interpolate 1 2 -n 3", 2, "leave -n out"),
    ("reconstruct fame-mnist --interpolate a.png b.png --split train", 2, "leave the files out"),
    ("reconstruct fame-mnist photos -n 1", 2, "leave the files out"),
    ("reconstruct fame-mnist photos --split train", 2, "leave the files out"),
    ("reconstruct fame-mnist photos --data nowhere", 2, "leave the files out"),
    ("reconstruct fame-mnist photos --steps 5", 2, "leave --steps out"),
    ("reconstruct fame-mnist --format pairs -o x.npz", 2, "leave --format out"),
    ("reconstruct pixelcnn-mnist", 2, "a pixelcnn has no latents to reconstruct from"),
    ("reconstruct fame-mnist --keep-layers 9", 2, "--keep-layers 9: the model has 2 stochastic layers"),
    ("compress foo", 2, "called foo"),
    ("compress --resize 8", 2, "--dataset folder"),
    ("evaluate-nll --resize 8", 2, "--dataset folder"),
    ("reconstruct --resize 8", 2, "--dataset folder"),
    ("compress -o fame.toml", 3, "exists"),
    ("decompress x.fame -o fame.toml", 3, "fame.toml"),
    ("decompress nosuch.fame", 3, "nosuch.fame: no such file"),
    ("evaluate-nll own.safetensors", 2, "hint: pass their folder or file as --data"),
    ("evaluate-nll fame-mnist --dataset folder", 2, "hint: pass their folder or file as --data"),
    ("reconstruct own.safetensors", 2, "hint: pass their folder or file as --data"),
    ("compress own.safetensors", 2, "hint: pass their folder or file as --data"),
    ("sample fame-mnist --class 3", 2, "weights with classes of mnist: fame-mnist-conditional"),
    ("sample --class all", 2, "weights with classes of mnist: fame-mnist-conditional"),
    ("evaluate-nll fame-mnist --class 3", 2, "weights with classes of mnist: fame-mnist-conditional"),
    ("evaluate-nll fame-mnist --marginal", 2, "which --marginal needs"),
    ("reconstruct fame-mnist --class 3", 2, "weights with classes of mnist: fame-mnist-conditional"),
    ("compress fame-mnist --class 3", 2, "weights with classes of mnist: fame-mnist-conditional"),
    ("sample own.safetensors --class 3", 2, "hint: leave --class out"),
    ("verify --checks foo", 2, "foo"),
    ("verify foo", 2, "called foo"),
    ("weights push org/repo nosuch --offline", 4, "the network is off"),
    ("weights push org/repo nosuch", 2, "called nosuch"),
    ("weights pull missing.safetensors --dry-run", 3, "missing.safetensors"),
    ("weights pull fame.toml --dry-run", 3, "fame.toml"),
    ("weights verify --further", 2, "for --claims"),
    ("weights verify --limit 3", 2, "for --claims"),
    ("weights info fame-mnist", 2, "hint: fame --help lists the commands"),
    ("weights l", 2, "hint: did you mean list?"),
    ("datasets tr", 2, "hint: fame --help lists the commands"),
    ("report run --limit 3", 2, "--evaluate"),
    ("compare a.json a", 3, "a.json"),
    ("info foo", 2, "called foo"),
    ("info --card", 2, "about a checkpoint"),
    ("info --tensors", 2, "about a checkpoint"),
]


def test_wrong_words_are_told_before_torch_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fame.toml").write_text('[model]\npreset = "fame"\n')
    for name in ("run", "other"):
        Path(name).mkdir()
        Path(name, "best.safetensors").write_bytes(b"")
    Path("photos").mkdir()
    Image.new("L", (8, 8)).save("photos/a.png")
    save_model(Path("own.safetensors"), "vae", (1, 8, 8), facts={"provenance": {"dataset": "folder"}})
    commands = [words.split() for words, _, _ in WRONG]
    program = f"""
import contextlib, io, json, sys
from famecli.cli.app import main
for words in {commands}:
    sys.argv, told, code = ["fame", *words], io.StringIO(), 0
    with contextlib.redirect_stderr(told):
        try: main()
        except SystemExit as stop: code = int(stop.code or 0)
    print(json.dumps([code, told.getvalue(), "torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [
        (words, *each)
        for (words, code, told), each in zip(WRONG, found, strict=True)
        if each[0] != code or told not in each[1] or each[2]
    ]
    assert wrong == []
