"""Options that choose the estimator of an NLL."""

from dataclasses import dataclass
from typing import Annotated

import typer

from famecli.cli.groups import MOST_IMAGES, BatchSize, Seed
from famecli.errors import UsageError
from famecli.nll.record import STARTS, Annealing, Start

ANNEALING = "Annealed importance sampling"


@dataclass(frozen=True, kw_only=True)
class Bound:
    """Estimator of the NLL."""

    importance_samples: Annotated[
        int,
        typer.Option(
            "-k",
            "--importance-samples",
            min=1,
            metavar="K",
            help="Importance samples per image: 1 for the ELBO, more for the IWAE bound and its curve.",
        ),
    ] = 1
    ais: Annotated[
        int | None,
        typer.Option(
            "--ais",
            min=1,
            metavar="STEPS",
            help="Annealing steps of the latents: an even tighter bound.",
            rich_help_panel=ANNEALING,
        ),
    ] = None
    chains: Annotated[
        int | None,
        typer.Option("--chains", min=1, help="Chains per image (default: 1).", rich_help_panel=ANNEALING),
    ] = None
    leapfrog: Annotated[
        int | None,
        typer.Option(
            "--leapfrog", min=1, help="Leapfrog steps per transition (default: 5).", rich_help_panel=ANNEALING
        ),
    ] = None
    ais_from: Annotated[
        Start | None,
        typer.Option(
            "--ais-from",
            metavar="|".join(STARTS),
            help="Start of the chains (default: posterior).",
            rich_help_panel=ANNEALING,
        ),
    ] = None
    simulated: Annotated[
        int | None,
        typer.Option(
            "--simulated",
            min=1,
            max=MOST_IMAGES,
            metavar="IMAGES",
            help="Score images drawn from the model, and also bound their NLL from below.",
            rich_help_panel=ANNEALING,
        ),
    ] = None
    marginal: Annotated[
        bool,
        typer.Option(
            "--marginal",
            help="For a model with classes: mean of p(x|y) over classes, and classification accuracy.",
        ),
    ] = False
    batch_size: BatchSize = None
    seed: Seed = 0

    def annealing(self) -> Annealing | None:
        """Return the settings of annealing; None for other bounds.

        Raises:
            UsageError: The options do not fit together.
        """
        given = {"chains": self.chains, "leapfrog": self.leapfrog, "start": self.ais_from}
        given = {name: value for name, value in given.items() if value is not None}
        if self.ais is None:
            if given:
                option = {"start": "ais-from"}.get(name := next(iter(given)), name)
                raise UsageError(f"--{option} is for --ais", "add --ais STEPS")
            return None
        if self.marginal:
            raise UsageError("--marginal and --ais exclude each other", "-k draws importance samples")
        if self.importance_samples != 1:
            raise UsageError("-k and --ais exclude each other", "--chains sets the number of chains")
        return Annealing(self.ais, **given)  # type: ignore[arg-type]
