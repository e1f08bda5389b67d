"""What images cost as a code, and as image files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import fame, result_of, save_model, use_small_mnist
from support.models import preset_model, random_images

from famecli.coding.codec import Codec
from famecli.coding.compress import file_bits, measure_code
from famecli.errors import IntegrityError

SHAPE = (3, 4, 5)


def images_of(count: int, levels: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return random_images(count, shape, levels).numpy().astype(np.uint8)


def test_a_code_is_measured_and_decoded() -> None:
    model, images = preset_model("fame", SHAPE, 256, torch.float32).eval(), images_of(6, 256)
    done: list[int] = []
    length = measure_code(model, images, done.append)
    coded = Codec(model.on("cpu")).encode(images)
    assert (length.net_bits, length.initial_bits) == (coded.net_bits, coded.initial_bits)
    assert sum(done) == 12
    told = length.to_dict()
    assert told["bits_per_dim"] == coded.net_bits / images.size
    labels = dict(length.rows())
    assert labels["coded and decoded"] == pytest.approx(coded.net_bits / 6 * np.log(2))
    assert list(labels) == ["coded and decoded", "PNG", "WebP"]


def test_other_images_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = preset_model("pixelcnn", SHAPE, 256, torch.float32).eval(), images_of(2, 256)
    monkeypatch.setattr(Codec, "decode", lambda self, coded, advance, labels: images + 1)
    with pytest.raises(IntegrityError, match="not those that were coded"):
        measure_code(model, images)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_the_images(levels: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = images_of(3, levels, (channels, 9, 8))
    sizes: dict[str, int] = {"PNG": 0, "WEBP": 0}
    save = Image.Image.save

    def spy(image: Image.Image, target: io.BytesIO, format: str, **options: object) -> None:
        save(image, target, format, **options)
        sizes[format] += len(target.getvalue())
        with Image.open(io.BytesIO(target.getvalue())) as found:
            np.testing.assert_array_equal(np.asarray(found.convert("RGB")), np.asarray(image.convert("RGB")))

    monkeypatch.setattr(Image.Image, "save", spy)
    assert file_bits(images, levels) == (8 * sizes["PNG"], 8 * sizes["WEBP"])
    if (levels, channels) == (2, 1):
        # One bit per pixel.
        assert sizes["PNG"] < 3 * 90


def test_evaluate_nll_prints_the_code_beside_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_mnist(tmp_path / "data", monkeypatch)
    model = save_model(tmp_path / "model.safetensors")
    told = result_of("evaluate-nll", model, "--coded")
    assert told["coded"]["images"] == 7
    written = result_of("compress", model, "-o", tmp_path / "x.fame")
    assert told["coded"]["bits_per_dim"] == written["bits_per_dim"]
    assert told["coded"]["png_bits_per_dim"] > 0
    assert "coded" not in result_of("evaluate-nll", model, "--limit", "4")
    done = fame("evaluate-nll", model, "--limit", "4", "--coded")
    assert done.code == 0, done.err
    for label in ("coded and decoded", "PNG", "WebP", "4 images restored exactly"):
        assert label in done.text
