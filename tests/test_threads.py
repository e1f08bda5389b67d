"""Calls of the library from several threads of a program."""

import threading
from pathlib import Path

import pytest
import torch
from support.commands import save_model

import famecli


@pytest.fixture
def model(tmp_path: Path) -> famecli.Model:
    return famecli.load(save_model(tmp_path / "vae.safetensors", preset="vae", shape=(1, 8, 8)))


class Call:
    """Likelihood in a thread of its own, that waits before its end."""

    def __init__(self, model: famecli.Model) -> None:
        self._inside, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: model.nll(model.sample(2), progress=self._wait))
        self._thread.start()
        assert self._inside.wait(60)

    def _wait(self, done: int, total: int) -> None:
        self._inside.set()
        assert self._go.wait(60)

    def end(self) -> None:
        self._go.set()
        self._thread.join()


def test_random_numbers_of_other_threads_are_not_drawn_again(model: famecli.Model, tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(4).tolist()
    torch.manual_seed(0)
    call = Call(model)
    found = torch.rand(2).tolist()
    call.end()
    famecli.load(tmp_path / "vae.safetensors")
    assert found + torch.rand(2).tolist() == expected


def test_settings_of_the_program_come_back_after_calls_that_overlap(model: famecli.Model) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        first = Call(model)
        second = Call(model)
        first.end()
        assert torch.get_default_dtype() == torch.float32
        second.end()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
