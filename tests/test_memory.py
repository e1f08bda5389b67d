"""When memory runs out: pieces become smaller, the largest batch is found, and trainings give advice."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import check_error, save_model, use_small_mnist
from support.commands import fame as fame_here
from support.outcomes import Command, error_lines
from support.trainers import split_of, trainer_of

from famecli.config.presets import model_config
from famecli.config.resolve import Setting
from famecli.config.schema import TrainConfig
from famecli.errors import OutOfMemoryError
from famecli.evaluation import score
from famecli.model.fame import Fame
from famecli.runtime.distributed import ALONE, Group
from famecli.runtime.memory import AdaptiveBatches
from famecli.training import capacity, setup
from famecli.training.capacity import USED, explain_failed_steps, largest_batch, peak_on_gpu
from famecli.training.options import TrainOptions
from famecli.training.plan import make_plan
from famecli.training.setup import make_trainer
from famecli.training.trainer import Trainer

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("could not create a primitive"),
    MemoryError(),
]
# Runs the words after the number of MiB, which the process may take beyond what importing took.
LIMITED = """
import re, resource, sys
import torch
import famecli.nll.evaluate, famecli.training.run
from famecli.cli.app import main
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 2**10
most = used + int(sys.argv.pop(1)) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
main()
"""


class DeathError(Exception):
    """In the place of what a test stops before."""


@pytest.fixture(params=FULL, ids=["cuda", "cpu", "onednn", "numpy"])
def full(request: pytest.FixtureRequest) -> Exception:
    error: Exception = request.param
    return error


def squares_of(
    limit: int, error: Exception, pieces: AdaptiveBatches, images: int
) -> tuple[list[int], list[int]]:
    """Squares of numbers, of which no more than `limit` fit in memory; and how many were tried at once."""
    tried: list[int] = []

    def work(rows: slice) -> list[int]:
        tried.append(rows.stop - rows.start)
        if tried[-1] > limit:
            raise error
        return [row**2 for row in range(rows.start, rows.stop)]

    return [value for piece in pieces.map(range(images), work) for value in piece], tried


def test_pieces_become_smaller_for_good_and_say_so(full: Exception) -> None:
    said: list[str] = []
    pieces = AdaptiveBatches(8, report=said.append)
    for tries in ([8, 4, 2, 2, 2, 2, 2, 1], [2, 2, 2, 2, 2, 1]):
        found, tried = squares_of(3, full, pieces, 11)
        assert found == [row**2 for row in range(11)]
        assert tried == tries
    assert said == [
        "out of memory with 8 images at once, going on with 4",
        "out of memory with 4 images at once, going on with 2",
    ]


def test_pieces_are_multiples_of_the_smallest_which_is_the_last_tried(full: Exception) -> None:
    tried: list[int] = []

    def fail(rows: slice) -> None:
        tried.append(rows.stop - rows.start)
        raise full

    with pytest.raises(type(full)):
        list(AdaptiveBatches(24, smallest=8).map(range(24), fail))
    assert tried == [24, 8]


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        squares_of(0, RuntimeError("shapes do not fit"), AdaptiveBatches(4), 4)


@pytest.mark.parametrize(
    ("per_image", "free", "most", "expected"),
    [(1, 100, 512, 64), (1, 10**9, 512, 512), (1, 10**9, 300, 256), (1, 10**9, 3, 2), (40, 100, 512, 2)],
)
def test_the_largest_batch_that_fits_has_been_tried(
    full: Exception, per_image: int, free: int, most: int, expected: int
) -> None:
    tried: list[int] = []

    def peak_bytes(images: int) -> int:
        tried.append(images)
        if images * per_image > free:
            raise full
        return images * per_image

    found = largest_batch(peak_bytes, free, most)
    assert found == expected
    assert found in tried
    assert max(tried) <= most
    assert found * per_image <= USED * free


def test_one_image_is_left_where_nothing_fits(full: Exception) -> None:
    def never(images: int) -> int:
        raise full

    assert largest_batch(never, 100) == 1


def test_a_defect_is_no_lack_of_memory() -> None:
    def broken(images: int) -> int:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_batch(broken, 100)


@pytest.mark.parametrize(
    ("accumulate", "advice"),
    [
        (1, "add `accumulate=2` to compute 3 at once: same result; or start anew with `batch_size=3`"),
        (6, "choose a smaller `size`, or a device with more memory"),
    ],
)
def test_the_advice_fits_the_training(full: Exception, accumulate: int, advice: str) -> None:
    trainer = trainer_of("vae", accumulate=accumulate)
    with pytest.raises(OutOfMemoryError) as caught, explain_failed_steps(trainer):
        raise full
    assert f"step 1 with {trainer.images_at_once} images at once" in str(caught.value)
    assert caught.value.hint == advice


def test_a_training_out_of_memory_ends_with_8_and_goes_on_in_parts(
    train: Command, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    backward, words = Trainer._backward, ("vae", "--steps", 4, "-o", "run", "--save-every", "0.000001s")

    def limited(trainer: Trainer, batch: object, rows: slice, mean_rate: object) -> object:
        if trainer.step_count == 2 and rows.stop - rows.start > 3:
            raise full
        return backward(trainer, batch, rows, mean_rate)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_backward", limited)
    outcome = train(*words)
    assert outcome.code == 8
    assert error_lines(outcome) == ["error: out of memory in step 3 with 6 images at once"]
    assert outcome.err.splitlines()[-1].startswith("hint: add --accumulate 2 to compute 3 at once")
    outcome = train(*words, "--accumulate", 2)
    assert outcome.code == 0
    assert "resumed at 12 images" in outcome.err


class Other(Group):
    """One of two processes, whose other one has less memory."""

    def all_reduce_max(self, value: int) -> int:
        return max(value, -4)


def test_the_process_with_least_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 100))
    monkeypatch.setattr(capacity, "peak_on_gpu", lambda *told: lambda images: images)
    trainer = trainer_of("vae")
    told = (trainer.model.config, trainer.config, split_of(1000), torch.device("cuda"), "fp32")
    assert capacity.largest_common_batch(*told, 1, ALONE) == 64  # type: ignore[arg-type]
    assert capacity.largest_common_batch(*told, 3, Other(0, 2)) == 4 * 3 * 2  # type: ignore[arg-type]


def test_a_batch_of_any_size_is_measured_if_none_is_given(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(capacity, "largest_common_batch", lambda *told: measured.append(12) or 12)
    built: list[TrainConfig] = []

    def build(model: object, config: TrainConfig, *rest: object) -> None:
        built.append(config)
        raise DeathError

    monkeypatch.setattr(setup, "Trainer", build)

    def batch(device: str, **told: Any) -> tuple[int, int]:
        monkeypatch.setattr(setup, "device_named", lambda name: torch.device(device))
        options = TrainOptions(preset="vae", data=data, steps=2, out=tmp_path / "run", **told)
        with pytest.raises(DeathError):
            make_trainer(make_plan(options))
        return built[-1].batch_size, built[-1].total_images

    fixed: list[dict[str, Any]] = [{"batch_size": 5}, {"settings": [Setting("batch_size", 5)]}]
    assert batch("cuda") == batch("cuda", resume="never") == (12, 24)
    assert [batch("cuda", **told) for told in fixed] == [(5, 10), (5, 10)]
    assert batch("cpu") == (16, 32)
    assert len(measured) == 2


def limited(mib: int, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(mib), *map(str, words)]
    # Addresses are what is limited. glibc would keep those of freed tensors in its heap, now and then so many
    # that not a single image fits.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images that take half a GiB and more if all are worked on at once, and a model for them."""
    path: Path = tmp_path_factory.mktemp("memory")
    images = np.random.default_rng(0).integers(0, 256, (720, 32, 32), np.uint8)
    np.save(path / "images.npy", images)
    save_model(path / "model.safetensors", "pixelcnn", (1, 32, 32), 256)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its own size in /proc")
def test_a_process_with_little_memory_ends_in_one_line(folder: Path) -> None:
    data = ["--dataset", "folder", "--data", folder / "images.npy", "--device", "cpu"]
    done = limited(256, "train", "pixelcnn", *data, "--batch-size", "512", "-o", folder / "run")
    assert (done.returncode, done.stdout) == (8, "")
    text = check_error(done.stderr)
    assert "out of memory in step 1 with 512 images at once" in text
    assert "--accumulate 2" in text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its own size in /proc")
def test_with_little_memory_an_nll_is_the_same(folder: Path) -> None:
    words = ["evaluate-nll", folder / "model.safetensors", "--dataset", "folder", "--split", "train"]
    words += ["--data", folder / "images.npy", "--device", "cpu", "--batch-size", "512", "--json"]
    words += ["--limit", "512"]
    done, expected = limited(256, *words), fame_here(*words)
    assert (done.returncode, expected.code) == (0, 0), done.stderr
    assert "out of memory with 512 images at once, going on with 256" in done.stderr
    assert "out of memory" not in expected.err
    documents = [json.loads(text) for text in (done.stdout, expected.text)]
    assert documents[0]["nats_per_image"] == documents[1]["nats_per_image"]


@pytest.mark.parametrize("words", [(), ("--batch-size", "1")])
def test_heat_maps_are_drawn_by_as_many_images_as_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    model, folder = save_model(tmp_path / "model.safetensors"), tmp_path / "maps"
    original, rows = Fame.log_prob, list[int]()

    def one_fits(model: Fame, x: torch.Tensor, *others: Any) -> torch.Tensor:
        rows.append(len(x))
        if len(x) > 1:
            raise MemoryError
        return original(model, x, *others)

    monkeypatch.setattr(Fame, "log_prob", one_fits)
    done = fame_here("evaluate-nll", model, "--heatmap", folder, *words)
    assert done.code == 0, done.err
    # Seven images for the NLL, and seven for the maps; without words, both begin with all.
    assert (rows.count(1), max(rows)) == (14, 1 if words else 7)
    assert len(list(folder.glob("*.png"))) == 7
    assert done.err.count("going on with 1\n") == (0 if words else 2)


def test_without_room_for_heat_maps_the_other_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    model, files = (
        save_model(tmp_path / "model.safetensors"),
        (tmp_path / "a.safetensors", tmp_path / "a.csv"),
    )

    def nothing_fits(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(score, "pixel_bits", nothing_fits)
    words = ("--heatmap", tmp_path / "maps", "--record", files[0], "--per-image", files[1])
    assert fame_here("evaluate-nll", model, *words).code == 8
    assert all(path.is_file() for path in files)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_tells_its_peak() -> None:
    trainer = trainer_of("fame")
    model, device = model_config("fame", "tiny", (1, 8, 8), 2), torch.device("cuda")
    peak = peak_on_gpu(model, trainer.config, split_of(64), device, "fp32")
    few, many = peak(8), peak(64)
    assert 0 < few < many
    assert largest_batch(peak, many, 64) < 64
