"""The number of weights by arithmetic is that of the model."""

from dataclasses import replace

import pytest
import torch

from famecli.config.costs import count_parameters
from famecli.config.presets import PRESETS, model_config
from famecli.model.fame import Fame


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_weights_are_counted_without_a_model(preset: str, patch: int) -> None:
    config = model_config(preset, "small", (3, 10, 7), 256)
    for attention in ((), (1,), (1, 3, 8)) if config.decoder.autoregressive else ((),):
        for width, positions in ((0, False), (6, True)):
            values = {"patch": patch, "attention": attention, "attention_width": width, "heads": 2}
            values["positions"] = positions
            changed = replace(config, decoder=replace(config.decoder, **values))
            with torch.device("meta"):
                assert count_parameters(changed) == Fame(changed).count_parameters()
