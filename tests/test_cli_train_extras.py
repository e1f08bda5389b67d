"""What `fame train` leaves and shows beside its result: checkpoints, samples, metrics, first weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from support.classes import class_folder
from support.commands import fame as with_stdin
from support.outcomes import Command, error_lines
from support.trainers import metrics

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.checkpoints.provenance import FirstWeights
from famecli.grids import enlarged, grid
from famecli.output import Output, terminal_picture
from famecli.sampling.generate import generate
from famecli.training.trainer import StepRecord, Trainer


class DeathError(Exception):
    """In the place of what kills a process."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Before which step, if any, a training dies."""
    step, at = Trainer.step, {"step": -1}

    def spoiled(trainer: Trainer) -> StepRecord:
        if trainer.step_count + 1 == at["step"]:
            raise DeathError
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", spoiled)
    return at


def numbered(run: str = "run") -> list[int]:
    return [int(path.stem.removeprefix("images-")) for path in sorted(Path(run).glob("images-*"))]


def test_checkpoints_of_the_last_validations_are_kept(train: Command) -> None:
    assert train("vae", "--steps", 9, "--keep", 2, "-o", "run").code == 0
    assert numbered() == [48, 54]
    for images in numbered():
        loaded = load_checkpoint(Path(f"run/images-{images:012d}.safetensors"))
        assert loaded.provenance.images_seen == images
    last = load_checkpoint(Path("run/last.safetensors"))
    assert load_checkpoint(Path("run/images-000000000054.safetensors")).weights_sha256 == last.weights_sha256
    assert train("vae", "--steps", 4, "-o", "run", "--resume", "never").code == 0
    assert numbered() == []


def test_checkpoints_later_than_the_state_that_is_resumed_go(train: Command, dying: dict[str, int]) -> None:
    words = ("vae", "--steps", 9, "--keep", 5, "-o", "run")
    train(*words, "--max-time", "0s")
    dying["step"] = 8
    with pytest.raises(DeathError):
        train(*words)
    assert numbered() == [12, 24, 36]
    dying["step"] = 4
    with pytest.raises(DeathError):
        train(*words)
    assert numbered() == [12]


def test_samples_are_drawn_as_often_as_asked_from_the_averages(train: Command) -> None:
    words = ("fame", "--steps", 4, "--eval-every", 24, "-o", "run", "--sample-every", 11)
    assert train(*words).code == 0
    names = sorted(path.name for path in Path("run/samples").iterdir())
    assert names == ["000000000012.png", "000000000024.png"]
    model = load_checkpoint(Path("run/last.safetensors"), "ema").model
    drawn = generate(model, range(64)).transpose(0, 2, 3, 1) * 255
    found = np.asarray(Image.open("run/samples/000000000024.png"))
    np.testing.assert_array_equal(found, enlarged(grid(drawn, 8), 2)[..., 0])


def test_drawing_samples_changes_nothing_of_the_training(train: Command) -> None:
    hashes = []
    for name, more in (("with", ("--sample-every", 6, "--keep", 1)), ("without", ())):
        assert train("fame", "--steps", 3, "-o", name, *more).code == 0
        hashes.append(load_checkpoint(Path(name, "last.safetensors"), "raw").weights_sha256)
    assert hashes[0] == hashes[1]


def test_samples_are_shown_in_a_terminal(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Output.__init__

    def on_a_terminal(output: Output, **told: bool) -> None:
        start(output, **told)
        output.errors = Console(stderr=True, force_terminal=True, width=80, soft_wrap=True)

    monkeypatch.setattr(Output, "__init__", on_a_terminal)
    outcome = train("fame", "--steps", 2, "-o", "run", "--sample-every", 12, "--preview")
    assert (outcome.code, outcome.out) == (0, "run/best.safetensors\n")
    model = load_checkpoint(Path("run/last.safetensors"), "ema").model
    drawn = generate(model, range(16)).transpose(0, 2, 3, 1) * 255
    assert terminal_picture(drawn, 80) in outcome.err


def test_without_a_terminal_or_samples_there_is_nothing_to_show(train: Command) -> None:
    outcome = train("vae", "--steps", 2, "-o", "run", "--sample-every", 6, "--preview")
    assert outcome.code == 0
    assert outcome.err.startswith("warning: a preview needs a terminal\n")
    assert outcome.err.count("a preview") == 1
    outcome = train("vae", "--steps", 2, "-o", "none", "--preview")
    assert (outcome.code, error_lines(outcome)) == (2, ["error: --preview shows samples of the training"])
    assert not Path("none").exists()


def test_metrics_are_streamed_in_place_of_the_path(train: Command) -> None:
    words = ("pixelcnn", "--steps", 4, "--set", "warmup_images=6", "-o", "run", "--log", "-")
    first = train(*words, "--max-time", "0s")
    assert first.code == 75
    second = train(*words, "-q")
    assert (second.code, second.err) == (0, "")
    lines = [json.loads(line) for line in (first.out + second.out).splitlines()]
    assert len(first.out.splitlines()) == 1
    assert lines == metrics(Path("run"))
    for odd in (("--log", "metrics.jsonl"), ("--log", "-", "--json")):
        outcome = train("vae", "--steps", 1, "-o", "none", *odd)
        assert (outcome.code, len(error_lines(outcome))) == (2, 1)
    assert not Path("none").exists()


def test_first_weights_come_through_stdin_once(train: Command, data: Path) -> None:
    assert train("vae", "--steps", 2, "-o", "first").code == 0
    content = Path("first/best.safetensors").read_bytes()
    words = ("--data", data, "--batch-size", "6", "--steps", "2", "-o", "run")
    assert with_stdin("train", "vae", "--init", "-", *words, stdin=content).code == 0
    told = load_checkpoint(Path("run/best.safetensors")).provenance.init
    assert told is not None
    assert (told.source, told.sha256) == ("-", hashlib.sha256(content).hexdigest())


def test_classes_of_first_weights_and_of_runs_are_not_given_up_silently(
    fame: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--dataset", "folder", "--data", class_folder(tmp_path / "x"), "--batch-size", 4, "--steps", 2)
    assert fame("train", "vae", "--size", "tiny", "--conditional", *words, "-o", "first").code == 0
    for more in (("-o", "run", "--init", "first"), ("-o", "first")):
        outcome = fame("train", "vae", "--no-conditional", *words, *more)
        assert outcome.code == 2
        assert "has classes, and --conditional is off" in error_lines(outcome)[0]
        assert fame("train", "vae", *words, *more).code == 0
    assert load_checkpoint(Path("run/best.safetensors")).model.config.classes == ("cat", "dog")


def test_a_configuration_may_lie_in_the_folder_of_its_run(train: Command) -> None:
    printed = train("vae", "--steps", 2, "--print-config").out
    Path("run").mkdir()
    Path("run/config.toml").write_text(printed)
    assert train("--config", "run/config.toml", "-o", "run").code == 0


def test_first_weights_for_other_images_are_told_by_their_shape(train: Command, fame: Command) -> None:
    assert train("pixelcnn", "--steps", 2, "-o", "first").code == 0
    np.save("x.npy", np.zeros((60, 9, 7), np.uint8))
    outcome = fame("train", "--init", "first", "--dataset", "folder", "--data", "x.npy", "-o", "run")
    assert outcome.code == 2
    assert "is for images (1, 28, 28) of 2 levels; folder has images (1, 9, 7)" in error_lines(outcome)[0]
    # The preset is that of the first weights, also in another size.
    larger = train("--init", "first", "--size", "small", "--print-config")
    assert 'preset = "pixelcnn"' in larger.out


def test_checkpoints_tell_their_first_weights_also_after_a_stop(train: Command, fame: Command) -> None:
    train("vae", "--steps", 2, "-o", "first")
    first = load_checkpoint(Path("first/best.safetensors"))
    words = ("vae", "--steps", 4, "-o", "run")
    assert train(*words, "--init", "first", "--max-time", "0s").code == 75
    assert train(*words).code == 0
    for name in ("best", "last"):
        told = load_checkpoint(Path(f"run/{name}.safetensors")).provenance.init
        past = first.provenance.trainings
        assert told == FirstWeights("first", first.sha256, first.weights_sha256, past)
        assert [(each.dataset, each.processes, each.seed) for each in past] == [("mnist", 1, 0)]
    assert first.provenance.init is None
    assert first.sha256 in fame("info", "run", "--json").out
