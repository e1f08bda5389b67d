"""Calls of the library from several threads of a program."""

import threading
from operator import attrgetter
from pathlib import Path
from typing import Any

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


def test_checks_draw_no_random_numbers_of_the_program(model: famecli.Model) -> None:
    before = torch.get_rng_state()
    model.verify(["normalisation", "latents", "sampler"], samples=2, images=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_thread_keeps_its_number_of_threads(model: famecli.Model, threads_put_back: None) -> None:
    torch.set_num_threads(2)
    found: list[int] = []

    def score() -> None:
        torch.set_num_threads(1)
        model.nll(model.sample(2))
        found.append(torch.get_num_threads())

    call = Call(model)
    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
    call.end()
    assert (found, torch.get_num_threads()) == ([1], 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"torch.backends": "tf32"},
        {"torch.backends.cuda.matmul": "tf32"},
        {"torch.backends.mkldnn.matmul": "bf16", "torch.backends.cudnn.conv": "ieee"},
    ],
    ids=str,
)
def test_any_precision_of_the_program_stays(model: famecli.Model, settings: dict[str, str]) -> None:
    names = ("", ".cuda.matmul", ".cudnn.conv", ".mkldnn.matmul", ".mkldnn.conv")
    owners: dict[str, Any] = {
        f"torch.backends{name}": attrgetter(name[1:])(torch.backends) if name else torch.backends
        for name in names
    }
    before = {name: owner.fp32_precision for name, owner in owners.items()}
    x = model.sample(2)
    expected = model.elbo(x).tolist()
    try:
        for name, value in settings.items():
            owners[name].fp32_precision = value
        own = {name: owner.fp32_precision for name, owner in owners.items()}
        assert model.elbo(x).tolist() == expected
        assert {name: owner.fp32_precision for name, owner in owners.items()} == own
        if "torch.backends" in settings:
            # What follows the general setting goes on following it.
            torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
            assert owners["torch.backends.cuda.matmul"].fp32_precision == "ieee"
    finally:
        for name, value in before.items():
            owners[name].fp32_precision = value


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
