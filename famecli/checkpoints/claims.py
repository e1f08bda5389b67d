"""The NLL that a checkpoint claims, and the images by which it is measured anew. No torch here."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from famecli.checkpoints.header import LARGEST_HEADER_BYTES, Header, parse_header
from famecli.config.schema import build
from famecli.errors import GateError, InputError, IntegrityError, UnavailableError, UsageError

FIRST_IMAGES = 256
FIRST_KEY = f"first_{FIRST_IMAGES}_nats_per_image"
TOLERANCE_NATS = 1e-3
FURTHER = "further_claims"


@dataclass(frozen=True)
class Claim:
    """An NLL with its protocol, as `famecli.nll.report` measured it.

    Args:
        dataset_id: Data set.
        split: Of it.
        images: The first so many were scored.
        pixels_sha256: Of what was scored.
        bound: `exact`, `elbo` or `iwae`.
        importance_samples: Draws of the latents per image.
        seed: Of the latents.
        nats_per_image: Mean over all of `images`.
        first_256_nats_per_image: Mean over the first 256, or over all where there are fewer; None where the
            checkpoint is older than this figure.
        binarization: How bits were made, in words; None where it is not recorded, as the next.
        weights_sha256: Of the weights that were scored.
    """

    dataset_id: str
    split: Literal["train", "valid", "test"]
    images: int
    pixels_sha256: str
    bound: str
    importance_samples: int
    seed: int
    nats_per_image: float
    first_256_nats_per_image: float | None = None
    binarization: str | None = None
    weights_sha256: str | None = None

    @property
    def estimator(self) -> tuple[str, str, str, int]:
        """What makes two claims say the same thing: data set, split, bound and draws."""
        return self.dataset_id, self.split, self.bound, self.importance_samples

    def __str__(self) -> str:
        """Return the NLL with its protocol, for people."""
        return f"{self.nats_per_image:.3f} nats/image ({protocol(vars(self), vars(self))})"

    def expected(self, name: str, limit: int) -> tuple[int, float]:
        """Return how many images to score for `--limit`, and the mean that they must have in nats.

        Raises:
            UsageError: No figure is recorded for so many images.
            UnavailableError: That of the first 256 is not.
        """
        if limit >= self.images:
            return self.images, self.nats_per_image
        if limit != FIRST_IMAGES:
            recorded = f"{FIRST_IMAGES} or {self.images}"
            raise UsageError(f"no NLL of the first {limit} images is recorded", f"choose --limit {recorded}")
        if self.first_256_nats_per_image is None:
            raise UnavailableError(
                f"{name} records no NLL of its first {FIRST_IMAGES} images: only a full evaluation can tell",
                f"fame weights verify {name} --claims --limit {self.images}",
            )
        return FIRST_IMAGES, self.first_256_nats_per_image

    def check(self, name: str, claimed: float, measured: float, bound: str) -> None:
        """Check a measurement against what is claimed for the same images.

        Raises:
            GateError: They are further apart than `TOLERANCE_NATS`, or are not the same quantity.
        """
        # Said so that NaN is wrong as well.
        if bound != self.bound or not abs(measured - claimed) <= TOLERANCE_NATS:
            raise GateError(
                f"{name} claims {claimed:.4f} nats/image ({self.bound}), has {measured:.4f} ({bound})"
            )

    def check_pixels(self, images: int, sha256: str) -> None:
        """Check that what was scored is what the claim is about, where all its images were.

        Raises:
            IntegrityError: It is something else.
        """
        if images == self.images and sha256 != self.pixels_sha256:
            claimed = self.pixels_sha256[:12]
            raise IntegrityError(f"{self.dataset_id} has pixels {sha256[:12]}, the claim is about {claimed}")


def protocol(claim: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return in words how the NLL of a claim was estimated, and of which images, with the keys of `Claim`."""
    return (
        f"{claim['bound']}, K = {claim['importance_samples']}; {data['dataset_id']}, {data['split']}, "
        f"{data['images']:,} images, binarization: {data['binarization']}"
    )


def read_header(path: Path) -> Header:
    """Return the header of a checkpoint, without reading its tensors.

    Raises:
        InputError: It cannot be read, or is no checkpoint.
    """
    try:
        with path.open("rb") as file:
            content, size = file.read(8 + LARGEST_HEADER_BYTES), path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read checkpoint {path}: {error.strerror}") from error
    return parse_header(content, size, str(path))


def read_claims(path: Path) -> list[Claim]:
    """Return what a checkpoint claims: the NLL of most images, then those by other estimators.

    Raises:
        InputError: It claims nothing, or not in the form in which famecli writes it.
    """
    metadata = read_header(path).metadata
    if not isinstance(metadata.get("claim"), dict):
        raise InputError(f"{path} claims no NLL", f"fame evaluate-nll {path} --record FILE")
    return [parse_claim(each, f"{path}: claim") for each in claims_in(metadata)]


def claims_in(metadata: Mapping[str, Any]) -> list[Any]:
    """Return all that the metadata of a checkpoint claim, in their order, as they stand there."""
    further = metadata.get(FURTHER)
    every = [metadata.get("claim"), *(further if isinstance(further, list) else [])]
    return [claim for claim in every if claim is not None]


def readable_claims(metadata: Mapping[str, Any]) -> list[Claim]:
    """Return the claims in metadata, in their order; those not in the form of famecli are passed over."""
    found = []
    for each in claims_in(metadata):
        with suppress(InputError):
            found.append(parse_claim(each, "claim"))
    return found


def with_claim(metadata: Mapping[str, Any], claim: dict[str, Any]) -> dict[str, Any]:
    """Return the keys `claim` and `further_claims` of metadata to which `claim` is added.

    What is about other weights goes, and so does what the same estimator said of the same split. The claim
    about most images comes first; among equals, the earliest.

    Raises:
        InputError: An earlier claim is not in the form in which famecli writes it.
    """
    own = parse_claim(claim, "claim")
    found = []
    for each in claims_in(metadata):
        earlier = parse_claim(each, "claim")
        if each.get("weights_sha256") == claim["weights_sha256"] and earlier.estimator != own.estimator:
            found.append(each)
    first, *others = sorted([*found, claim], key=lambda each: -each["data"]["images"])
    return {"claim": first} | ({FURTHER: others} if others else {})


def parse_claim(claim: object, where: str) -> Claim:
    """Return a claim as it stands in a checkpoint's metadata.

    Raises:
        InputError: It is not of the form in which famecli writes it; the message begins with `where`.
    """
    data = claim.get("data") if isinstance(claim, dict) else None
    if not isinstance(claim, dict) or not isinstance(data, dict):
        raise InputError(f"{where} is no table with data")
    own = ("bound", "importance_samples", "seed", "nats_per_image", FIRST_KEY, "weights_sha256")
    scored = ("dataset_id", "split", "images", "pixels_sha256", "binarization")
    found = {key: claim[key] for key in own if key in claim} | {
        key: data[key] for key in scored if key in data
    }
    result = build(Claim, found, where)
    if min(result.images, result.importance_samples) < 1 or result.seed < 0:
        raise InputError(f"{where}: a count is out of range")
    return result
