"""`fame verify`."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from famecli import __version__
from famecli.checkpoints.claims import FIRST_IMAGES, TOLERANCE_NATS
from famecli.cli import options
from famecli.cli.evaluate_nll import AUTOMATIC_BATCH
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.cli.weights_verify import Measuring
from famecli.errors import GateError, InputError, UnavailableError, UsageError, closest
from famecli.files import STDIN
from famecli.output import Output, table
from famecli.verification.findings import CheckResult, Finding, Measurement

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.verification.subject import Subject

SCHEMA = "famecli/verify/1"
CHECKS = ("causality", "batch", "normalisation", "latents", "sampler", "code", "claims")
ALL = ",".join(CHECKS)

Checks = Annotated[
    str, typer.Option("--checks", metavar="NAME,…", help=f"Some of: {', '.join(CHECKS)}; all by default.")
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", min=2, metavar="IMAGES", help="Drawn for the sampler's check; 256, of mixtures 64."
    ),
]
Images = Annotated[
    int | None,
    typer.Option(
        "--images",
        min=1,
        metavar="IMAGES",
        help="For the other checks of the model; 2 to 4 unless more are asked for.",
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", min=1, metavar="IMAGES", help="First test images, which are coded.")
]


def verify(
    checkpoint: options.CheckpointArgument = None,
    dataset: options.Dataset = None,
    data: options.Data = None,
    model: options.Model = None,
    checks: Checks = ALL,
    samples: Samples = None,
    images: Images = None,
    limit: Limit = 64,
    weights: options.Weights = "ema",
    seed: options.Seed = 0,
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that a model's likelihood is one: causal, the same in any batch, normalised, sampled and coded.

    Exit code 7 if a check fails. -q prints pass or fail; skip where nothing could be checked.

    Examples:

      fame verify fame-mnist

      fame verify run/ --checks causality,batch -q

      fame verify --dataset cifar10 --samples 1000 --images 8 --limit 512
    """
    output = Output(json=json, quiet=quiet)
    if data == STDIN:
        raise UsageError(
            "checks are made with data sets, not with images on stdin", "name a folder with --data"
        )
    names = _names(checks)
    choice = ModelChoice(checkpoint, dataset, model, weights, device, threads, cache_dir, offline)
    source = _Source(choice, DataPlace(data, cache_dir, offline, output.note), limit, output)
    started_s = time.monotonic()
    loaded, results = source.run(names, Extent(seed, samples, images))
    document = _document(loaded, results, seed, time.monotonic() - started_s)
    _report(document, loaded, results, output)


def _document(loaded: "Checkpoint", results: list[CheckResult], seed: int, seconds: float) -> dict[str, Any]:
    """Return the document `famecli/verify/1`."""
    return {
        "schema": SCHEMA,
        "checkpoint": {
            "name": loaded.source,
            "sha256": loaded.sha256,
            "weights": loaded.weights,
            "weights_sha256": loaded.weights_sha256,
        },
        "passed": not _failed(results) and any(each.verdict == "passed" for each in results),
        "checks": [each.to_dict() for each in results],
        "seed": seed,
        "device": loaded.model.device.type,
        "seconds": round(seconds, 2),
        "version": __version__,
    }


def _report(
    document: dict[str, Any], loaded: "Checkpoint", results: list[CheckResult], output: Output
) -> None:
    """Print the results.

    Raises:
        GateError: A check failed.
        UnavailableError: All were skipped.
    """
    failed = _failed(results)
    value = "fail" if failed else "pass" if document["passed"] else "skip"
    output.result(document, value, lambda console: _show(document, loaded, results, console))
    if failed:
        raise GateError(
            f"{loaded.source} failed: {', '.join(failed)}", "docs/verification.md says what each means"
        )
    if not document["passed"]:
        raise UnavailableError(f"nothing was checked: {results[0].finding.sentence}")


def _names(text: str) -> list[str]:
    """Return the names in `text`, in the order in which checks are made.

    Raises:
        UsageError: One is unknown, or there is none.
    """
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in CHECKS:
            raise UsageError(f"unknown check {name!r}", closest(name, CHECKS, "checks"))
    if not asked:
        raise UsageError("--checks names none", f"checks: {', '.join(CHECKS)}")
    return [name for name in CHECKS if name in asked]


def _failed(results: list[CheckResult]) -> list[str]:
    return [each.name for each in results if each.verdict == "failed"]


@dataclass(frozen=True)
class Extent:
    """How much is checked; as `famecli.verification.subject.Subject` has it."""

    seed: int
    samples: int | None
    images: int | None


@dataclass(frozen=True)
class _Source:
    """Where the model and test images come from."""

    choice: ModelChoice
    place: DataPlace
    limit: int
    output: Output

    def run(self, names: list[str], extent: Extent) -> tuple["Checkpoint", list[CheckResult]]:
        """Return the checkpoint and what each check found."""
        from famecli.verification.runner import MODEL_CHECKS, run_checks
        from famecli.verification.subject import Subject

        loaded = self.choice.load(self.output)
        every = {
            **MODEL_CHECKS,
            "code": lambda subject: self.code(loaded, subject),
            "claims": lambda subject: self.claims(loaded),
        }
        subject = Subject(loaded.model, extent.seed, extent.samples, extent.images)
        with self.output.progress("verifying", len(names)) as advance:
            chosen = {name: every[name] for name in names}
            return loaded, list(run_checks(subject, chosen, advance))

    def code(self, loaded: "Checkpoint", subject: "Subject") -> Finding:
        """Return what coding test images finds; without data, what coding the model's own images does."""
        from famecli.verification.nll_checks import check_code

        try:
            return check_code(subject.model, self._test_images(loaded), "test images")
        except UnavailableError as error:
            self.output.note(f"no test images, coding samples of the model instead: {error}")
            return check_code(subject.model, subject.drawn[: self.limit], "samples of the model")

    def _test_images(self, loaded: "Checkpoint") -> "np.ndarray":
        """Return levels, uint8, `(limit, C, H, W)`.

        Raises:
            UnavailableError: There is no data set, or it is not here.
            UsageError: The model is not for it.
        """
        from famecli.data.dataset import fixed_levels
        from famecli.nll.score import BITS_SEED, check_fits

        if self.choice.dataset is None and "dataset" not in loaded.provenance:
            raise UnavailableError(f"{loaded.source} does not say what it was trained on")
        images = self.place.images(self.choice, loaded, "test")
        check_fits(loaded, images.info.shape, images.info.levels, images.info.name)
        return fixed_levels(images, BITS_SEED, self.limit).levels

    def claims(self, loaded: "Checkpoint") -> Finding:
        """Return what measuring the checkpoint's claim anew finds; errors are those of `Measuring.check`."""
        if loaded.claim is None:
            return Finding.skipped("the checkpoint claims no NLL")
        if self.choice.weights != "ema":
            return Finding.skipped("the claim is about the averaged weights")
        path = self.choice.path()
        if path == STDIN:
            return Finding.skipped("the checkpoint came through stdin: it cannot be read again")
        measuring = Measuring(
            self.place, FIRST_IMAGES, AUTOMATIC_BATCH, self.choice.device, self.choice.threads, self.output
        )
        found: list[dict[str, Any]] = []
        wrong = ""
        try:
            measuring.check(loaded.source, path, found)
        except InputError as error:
            return Finding.broken(str(error))
        except GateError as error:
            wrong = str(error)
        difference = abs(found[0]["measured_nats_per_image"] - found[0]["claimed_nats_per_image"])
        if wrong and difference <= TOLERANCE_NATS:
            return Finding.broken(wrong)
        return Finding.of(
            "The NLL is the one that the checkpoint claims.",
            Measurement(
                f"NLL of {found[0]['images']} test images minus the claimed one, nats",
                difference,
                TOLERANCE_NATS,
            ),
        )


def _show(
    document: dict[str, Any], loaded: "Checkpoint", results: list[CheckResult], console: Console
) -> None:
    rows = [row for each in results for row in _rows(each)]
    config = loaded.model.config
    console.print(f"{config.preset} from {loaded.source}, {config.likelihood}, {loaded.weights} weights")
    console.print(table("", ["check", "measured", "value", "limit", "verdict", "s"], rows, right=False))
    console.print(
        f"weights {loaded.weights_sha256[:16]}, seed {document['seed']}, {document['device']}, "
        f"{document['seconds']:.1f} s"
    )


def _rows(result: CheckResult) -> list[tuple[str, ...]]:
    """Return a row per measurement; name and seconds stand in the first."""
    rows = [
        (each.what, f"{each.value:.3g}", f"{each.limit:.3g}", "passed" if each.passed else "FAILED")
        for each in result.finding.measurements
    ]
    verdict = "FAILED" if result.verdict == "failed" else result.verdict
    rows = rows or [(result.finding.sentence, "", "", verdict)]
    return [
        (result.name if index == 0 else "", *row, f"{result.seconds:.1f}" if index == 0 else "")
        for index, row in enumerate(rows)
    ]
