"""Options of `fame train` alone."""

from pathlib import Path
from typing import Annotated

import typer

from famecli.presets import PRESETS, SIZES

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
    bool, typer.Option("--dry-run", "-n", help="Measure three steps, predict memory and time, write nothing.")
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
Accumulate = Annotated[
    int,
    typer.Option("--accumulate", min=1, help="Parts that a batch is split into.", rich_help_panel=SCHEDULE),
]
Lr = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of AdamW's part.", rich_help_panel=SCHEDULE)
]
Ema = Annotated[
    int | None,
    typer.Option(
        "--ema", min=0, metavar="IMAGES", help="Half-life of averaged weights.", rich_help_panel=SCHEDULE
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="fp32|bf16", help="Of the forward pass.", rich_help_panel=SCHEDULE),
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
TrainSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of everything random.", envvar="FAME_SEED")
]
