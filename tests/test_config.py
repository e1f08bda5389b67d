"""Configurations, presets, and how files, `--set` and flags change them."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, SIZES, Size, model_config, preset_named
from famecli.config.resolve import Setting, resolve, to_toml
from famecli.config.schema import (
    FORMER_TRAINING,
    DecoderConfig,
    ModelConfig,
    StageConfig,
    TrainConfig,
    to_dict,
)
from famecli.errors import ConfigError, ExitCode, UsageError

MNIST = (1, 28, 28)
COLOURS = (3, 32, 32)
CASES = [(preset, size) for preset in PRESETS for size in SIZES]
REMOVE = object()


def fame() -> ModelConfig:
    return model_config("fame", "tiny", MNIST, 2)


def changed(config: Any, path: str, value: object) -> dict[str, Any]:
    """Return `config` as a table with the value at `path`, such as "stages.0.width", replaced or removed."""
    table = json.loads(json.dumps(to_dict(config)))
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place = table
    for part in parents:
        place = place[part]
    if value is REMOVE:
        del place[last]
    else:
        place[last] = value
    return table


def settings(*texts: str) -> list[Setting]:
    return [Setting.parse(text) for text in texts]


def one_line(error: ConfigError) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize(("preset", "size"), CASES)
def test_every_preset_survives_json(preset: str, size: Size) -> None:
    for shape, levels in ((MNIST, 2), ((3, 32, 32), 256), ((1, 7, 5), 4)):
        config = model_config(preset, size, shape, levels)
        stored = json.loads(json.dumps(to_dict(config)))
        assert ModelConfig.from_dict(stored) == config
        assert config.image_shape == shape
        assert config.likelihood == ("bernoulli" if levels == 2 else "logistic-mixture")
    train = TrainConfig(lr=1 / 3, seed=2**63 - 1)
    assert TrainConfig.from_dict(json.loads(json.dumps(to_dict(train)))) == train


@pytest.mark.parametrize(("preset", "size"), CASES)
def test_a_preset_is_what_its_row_says(preset: str, size: Size) -> None:
    row = PRESETS[preset]
    for shape, levels in ((MNIST, 2), ((3, 32, 32), 256)):
        config = model_config(preset, size, shape, levels)
        assert (config.preset, config.decoder.autoregressive) == (preset, row.autoregressive)
        layers = [stage for stage in config.stages if stage.latents]
        assert {stage.dense for stage in layers} <= {row.latents == "dense"}
        assert bool(config.stages) == (row.latents != "none")
        assert (len(layers) > 1) == row.ladder
        # New models are normalised, and their latents bounded.
        assert config.normalised
        assert config.bounded_latents


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_these_sizes_have_pixels_without_attention_and_one_ladder_for_all(preset: str, size: Size) -> None:
    whole, config = model_config("fame", size, MNIST, 2), model_config(preset, size, MNIST, 2)
    assert (config.decoder.patch, config.decoder.attention) == (1, ())
    condition = whole.decoder.condition if config.stages else 0
    assert config.decoder == dataclasses.replace(
        whole.decoder, autoregressive=PRESETS[preset].autoregressive, condition=condition
    )
    switched = [dataclasses.replace(stage, latents=0, dense=False) for stage in config.stages]
    original = [dataclasses.replace(stage, latents=0) for stage in whole.stages]
    assert switched == (original if config.stages else [])


@pytest.mark.parametrize("preset", PRESETS)
def test_small_models_are_small_and_work_on_patches(preset: str) -> None:
    binary, coloured = model_config(preset, "small", MNIST, 2), model_config(preset, "small", COLOURS, 256)
    dense = PRESETS[preset].latents == "dense"
    for config in (binary, coloured):
        assert 700_000 <= count_parameters(config) <= (2_800_000 if dense else 1_700_000)
        assert config.decoder.patch == 2
    assert bool(binary.decoder.attention) == PRESETS[preset].autoregressive
    assert not coloured.decoder.attention


def test_the_ladder_and_the_pixelcnn_are_told_apart_by_the_rows() -> None:
    switches = {(row.latents, row.ladder, row.autoregressive) for row in PRESETS.values()}
    assert len(switches) == len(PRESETS)
    assert PRESETS["fame"].latents == "maps"
    assert PRESETS["pixelcnn"].latents == "none"


def test_unknown_presets_are_usage_errors_that_list_the_known() -> None:
    with pytest.raises(UsageError, match="'gan'") as caught:
        preset_named("gan")
    assert all(name in caught.value.hint for name in PRESETS)


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fame().levels = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "unknown key 'colour'"),
        ("decoder.depth", 1, "decoder: unknown key 'depth'"),
        ("stages.1.depth", 1, r"stages\[1\]: unknown key 'depth'"),
        ("likelihood", REMOVE, "key 'likelihood' is missing"),
        ("decoder", REMOVE, "key 'decoder' is missing"),
        ("stages.0.width", REMOVE, r"stages\[0\]: key 'width' is missing"),
        ("likelihood", "gauss", "likelihood = 'gauss' is none of bernoulli, logistic-mixture"),
        ("likelihood", ["bernoulli"], "likelihood"),
        ("channels", "1", "channels: expected int, got '1'"),
        ("channels", 1.0, "channels: expected int, got 1.0"),
        ("channels", True, "channels: expected int, got True"),
        ("channels", None, "channels: expected int, got None"),
        ("decoder", 5, "decoder: expected a table of keys, got int"),
        ("decoder.autoregressive", 1, "decoder: autoregressive: expected bool, got 1"),
        ("stages", {"0": {}}, "stages: expected a list, got dict"),
        ("stages.0", [], r"stages\[0\]: expected a table of keys, got list"),
        ("preset", 3, "preset: expected str, got 3"),
        ("channels", 0, "channels = 0 is outside 1 to 3"),
        ("channels", 2, "channels = 2"),
        ("height", 1025, "height = 1025 is outside"),
        ("width", -1, "width = -1 is outside"),
        ("levels", 3, "levels = 3 does not go with likelihood = bernoulli"),
        ("levels", 257, "levels = 257 is outside"),
        ("mixtures", 65, "mixtures = 65 is outside"),
        ("decoder.width", 10**30, "decoder.width = 1"),
        ("decoder.kernel", 4, "decoder.kernel = 4 is not odd"),
        ("decoder.first_kernel", 2, "decoder.first_kernel = 2 is not odd"),
        ("decoder.condition", 0, "decoder.condition = 0 with 3 stages"),
        ("stages", [], "decoder.condition = 12 with 0 stages"),
        ("stages.1.stride", 3, r"stages\[1\].stride = 3 is outside 1 to 2"),
        ("stages.1.blocks", 257, r"stages\[1\].blocks = 257 is outside"),
        ("stages.2.latents", 0, r"stages\[2\].latents = 0"),
        ("stages", [{"width": 1, "blocks": 0, "latents": 1}] * 65, "stages: 65 of them, at most 64"),
    ],
)
def test_a_bad_model_configuration_is_an_error_that_names_the_key(
    path: str, value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig.from_dict(changed(fame(), path, value))
    assert one_line(caught.value).startswith("model configuration: ")
    assert caught.value.exit_code == ExitCode.BAD_INPUT


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
def test_every_key_of_training_is_checked(field: dataclasses.Field[Any]) -> None:
    bad: list[object] = ["three", None, [1], True]
    if "minimum" in field.metadata:
        bad += [field.metadata["minimum"] - 1, field.metadata["maximum"] * 2]
    if field.type is float or field.type == "float":
        bad += [math.nan, math.inf]
    for value in bad:
        with pytest.raises(ConfigError, match=rf"training configuration: {field.name}\b") as caught:
            TrainConfig.from_dict({field.name: value})
        one_line(caught.value)
    with pytest.raises(ConfigError, match=f"unknown key '{field.name}_'") as caught:
        TrainConfig.from_dict({f"{field.name}_": field.default})
    assert field.name in caught.value.hint


def test_whole_numbers_will_do_for_fractions() -> None:
    config = TrainConfig.from_dict({"lr": 1})
    assert config.lr == 1.0
    assert type(config.lr) is float


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_what_is_no_table_is_a_config_error(data: object) -> None:
    for cls in (ModelConfig, TrainConfig):
        with pytest.raises(ConfigError, match="expected a table of keys"):
            cls.from_dict(data)


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(
            preset="x",
            likelihood="bernoulli",
            channels=2,
            height=0,
            width=28,
            levels=300,
            decoder=DecoderConfig(autoregressive=False, width=0, layers=999, kernel=2),
            stages=(StageConfig(width=0, blocks=-1, stride=0),),
        )
    message = one_line(caught.value)
    expected = ["channels", "height", "levels", "decoder.width", "decoder.layers", "decoder.kernel"]
    expected += [f"stages[0].{key}" for key in ("width", "blocks", "stride", "latents")]
    expected += ["decoder.condition"]
    assert [key for key in expected if f"{key} = " not in message] == []
    with pytest.raises(ConfigError, match=r"lr = -1.*batch_size = 0.*seed = -3"):
        TrainConfig(lr=-1, batch_size=0, seed=-3)


def test_a_model_of_nothing_is_refused() -> None:
    table = changed(model_config("pixelcnn", "tiny", MNIST, 2), "decoder.autoregressive", False)
    with pytest.raises(ConfigError, match="nothing models the image"):
        ModelConfig.from_dict(table)


def test_sizes_follow_from_the_configuration() -> None:
    config = model_config("fame", "paper", (3, 28, 27), 256)
    assert config.resolutions() == [(14, 14), (7, 7), (7, 7), (4, 4), (4, 4)]
    assert config.dimensions == 3 * 28 * 27
    assert config.stochastic_layers == 5
    assert TrainConfig(total_images=1000, batch_size=64).total_steps == 16
    assert TrainConfig(total_images=1024, batch_size=64).total_steps == 16


@pytest.mark.parametrize(("preset", "size"), CASES)
def test_toml_that_is_printed_reads_back(tmp_path: Path, preset: str, size: Size) -> None:
    model, train = model_config(preset, size, MNIST, 2), TrainConfig(lr=1e-5, total_images=10**12)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(model, train))
    assert resolve(fame(), TrainConfig(), file, [])[:2] == (model, train)


def test_assignments_outrank_the_file_and_later_ones_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[train]\nlr = 0.5\nbatch_size = 3\nseed = 4\n[model.decoder]\nlayers = 9\n")
    texts = ("lr=0.25", "train.seed=5", "train.seed=6", "decoder.kernel=5")
    model, train, *_ = resolve(fame(), TrainConfig(), file, settings(*texts))
    assert (train.lr, train.batch_size, train.seed) == (0.25, 3, 6)
    assert train == dataclasses.replace(TrainConfig(), lr=0.25, batch_size=3, seed=6)
    decoder = dataclasses.replace(fame().decoder, layers=9, kernel=5)
    assert model == dataclasses.replace(fame(), decoder=decoder)


def test_nested_keys_reach_into_stages() -> None:
    whole = "stages.0={width=5,blocks=2,stride=2}"
    found = settings("stages.1.latents=7", "model.stages.2.width=40")
    model, train, *_ = resolve(fame(), TrainConfig(), None, found)
    assert [stage.latents for stage in model.stages] == [0, 7, 4]
    assert [stage.width for stage in model.stages] == [16, 24, 40]
    assert train == TrainConfig()
    replaced = resolve(fame(), train, None, settings(whole)).model
    assert replaced.stages[0] == StageConfig(width=5, blocks=2, stride=2)
    assert resolve(fame(), train, None, settings("optimizer=adamw")).train.optimizer == "adamw"


def test_a_table_as_a_value_changes_the_keys_that_it_has() -> None:
    model, train, named, _ = resolve(
        fame(), TrainConfig(), None, settings("train={warmup_images=7}", "decoder={layers=9}")
    )
    assert train == dataclasses.replace(TrainConfig(), warmup_images=7)
    assert model == dataclasses.replace(fame(), decoder=dataclasses.replace(fame().decoder, layers=9))
    assert named == {("train", "warmup_images"): 7, ("model", "decoder", "layers"): 9}


@pytest.mark.parametrize("table", ["model", "train"])
def test_a_file_has_former_training_only_where_it_has_a_training(tmp_path: Path, table: str) -> None:
    told = tomllib.loads(to_toml(fame(), TrainConfig(seed=5)))
    for key in FORMER_TRAINING:
        del told["train"][key]
    file = tmp_path / "part.toml"
    file.write_text(tomli_w.dumps({table: told[table]}))
    train = resolve(fame(), TrainConfig(), file, []).train
    expected = FORMER_TRAINING | {"seed": 5} if table == "train" else {}
    assert to_dict(train) == to_dict(TrainConfig()) | expected


def test_a_later_value_may_replace_the_table_of_an_earlier_one() -> None:
    texts = ("stages.2.latents=8", "stages.0.latents=8", "stages=[{width=5, blocks=1, stride=2, latents=2}]")
    found = resolve(fame(), TrainConfig(), None, settings(*texts))
    stages = (StageConfig(width=5, blocks=1, stride=2, latents=2),)
    assert found.model.stages == stages
    assert found.named == {("model", "stages", "0", "latents"): 2, ("model", "stages"): [to_dict(stages[0])]}


def test_resolving_leaves_the_defaults_as_they_were() -> None:
    model, before = fame(), copy.deepcopy(to_dict(fame()))
    resolve(model, TrainConfig(), None, settings("stages.1.latents=7", "decoder.layers=9"))
    assert to_dict(model) == before


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("free_nat=2", "unknown key 'free_nat'", "did you mean free_nats?"),
        ("train.batchsize=2", "unknown key 'batchsize'", "did you mean batch_size?"),
        ("decoder.layer=2", "unknown key 'layer'", "did you mean layers?"),
        ("stages.1.latent=2", "unknown key 'latent'", "did you mean latents?"),
        ("stages.9.latents=2", "unknown key '9'", ""),
        ("stages.-1.latents=2", "unknown key '-1'", ""),
        (f"stages.{'1' * 5000}.latents=1", "unknown key '111", ""),
        ("lr.x=2", "unknown key 'x'", ""),
        ("train={decay_star=0.5}", "train.decay_star: unknown key 'decay_star'", "did you mean decay_start?"),
        ("zzz=2", "unknown key 'zzz'", "known keys: preset"),
        ("=2", "unknown key ''", "known keys"),
        ("lr", "expected key=value", ""),
        ("lr=", "lr: expected float", ""),
        ("lr=fast", "lr: expected float, got 'fast'", ""),
        ("lr=2020-01-01", "lr: expected float", ""),
        ("lr=[[[", "lr: expected float", ""),
        ("lr=" + "[" * 5000, "lr: expected float", ""),
        ("model=3", "expected a table of keys", ""),
        ("batch_size=1.5", "batch_size: expected int", ""),
        ("decoder.kernel=2", "decoder.kernel = 2 is not odd", ""),
    ],
)
def test_a_bad_assignment_is_an_error_that_names_the_key(assignment: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(fame(), TrainConfig(), None, settings(assignment))
    assert message in one_line(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[train]\nlearning_rate = 1", "unknown key 'learning_rate'", "known keys"),
        ("[train]\nbatch_sise = 1", "train.batch_sise: unknown key 'batch_sise'", "did you mean batch_size?"),
        ("[trian]\nlr = 1", "unknown key 'trian'", "did you mean train?"),
        ("[model.decoder]\nwidht = 1", "model.decoder.widht: unknown key 'widht'", "did you mean width?"),
        ("train = 3", "expected a table of keys", ""),
        ("[[model.stages]]\nblocks = 1", "stages[0]: key 'width' is missing", ""),
        ("lr = = 3", "not TOML", ""),
        ("x = " + "[" * 5000, "not TOML", ""),
        ("[train]\nlr = 99", "lr = 99.0 is outside 0.0 to 10.0", ""),
    ],
)
def test_a_bad_file_is_an_error_that_names_the_key(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve(fame(), TrainConfig(), file, [])
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_files_that_are_missing_or_no_text_are_named(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe")
    for path in (file, tmp_path / "absent.toml", tmp_path):
        with pytest.raises(Exception, match=str(path)) as caught:
            resolve(fame(), TrainConfig(), path, [])
        assert getattr(caught.value, "exit_code", None) == ExitCode.BAD_INPUT


def test_printed_toml_holds_every_key() -> None:
    table = tomllib.loads(to_toml(fame(), TrainConfig()))
    assert set(table["train"]) == {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(table["model"]) == {field.name for field in dataclasses.fields(ModelConfig)}
    assert len(table["model"]["stages"]) == 3


@pytest.mark.parametrize(
    "module",
    [
        "famecli.config.schema",
        "famecli.config.presets",
        "famecli.checkpoints.header",
        "famecli.errors",
        "famecli.cli.app",
    ],
)
def test_modules_that_need_no_torch_do_not_load_it(module: str) -> None:
    code = f"import sys, {module}; print(*({{'torch', 'requests', 'PIL'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
