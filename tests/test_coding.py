"""Images become bits and the same images again, in as many bits as the NLL says."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.codes import BITS, FINE, again, all_bits, bound_bits, change_last_digits, images_of
from support.models import LATENT_PRESETS, preset_model, two_layer_model

from famecli.coding.bits_back import FIRST_BITS, Sample, choose_bits
from famecli.coding.codec import Codec, code_pixels
from famecli.coding.stack import STATE_WORDS, WORD_BITS, Stack, Writer
from famecli.config.costs import image_bytes
from famecli.config.presets import PRESETS
from famecli.errors import IntegrityError
from famecli.model.distributions import LogisticMixture
from famecli.model.fame import Fame
from famecli.sampling.sampler import CHUNK

COLOURS = (3, 2, 3)


def model_of(preset: str, shape: tuple[int, int, int] = BITS, levels: int = 2) -> Fame:
    model = preset_model(preset, shape, levels, torch.float32).eval()
    with torch.no_grad():
        for stage in model.stages:
            if stage.config.latents:
                # Posteriors that reach beyond the outermost bins of their priors would cost too little.
                stage.recognition.layer.weight.mul_(0.4)
                stage.recognition.layer.bias[stage.config.latents :] -= 1.0
    return model


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("preset", PRESETS)
def test_images_come_back(preset: str, levels: int) -> None:
    shape = BITS if levels == 2 else COLOURS
    model, images = model_of(preset, shape, levels), images_of(5, shape, levels)
    for bits in (None, all_bits(model, 3)):
        np.testing.assert_array_equal(again(model, Codec(model, 2).encode(images, bits)), images)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("preset", ["fame", "pixelcnn", "vae"])
def test_no_image_and_one_image(preset: str, count: int) -> None:
    model, images = model_of(preset), images_of(count)
    for bits in (None, all_bits(model, FINE)):
        coded = Codec(model).encode(images, bits)
        assert coded.images == count
        np.testing.assert_array_equal(again(model, coded), images)


@pytest.mark.parametrize("lengths", [[9.0, math.nan, 8.0, math.nan], [math.nan, math.nan, 8.0, 8.5]])
def test_a_code_whose_length_is_not_a_number_is_never_the_shorter(
    lengths: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    coming = iter(lengths)
    monkeypatch.setattr(Sample, "total", lambda self, bits: next(coming, math.inf))
    chosen = choose_bits(model_of("vae"), images_of(2))
    # The length of 8 is that of the second change: one bit less for each map.
    assert {bits for layer in chosen for bits in layer} <= {0, FIRST_BITS - 1}
    assert any(bits for layer in chosen for bits in layer)


def test_float64_models_and_extreme_images_come_back() -> None:
    model = preset_model("fame", COLOURS, 256).eval()
    images = np.stack([np.full(COLOURS, 0, np.uint8), np.full(COLOURS, 255, np.uint8)])
    with torch.no_grad():
        model.decoder.head2.weight *= 50.0
    np.testing.assert_array_equal(again(model, Codec(model).encode(images)), images)


def test_layers_that_carry_different_bits_come_back() -> None:
    model = two_layer_model(dense=False, autoregressive=True).float().eval()
    images = images_of(12, (1, 2, 2))
    for bits in ([[1, 16], [0, 5]], [[0, 0], [7, 7]], [[3, 3], [0, 0]]):
        coded = Codec(model).encode(images, bits)
        assert coded.bits == tuple(map(tuple, bits))
        np.testing.assert_array_equal(again(model, coded), images)


@pytest.mark.parametrize("group", [1, 7, 16])
@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_the_groups_of_the_encoder_are_those_of_the_decoder(preset: str, group: int) -> None:
    model, images = model_of(preset), images_of(18)
    coded = Codec(model, group).encode(images, all_bits(model, 2))
    assert max(coded.groups) <= group
    assert coded.images == 18
    # The decoder's own is another.
    np.testing.assert_array_equal(Codec(model, 5).decode(coded), images)


def test_groups_grow_with_the_bits_there_are() -> None:
    model = model_of("fame")
    coded = Codec(model).encode(images_of(200), all_bits(model, 4))
    assert coded.groups[0] == 1
    assert max(coded.groups) > CHUNK // 2
    # Only the first image takes random bits, and a bit of the next groups.
    first = Codec(model).encode(images_of(1), all_bits(model, 4))
    assert 0 < coded.initial_bits <= 2 * first.initial_bits


@pytest.mark.parametrize("preset", ["fame", "vae", "pixelcnn"])
def test_threads_do_not_matter(preset: str) -> None:
    model, images = model_of(preset), images_of(8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        coded = Codec(model).encode(images)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        other = Codec(model).encode(images)
        np.testing.assert_array_equal(again(model, coded), images)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(coded.payload, other.payload)


@pytest.mark.usefixtures("threads_put_back")
def test_all_is_computed_by_one_thread() -> None:
    model, images = model_of("fame"), images_of(3)
    seen: list[int] = []
    for part in model.modules():
        part.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(3)
    coded = Codec(model).encode(images)
    assert set(seen) == {1}
    seen.clear()
    again(model, coded)
    assert set(seen) == {1}


@pytest.mark.parametrize(("preset", "levels"), [("fame", 2), ("lvae", 2), ("pixelcnn", 2), ("pixelcnn", 256)])
def test_last_digits_do_not_matter(preset: str, levels: int) -> None:
    shape = BITS if levels == 2 else COLOURS
    model, images = preset_model(preset, shape, levels).eval(), images_of(60, shape, levels)
    coded = Codec(model).encode(images, all_bits(model, 3))
    change_last_digits(model)
    np.testing.assert_array_equal(again(model, coded), images)


def test_last_digits_of_chances_do_not_matter() -> None:
    chances = torch.arange(1, 1000).double() / 1000
    ones = torch.ones(len(chances)).long()
    written = []
    for digits in (-1e-13, 0.0, 1e-13):
        writer = Writer()
        writer(chances + digits, ones)
        written.append(writer.chances[0])
    np.testing.assert_array_equal(written[0], written[1])
    np.testing.assert_array_equal(written[2], written[1])


@pytest.mark.parametrize("levels", [2, 256])
def test_without_latents_the_code_is_as_long_as_the_nll(levels: int) -> None:
    shape = BITS if levels == 2 else COLOURS
    model, images = model_of("pixelcnn", shape, levels), images_of(100, shape, levels)
    coded = Codec(model).encode(images)
    assert coded.initial_bits == 0
    assert abs(coded.net_bits - bound_bits(model, images)) < 0.0002 * coded.net_bits + STATE_WORDS * WORD_BITS


@pytest.mark.parametrize("preset", LATENT_PRESETS)
def test_with_latents_the_code_is_as_long_as_the_bound(preset: str) -> None:
    model, images = model_of(preset), images_of(120)
    coded = Codec(model).encode(images, all_bits(model, FINE))
    bound = bound_bits(model, images)
    # The draws of so few images vary by more than 1 %; latents that gave nothing back would cost 500 %.
    assert abs(coded.net_bits - bound) < 0.04 * bound
    assert coded.initial_bits > 0
    # What is chosen is as short as what is fine, initial bits included.
    short = Codec(model).encode(images)
    assert short.net_bits + short.initial_bits <= 1.02 * (coded.net_bits + coded.initial_bits)


@pytest.mark.parametrize("preset", ["fame", "vae"])
@pytest.mark.parametrize("count", [1, 30])
def test_the_bits_chosen_make_the_file_short(preset: str, count: int) -> None:
    model, images = model_of(preset), images_of(count)
    others = [Codec(model).encode(images, all_bits(model, bits)).payload_bits for bits in (0, 2, 5, FINE)]
    assert Codec(model).encode(images).payload_bits <= min(others) + STATE_WORDS * WORD_BITS


def test_payloads_that_end_early_are_told() -> None:
    for preset in ("fame", "pixelcnn", "lvae"):
        model, images = model_of(preset), images_of(6)
        coded = Codec(model).encode(images, all_bits(model, 3))
        assert len(coded.payload) > 5
        for words in range(len(coded.payload)):
            short = dataclasses.replace(coded, payload=coded.payload[:words])
            try:
                found = again(model, short)
            except IntegrityError:
                continue
            # Bits may go round; a file's hash tells then.
            assert not np.array_equal(found, images)


def test_a_stack_without_bits_is_told() -> None:
    stack = Stack(np.array([1, 2, 3, 4], np.uint32))
    stack.pop_uniform(4, 16)
    with pytest.raises(IntegrityError, match="ends before its images do"):
        stack.pop_uniform(4, 16)


def test_payloads_of_noise_end_in_images_or_in_an_error() -> None:
    for preset in PRESETS:
        model = model_of(preset, COLOURS, 6)
        coded = Codec(model).encode(images_of(3, COLOURS, 6), all_bits(model, 2))
        for seed in range(2):
            noise = np.random.default_rng(seed).integers(1, 2**32, len(coded.payload), np.uint32)
            try:
                found = again(model, dataclasses.replace(coded, payload=noise))
            except IntegrityError:
                continue
            assert found.shape == (3, *COLOURS)
            assert found.max() < 6


def test_decisions_beyond_the_last_level_end_there() -> None:
    mixture = LogisticMixture(3, 6, 2)
    parameters = torch.zeros(2, mixture.parameters, 4, dtype=torch.float64)
    levels = code_pixels(mixture, parameters, lambda chance, wanted: torch.ones_like(chance).long())
    assert levels.shape == (2, 3, 4)
    assert levels.unique().tolist() == [5]


def test_impossible_codes_are_refused_before_any_work() -> None:
    model = model_of("fame")
    coded = Codec(model).encode(images_of(2))
    with pytest.raises(IntegrityError, match="other latents"):
        again(model, dataclasses.replace(coded, bits=coded.bits[:1]))
    with pytest.raises(IntegrityError, match="not a final state of the coder"):
        again(model, dataclasses.replace(coded, payload=np.zeros(5, np.uint32)))
    blind = model_of("pixelcnn")
    endless = dataclasses.replace(Codec(blind).encode(images_of(2)), groups=(1024,) * 4096)
    with pytest.raises(IntegrityError, match=f"no room for {1024 * 4096} images"):
        again(blind, endless)


@pytest.mark.parametrize("preset", ["fame", "pixelcnn"])
def test_groups_are_limited_by_a_stated_memory(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(preset)
    monkeypatch.setattr("famecli.coding.codec.GROUP_BYTES", 70 * image_bytes(model.config, 8))
    assert Codec(model, 1024).group == 70
    coded = Codec(model, 70).encode(images_of(70))
    with pytest.raises(IntegrityError, match="groups of 71 images take too much memory"):
        again(model, dataclasses.replace(coded, groups=(71,)))
    # The default size of a group can always be read.
    monkeypatch.setattr("famecli.coding.codec.GROUP_BYTES", 1)
    assert Codec(model, 1024).group == CHUNK


def test_the_smallest_payload_holds_few_images_of_any_model() -> None:
    model = model_of("fame")
    coded = Codec(model).encode(images_of(2))
    endless = dataclasses.replace(coded, groups=(64,) * 65_536)
    with pytest.raises(IntegrityError, match="no room for"):
        again(model, endless)


def test_another_model_yields_other_images() -> None:
    model, images = model_of("pixelcnn"), images_of(8)
    coded = Codec(model).encode(images)
    other = preset_model("pixelcnn", BITS, 2, torch.float32).eval()
    with torch.no_grad():
        other.decoder.head1.weight += 1e-3
    try:
        found = again(other, coded)
    except IntegrityError:
        return
    assert not np.array_equal(found, images)


def test_progress_counts_every_image() -> None:
    model, images = model_of("fame"), images_of(30)
    encoded: list[int] = []
    decoded: list[int] = []
    coded = Codec(model).encode(images, advance=encoded.append)
    Codec(model).decode(coded, decoded.append)
    assert sum(encoded) == sum(decoded) == 30
    assert encoded == decoded[::-1] == list(coded.groups)
    assert math.isclose(coded.net_bits + coded.initial_bits, coded.payload_bits)
