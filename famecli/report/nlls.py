"""NLLs with their whole protocol, from claims, evaluations and validations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from famecli.config.schema import ModelConfig, TrainConfig, build
from famecli.data.registry import DATASETS
from famecli.errors import ConfigError
from famecli.nll.evaluate import Bound
from famecli.nll.units import bits_per_dim
from famecli.report.metrics import LARGEST_NUMBER, Record, known_keys

Origin = Literal["measured", "claim", "validation"]
# Of validation bits, whatever the seed of the training is.
DRAWN_ONCE = "dynamic, bits of seed 0"


@dataclass(frozen=True)
class Terms:
    """Parts of an NLL, nats per image: the decoder's, and the KL divergence of each layer."""

    decoder: float
    kl: tuple[float, ...]


@dataclass(frozen=True)
class Scored:
    """The images of an NLL; what is not recorded is None."""

    dataset_id: str | None
    split: str
    images: int | None
    binarization: str | None
    pixels_sha256: str | None = None


@dataclass(frozen=True)
class Point:
    """The same images' NLL by another number of draws, in nats per image."""

    importance_samples: int
    nats_per_image: float


@dataclass(frozen=True)
class Nll:
    """An NLL with its protocol; fields as in the schema `famecli/nll/1`, of which a claim is a part.

    Args:
        data: What was scored.
        bound: `exact`, `elbo` or `iwae`.
        importance_samples: Draws of the latents per image.
        nats_per_image: Mean over images.
        bits_per_dim: The same in bits per pixel and channel.
        stderr_nats_per_image: Over images; None for one image, as the next.
        stderr_bits_per_dim: The same in bits per pixel and channel.
        seed: Of the latents; None where it is not recorded, as the next three.
        weights_sha256: Of the averaged weights that were scored.
        precision: Of the arithmetic.
        terms_nats_per_image: The parts.
        curve: What fewer draws say, from one on.
        origin: Who says so: this report's evaluation, the checkpoint, or the training.
    """

    data: Scored
    bound: Bound
    importance_samples: int
    nats_per_image: float
    bits_per_dim: float
    stderr_nats_per_image: float | None = None
    stderr_bits_per_dim: float | None = None
    seed: int | None = None
    weights_sha256: str | None = None
    precision: str | None = None
    terms_nats_per_image: Terms | None = None
    curve: tuple[Point, ...] = ()
    origin: Origin = "claim"

    @property
    def estimator(self) -> str:
        """The estimator in words, and for several draws what one says."""
        if self.bound == "iwae":
            one = [point.nats_per_image for point in self.curve if point.importance_samples == 1]
            beside = f" (K = 1: {one[0]:.2f} nats)" if one and abs(one[0]) < LARGEST_NUMBER else ""
            return f"IWAE, K = {self.importance_samples}{beside}"
        return {"exact": "exact", "elbo": "-ELBO, K = 1"}[self.bound]


def nll_of_claim(claim: dict[str, Any], origin: Origin, where: str) -> Nll:
    """Return the NLL in what `famecli.nll.report.NllReport.claim` returned, or a checkpoint says it did.

    Raises:
        ConfigError: It is not of that form; the message begins with `where`.
    """
    data, curve = known_keys(Scored, claim.get("data")), claim.get("curve", [])
    points = [known_keys(Point, point) for point in curve] if isinstance(curve, list) else curve
    told = claim | {"data": data, "curve": points, "origin": origin}
    found = build(Nll, known_keys(Nll, told), where)
    if found.importance_samples < 1 or (found.data.images or 0) < 0:
        raise ConfigError(f"{where}: a count is out of range")
    return found


def nll_of_validation(
    record: Record, model: ModelConfig, training: TrainConfig | None, dataset: str | None, sha256: str | None
) -> Nll | None:
    """Return the NLL of a validation during training; None where it was not finite.

    Args:
        record: The validation.
        model: Whose it is.
        training: Its settings, where they are known.
        dataset: That it was trained on, likewise.
        sha256: Of the weights, where they are kept.
    """
    if record.nats_per_image is None:
        return None
    stderr = record.stderr_nats
    info = DATASETS.get(dataset or "")
    binarization = None if info is None else info.binarization
    return Nll(
        Scored(
            dataset, "valid", record.valid_images, DRAWN_ONCE if binarization == "dynamic" else binarization
        ),
        "elbo" if model.stochastic_layers else "exact",
        1,
        record.nats_per_image,
        bits_per_dim(record.nats_per_image, model.image_shape),
        stderr,
        None if stderr is None else bits_per_dim(stderr, model.image_shape),
        seed=None if training is None else training.seed,
        weights_sha256=sha256,
        terms_nats_per_image=_terms(record.nats_per_image, record.kl_nats),
        origin="validation",
    )


def _terms(nats: float, kl: Sequence[float | None]) -> Terms | None:
    """Return the parts of an NLL; None where one is not finite."""
    rate = tuple(each for each in kl if each is not None)
    return Terms(nats - sum(rate), rate) if len(rate) == len(kl) else None
