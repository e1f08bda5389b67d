"""Readers of the data sets, on small files in the layout of the official ones by independent writers."""

import contextlib
import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from support.archives import tar_bytes, zip_bytes
from support.data import amat

from famecli.data.cache import file_states
from famecli.data.dataset import fixed_levels, load_split, read_split, training_levels
from famecli.data.drawings import drawings_sha256, shrink
from famecli.data.registry import DataFile, DatasetInfo, dataset_info
from famecli.errors import InputError, IntegrityError, UnavailableError
from famecli.rng import stream

SOURCE = np.random.default_rng(5)
SMALL = {"train": 6, "valid": 3, "test": 4}
# What NumPy's old generator, whose stream never changes, gives for seed 123 and 9 items.
IWAE_ORDER = [7, 0, 5, 6, 3, 1, 8, 4, 2]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def small(name: str, folder: Path, files: dict[str, bytes], **changes: object) -> DatasetInfo:
    """Write files and return the data set with their hashes in place of the official ones."""
    info = dataset_info(name)
    for path, content in files.items():
        (folder / path).write_bytes(content)
    known = {
        path: dataclasses.replace(info.files[path], sha256=sha256(content), git_blob=None)
        for path, content in files.items()
    }
    return dataclasses.replace(info, files=info.files | known, **({"splits": SMALL} | changes))  # type: ignore[arg-type]


def png(pixels: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


def test_static_mnist_is_the_bits_in_its_files(tmp_path: Path) -> None:
    bits = {split: SOURCE.integers(0, 2, (count, 1, 28, 28), np.uint8) for split, count in SMALL.items()}
    info = small(
        "mnist-static",
        tmp_path,
        {f"binarized_mnist_{split}.amat": amat(each) for split, each in bits.items()},
    )
    for split, expected in bits.items():
        found = read_split(info, tmp_path, split)
        np.testing.assert_array_equal(found.pixels, expected)
        assert fixed_levels(found, seed=1).sha256 == sha256(expected.tobytes())
        np.testing.assert_array_equal(training_levels(found, np.array([2, 0]), stream("t")), expected[[2, 0]])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text.replace(b"1", b"2", 1),
        lambda text: text.replace(b" ", b",", 1),
        lambda text: text.replace(b"\n", b" "),
        lambda text: b"",
        lambda text: text[1:] + b"0",
    ],
)
def test_another_text_than_lines_of_bits_is_an_input_error(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    content = change(amat(np.ones((4, 784), np.uint8)))
    info = small("mnist-static", tmp_path, {"binarized_mnist_test.amat": content})
    with pytest.raises(InputError, match=r"binarized_mnist_test\.amat"):
        read_split(info, tmp_path, "test")


def test_changed_bits_are_an_integrity_error_and_a_missing_file_unavailable(tmp_path: Path) -> None:
    info = small("mnist-static", tmp_path, {"binarized_mnist_test.amat": amat(np.ones((4, 784), np.uint8))})
    (tmp_path / "binarized_mnist_test.amat").write_bytes(amat(np.zeros((4, 784), np.uint8)))
    with pytest.raises(IntegrityError, match="not the official file"):
        read_split(info, tmp_path, "test")
    with pytest.raises(UnavailableError, match="binarized_mnist_train"):
        read_split(info, tmp_path, "train")


def chardata(compressed: bool, **changes: object) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Return a file as Burda's, with its upright images: training and then test."""
    train, test = (SOURCE.random((count, 28, 28)) for count in (9, 4))
    alphabets = np.eye(50)[np.arange(9)].T
    content: dict[str, object] = {
        # One column an image, which is itself written column by column.
        "data": train.transpose(0, 2, 1).reshape(9, 784).T,
        "testdata": test.transpose(0, 2, 1).reshape(4, 784).T,
        "target": alphabets,
        "testtarget": alphabets[:, :4],
        "targetchar": np.arange(9.0)[None],
    }
    target = io.BytesIO()
    scipy.io.savemat(target, content | changes, do_compression=compressed)
    return target.getvalue(), train.astype(np.float32), test.astype(np.float32)


@pytest.mark.parametrize("compressed", [False, True])
def test_omniglot_is_upright_and_shuffled_as_iwae_does(tmp_path: Path, compressed: bool) -> None:
    content, train, test = chardata(compressed)
    info = small("omniglot", tmp_path, {"chardata.mat": content})
    found = {split: read_split(info, tmp_path, split) for split in SMALL}
    np.testing.assert_array_equal(found["train"].pixels[:, 0], train[IWAE_ORDER[:6]])
    np.testing.assert_array_equal(found["valid"].pixels[:, 0], train[IWAE_ORDER[6:]])
    np.testing.assert_array_equal(found["test"].pixels[:, 0], test)
    assert found["valid"].labels is not None
    assert found["valid"].labels.tolist() == IWAE_ORDER[6:]


def test_omniglot_bits_have_the_chances_of_the_file(tmp_path: Path) -> None:
    content, _, test = chardata(True)
    split = read_split(small("omniglot", tmp_path, {"chardata.mat": content}), tmp_path, "test")
    uniforms = stream("binarize", "omniglot", "test", 0).random((4, 1, 28, 28))
    np.testing.assert_array_equal(fixed_levels(split).levels[:, 0], uniforms[:, 0] < test)
    draws = [training_levels(split, np.arange(4), stream("t", seed)) for seed in range(400)]
    np.testing.assert_allclose(np.mean(draws, axis=0)[:, 0], test, atol=6 * 0.5 / 20)


def test_omniglot_is_known_by_the_name_that_git_gives_it(tmp_path: Path) -> None:
    content, *_ = chardata(True)
    info = small("omniglot", tmp_path, {"chardata.mat": content})
    name = hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()
    for blob, kind in ((name, None), ("0" * 40, IntegrityError)):
        files = {"chardata.mat": DataFile(None, git_blob=blob)}
        known = dataclasses.replace(info, files=files)
        if kind is None:
            assert len(read_split(known, tmp_path, "test").pixels) == 4
        else:
            with pytest.raises(kind, match="git blob"):
                read_split(known, tmp_path, "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"testdata": np.zeros((783, 4))},
        {"testdata": np.zeros((784, 5))},
        {"testdata": np.full((784, 4), 255.0)},
        {"testdata": np.full((784, 4), np.nan)},
        {"testdata": np.array([["a", "b"]], dtype=object)},
        {"testtarget": np.zeros((50, 3))},
    ],
)
def test_another_matrix_is_an_input_error(tmp_path: Path, changes: dict[str, object]) -> None:
    info = small("omniglot", tmp_path, {"chardata.mat": chardata(True, **changes)[0]})
    with pytest.raises(InputError):
        read_split(info, tmp_path, "test")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_mat_file_is_read_or_an_input_error(tmp_path: Path, compressed: bool) -> None:
    content, *_ = chardata(compressed)
    step = len(content) // 150
    for position in range(0, len(content), step):
        flipped = bytearray(content)
        flipped[position] ^= 0x80
        for changed in (content[:position], bytes(flipped)):
            info = small("omniglot", tmp_path, {"chardata.mat": changed})
            with contextlib.suppress(InputError):
                assert len(read_split(info, tmp_path, "test").pixels) == 4


def drawing(seed: int) -> np.ndarray:
    """Return a drawing as the authors have them: True is paper."""
    return np.random.default_rng(seed).random((105, 105)) < 0.9


def drawing_files(folders: dict[str, range]) -> dict[str, bytes]:
    """Return two archives with all 20 drawers of each character; a folder is `archive/Alphabet`."""
    files: dict[str, dict[str, bytes]] = {}
    for path, numbers in folders.items():
        archive, alphabet = path.split("/")
        for number in numbers:
            for drawer in range(1, 21):
                name = f"{archive}/{alphabet}/character{number:02}/{number:04}_{drawer:02}.png"
                files.setdefault(f"{archive}.zip", {f"{archive}/": b""})[name] = png(
                    drawing(100 * number + drawer)
                )
    return {name: zip_bytes(content) for name, content in files.items()}


def test_drawings_are_split_by_drawer_and_count_once(tmp_path: Path) -> None:
    folders = {
        "images_background_small1/Greek": range(1, 3),
        "images_background_small2/Greek": range(1, 3),
        "images_background_small2/Latin": range(3, 4),
    }
    splits = {"train": 42, "valid": 3, "test": 15}
    info = small("omniglot-small", tmp_path, drawing_files(folders), splits=splits)
    for split, drawers in (("train", range(1, 15)), ("valid", [15]), ("test", range(16, 21))):
        found = read_split(info, tmp_path, split).pixels
        expected = [shrink(~drawing(100 * number + drawer)) for number in (1, 2, 3) for drawer in drawers]
        np.testing.assert_array_equal(found[:, 0], expected)
    with pytest.raises(InputError, match="expected 2"):
        read_split(dataclasses.replace(info, splits={"test": 2}), tmp_path, "test")


@pytest.mark.parametrize("ink", [0.0, 0.1, 0.5, 1.0])
def test_drawings_shrink_by_exact_areas(ink: float) -> None:
    pixels = np.random.default_rng(1).random((105, 105)) < ink
    # 105 * 4 = 28 * 15: enlarged by whole pixels, then averaged by Pillow over whole pixels.
    large = Image.fromarray(pixels.astype(np.uint8) * 255).resize((420, 420), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(shrink(pixels), np.asarray(large.reduce(15)))


def test_an_archive_is_known_by_its_drawings(tmp_path: Path) -> None:
    files = drawing_files({"images_background/Greek": range(1, 2), "images_evaluation/Latin": range(2, 3)})
    splits = {"train": 28, "valid": 2, "test": 10}
    info = small("omniglot-28", tmp_path, files, splits=splits)
    known = {
        name: dataclasses.replace(file, content_sha256=drawings_sha256(tmp_path / name))
        for name, file in info.files.items()
    }
    info = dataclasses.replace(info, files=known)
    expected = read_split(info, tmp_path, "test").pixels
    path = tmp_path / "images_evaluation.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name in reversed(members):
                archive.writestr(name, members[name])
        assert sha256(path.read_bytes()) != info.files[path.name].sha256
        np.testing.assert_array_equal(read_split(info, tmp_path, "test").pixels, expected)
        assert [state.state for state in file_states(info, tmp_path)] == ["official"] * 2
    name = next(iter(sorted(name for name in members if name.endswith("_01.png"))))
    changed = drawing(201)
    changed[0, 0] = ~changed[0, 0]
    path.write_bytes(zip_bytes(members | {name: png(changed)}))
    assert [state.state for state in file_states(info, tmp_path)] == ["official", "differs"]
    with pytest.raises(IntegrityError, match="sha256 of its content"):
        read_split(info, tmp_path, "test")


def test_drawings_of_another_kind_are_input_errors(tmp_path: Path) -> None:
    good = drawing_files({"images_background/Greek": range(1, 2)}) | {"images_evaluation.zip": zip_bytes({})}
    splits = {"train": 14, "valid": 1, "test": 5}
    assert len(read_split(small("omniglot-28", tmp_path, good, splits=splits), tmp_path, "test").pixels) == 5
    for name, content in (
        ("a/Latin/character01/0001_16.png", png(np.zeros((104, 105), np.uint8))),
        ("a/Latin/character01/0001_16.png", b"no PNG"),
        ("a/Latin/character01/first.png", png(drawing(1))),
    ):
        files = good | {"images_evaluation.zip": zip_bytes({name: content})}
        with pytest.raises(InputError, match=r"images_evaluation\.zip"):
            read_split(small("omniglot-28", tmp_path, files, splits=splits), tmp_path, "test")


def cifar_batches(images: int) -> tuple[dict[str, bytes], np.ndarray, np.ndarray]:
    """Return batches of `images` each, the test batch last, with their pixels and labels in that order."""
    labels = SOURCE.integers(0, 10, 6 * images, np.uint8)
    pixels = SOURCE.integers(0, 256, (6 * images, 3, 32, 32), np.uint8)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    files = {}
    for number, name in enumerate(names):
        part = range(number * images, (number + 1) * images)
        records = [bytes([labels[index]]) + pixels[index].tobytes() for index in part]
        files[f"cifar-10-batches-bin/{name}.bin"] = b"".join(records)
    return files, pixels, labels


def small_cifar(folder: Path, *, packed: bool) -> tuple[DatasetInfo, np.ndarray, np.ndarray]:
    files, pixels, labels = cifar_batches(3)
    archive = "cifar-10-binary.tar.gz"
    stored = tar_bytes({"cifar-10-batches-bin/readme.html": b"hello"} | files, "w:gz")
    if packed:
        (folder / archive).write_bytes(stored)
    else:
        (folder / "cifar-10-batches-bin").mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    file = DataFile(sha256(stored), members={name: sha256(content) for name, content in files.items()})
    splits = {"train": 10, "valid": 5, "test": 3}
    return dataclasses.replace(dataset_info("cifar10"), files={archive: file}, splits=splits), pixels, labels


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_is_its_batches_in_order(tmp_path: Path, packed: bool) -> None:
    info, pixels, labels = small_cifar(tmp_path, packed=packed)
    for split, part in (("train", slice(0, 10)), ("valid", slice(10, 15)), ("test", slice(15, 18))):
        found = read_split(info, tmp_path, split)
        np.testing.assert_array_equal(found.pixels, pixels[part])
        np.testing.assert_array_equal(found.labels, labels[part])
    if not packed:
        inner = read_split(info, tmp_path / "cifar-10-batches-bin", "test")
        np.testing.assert_array_equal(inner.pixels, pixels[15:])


@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_that_is_changed_or_cut_is_refused(tmp_path: Path, packed: bool) -> None:
    info, *_ = small_cifar(tmp_path, packed=packed)
    path = next(tmp_path.rglob("*.gz" if packed else "test_batch.bin"))
    content = path.read_bytes()
    if not packed:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(IntegrityError, match=r"test_batch\.bin"):
            read_split(info, tmp_path, "test")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises((InputError, IntegrityError)):
        read_split(info, tmp_path, "test")
    path.unlink()
    with pytest.raises(UnavailableError, match=r"test_batch\.bin"):
        read_split(info, tmp_path, "test")


def test_cifar10_in_pickles_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(InputError, match="pickles") as caught:
        load_split("cifar10", "test", data=tmp_path)
    assert "cifar-10-binary.tar.gz" in caught.value.hint


def small_imagenet(
    folder: Path, *, packed: bool, **arrays: np.ndarray
) -> tuple[DatasetInfo, np.ndarray, np.ndarray]:
    """Write ten batches of two images and four of validation; as there the batches' names sort badly."""
    train, test = (SOURCE.integers(0, 256, (count, 3, 32, 32), np.uint8) for count in (20, 4))
    batches = {
        f"train_data_batch_{number + 1}.npz": train[2 * number : 2 * number + 2] for number in range(10)
    }
    stored: dict[str, dict[str, bytes]] = {}
    for name, pixels in (*batches.items(), ("val_data.npz", test)):
        target = io.BytesIO()
        rows = pixels.reshape(len(pixels), 3072)
        content = {"data": rows, "labels": np.arange(len(rows)) + 1, "mean": rows.mean(0)} | arrays
        np.savez_compressed(target, **content)  # type: ignore[arg-type]
        kind = "val" if name.startswith("val") else "train"
        stored.setdefault(f"Imagenet32_{kind}_npz.zip", {})[name] = target.getvalue()
    splits = {"train": 15, "valid": 5, "test": 4}
    if packed:
        files = {name: zip_bytes(content) for name, content in stored.items()}
        return small("imagenet32", folder, files, splits=splits), train, test
    for content in stored.values():
        for name, npz in content.items():
            (folder / name).write_bytes(npz)
    return dataclasses.replace(dataset_info("imagenet32"), splits=splits), train, test


@pytest.mark.parametrize("packed", [False, True])
def test_imagenet32_is_its_batches_by_number(tmp_path: Path, packed: bool) -> None:
    info, train, test = small_imagenet(tmp_path, packed=packed)
    for split, expected in (("train", train[:15]), ("valid", train[15:]), ("test", test)):
        np.testing.assert_array_equal(read_split(info, tmp_path, split).pixels, expected)


def test_imagenet32_of_another_number_or_form_is_an_input_error(tmp_path: Path) -> None:
    info, *_ = small_imagenet(tmp_path, packed=True)
    with pytest.raises(InputError, match="4 test images"):
        read_split(dataclasses.replace(info, splits=info.splits | {"test": 5}), tmp_path, "test")
    for array in (np.zeros((4, 3071), np.uint8), np.zeros((4, 3072)), np.array([None])):
        (tmp_path / "other").mkdir(exist_ok=True)
        info, *_ = small_imagenet(tmp_path / "other", packed=False, data=array)
        with pytest.raises(InputError):
            read_split(info, tmp_path / "other", "test")


def test_imagenet32_in_pickles_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "val_data").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="pickles") as caught:
        load_split("imagenet32", "test", data=tmp_path)
    assert "npz.zip" in caught.value.hint


def test_old_imagenet32_is_its_pngs_in_order(tmp_path: Path) -> None:
    train, test = (SOURCE.integers(0, 256, (count, 32, 32, 3), np.uint8) for count in (9, 4))
    files = {
        f"{part}_32x32.tar": tar_bytes(
            {f"{part}_32x32/{number:05}.png": png(image) for number, image in enumerate(images)}
        )
        for part, images in (("train", train), ("valid", test))
    }
    info = small("imagenet32-old", tmp_path, files)
    for split, expected in (("train", train[:6]), ("valid", train[6:]), ("test", test)):
        found = read_split(info, tmp_path, split).pixels
        np.testing.assert_array_equal(found, expected.transpose(0, 3, 1, 2))
    files["valid_32x32.tar"] = tar_bytes({"a.png": png(test[0][:31])})
    with pytest.raises(InputError, match="32x31 pixels, expected 32x32"):
        read_split(small("imagenet32-old", tmp_path, files), tmp_path, "test")
    files["valid_32x32.tar"] = tar_bytes({})
    with pytest.raises(InputError, match="0 test images"):
        read_split(small("imagenet32-old", tmp_path, files), tmp_path, "test")
