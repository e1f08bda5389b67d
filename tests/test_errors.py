"""What errors say."""

import pytest
from support.commands import error_of

from famecli.config.presets import preset_named
from famecli.data.registry import dataset_info
from famecli.errors import UsageError, did_you_mean

NAMES = ["mnist", "mnist-grey", "cifar10"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnits", "did you mean mnist?"),
        ("mnist-gray", "did you mean mnist-grey?"),
        ("CIFAR", "data sets: mnist, mnist-grey, cifar10"),
        ("", "data sets: mnist, mnist-grey, cifar10"),
    ],
)
def test_the_hint_is_the_closest_name_or_all(name: str, hint: str) -> None:
    assert did_you_mean(name, NAMES, "data sets") == hint
    assert did_you_mean(name, dict.fromkeys(NAMES), "data sets") == hint


def test_there_may_be_no_names() -> None:
    assert did_you_mean("mnist", [], "names of weights") == "names of weights: none"


def test_unknown_models_and_data_sets_are_hinted_alike() -> None:
    with pytest.raises(UsageError) as caught:
        preset_named("pixelcn")
    assert caught.value.hint == "did you mean pixelcnn?"
    with pytest.raises(UsageError) as caught:
        dataset_info("zzzzzz")
    assert caught.value.hint.startswith("data sets: mnist, ")


def test_a_wrong_choice_is_told_without_the_parsers_own_words() -> None:
    said = error_of(2, "evaluate-nll", "--split", "bad")
    assert said.startswith("error: Invalid value for '--split': 'bad' is not one of 'train', ")
