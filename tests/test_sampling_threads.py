"""How many threads the sampler's products get."""

import pytest
import torch

from famecli.sampling.execution import THREADED_WORK, ThreadTrial, threads_for


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
