from typing import Any

import pytest

from famecli.checkpoints.history import PastTraining, before, cpu_hours, described, thread_hours, trainings
from famecli.errors import ConfigError

PAST = {"dataset": "mnist", "images_seen": 1280, "seconds": 1800, "threads": 2, "processes": 4, "seed": 3}
OWN = {"dataset": "mnist-fixed", "images_seen": 640, "steps": 10, "seconds": 3600.0, "threads": 2}


def test_all_trainings_are_told_the_first_one_first() -> None:
    metadata = {"provenance": OWN | {"init": {"past": [PAST]}}, "training": {"seed": 5, "lr": 0.1}}
    past = trainings(metadata)
    assert past == (
        PastTraining("mnist", 1280, 1800.0, 2, 4, 3),
        PastTraining("mnist-fixed", 640, 3600.0, 2, 1, 5),
    )
    assert thread_hours(past) == 0.5 * 2 * 4 + 2
    assert described(past) == (
        "1,280 of mnist (4.00 hours, seed 3), then 640 of mnist-fixed (2.00 hours, seed 5)"
    )
    assert before(metadata["provenance"]) == past[:1]


def test_a_checkpoint_without_provenance_tells_of_none() -> None:
    assert trainings({}) == ()
    assert trainings({"provenance": {"images_seen": 5}}) == (PastTraining(images_seen=5, seed=None),)
    assert before({"init": {"source": "older than this"}}) == ()


@pytest.mark.parametrize(
    "past",
    [
        7,
        [7],
        [{"seconds": "long"}],
        [{"seconds": -1}],
        [{"seconds": 1e300}],
        [{"hours": 1}],
        [{"cpu_seconds": -1.0}],
    ],
)
def test_a_past_that_cannot_be_is_refused(past: Any) -> None:
    with pytest.raises(ConfigError, match="past"):
        before({"init": {"past": past}})


def test_cpu_hours_are_those_of_all_trainings_or_unknown() -> None:
    counted = PastTraining(seconds=10.0, cpu_seconds=1800.0)
    assert cpu_hours((counted, counted)) == 1.0
    assert cpu_hours((PastTraining(seconds=10.0), counted)) is None
    assert cpu_hours(()) is None
