"""The record of an NLL: its reader, its words, and the check of a claim."""

import dataclasses
import math
from typing import Any

import pytest
from support.commands import CLAIM

from famecli.config.schema import to_dict
from famecli.errors import ConfigError, GateError, IntegrityError, UnavailableError, UsageError
from famecli.nll.record import ESTIMATOR_VERSION, Annealing, Bound, Estimator, NllRecord, parse_nll

SETTINGS = Annealing(steps=9, chains=2)


def record(**changes: Any) -> NllRecord:
    data = CLAIM["data"] | {"shape": [1, 28, 28]}  # type: ignore[operator]
    return dataclasses.replace(parse_nll(CLAIM | {"data": data}, "here"), **changes)


def test_what_is_written_is_read_again() -> None:
    claim = parse_nll(
        CLAIM | {"curve": [{"importance_samples": 1, "nats_per_image": 82.0, "more": 3}]}, "here"
    )
    assert parse_nll(to_dict(claim), "here") == claim
    preparation = {"resize": 28, "crop": "center"}
    data = to_dict(claim.data) | {"preparation": preparation}
    whole = to_dict(claim) | {"data": data, "annealing": to_dict(SETTINGS)}
    more = whole | {"data": data | {"preparation": preparation | {"more": 3}, "more": 3}, "more": 3}
    more |= {key: whole[key] | {"more": 3} for key in ("annealing", "terms_nats_per_image")}
    assert parse_nll(more, "here") == parse_nll(whole, "here")
    annealed = record(bound="ais", importance_samples=2, annealing=SETTINGS)
    assert parse_nll(to_dict(annealed), "here") == annealed
    assert claim.one_draw_nats == 82.0
    assert record().one_draw_nats is None


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (Estimator("exact", 1), "exact"),
        (Estimator("elbo", 1), "-ELBO"),
        (Estimator("iwae", 100), "IWAE, K = 100"),
        (Estimator("ais", 2, SETTINGS), "AIS, 9 steps of 5 leapfrog steps from the posterior, chains = 2"),
    ],
)
def test_estimators_have_words(estimator: Estimator, words: str) -> None:
    assert str(estimator) == words


def test_a_record_is_told_with_its_protocol() -> None:
    images = "mnist, test, 10,000 images, binarization: dynamic, bits of seed 0"
    assert str(record()) == f"81.250 nats/image (IWAE, K = 100; {images})"


@pytest.mark.parametrize(
    "change",
    [
        {"nats_per_image": 10**400},
        {"nats_per_image": True},
        {"seed": -1},
        {"importance_samples": 0},
        {"data": CLAIM["data"] | {"images": 0}},
        {"data": CLAIM["data"] | {"shape": "large"}},
        {"curve": [7]},
        {"curve": 7},
        {"annealing": {"steps": "many"}},
    ],
)
def test_a_record_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^here"):
        parse_nll(CLAIM | change, "here")
    with pytest.raises(ConfigError, match=r"^here"):
        parse_nll([CLAIM], "here")


def test_a_claim_says_what_it_expects_of_so_many_images() -> None:
    claim = record(first_256_nats_per_image=80.0)
    assert [claim.expected("it", limit) for limit in (256, 10_000, 99_999)] == [
        (256, 80.0),
        (10_000, 81.25),
        (10_000, 81.25),
    ]
    with pytest.raises(UsageError, match="first 5 images"):
        claim.expected("it", 5)
    with pytest.raises(UnavailableError, match="it records no NLL of its first 256"):
        record().expected("it", 256)


def test_a_measurement_is_checked_against_a_claim() -> None:
    claim = record(first_256_nats_per_image=80.0, estimator_version=ESTIMATOR_VERSION)
    claim.check("it", claim)
    first = dataclasses.replace(claim.data, images=256, pixels_sha256="0" * 64)
    claim.check("it", record(data=first, nats_per_image=80.0009))
    for nats in (80.0011, math.nan):
        with pytest.raises(GateError, match=r"it claims 80\.0000 nats/image \(IWAE, K = 100\)"):
            claim.check("it", record(data=first, nats_per_image=nats))
    with pytest.raises(GateError):
        claim.check("it", record(bound="elbo"))
    with pytest.raises(IntegrityError, match="the claim is about abababababab"):
        claim.check("it", record(data=dataclasses.replace(claim.data, pixels_sha256="0" * 64)))


@pytest.mark.parametrize(("bound", "version", "allowed"), [("iwae", None, 0.01), ("elbo", None, 0.001)])
def test_older_claims_of_several_draws_may_differ_by_a_hundredth(
    bound: Bound, version: int | None, allowed: float
) -> None:
    claim = record(bound=bound, estimator_version=version)
    nats = claim.nats_per_image
    claim.check("it", dataclasses.replace(claim, nats_per_image=nats + 0.99 * allowed))
    with pytest.raises(GateError):
        claim.check("it", dataclasses.replace(claim, nats_per_image=nats + 1.01 * allowed))


# 256 of 1,000 images cost 80 nats each, so all cost 20.48 at least. With a standard error of 0.5 nats, the
# mean of all lies within 0.5 * sqrt(999 * 744 / 256) = 26.94 nats of theirs.
@pytest.mark.parametrize(
    ("bound", "changes", "told"),
    [
        ("elbo", {}, ""),
        ("elbo", {"nats_per_image": 20.4801, "stderr_nats_per_image": None}, ""),
        (
            "elbo",
            {"nats_per_image": 20.47, "stderr_nats_per_image": None},
            "20.4700 nats/image, which 80.0000",
        ),
        ("exact", {"nats_per_image": 1.0, "stderr_nats_per_image": 9.0}, "rule out"),
        ("iwae", {"nats_per_image": 1.0, "stderr_nats_per_image": 9.0}, ""),
        ("iwae", {"nats_per_image": 53.1}, ""),
        ("iwae", {"nats_per_image": 53.0}, "rule out"),
        ("iwae", {"nats_per_image": 107.0}, "rule out"),
        ("elbo", {"stderr_nats_per_image": -1.0}, "rule out"),
        ("elbo", {"bits_per_dim": 0.5}, "0.50000 bits/dim and 81.0000 nats/image, which differ"),
        ("elbo", {"bits_per_dim": 0.14905}, ""),
        ("elbo", {"stderr_bits_per_dim": 0.5}, "0.50000 bits/dim and 0.5000 nats/image, which differ"),
        ("elbo", {"annealing": SETTINGS}, "AIS, 9 steps"),
        ("exact", {"importance_samples": 5}, "exact"),
    ],
)
def test_numbers_that_the_first_images_rule_out_are_refused(
    bound: Bound, changes: dict[str, Any], told: str
) -> None:
    measured = record(bound=bound, importance_samples=1, nats_per_image=80.0)
    claim = dataclasses.replace(
        measured, nats_per_image=81.0, bits_per_dim=None, first_256_nats_per_image=80.0
    )
    claim = dataclasses.replace(claim, data=dataclasses.replace(claim.data, images=1_000))
    measured = dataclasses.replace(measured, data=dataclasses.replace(claim.data, images=256))
    forged = dataclasses.replace(claim, **changes)
    if not told:
        forged.check("it", measured)
        return
    with pytest.raises(GateError, match=told):
        forged.check("it", measured)
