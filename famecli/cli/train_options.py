"""Options of `fame train` alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from famecli.config.presets import PRESETS, SIZES

RUN = "Run"
SCHEDULE = "Schedule"

Model = Annotated[str, typer.Argument(metavar="[MODEL]", help=f"One of {', '.join(PRESETS)}.")]
ModelSize = Annotated[
    str, typer.Option("--size", "--preset", metavar="|".join(SIZES), help="Size of the model.")
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML, as --print-config prints it.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key; may be repeated.")
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Measure steps on blank images, predict memory and time, read and write nothing.",
    ),
]
Images = Annotated[
    int | None, typer.Option("--images", min=1, help="Images to see in all.", rich_help_panel=SCHEDULE)
]
Epochs = Annotated[
    float | None, typer.Option("--epochs", min=0.0, help="The same, in epochs.", rich_help_panel=SCHEDULE)
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, help="The same, in steps.", rich_help_panel=SCHEDULE)
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="The same, as time for the steps: measured here, then fixed. Without start and validations.",
        rich_help_panel=SCHEDULE,
    ),
]
TrainBatchSize = Annotated[
    str,
    typer.Option(
        "--batch-size",
        metavar="IMAGES|auto",
        help="Images per step, over all processes; auto: 16 on the CPU, on GPUs what fits in memory.",
        envvar="FAME_BATCH_SIZE",
    ),
]
Accumulate = Annotated[
    int,
    typer.Option(
        "--accumulate",
        min=1,
        help="Parts that a process splits its images of a step into, to save memory; same result.",
        rich_help_panel=SCHEDULE,
    ),
]
Lr = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of AdamW's part.", rich_help_panel=SCHEDULE)
]
Ema = Annotated[
    int | None,
    typer.Option(
        "--ema",
        min=0,
        metavar="IMAGES",
        help="Half-life of averaged weights; at most a twentieth of the images seen.",
        rich_help_panel=SCHEDULE,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="fp32|bf16|auto",
        help="Of the forward pass; auto: bf16 where the hardware multiplies it, and what a run began with.",
        rich_help_panel=SCHEDULE,
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile/--no-compile",
        help="Compile the step first, for minutes: long trainings end sooner.",
        rich_help_panel=SCHEDULE,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Folder of the run.", rich_help_panel=RUN)
]
Resume = Annotated[
    str,
    typer.Option(
        "--resume", metavar="auto|never|FILE", help="Go on from a saved state.", rich_help_panel=RUN
    ),
]
Init = Annotated[
    str | None,
    typer.Option("--init", metavar="CKPT", help="Start from the weights of this model.", rich_help_panel=RUN),
]
SaveEvery = Annotated[
    str, typer.Option("--save-every", metavar="TIME", help="Between two saves.", rich_help_panel=RUN)
]
EvalEvery = Annotated[
    int | None,
    typer.Option(
        "--eval-every", min=1, metavar="IMAGES", help="Between two validations.", rich_help_panel=RUN
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        min=1,
        metavar="IMAGES",
        help="Stop after so many without progress.",
        rich_help_panel=RUN,
    ),
]
MaxTime = Annotated[
    str | None,
    typer.Option(
        "--max-time", metavar="TIME", help="Save and stop with code 75 after it.", rich_help_panel=RUN
    ),
]
Keep = Annotated[
    int,
    typer.Option(
        "--keep",
        min=0,
        metavar="N",
        help="Keep images-*.safetensors of the last N validations.",
        rich_help_panel=RUN,
    ),
]
SampleEvery = Annotated[
    int | None,
    typer.Option(
        "--sample-every",
        min=1,
        metavar="IMAGES",
        help="Between two grids of samples in samples/.",
        rich_help_panel=RUN,
    ),
]
Preview = Annotated[
    bool,
    typer.Option("--preview", help="Show these samples in the terminal, too.", rich_help_panel=RUN),
]
Log = Annotated[
    str | None,
    typer.Option("--log", metavar="-", help="Print metrics.jsonl, not the path.", rich_help_panel=RUN),
]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="tensorboard",
        help="Write metrics for TensorBoard, too, into tensorboard/.",
        rich_help_panel=RUN,
    ),
]
TrainSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of everything random.", envvar="FAME_SEED")
]


@dataclass(frozen=True)
class Asked:
    """What was typed, by the names of the options."""

    context: typer.Context
    model: str
    dataset: str | None
    data: Path | None
    size: str
    config: Path | None
    assignments: list[str] | None
    print_config: bool
    dry_run: bool
    images: int | None
    epochs: float | None
    steps: int | None
    budget: str | None
    batch_size: str
    accumulate: int
    lr: float | None
    ema: int | None
    precision: str
    compile: bool
    out: Path | None
    resume: str
    init: str | None
    save_every: str
    eval_every: int | None
    keep: int
    sample_every: int | None
    preview: bool
    log: str | None
    track: str | None
    patience: int | None
    max_time: str | None
    seed: int | None
    threads: int | None
    device: str
    offline: bool
    cache_dir: Path | None
    json: bool
    quiet: bool

    def typed(self, name: str) -> bool:
        """Whether an option was typed, or a variable stood for it: no default shows through."""
        source = self.context.get_parameter_source(name)
        return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
