"""Images through stdin: models score each other over a pipe, and what is no stream of images is refused."""

import hashlib
import io
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.commands import error_of, fame, process, result_of, save_model
from support.commands import use_small_mnist as small

from famecli.checkpoints.checkpoint import load_checkpoint
from famecli.data.arrays import image_shape_of, images_of, read_stream
from famecli.data.image_writers import to_uint8
from famecli.data.reading import levels_of
from famecli.errors import InputError
from famecli.nll.evaluate import evaluate

BITS, GREYS = (1, 6, 5), (3, 4, 4)


def anything(shape: tuple[int, ...]) -> None:
    """Accept every shape."""


def npy(array: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    target = io.BytesIO()
    np.savez_compressed(target, **arrays)
    return target.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    """Return the header alone of an array of bytes, as the format's specification says."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def black_and_white(images: int = 9, shape: tuple[int, int, int] = BITS) -> np.ndarray:
    channels, height, width = shape
    return np.random.default_rng(3).integers(0, 2, (images, height, width, channels), np.uint8) * np.uint8(
        255
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "bits.safetensors", shape=BITS)


@pytest.mark.parametrize("command", ["evaluate-nll", "compress", "reconstruct"])
def test_a_data_set_beside_a_model_and_images_on_stdin_is_refused(command: str, model: Path) -> None:
    line = error_of(2, command, model, "--dataset", "mnist", "--data", "-", stdin=npy(black_and_white()))
    assert "--dataset chooses among weights and data sets, but a model and images are given" in line


@pytest.mark.parametrize("format", ["npy", "npz"])
@pytest.mark.parametrize(("shape", "levels"), [(BITS, 2), (GREYS, 256), (BITS, 7)])
def test_a_model_scores_what_another_draws(
    tmp_path: Path, shape: tuple[int, int, int], levels: int, format: str
) -> None:
    artist = save_model(tmp_path / "artist.safetensors", "pixelcnn", shape, levels, facts={})
    critic = save_model(tmp_path / "critic.safetensors", "fame", shape, levels, facts={})
    drawn = fame("sample", artist, "-n", "13", "-o", "-", "--format", format, "-q").out
    found = result_of("evaluate-nll", critic, "--data", "-", stdin=drawn)
    loaded = np.load(io.BytesIO(drawn))
    images = (loaded if format == "npy" else loaded["arr_0"]).transpose(0, 3, 1, 2)
    expected = np.rint(images / 255 * (levels - 1)).astype(np.uint8)
    assert len(np.unique(expected)) > 1
    assert found["data"] == {
        "dataset_id": "stdin",
        "split": "all",
        "images": 13,
        "pixels_sha256": hashlib.sha256(expected.tobytes()).hexdigest(),
        "shape": list(shape),
        "levels": levels,
        "binarization": "fixed" if levels == 2 else "none",
        "part": "all",
        "preparation": None,
    }
    nats = evaluate(load_checkpoint(critic).model, expected).nats
    assert found["nats_per_image"] == pytest.approx(nats.mean(), rel=1e-6)


def test_rows_are_in_the_order_of_the_stream(model: Path) -> None:
    images = black_and_white()
    done = fame("evaluate-nll", model, "--data", "-", "--per-image", "-", "-q", stdin=npy(images))
    hashes = [line.split(",")[1] for line in done.text.splitlines()[1:]]
    levels = (images // 255).transpose(0, 3, 1, 2)
    assert hashes == [hashlib.sha256(each.tobytes()).hexdigest()[:8] for each in levels]
    first = result_of("evaluate-nll", model, "--data", "-", "--limit", "4", stdin=npy(images))
    assert first["data"]["images"] == 4
    part = levels[[index * len(levels) // 4 for index in range(4)]]
    assert first["data"]["pixels_sha256"] == hashlib.sha256(part.tobytes()).hexdigest()


@pytest.mark.parametrize("turn", [lambda a: a[..., 0], np.asfortranarray, lambda a: a.transpose(0, 3, 1, 2)])
def test_layouts_of_arrays_mean_the_same_images(
    model: Path, turn: Callable[[np.ndarray], np.ndarray]
) -> None:
    images = black_and_white()
    one, other = (
        result_of("evaluate-nll", model, "--data", "-", stdin=npy(each))["data"]
        for each in (images, turn(images))
    )
    assert one == other


def test_the_default_weights_are_those_of_the_data_set_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path / "data", monkeypatch)
    words = ["evaluate-nll", "--dataset", "mnist", "--data", "-"]
    images = npy(black_and_white(3, (1, 28, 28)))
    assert result_of(*words, stdin=images)["data"]["dataset_id"] == "stdin"


def test_images_on_stdin_are_reconstructed(tmp_path: Path, model: Path) -> None:
    target = tmp_path / "pairs.png"
    words = ["reconstruct", model, "--data", "-", "-n", "2", "-o", target]
    found = result_of(*words, stdin=npy(black_and_white()))
    assert [each["source"] for each in found["images"]] == ["stdin/all/0", "stdin/all/1"]


def test_exact_levels_undo_the_bytes_of_samples() -> None:
    for levels in range(2, 257):
        every = np.arange(levels, dtype=np.uint8).reshape(1, 1, 1, levels)
        drawn = to_uint8(every, levels).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(levels_of(drawn, levels, str), every)
        for strange in sorted(set(range(256)) - set(drawn.ravel().tolist()))[:2]:
            with pytest.raises(InputError, match=rf"^0 has a pixel of {strange}, "):
                levels_of(np.full((1, 1, 1, 2), strange, np.uint8), levels, str)


@pytest.mark.parametrize("strange", [1, 128, 254])
def test_a_binary_model_refuses_greys_and_names_the_image(model: Path, strange: int) -> None:
    images = black_and_white()
    images[[5, 7], 2, 3] = strange
    found = error_of(3, "evaluate-nll", model, "--data", "-", "-q", stdin=npy(images))
    assert f"stdin: image 5 has a pixel of {strange}" in found
    assert "0 and 255 alone" in found


def test_a_stream_cut_anywhere_is_an_input_error(model: Path) -> None:
    for content in (npy(black_and_white(2)), npz(arr_0=black_and_white(2))):
        for length in range(len(content)):
            with pytest.raises(InputError) as caught:
                read_stream(io.BytesIO(content[:length]), "stdin", anything)
            assert caught.value.hint != "download the file again"
    content = npy(black_and_white())
    found = error_of(3, "evaluate-nll", model, "--data", "-", "-q", stdin=content[:-1])
    assert "truncated after 269 of 270 bytes" in found
    assert "hint: check the output of the command before the pipe" in found
    assert "bytes after its data" in error_of(
        3, "evaluate-nll", model, "--data", "-", "-q", stdin=content + b"x"
    )


def test_a_header_that_lies_takes_no_memory() -> None:
    lies = header((1 << 20, 32, 32, 3)) + bytes(1000)
    tracemalloc.start()
    with pytest.raises(InputError, match="truncated after 1,000 of 3,221,225,472 bytes"):
        read_stream(io.BytesIO(lies), "stdin", anything)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    with pytest.raises(InputError, match="asks for"):
        read_stream(io.BytesIO(header((1 << 40, 32, 32, 3))), "stdin", anything)


def test_other_images_are_refused_before_their_pixels_are_read(model: Path) -> None:
    asked: list[tuple[int, ...]] = []

    def refuse(shape: tuple[int, ...]) -> None:
        asked.append(shape)
        raise InputError("no")

    stream = io.BytesIO(header((4, 9, 9, 1)))
    with pytest.raises(InputError, match=r"^no$"):
        read_stream(stream, "stdin", refuse)
    assert asked == [(4, 9, 9, 1)]
    for shape, found in (((4, 9, 9, 1), "1x9x9"), ((4, 6, 5, 3), "3x6x5"), ((4, 6, 5, 2), r"(4, 6, 5, 2)")):
        message = error_of(3, "evaluate-nll", model, "--data", "-", "-q", stdin=header(shape))
        assert found in message
        assert ("--rgb" in message) == (shape[3] == 3)


def hostile() -> dict[str, tuple[bytes, str]]:
    objects = io.BytesIO()
    np.save(objects, np.array([{}]), allow_pickle=True)
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    two = npz(a=black_and_white(1), b=black_and_white(1))
    return {
        "nothing": (b"", "stdin is empty"),
        "text": (b"error: no such file", "neither npy nor npz"),
        "numbers": (npy(np.zeros((2, 6, 5, 1))), "holds float64, expected uint8"),
        "pickle": (objects.getvalue(), "pickled objects"),
        "no images": (npy(np.zeros((0, 6, 5, 1), np.uint8)), "does not hold images"),
        "vector": (npy(np.zeros(4, np.uint8)), "does not hold images"),
        "no arrays": (empty.getvalue(), "found none"),
        "two arrays": (two, "several arrays of images: a, b"),
        "negative": (header((-1, 6, 5, 1)), "impossible shape"),
    }


@pytest.mark.parametrize(("content", "message"), hostile().values(), ids=hostile())
def test_what_is_no_stream_of_images_is_one_line(model: Path, content: bytes, message: str) -> None:
    assert message in error_of(3, "evaluate-nll", model, "--data", "-", "-q", stdin=content)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate-nll", "-", "--data", "-"], "two inputs cannot both come through stdin"),
        (["reconstruct", "-", "--data", "-"], "two inputs cannot both come through stdin"),
        (["evaluate-nll", "MODEL", "--data", "-", "--split", "valid"], "no split valid"),
        (["evaluate-nll", "MODEL", "--data", "-", "--record", "x.safetensors"], "--record"),
        (["train", "pixelcnn", "--data", "-"], "only images to score"),
        (["train", "pixelcnn", "--dataset", "folder", "--data", "-"], "only images to score"),
        (["datasets", "verify", "folder", "--data", "-"], "only images to score"),
        (["weights", "verify", "--claims", "--data", "-"], "not about images on stdin"),
    ],
)
def test_stdin_is_refused_where_it_cannot_be_meant(model: Path, words: list[str], message: str) -> None:
    typed = [str(model) if word == "MODEL" else word for word in words]
    assert message in error_of(2, *typed, stdin=npy(black_and_white()))


def test_a_terminal_is_refused(model: Path) -> None:
    main, terminal = os.openpty()
    try:
        done = process("evaluate-nll", model, "--data", "-", "-q", stdin=terminal, timeout=60)
    finally:
        os.close(main)
        os.close(terminal)
    assert done.returncode == 2
    assert b"stdin is the terminal" in done.stderr


@pytest.mark.parametrize(
    "shape", [(), (3,), (2, 3), (2, 4, 4, 5), (2, 2, 4, 4), (0, 4, 4), (1, 0, 4), (1,) * 5]
)
def test_shapes_that_are_not_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="does not hold images"):
        image_shape_of(shape, "x")


@pytest.mark.parametrize(
    ("shape", "image"),
    [((5, 6, 7), (1, 6, 7)), ((5, 6, 7, 3), (3, 6, 7)), ((5, 3, 6, 7), (3, 6, 7)), ((5, 1, 6, 7), (1, 6, 7))],
)
def test_images_keep_their_pixels(shape: tuple[int, ...], image: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert image_shape_of(shape, "x") == image
    found = images_of(array, "x")
    assert found.shape == (5, *image)
    last = len(shape) == 4 and shape[3] == 3
    assert found[2, image[0] - 1, 3, 4] == (
        array[2, 3, 4, 2] if last else array.reshape(5, *image)[2, -1, 3, 4]
    )
