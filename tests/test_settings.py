"""The table of configuration keys, and where it is shown."""

import dataclasses
import json
import tomllib
from pathlib import Path

from support.outcomes import Command

from famecli.cli.grouping import flags_for_parameters
from famecli.cli.train_options import FLAGS
from famecli.config.presets import model_config
from famecli.config.resolve import keys, keys_as_markdown, resolve, to_toml
from famecli.config.schema import TrainConfig, leaves
from famecli.training.options import TrainOptions

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def test_the_table_has_every_key_that_is_printed_and_no_other() -> None:
    text = to_toml(model_config("fame", "tiny", (1, 28, 28), 2), TrainConfig())
    printed = {
        ".".join("N" if part.isdecimal() else part for part in path)
        for path, _ in leaves(tomllib.loads(text))
        if "attention" not in path
    }
    # Empty lists are not printed as keys of a leaf.
    assert {row.key for row in keys()} == printed | {"model.decoder.attention", "model.classes"}
    assert all(row.meaning and row.type for row in keys())


def test_defaults_of_the_table_are_those_of_a_training() -> None:
    preset = model_config("fame", "tiny", (1, 28, 28), 2)
    for row in keys():
        if row.default:
            default = dataclasses.asdict(TrainConfig())[row.key.removeprefix("train.")]
            assert row.default == str(default)
    assert resolve(preset, TrainConfig(), None, []).train == TrainConfig()


def test_the_page_holds_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith("\n\n" + keys_as_markdown())


def test_the_command_prints_the_table(fame: Command) -> None:
    shown, listed = fame("train", "--help-settings"), fame("train", "--help-settings", "-q")
    document = json.loads(fame("train", "--help-settings", "--json").out)
    assert document == {"schema": "famecli/settings/1", "settings": [row._asdict() for row in keys()]}
    assert listed.out.split() == [row.key for row in keys()]
    assert all(row.key in shown.out and row.meaning in shown.out for row in keys())


def test_an_error_tells_the_meaning_of_its_key(fame: Command, data: Path) -> None:
    outcome = fame("train", "--set", "lr=99", "--print-config")
    assert "lr = 99.0 is outside 0.0 to 10.0 (learning rate of AdamW" in outcome.err
    outcome = fame("train", "--set", "clip_norm=far", "--print-config")
    assert outcome.err.splitlines()[-1] == "hint: maximum norm of the gradient, in nats per image"


def test_errors_of_the_library_get_the_words_of_the_command(fame: Command, data: Path) -> None:
    words = "`settings`, `out`, `resume=False`, `accumulate=2`, `init=a run`, `width` or `save_every_s=3`"
    expected = "--set, --out, --resume never, --accumulate 2, --init 'a run', `width` or --save-every 3"
    assert flags_for_parameters(words) == expected
    # The first of several long flags.
    assert flags_for_parameters("`size`") == "--size"
    assert "hint: pass their folder or file as --data" in fame("datasets", "verify", "folder").err


def test_every_parameter_of_a_training_can_be_typed() -> None:
    assert {field.name for field in dataclasses.fields(TrainOptions)} - set(FLAGS) == {
        "device",
        "threads",
        "offline",
        "cache_dir",
    }
