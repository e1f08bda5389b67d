"""Checks by name, run one after the other."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping

import torch

from famecli.checkpoints.checkpoint import Checkpoint
from famecli.config import costs
from famecli.config.schema import ModelConfig
from famecli.data.dataset import ImageSplit, Split, even_part
from famecli.errors import (
    GateError,
    InputError,
    IntegrityError,
    NumericsError,
    OutOfMemoryError,
    UnavailableError,
    UsageError,
)
from famecli.evaluation.score import measure_again, scored_levels
from famecli.nll.record import parse_nll
from famecli.runtime.memory import is_out_of_memory
from famecli.verification.causality import check_causality
from famecli.verification.findings import CHECKS, CheckResult, Finding, Measurement
from famecli.verification.nll_checks import check_batches, check_code, check_latents
from famecli.verification.normalisation import check_normalisation
from famecli.verification.sampling import check_sampling
from famecli.verification.subject import Subject

Check = Callable[[Subject], Finding]
# Loader of a split from the names of its data set and of the split; None names the data set of the training.
Images = Callable[[str | None, Split], ImageSplit]
# Floating-point operations above which checks are announced, and above which they are refused. Checks of the
# presets take at most a tenth of the latter.
LONG_FLOP, MOST_FLOP = 3e12, 2e15
# Floating-point operations per second of one CPU core, measured with counts that are upper bounds; and
# operations that take as long as the smallest step of the sampler.
FLOP_PER_S, STEP_FLOP = 1e11, 1e8
# Floating-point operations that take as long as moving one byte of a pass in float64, and as computing one
# component of a mass.
BYTE_FLOP, MASS_FLOP = 40, 700
# Checks that need the model alone, no data.
MODEL_CHECKS: dict[str, Check] = {
    "causality": check_causality,
    "batch": check_batches,
    "normalisation": check_normalisation,
    "latents": check_latents,
    "sampler": check_sampling,
}


def verify(
    checkpoint: Checkpoint,
    subject: Subject,
    names: Collection[str],
    *,
    images: Images | None = None,
    limit: int = 64,
    advance: Callable[[int, str], None] = lambda done, name: None,
    report: Callable[[str], None] = lambda text: None,
) -> list[CheckResult]:
    """Return the results of checks, in the order of `CHECKS`.

    Args:
        checkpoint: Checkpoint of the model.
        subject: Model of the checkpoint, with the seed and the numbers of images of the checks.
        names: Some of `CHECKS`.
        images: Loader of test images, for `code` and `claims`; None to code samples of the model instead.
        limit: Number of images that are coded.
        advance: See `run_checks`.
        report: Called with one line before long checks, and when there are no test images.

    Raises:
        InputError: The checks take more than `MOST_FLOP`.
        OutOfMemoryError: A check does not fit in memory.
    """
    model = subject.model
    flop = checks_flop(
        model.config, model.count_parameters(), names, subject.samples, subject.least_images, limit
    )
    told = f"the checks take about {flop / 1e12:,.0f} TFLOP"
    if flop > MOST_FLOP:
        hint = "choose fewer `checks`, or less of `images`, `samples` and `limit`"
        raise InputError(f"{checkpoint.source}: {told}, at most {MOST_FLOP / 1e12:,.0f}", hint)
    if flop > LONG_FLOP:
        report(f"{told}, some {max(1.0, flop / FLOP_PER_S / 60):,.0f} min of one CPU core")

    def code(subject: Subject) -> Finding:
        if images is not None:
            try:
                split = images(None, "test")
            except (UnavailableError, UsageError) as error:
                report(f"no test images, coding samples of the model instead: {error}")
            else:
                scored = scored_levels(checkpoint, split, even_part(len(split.pixels), limit))
                if (scored.labels is not None) == bool(subject.model.config.classes):
                    return check_code(subject.model, scored.levels, "test images", scored.labels)
                report(f"{split.info.name} has no labels, coding samples of the model instead")
        drawn, labels = subject.drawn[:limit], subject.drawn_labels
        own = None if labels is None else labels[:limit]
        return check_code(subject.model, drawn, "samples of the model", own)

    every = MODEL_CHECKS | {"code": code, "claims": lambda subject: check_claim(checkpoint, images)}
    return list(run_checks(subject, {name: every[name] for name in CHECKS if name in names}, advance))


def checks_flop(
    config: ModelConfig, parameters: int, names: Collection[str], samples: int, images: int, limit: int
) -> float:
    """Return the approximate number of floating-point operations of checks, known before they begin.

    Args:
        config: Configuration of the model.
        parameters: Number of its weights.
        names: Names of the checks.
        samples: Number of images that the sampler's check draws.
        images: Least number of images of every other check.
        limit: Number of images that are coded.
    """
    steps = costs.sampling_steps(config)
    pass_flop = max(costs.image_flop(config, parameters), BYTE_FLOP * costs.image_bytes(config))
    components = config.mixtures if config.likelihood == "logistic-mixture" else 1
    masses_flop = MASS_FLOP * config.dimensions * config.levels * components
    # Passes over an image, and steps of a batch of images.
    work = {
        "causality": (4 * max(2, images) * (steps + config.grid[0]), 0),
        "batch": (20 * max(4, images), 0),
        "normalisation": (10 * max(2, images), 0),
        "latents": (200 * max(4, images), 0),
        "sampler": (2 * samples, samples // 64 + 1),
        "code": (10 * limit, limit // 2),
        "claims": (256, 0),
    }
    drawn_flop = 2 * samples * masses_flop if "sampler" in names else 0.0
    return drawn_flop + sum(work[name][0] * pass_flop + work[name][1] * steps * STEP_FLOP for name in names)


def check_claim(checkpoint: Checkpoint, images: Images | None) -> Finding:
    """Measure the first claim of a checkpoint again, on its first 256 images.

    Args:
        checkpoint: Checkpoint of the model.
        images: Loader of the claim's images; None if unavailable.

    Raises:
        UnavailableError: The images are not on this machine.
    """
    stored, name, wrong = checkpoint.metadata.get("claim"), checkpoint.source, ""
    if stored is None:
        return Finding.skipped("the checkpoint claims no NLL")
    if images is None:
        return Finding.skipped("there are no images to measure the claim with")
    if checkpoint.weights != "ema":
        return Finding.skipped("the claim is about the averaged weights")

    def available(dataset: str | None, split: Split) -> ImageSplit:
        """Return a split; a data set that is not known here, or needs a path, is not available."""
        try:
            return images(dataset, split)
        except UsageError as error:
            raise UnavailableError(str(error)) from error

    try:
        claim = parse_nll(stored, f"{name}: claim")
        found = measure_again(checkpoint, claim, available, name=name)
        claim.check(name, found)
    except (UsageError, InputError) as error:
        return Finding.broken(str(error))
    except GateError as error:
        wrong = str(error)
    count = found.data.images or 0
    difference = abs(found.nats_per_image - claim.expected(name, count)[1])
    if wrong and difference <= claim.tolerance_nats:
        # The value is right, but another part of the claim is wrong, such as the bound: no figure shows it.
        return Finding.broken(wrong)
    sentence, which = "The NLL is the one that the checkpoint claims.", f"{count}"
    if count != claim.data.images:
        which = f"the first {count} of {claim.data.images:,}"
        sentence = (
            f"The NLL of {which} images is the one that the checkpoint claims. "
            "The others were not measured: `fame evaluate-nll` scores all."
        )
    return Finding.of(
        sentence,
        Measurement(
            f"NLL of {which} test images minus the claimed one, nats", difference, claim.tolerance_nats
        ),
    )


def run_checks(
    subject: Subject,
    checks: Mapping[str, Check],
    advance: Callable[[int, str], None] = lambda done, name: None,
) -> Iterator[CheckResult]:
    """Yield the result of each check, in order.

    Args:
        subject: Model under verification.
        checks: Checks by name.
        advance: Called with 0 and the name before each check, and with 1 and the name after it.

    Raises:
        OutOfMemoryError: A check does not fit in memory.
    """
    for name, check in checks.items():
        started_s = time.monotonic()
        advance(0, name)
        try:
            finding = _find(check, subject)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message = f"out of memory in the check {name!r}"
            raise OutOfMemoryError(message, "free memory, or choose fewer `images` and `samples`") from error
        advance(1, name)
        yield CheckResult(name, finding, time.monotonic() - started_s)


@torch.no_grad()
def _find(check: Check, subject: Subject) -> Finding:
    """Return the finding of a check; a model that raises a numerical or integrity error fails it."""
    try:
        return check(subject)
    except UnavailableError as error:
        return Finding.skipped(str(error))
    except (NumericsError, IntegrityError) as error:
        return Finding.broken(str(error))
