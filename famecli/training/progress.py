"""Progress of a run, as its state file keeps it."""

from dataclasses import dataclass
from typing import Literal

from famecli.checkpoints.provenance import FirstWeights, TrainingData
from famecli.config.schema import Precision, build
from famecli.data.preparation import TENTH, SplitRule
from famecli.errors import InputError

OTHER_IMAGES = "train on these with `init` and another `out`; or `resume=False` to start over"


@dataclass(frozen=True)
class TrackedRun:
    """ID of a run in a tracker, under which the resumed run continues."""

    tracker: str
    run_id: str


@dataclass
class Progress:
    """Progress of a run, and some of its options; kept in the state file.

    Args:
        seconds: Wall time of training and validation, without stops, over all starts.
        cpu_seconds: CPU time of all processes in that time; None in older runs, which did not count it.
        best_nats: Lowest validation NLL in nats since latents joined the decoder; None before there is one.
        best_images: Images seen at the lowest validation NLL.
        best_sha256: SHA-256 of the checkpoint with the lowest validation NLL.
        precision: Precision of the last step.
        init: First weights; None for random ones.
        size: Size of the preset; None in older runs, which did not record it.
        budget_s: Time budget in seconds; None if the number of images was given.
        valid_part: Part of the validation split; the first images in older runs, which did not record it.
        rule: Rule that splits the user's images; by position in older runs, which did not record it.
        data: Images of the training; None in older runs, which did not record them.
        tracked: Names of the run in trackers.
    """

    seconds: float = 0.0
    cpu_seconds: float | None = 0.0
    best_nats: float | None = None
    best_images: int = 0
    best_sha256: str = ""
    precision: Precision = "fp32"
    init: FirstWeights | None = None
    size: str | None = None
    budget_s: float | None = None
    valid_part: Literal["even", "first"] = "first"
    rule: SplitRule = TENTH
    data: TrainingData | None = None
    tracked: tuple[TrackedRun, ...] = ()

    @classmethod
    def of(cls, told: object) -> "Progress":
        """Return the progress in a state; older states lack the CPU time.

        Raises:
            ConfigError: It is malformed.
        """
        return build(cls, {"cpu_seconds": None} | told if isinstance(told, dict) else told, "progress")

    def check_data(self, now: TrainingData | None) -> None:
        """Check that the images of a resumed training are those that it began with, where both are known.

        Raises:
            InputError: They are others.
        """
        if self.data is not None and now is not None and self.data != now:
            raise InputError(f"this run began with {self.data}, now it is {now}", OTHER_IMAGES)
