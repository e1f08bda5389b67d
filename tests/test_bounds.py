"""Importance weights: the log of their mean, the curve over their number, its errors, and their memory."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.commands import ROOT
from support.integrals import EVERY, exact_nats, two_latents

from famecli.nll.evaluate import ImageNlls, evaluate, stderr_over_images
from famecli.nll.importance import block_sizes, weigh

COPIES = 1000
# The largest deviation from a mean, in standard errors, that is put down to chance.
SIGMAS = 4.0


def copies_of(index: int, count: int = COPIES) -> np.ndarray:
    """Return an image so many times: each has latents of its own."""
    return np.repeat(EVERY[index : index + 1].numpy(), count, axis=0)


def random_weights(images: int, samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return -80.0 + torch.randn(images, samples, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return exact_nats(two_latents())


@pytest.fixture(scope="module")
def many() -> ImageNlls:
    """Image 5, 1,000 times with 50 samples."""
    return evaluate(two_latents(), copies_of(5), importance_samples=50, batch_size=5000)


def test_the_integrals_are_probabilities(exact: np.ndarray) -> None:
    assert np.exp(-exact).sum() == pytest.approx(1.0, abs=1e-9)
    assert exact.std() > 0.3


def test_blocks_are_1_2_5_and_so_on_up_to_all() -> None:
    assert block_sizes(1) == (1,)
    assert block_sizes(10) == (1, 2, 5, 10)
    assert block_sizes(10_000)[-4:] == (1000, 2000, 5000, 10_000)
    assert block_sizes(777)[-2:] == (500, 777)


@pytest.mark.parametrize("samples", [2, 7, 50])
def test_equal_weights_give_their_value_for_any_number(samples: int) -> None:
    found = weigh(torch.full((3, samples), -80.5, dtype=torch.float64))
    assert found.curve == pytest.approx(np.full((3, len(found.samples)), 80.5), abs=1e-12)
    assert found.stderr == pytest.approx(np.zeros_like(found.curve), abs=1e-7)
    assert found.effective == pytest.approx(np.full(3, samples))


def test_the_curve_and_its_errors_are_those_of_disjoint_blocks() -> None:
    weights = random_weights(4, 23)
    found = weigh(weights)
    assert found.samples == (1, 2, 5, 10, 20, 23)
    for column, size in enumerate(found.samples):
        blocks = [
            -weights[:, start : start + size].exp().mean(1).log() for start in range(0, 23 - size + 1, size)
        ]
        each = torch.stack(blocks, dim=1).numpy()
        assert found.curve[:, column] == pytest.approx(each.mean(1), rel=1e-12)
        if len(blocks) > 1:
            expected = each.std(1, ddof=1) / math.sqrt(len(blocks))
            assert found.stderr[:, column] == pytest.approx(expected, rel=1e-9)
    relative = weights.exp().numpy() / weights.exp().mean(1, keepdim=True).numpy()
    assert found.stderr[:, -1] == pytest.approx(relative.std(1, ddof=1) / math.sqrt(23), rel=1e-9)
    assert found.effective == pytest.approx(23**2 / np.square(relative).sum(1), rel=1e-9)


@pytest.mark.parametrize("samples", [3, 99, 150])
def test_the_error_of_a_single_block_is_that_of_its_weights(samples: int) -> None:
    log_weights = (random_weights(400, samples) + 80.0) / 4
    found = weigh(log_weights)
    single = [place for place, size in enumerate(found.samples) if samples // size == 1]
    assert len(single) == 2
    for place in single:
        weights = log_weights[:, : found.samples[place]].exp()
        expected = weights.std(1) / weights.mean(1) / math.sqrt(found.samples[place])
        assert np.allclose(found.stderr[:, place], expected, rtol=1e-9)
        # How far means of so many weights are apart.
        spread = math.sqrt(np.square(found.stderr[:, place]).mean())
        assert spread == pytest.approx(found.curve[:, place].std(), rel=0.15)


def test_weights_far_below_the_smallest_float_are_weighed() -> None:
    found, lower = weigh(random_weights(2, 10)), weigh(random_weights(2, 10) - 5000.0)
    assert lower.curve - 5000.0 == pytest.approx(found.curve, abs=1e-9)
    assert lower.stderr == pytest.approx(found.stderr, rel=1e-6)


@pytest.mark.parametrize("samples", [2, 10])
def test_the_mean_weight_is_right_on_average(exact: np.ndarray, samples: int) -> None:
    found = evaluate(two_latents(), copies_of(5), importance_samples=samples, batch_size=5000)
    ratios = np.exp(exact[5] - found.nats)
    assert abs(ratios.mean() - 1.0) < SIGMAS * stderr_over_images(ratios)
    assert stderr_over_images(ratios) < 0.05


def test_each_number_of_the_curve_is_what_so_many_samples_give(many: ImageNlls) -> None:
    assert many.importance is not None
    for samples in (2, 10):
        alone = evaluate(two_latents(), copies_of(5), importance_samples=samples, seed=1, batch_size=5000)
        column = many.importance.samples.index(samples)
        of_curve = many.importance.curve[:, column]
        error = math.hypot(stderr_over_images(of_curve), alone.stderr)
        assert abs(of_curve.mean() - alone.mean) < SIGMAS * error
    assert np.array_equal(many.importance.curve[:, -1], many.nats)


def test_the_curve_falls_towards_the_truth(many: ImageNlls, exact: np.ndarray) -> None:
    assert many.importance is not None
    curve = many.importance.curve
    for before, after in zip(curve.T, curve.T[1:], strict=False):
        assert (before - after).mean() > 2 * stderr_over_images(before - after)
    assert (curve[:, -1] - exact[5]).mean() > -SIGMAS * stderr_over_images(curve[:, -1])
    assert curve[:, 0].mean() - exact[5] > 0.05


def test_errors_over_latents_are_how_far_runs_are_apart(many: ImageNlls) -> None:
    assert many.importance is not None
    # Fewest blocks have the noisiest errors: their mean square is compared.
    for found, curve in zip(many.importance.stderr.T, many.importance.curve.T, strict=True):
        assert math.sqrt(np.square(found).mean()) == pytest.approx(curve.std(ddof=1), rel=0.15)
    expected = np.sqrt(np.square(many.importance.stderr).sum(0)) / COPIES
    assert many.importance.stderr_of_means == pytest.approx(expected)


def test_ten_thousand_samples_come_to_the_truth(exact: np.ndarray) -> None:
    images = np.stack([EVERY[index].numpy() for index in (0, 5, 10)])
    found = evaluate(two_latents(), images, importance_samples=10_000, batch_size=1000)
    assert found.importance is not None
    stderr = found.importance.stderr[:, -1]
    assert (np.abs(found.nats - exact[[0, 5, 10]]) < SIGMAS * stderr).all()
    assert stderr.max() < 0.03


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_no_curve_and_no_error(batch_size: int) -> None:
    images = EVERY[:5].numpy()
    expected = evaluate(two_latents(), images, importance_samples=30, batch_size=1000).importance
    found = evaluate(two_latents(), images, importance_samples=30, batch_size=batch_size).importance
    assert found is not None
    assert expected is not None
    for name in ("curve", "stderr", "effective"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9)


MEMORY = """
import resource, sys
import torch
torch.set_num_threads(1)
from support.models import preset_model, random_images
from famecli.nll.evaluate import evaluate
model = preset_model("fame", (1, 8, 8), dtype=torch.float32)
images = random_images(1, (1, 8, 8)).numpy()
for samples in map(int, sys.argv[1:]):
    evaluate(model, images, importance_samples=samples, batch_size=100)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    if sys.platform != "linux":
        pytest.skip("the unit of ru_maxrss is another elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "300", "10000"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=True,
    )
    few, many = (1024 * int(line) for line in done.stdout.split())
    # The weights are 80 kB; 10,000 draws of this model at once were measured to take 330 MB.
    assert many - few < 16e6
