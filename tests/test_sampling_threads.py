"""How many threads the sampler's products get."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import random_model, save_model

from famecli.checkpoints import checkpoint
from famecli.nll.evaluate import evaluate
from famecli.sampling.execution import FEW_IMAGES, THREADED_WORK, ThreadTrial, threads_for
from famecli.sampling.generate import generate_batches


@pytest.mark.usefixtures("threads_put_back")
def test_small_products_take_one_thread_and_leave_the_setting_as_it_was() -> None:
    torch.set_num_threads(2)
    for work, expected in ((THREADED_WORK - 1, 1), (THREADED_WORK, 2)):
        with threads_for(work):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("threads_put_back")
@pytest.mark.parametrize(
    ("waits", "expected"),
    [([], [1] * 2 + [2] * 10), ([5], [1] * 2 + [2] * 4 + [1] * 6), ([8], [1] * 2 + [2] * 7 + [1] * 3)],
)
def test_threads_are_given_up_where_they_turn_out_to_be_slower(waits: list[int], expected: list[int]) -> None:
    torch.set_num_threads(2)
    now, used = 0.0, []
    trial = ThreadTrial(24, lambda: now)
    for index in range(12):
        with trial.step(3, typical=False):
            # A small step, and a misleading one.
            now += 1000 * torch.get_num_threads()
        pixels = 10 + index
        with trial.step(pixels, typical=True):
            used.append(torch.get_num_threads())
            # The first step with one thread waits as well.
            now += pixels * {1: 3.0, 2: 2.0}[used[-1]] + 500 * (index == 0 or index in waits)
    assert used == expected


def test_with_one_thread_there_is_nothing_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    trial = ThreadTrial(24)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: pytest.fail("threads were set"))
    for _ in range(12):
        with trial.step(5, typical=True):
            pass


@pytest.mark.usefixtures("threads_put_back")
def test_loading_and_few_images_take_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    used: list[int] = []

    def noting(target: object, name: str) -> None:
        function = getattr(target, name)

        def call(*words: object, **named: object) -> object:
            used.append(torch.get_num_threads())
            return function(*words, **named)

        monkeypatch.setattr(target, name, call)

    noting(checkpoint, "parse_checkpoint")
    model = checkpoint.load_checkpoint(save_model(tmp_path / "m.safetensors", "vae", (1, 8, 8))).model
    assert used == [1]
    noting(type(model), "forward")
    for images, samples in ((FEW_IMAGES, 1), (1, FEW_IMAGES), (FEW_IMAGES + 1, 1), (FEW_IMAGES, 2)):
        evaluate(model, np.zeros((images, 1, 8, 8), np.uint8), importance_samples=samples)
    assert used[1:] == [1, 1, 2, 2]
    used.clear()
    noting(type(model), "prior_condition")
    for images in (1, FEW_IMAGES, FEW_IMAGES + 1):
        next(iter(generate_batches(model, range(images))))
    assert used == [1, 1, 2]


@pytest.mark.usefixtures("threads_put_back")
def test_the_nll_of_an_image_does_not_depend_on_the_threads_of_few_images() -> None:
    model = random_model("fame", (1, 8, 8), 2, 0)
    levels = np.random.default_rng(0).integers(0, 2, (FEW_IMAGES + 1, 1, 8, 8), np.uint8)
    torch.set_num_threads(2)
    together, alone = evaluate(model, levels), evaluate(model, levels[:1])
    assert alone.nats[0] == pytest.approx(together.nats[0], rel=1e-6)
