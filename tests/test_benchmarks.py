"""The commands of `benchmarks/`: what they run by default."""

import itertools

import pytest

from benchmarks import recipe
from famecli.errors import UsageError

TINY_LACKS = {"no attention", "two blocks of attention", "four heads, 64 features", "lag 2"}
PIXELCNN_LACKS = {
    *("latents not bounded", "three layers of latents", "latents at the top alone"),
    *("a quarter of the latents", "condition of 32 maps", "decoder width 80", "bits by their mean"),
    *("free nats 0", "free nats 0.25", "beta 0.9", "no warm-up of the KL", "long warm-up of the KL"),
}


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        ([], {"bits as drawn"}),
        (["--quick"], {"bits as drawn", "latents at the top alone", *TINY_LACKS}),
        (["--model", "pixelcnn"], PIXELCNN_LACKS),
    ],
)
def test_variations_are_those_that_change_the_training(
    words: list[str], lacking: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["recipe", *words])
    options = recipe.parse_options()
    assert set(recipe.VARIATIONS) - set(options.only) == lacking
    found = [recipe.effective_values(each.changes, options) for each in recipe.chosen(options.only)]
    assert all(one != other for one, other in itertools.combinations(found, 2))
    with pytest.raises(UsageError, match="unknown variation 'batch 31'"):
        recipe.chosen(["batch 31"])
