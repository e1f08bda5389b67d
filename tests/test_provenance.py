from typing import Any

import pytest

from famecli.checkpoints.provenance import (
    FirstWeights,
    PastTraining,
    Provenance,
    in_words,
    parse_provenance,
    time_in_words,
)
from famecli.errors import ConfigError

PAST = {"dataset": "mnist", "images_seen": 1280, "seconds": 1800, "threads": 2, "processes": 4, "seed": 3}
OWN = {"dataset": "mnist-fixed", "images_seen": 640, "steps": 10, "seconds": 3600.0, "threads": 2}


def test_all_trainings_are_told_the_first_one_first() -> None:
    metadata = {"provenance": OWN | {"init": {"past": [PAST]}}, "training": {"seed": 5, "lr": 0.1}}
    found = parse_provenance(metadata)
    assert found.trainings == (
        PastTraining("mnist", 1280, 1800.0, 2, 4, 3),
        PastTraining("mnist-fixed", 640, 3600.0, 2, 1, 5),
    )
    assert found.past == found.trainings[:1]
    assert (found.steps, found.device, found.versions) == (10, None, ())
    assert (found.total_images, found.seeds) == (1920, (3, 5))
    assert found.total_thread_hours == 0.5 * 2 * 4 + 2
    assert in_words(found.trainings) == (
        "1,280 of mnist (4.00 hours of one thread, seed 3), "
        "then 640 of mnist-fixed (2.00 hours of one thread, seed 5)"
    )


def test_time_on_gpus_is_told_apart() -> None:
    trainings = [
        PastTraining(seconds=7200, threads=4, processes=2, device="cuda"),
        PastTraining(seconds=1800, threads=2, device="cpu"),
        PastTraining(seconds=1800, threads=2),
    ]
    assert time_in_words(trainings) == "4.00 hours of one GPU and 2.00 hours of one thread"
    assert time_in_words(()) == "unknown"


def test_a_checkpoint_without_provenance_tells_of_none() -> None:
    assert parse_provenance({}) == Provenance()
    assert parse_provenance({}).trainings == ()
    found = parse_provenance({"provenance": {"images_seen": 5}})
    assert found.trainings == (PastTraining(images_seen=5, seed=None),)
    assert in_words(found.trainings) == "5 of unknown images (0.00 hours of one thread, seed None)"
    old = parse_provenance({"provenance": {"init": {"source": "older than this"}}})
    assert (old.init, old.past) == (FirstWeights("older than this"), ())


def test_keys_of_later_versions_are_left_out() -> None:
    found = parse_provenance(
        {"provenance": OWN | {"colour": "red", "versions": {"famecli": "9", "torch": "3"}}}
    )
    assert found == Provenance("mnist-fixed", 640, 3600.0, 2, steps=10, versions=("famecli 9", "torch 3"))


@pytest.mark.parametrize(
    "past",
    [
        7,
        [7],
        [{"seconds": "long"}],
        [{"seconds": -1}],
        [{"seconds": 1e300}],
        [{"seconds": 10**400}],
        [{"hours": 1}],
        [{"cpu_seconds": -1.0}],
    ],
)
def test_a_past_that_cannot_be_is_refused(past: Any) -> None:
    with pytest.raises(ConfigError):
        parse_provenance({"provenance": {"init": {"past": past}}})


@pytest.mark.parametrize(
    "provenance", [7, "x", [], {"images_seen": "<b>"}, {"seconds": 10**400}, {"init": 1}]
)
def test_a_provenance_of_another_form_is_refused(provenance: object) -> None:
    with pytest.raises(ConfigError, match=r"^here"):
        parse_provenance({"provenance": provenance}, "here")


def test_cpu_hours_are_those_of_all_trainings_or_unknown() -> None:
    counted, untold = PastTraining(seconds=10.0, cpu_seconds=1800.0), PastTraining(seconds=10.0)
    first = FirstWeights(past=(counted,))
    assert Provenance(seconds=10.0, cpu_seconds=1800.0, init=first).total_cpu_hours == 1.0
    assert (
        Provenance(seconds=10.0, cpu_seconds=1800.0, init=FirstWeights(past=(untold,))).total_cpu_hours
        is None
    )
    assert Provenance(seconds=10.0, init=first).total_cpu_hours is None
    assert Provenance().total_cpu_hours is None
