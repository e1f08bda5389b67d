"""Forged checkpoints with consistent seals: no crash, no false likelihood, stated costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import CLAIM, Done, error_of, random_model, result_of, save_model
from support.forged import attack, check_likelihood, exact_nats
from support.forgeries import ladder, random_weights, smallest
from support.models import all_images

from famecli.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from famecli.config import costs
from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, SIZES, Size, model_config
from famecli.config.schema import DecoderConfig, ModelConfig
from famecli.data.registry import DATASETS
from famecli.errors import ExitCode, InputError
from famecli.model.fame import Fame
from famecli.nll.evaluate import evaluate
from famecli.verification import runner
from famecli.verification.findings import CHECKS
from famecli.verification.nll_checks import check_code
from famecli.verification.subject import SAMPLES

FEW = ("--samples", "4", "--limit", "3")


def loaded(config: ModelConfig) -> Fame:
    """Return a model with random weights, as from a file."""
    model = Fame(config).requires_grad_(False)
    model.load_state_dict(random_weights(config, 0))
    return model


@pytest.mark.parametrize("first", range(0, 40, 8))
def test_forged_files_neither_crash_nor_lie(first: int, tmp_path: Path) -> None:
    for number in range(first, first + 8):
        assert len(attack(0, number, tmp_path, FEW)) == 5


def test_an_infinite_divergence_under_a_finite_bound_is_an_error(tmp_path: Path) -> None:
    assert attack(0, 701, tmp_path, FEW)["evaluate-nll"] == ExitCode.NUMERICS


@pytest.mark.parametrize("number", [84, 85])
def test_features_and_logits_near_the_end_of_float32_are_no_lie(number: int, tmp_path: Path) -> None:
    codes = attack(0, number, tmp_path, FEW)
    assert codes["evaluate-nll"] == 0


def test_the_exact_likelihood_is_known_where_no_latents_are_read(tmp_path: Path) -> None:
    images = all_images(1, 2, 2).numpy()
    model = loaded(smallest())
    exact = exact_nats(model, images)
    assert exact is not None
    np.testing.assert_allclose(exact, evaluate(model, images).nats, rtol=1e-5)
    assert np.logaddexp.reduce(-exact) == pytest.approx(0.0, abs=1e-12)
    blind = loaded(ladder())
    assert exact_nats(blind, images) is None
    for layer in blind.decoder.layers:
        torch.nn.init.zeros_(layer.condition.weight)
    exact = exact_nats(blind, images)
    assert exact is not None
    np.testing.assert_allclose(exact, evaluate(blind, images).distortion, rtol=1e-5)
    reading = random_model("fame-no-concat", (1, 2, 2), 2, 0)
    assert exact_nats(reading, images) is None


@pytest.mark.parametrize(("config", "shift"), [(smallest(), 0.5), (ladder(), 2.0)])
def test_a_likelihood_that_is_too_good_is_seen(config: ModelConfig, shift: float, tmp_path: Path) -> None:
    path, weights = tmp_path / "model.safetensors", random_weights(config, 0)
    weights = {name: 0.0 * value if ".condition." in name else value for name, value in weights.items()}
    save_checkpoint(path, config, weights, None, {})
    images = np.repeat(all_images(1, 2, 2).numpy()[3:4], 10, axis=0)
    model = load_checkpoint(path).model
    nats = evaluate(model, images, importance_samples=10).nats

    def told(values: np.ndarray) -> Done:
        return Done(0, json.dumps({"image_nats": values.tolist()}).encode(), "")

    check_likelihood(path, images, told(nats), "honest")
    with pytest.raises(AssertionError, match="nats better than exact"):
        check_likelihood(path, images, told(nats - shift), "false")


def test_a_model_that_is_certain_has_a_code() -> None:
    model = loaded(smallest())
    for weight in model.parameters():
        torch.nn.init.constant_(weight, -200.0 if weight is model.decoder.head2.bias else 0.0)
    images = np.zeros((4, 1, 2, 2), np.uint8)
    assert evaluate(model, images).nats.sum() == 0.0
    assert check_code(model, images, "images").verdict == "passed"


def test_a_claim_about_an_unknown_data_set_is_skipped(tmp_path: Path) -> None:
    data = CLAIM["data"] | {"dataset_id": "nowhere", "images": 7}  # type: ignore[operator]
    path = save_model(tmp_path / "model.safetensors", "pixelcnn", facts={"claim": CLAIM | {"data": data}})
    document = result_of("verify", path, *FEW, "--checks", "batch,claims")
    verdicts = {check["name"]: (check["verdict"], check["sentence"]) for check in document["checks"]}
    assert verdicts["batch"][0] == "passed"
    assert verdicts["claims"][0] == "skipped"
    assert "nowhere" in verdicts["claims"][1]


# Weights of 3e38 make features that are no numbers, logits beyond float32, and an encoder that overflows.
TOO_LARGE = [
    ("pixelcnn", "decoder.first.weight"),
    ("pixelcnn", "decoder.head2.weight"),
    ("fame", "stages.0.up.weight"),
]
# Expected levels are too small for the encoder to overflow.
CASES = [
    *((*which, ("--decoder", "mean")) for which in TOO_LARGE[:2]),
    *((*which, words) for which in TOO_LARGE for words in ((), ("--precision", "bf16"))),
]


@pytest.mark.parametrize(("preset", "name", "words"), CASES)
@pytest.mark.parametrize("levels", [2, 256])
def test_samples_without_a_finite_nll_are_refused(
    preset: str, name: str, levels: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    model = random_model(preset, (1, 8, 8), levels, 0)
    weights = model.state_dict() | {name: torch.full_like(model.state_dict()[name], 3e38)}
    save_checkpoint(tmp_path / "x.safetensors", model.config, weights, None, {})
    message = error_of(6, "sample", tmp_path / "x.safetensors", "-n", "2", "-o", tmp_path / "x.png", *words)
    assert "finite" in message or "no mean" in message
    assert not (tmp_path / "x.png").exists()


def costly(side: int, **changes: Any) -> ModelConfig:
    sizes = {"width": 2, "layers": 1, "first_kernel": 3} | changes
    return ModelConfig("pixelcnn", "bernoulli", 1, side, side, 2, decoder=DecoderConfig(True, **sizes))


def test_pairs_of_attention_cost_time() -> None:
    plain, attentive = costly(32), costly(32, attention=(1,), heads=2, attention_width=6)
    more = costs.image_flop(attentive, 100) - costs.image_flop(plain, 100)
    assert more == 1024**2 * (4 * 6 + 100 * 2)


COSTLY = {
    "MiB of memory": costly(64, width=16, attention=(1,), heads=16),
    "steps to be drawn": costly(256, lag=256),
    "GFLOP": costly(128, width=512, layers=2, kernel=15),
}


@pytest.mark.parametrize("what", COSTLY)
def test_a_costly_model_is_refused_with_its_cost(what: str) -> None:
    config = COSTLY[what]
    with pytest.raises(InputError, match=rf"x: an image of its model takes [0-9,]+ {what}, at most [0-9,]+$"):
        costs.check_costs(config, count_parameters(config), "x")


def test_a_costly_model_is_refused_by_the_commands(tmp_path: Path) -> None:
    config = COSTLY["steps to be drawn"]
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, config, random_weights(config, 0), None, {})
    for words in (("sample", path, "-o", tmp_path / "x.png"), ("evaluate-nll", path), ("verify", path)):
        assert "steps to be drawn, at most 16,384" in error_of(3, *words)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_a_tenth_of_the_limits_at_most(preset: str, size: Size) -> None:
    for shape, levels in {(info.shape, info.levels) for info in DATASETS.values() if all(info.shape)}:
        config = model_config(preset, size, shape, levels)
        costs.check_costs(config, count_parameters(config), preset)
        assert 10 * costs.image_bytes(config) <= costs.MOST_IMAGE_BYTES
        assert 10 * costs.sampling_steps(config) <= costs.MOST_STEPS
        assert 10 * costs.image_flop(config, count_parameters(config)) <= costs.MOST_FLOP
        flop = runner.checks_flop(config, count_parameters(config), CHECKS, SAMPLES[config.likelihood], 1, 64)
        assert 10 * flop <= runner.MOST_FLOP
        assert (flop > runner.LONG_FLOP) == (size != "tiny")
