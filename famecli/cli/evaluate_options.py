"""Options of `fame evaluate-nll` alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from famecli.cli import options
from famecli.errors import UsageError
from famecli.files import STDIN
from famecli.nll.record import STARTS, Annealing

ANNEALING = "Annealed importance sampling"

Split = Annotated[str, typer.Option("--split", metavar="train|valid|test", help="Part of the data set.")]
Samples = Annotated[
    int,
    typer.Option(
        "-k",
        "--importance-samples",
        min=1,
        metavar="K",
        help="1: the ELBO; more: the tighter IWAE bound, with its curve from 1 to K.",
    ),
]
Ais = Annotated[
    int | None,
    typer.Option(
        "--ais",
        min=1,
        metavar="STEPS",
        help="Anneal the latents in so many steps: a tighter bound yet.",
        rich_help_panel=ANNEALING,
    ),
]
Chains = Annotated[
    int | None,
    typer.Option("--chains", min=1, help="Chains per image; default 1.", rich_help_panel=ANNEALING),
]
Leapfrog = Annotated[
    int | None,
    typer.Option("--leapfrog", min=1, help="Gradients per step; default 5.", rich_help_panel=ANNEALING),
]
AisFrom = Annotated[
    str | None,
    typer.Option(
        "--ais-from",
        metavar="|".join(STARTS),
        help="Where chains start; default posterior.",
        rich_help_panel=ANNEALING,
    ),
]
Simulate = Annotated[
    int | None,
    typer.Option(
        "--simulated",
        min=1,
        metavar="IMAGES",
        help="Score images drawn from the model, and bound their NLL from below too.",
        rich_help_panel=ANNEALING,
    ),
]
PerImage = Annotated[
    Path | None,
    typer.Option(
        "--per-image", metavar="FILE|-", help="Write a row per image: CSV, or JSON lines in .jsonl."
    ),
]
WithImages = Annotated[
    bool, typer.Option("--with-images", help="With --json: the nats of every image, for fame compare.")
]
Heatmap = Annotated[
    Path | None,
    typer.Option(
        "--heatmap", metavar="FOLDER", help="Write a PNG per image; white is 8 bits or more a channel."
    ),
]
FailAbove = Annotated[
    float | None,
    typer.Option("--fail-above", metavar="BITS", help="Exit with code 7 if bits/dim are above this."),
]
Explain = Annotated[bool, typer.Option("--explain", help="Show the formulas with this run's numbers.")]
Coded = Annotated[
    bool,
    typer.Option("--coded", help="Compress and restore the images too; PNG and lossless WebP beside it."),
]
Record = Annotated[
    Path | None,
    typer.Option(
        "--record", metavar="FILE", help="Write these weights alone, with this NLL as what they claim."
    ),
]

Half = Annotated[
    bool,
    typer.Option(
        "--half", help="Round the weights to half precision first: what is recorded is half as large."
    ),
]


@dataclass(frozen=True)
class Asked:
    """What was typed, by the names of the options."""

    checkpoint: str | None
    dataset: str | None
    data: Path | None
    model: str | None
    split: str
    importance_samples: int
    ais: int | None
    chains: int | None
    leapfrog: int | None
    ais_from: str | None
    simulated: int | None
    limit: int | None
    batch_size: str
    weights: str
    seed: int
    per_image: Path | None
    with_images: bool
    heatmap: Path | None
    record: Path | None
    half: bool
    coded: bool
    force: bool
    fail_above: float | None
    explain: bool
    threads: int | None
    device: str
    offline: bool
    cache_dir: Path | None
    json: bool
    quiet: bool

    def check(self) -> None:
        """Check, before any work is done, that options fit together and that no output exists.

        Raises:
            UsageError: They do not.
            InputError: An output exists, and --force was not given.
        """
        paths = (self.heatmap, self.record, self.per_image)
        if self.json and STDIN in paths:
            raise UsageError("--json and --per-image - both want stdout", "write --per-image to a file")
        if self.with_images and not self.json:
            raise UsageError("--with-images is for --json", "add --json, or write --per-image FILE")
        options.check_absent(self.force, *(path for path in paths if path != STDIN))
        options.check_finite("--fail-above", self.fail_above)
        if self.record is not None and self.data == STDIN:
            raise UsageError("--record is for a data set: nobody else has the images on stdin")
        if self.record is not None and (self.ais or self.simulated):
            raise UsageError("--record is for the ELBO or -k, which fame weights verify can measure again")
        self._check_simulated()

    def _check_simulated(self) -> None:
        if self.simulated is None:
            return
        if self.ais is None:
            raise UsageError("--simulated is for --ais", "for example --simulated 16 --ais 500")
        for name, value in (("--data", self.data), ("--limit", self.limit)):
            if value is not None:
                raise UsageError(f"{name} is for images of a data set", f"leave --simulated or {name} out")
        if self.split != "test":
            raise UsageError("simulated images have no splits", "leave --split out")

    def annealing(self) -> Annealing | None:
        """Return how to anneal; None for another bound.

        Raises:
            UsageError: The options do not fit together.
        """
        own = {"--chains": self.chains, "--leapfrog": self.leapfrog, "--ais-from": self.ais_from}
        if self.ais is None:
            if given := [name for name, value in own.items() if value is not None]:
                raise UsageError(f"{given[0]} is for --ais", "add --ais STEPS")
            return None
        if self.importance_samples != 1:
            raise UsageError("-k and --ais are two bounds", "--chains takes several chains")
        start = self.ais_from or "posterior"
        if start not in STARTS:
            raise UsageError(f"unknown --ais-from {start!r}", f"choose {' or '.join(STARTS)}")
        return Annealing(self.ais, self.chains or 1, self.leapfrog or 5, start)  # type: ignore[arg-type]
