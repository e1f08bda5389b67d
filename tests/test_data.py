"""IDX files, the registry, splits, and the bits that are drawn from grey values."""

import contextlib
import dataclasses
import gzip
import hashlib
import os
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.data import flipped, idx_bytes, small_mnist

from famecli.data.arrays import read_idx
from famecli.data.dataset import (
    CHUNK_IMAGES,
    READERS,
    ImageSplit,
    epoch_order,
    even_part,
    fixed_levels,
    load_split,
    read_split,
    training_levels,
)
from famecli.data.registry import DATASETS, FOLDER, DatasetInfo, dataset_info
from famecli.errors import FameError, InputError, IntegrityError, UnavailableError, UsageError
from famecli.rng import stream

GOLDEN_TEST_BITS = "2494ce85c260a5853318399661c49294935320b4e3e676a87c16de89f441c034"


@pytest.fixture
def mnist_folder() -> Path:
    for named in (os.environ.get("FAME_DATA"), Path(__file__).parents[2] / "shared" / "data"):
        if named and (Path(named) / "mnist").is_dir():
            return Path(named)
    pytest.skip("FAME_DATA names no folder with MNIST")


def split_of(pixels: np.ndarray, name: str = "mnist") -> ImageSplit:
    return ImageSplit(dataset_info(name), "test", pixels)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 4, 2), (2, 1, 2, 3), (0, 28, 28)])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_reads_what_an_independent_writer_wrote(
    tmp_path: Path, shape: tuple[int, ...], zipped: bool
) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    path = tmp_path / "name says nothing"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    np.testing.assert_array_equal(read_idx(path), array)
    assert read_idx(path).dtype == np.uint8


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_cut_anywhere_is_an_input_error(tmp_path: Path, zipped: bool) -> None:
    content = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = gzip.compress(content) if zipped else content
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cut"):
            read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_with_any_byte_flipped_is_read_or_an_input_error(tmp_path: Path, zipped: bool) -> None:
    content = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    header = 16
    content = gzip.compress(content) if zipped else content
    path = tmp_path / "flipped"
    for position, changed in flipped(content):
        path.write_bytes(changed)
        if not zipped and position < header:
            with pytest.raises(InputError):
                read_idx(path)
            continue
        with contextlib.suppress(FameError):
            read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_with_more_data_than_promised_is_an_input_error(tmp_path: Path, zipped: bool) -> None:
    content = idx_bytes(np.zeros((2, 3), np.uint8)) + b"x"
    path = tmp_path / "long"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(InputError, match="2 x 3 = 6 bytes"):
        read_idx(path)


def test_idx_never_allocates_what_only_the_header_promises(tmp_path: Path) -> None:
    path = tmp_path / "promise"
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    huge = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 16, 1 << 8, 1 << 7)
    larger = bytes([0, 0, 8, 4]) + struct.pack(">4I", 0, *[2**32 - 1] * 3)
    for content in (huge, larger, huge + bytes(1000)):
        for stored in (content, gzip.compress(content)):
            path.write_bytes(stored)
            with pytest.raises(InputError):
                read_idx(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50_000


def test_idx_stops_unpacking_a_bomb_at_the_promised_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 4) + bytes(100_000_000)))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="after its data"):
        read_idx(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 20_000


def test_idx_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=str(path)):
            read_idx(path)


def test_unknown_names_are_usage_errors_with_a_guess() -> None:
    with pytest.raises(UsageError) as caught:
        dataset_info("mnits")
    assert "did you mean mnist?" in caught.value.hint
    with pytest.raises(UsageError):
        load_split("mnist", "validation", data=Path("."))  # type: ignore[arg-type]


@pytest.mark.parametrize("info", DATASETS.values(), ids=DATASETS)
def test_every_row_of_the_registry_is_complete(info: DatasetInfo) -> None:
    assert set(info.splits) == {"train", "valid", "test"}
    for file in info.files.values():
        hashes = [file.sha256, file.content_sha256, *file.members.values()]
        assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes if each is not None)
        assert file.known
        assert set(file.splits) <= set(info.splits)
    assert bool(info.mirrors) == bool(info.files) == bool(info.citation) == bool(info.source)
    assert info.rule
    assert info.family in {*READERS, FOLDER}
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in info.mirrors)


@pytest.mark.parametrize("zipped", [False, True])
def test_splits_part_the_training_images_and_keep_their_order(tmp_path: Path, zipped: bool) -> None:
    info = small_mnist(tmp_path, zipped=zipped)
    train, valid, test = (read_split(info, tmp_path, split) for split in info.splits)
    assert [len(split.pixels) for split in (train, valid, test)] == [18, 12, 7]
    whole = read_idx(tmp_path / f"train-images-idx3-ubyte{'.gz' if zipped else ''}")
    np.testing.assert_array_equal(np.concatenate([train.pixels, valid.pixels])[:, 0], whole)
    assert valid.labels is not None
    assert valid.labels.tolist() == list(range(18, 30))


@pytest.mark.parametrize(("split", "other"), [("train", "t10k"), ("valid", "t10k"), ("test", "train")])
def test_a_split_never_opens_the_files_of_the_others(tmp_path: Path, split: str, other: str) -> None:
    info = small_mnist(tmp_path)
    expected = read_split(info, tmp_path, split).pixels
    for path in tmp_path.glob(f"{other}-*"):
        path.write_bytes(b"would be an error if read")
    np.testing.assert_array_equal(read_split(info, tmp_path, split).pixels, expected)


def test_labels_may_be_missing_but_images_may_not(tmp_path: Path) -> None:
    info = small_mnist(tmp_path)
    for path in tmp_path.glob("*labels*"):
        path.unlink()
    assert read_split(info, tmp_path, "test").labels is None
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(UnavailableError, match="t10k-images"):
        read_split(info, tmp_path, "test")


def test_changed_content_is_an_integrity_error(tmp_path: Path) -> None:
    info = small_mnist(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[100] ^= 1
    path.write_bytes(gzip.compress(content))
    with pytest.raises(IntegrityError) as caught:
        read_split(info, tmp_path, "test")
    assert hashlib.sha256(content).hexdigest()[:12] in str(caught.value)
    assert info.files[path.name].content_sha256[:12] in str(caught.value)


def test_fixed_bits_depend_on_seed_and_split_and_not_on_the_part() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (2 * CHUNK_IMAGES + 5, 1, 3, 3), np.uint8)
    split = split_of(pixels)
    whole = fixed_levels(split)
    limits = (1, 7, CHUNK_IMAGES, CHUNK_IMAGES + 1, 10 * CHUNK_IMAGES)
    parts = [*(even_part(len(pixels), limit) for limit in limits), range(3, 2 * CHUNK_IMAGES), range(0)]
    for numbers in parts:
        part = fixed_levels(split, numbers=numbers)
        np.testing.assert_array_equal(part.levels, whole.levels[list(numbers)])
        assert part.sha256 == hashlib.sha256(whole.levels[list(numbers)].tobytes()).hexdigest()
        assert list(part.numbers) == list(numbers)
    assert fixed_levels(split, seed=1).sha256 != whole.sha256
    assert fixed_levels(dataclasses.replace(split, split="valid")).sha256 != whole.sha256


@pytest.mark.parametrize(
    ("images", "limit", "numbers"),
    [
        (10, None, range(10)),
        (10, 10, range(10)),
        (10, 99, range(10)),
        (10, 1, [0]),
        (10, 3, [0, 3, 6]),
        (7, 5, [0, 1, 2, 4, 5]),
        (10_000, 1_000, range(0, 10_000, 10)),
    ],
)
def test_a_part_is_spread_evenly_over_a_split(images: int, limit: int | None, numbers: Sequence[int]) -> None:
    assert list(even_part(images, limit)) == list(numbers)


def test_fixed_bits_are_one_uniform_per_pixel_in_order() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (4, 1, 5, 5), np.uint8)
    uniforms = stream("binarize", "mnist", "test", 9).random(pixels.shape)
    np.testing.assert_array_equal(fixed_levels(split_of(pixels), seed=9).levels, uniforms < pixels / 255)


def test_bits_drawn_once_are_those_that_the_other_data_set_is_scored_by(tmp_path: Path) -> None:
    dynamic = small_mnist(tmp_path)
    fixed = dataclasses.replace(DATASETS["mnist-fixed"], files=dynamic.files, splits=dynamic.splits)
    for split in fixed.splits:
        bits = read_split(fixed, tmp_path, split)
        np.testing.assert_array_equal(
            bits.pixels, fixed_levels(read_split(dynamic, tmp_path, split), seed=0).levels
        )
        np.testing.assert_array_equal(fixed_levels(bits, seed=3).levels, bits.pixels)
        np.testing.assert_array_equal(training_levels(bits, np.array([4]), stream("t")), bits.pixels[[4]])


@pytest.mark.parametrize("grey", [0, 1, 64, 254, 255])
def test_a_bit_is_one_with_the_chance_of_its_grey_value(grey: int) -> None:
    split = split_of(np.full((500, 1, 20, 20), grey, np.uint8))
    chance, count = grey / 255, split.pixels.size
    tolerance = 5 * np.sqrt(chance * (1 - chance) / count)
    assert abs(fixed_levels(split).levels.mean() - chance) <= tolerance
    assert abs(training_levels(split, np.arange(500), stream("t")).mean() - chance) <= tolerance


def test_training_levels_are_fresh_bits_of_the_images_asked_for() -> None:
    split = split_of(np.repeat(np.array([0, 255, 128], np.uint8), 16).reshape(3, 1, 4, 4))
    levels = training_levels(split, np.array([1, 0, 1]), stream("t", 0))
    assert levels.dtype == np.uint8
    assert levels.mean(axis=(1, 2, 3)).tolist() == [1, 0, 1]
    draws = [training_levels(split, np.array([2]), stream("t", seed)) for seed in (1, 2, 1)]
    assert (draws[0] != draws[1]).any()
    assert (draws[0] == draws[2]).all()


def test_greys_are_levels_themselves() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (5, 1, 2, 2), np.uint8)
    split = split_of(pixels, "mnist-grey")
    np.testing.assert_array_equal(fixed_levels(split, numbers=[1, 3]).levels, pixels[[1, 3]])
    np.testing.assert_array_equal(training_levels(split, np.array([4, 0]), stream("t")), pixels[[4, 0]])


def test_an_epoch_visits_each_image_once_in_an_order_of_its_own() -> None:
    orders = [epoch_order(0, 0, 100), epoch_order(0, 1, 100), epoch_order(1, 0, 100)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({order.tobytes() for order in orders}) == 3
    np.testing.assert_array_equal(epoch_order(0, 1, 100), orders[1])


def test_finding_and_reading_files_needs_no_torch() -> None:
    modules = (
        "famecli.data.registry, famecli.data.cache, famecli.data.handwritten, famecli.data.image_writers"
    )
    code = f"import sys, {modules}; print(*({{'torch', 'PIL', 'requests'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"


def test_mnist_is_the_official_one(mnist_folder: Path) -> None:
    train, valid = (load_split("mnist", split, data=mnist_folder).pixels for split in ("train", "valid"))
    assert (train.shape, valid.shape) == ((50_000, 1, 28, 28), (10_000, 1, 28, 28))
    whole = np.concatenate([train, valid]) / 255
    assert whole.mean() == pytest.approx(0.1306604762738429, abs=1e-12)
    assert whole.std() == pytest.approx(0.3081078, abs=1e-7)


def test_mnist_test_bits_never_change(mnist_folder: Path) -> None:
    test = load_split("mnist", "test", data=mnist_folder)
    bits = fixed_levels(test)
    assert bits.sha256 == GOLDEN_TEST_BITS
    assert bits.levels.mean() == pytest.approx(test.pixels.mean() / 255, abs=1e-4)
    assert test.labels is not None
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
