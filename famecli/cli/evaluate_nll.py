"""`fame evaluate-nll`."""

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from famecli.cli import evaluate_options as own
from famecli.cli import options
from famecli.cli.evaluate_output import deliver
from famecli.cli.processes import join
from famecli.cli.sources import DataPlace, ModelChoice
from famecli.errors import UsageError
from famecli.output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.coding.compress import CodeLength
    from famecli.nll.evaluate import ImageNlls
    from famecli.nll.report import NllReport
    from famecli.nll.settings import Annealing
    from famecli.runtime.distributed import Group

AUTOMATIC_BATCH = 128
# Chains, whose gradients take more memory.
AUTOMATIC_CHAINS = 32


@dataclass(frozen=True)
class Protocol:
    """What is scored, and how.

    Args:
        split: Part of the data set.
        importance_samples: Draws of the latents per image.
        limit: Only the first images; None for all.
        batch_size: Images, or draws, or chains, that are worked on at once.
        seed: Of the latents.
        annealing: How to anneal them; None for draws from q(z | x).
    """

    split: str
    importance_samples: int
    limit: int | None
    batch_size: int
    seed: int
    annealing: "Annealing | None" = None

    def evaluate(
        self,
        checkpoint: "Checkpoint",
        levels: "np.ndarray",
        output: Output,
        group: "Group",
        latents: "Sequence[Tensor] | None" = None,
    ) -> "ImageNlls":
        """Return what each image costs; see `evaluate` and `evaluate_ais`, which `latents` are for.

        Of a model without latents there is nothing to draw or to anneal; then it is said what was in vain.
        """
        from famecli.nll.ais import evaluate_ais
        from famecli.nll.evaluate import evaluate
        from famecli.runtime.distributed import explain_lost_processes

        model = checkpoint.model
        exact = not model.config.stochastic_layers
        if exact and (self.annealing is not None or self.importance_samples > 1):
            option = "-k" if self.annealing is None else "--ais"
            output.note(f"{checkpoint.source} has no latents: its NLL is exact, and {option} is not needed")
        with explain_lost_processes(), output.progress("evaluating", len(levels)) as advance:
            common: dict[str, Any] = {"seed": self.seed, "batch_size": self.batch_size, "group": group}
            common |= {"advance": lambda done: advance(done, ""), "report": output.note}
            if self.annealing is not None and not exact:
                return evaluate_ais(model, levels, self.annealing, latents=latents, **common)
            return evaluate(model, levels, importance_samples=self.importance_samples, **common)


def evaluate_nll(
    checkpoint: options.CheckpointArgument = None,
    dataset: options.Dataset = None,
    data: options.Data = None,
    model: options.Model = None,
    split: own.Split = "test",
    importance_samples: own.Samples = 1,
    ais: own.Ais = None,
    chains: own.Chains = None,
    leapfrog: own.Leapfrog = None,
    ais_from: own.AisFrom = None,
    simulated: own.Simulate = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = "auto",
    weights: options.Weights = "ema",
    seed: options.Seed = 0,
    per_image: own.PerImage = None,
    with_images: own.WithImages = False,
    heatmap: own.Heatmap = None,
    record: own.Record = None,
    half: own.Half = False,
    coded: own.Coded = False,
    force: options.Force = False,
    fail_above: own.FailAbove = None,
    explain: own.Explain = False,
    threads: options.Threads = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    cache_dir: options.CacheDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the negative log-likelihood of a data set's images, in nats and bits/dim.

    Exact for a model without latents, else an upper bound: -ELBO, with -k the importance-weighted one, with
    --ais that of annealing. -q prints bits/dim alone. --data - scores all images on stdin, an npy or npz
    array of bytes.

    Examples:

      fame evaluate-nll run/best.safetensors

      fame evaluate-nll --dataset mnist -k 100 --limit 1000 --json

      fame evaluate-nll run/ --ais 500 --limit 16

      fame evaluate-nll run/ --ais 500 --simulated 16

      fame evaluate-nll run/ --coded --limit 1000

      fame evaluate-nll run/ --json --with-images > a.json

      fame evaluate-nll run/ --per-image - | sort -t, -k3 -rg | head

      fame sample --dataset mnist -n 256 -o - | fame evaluate-nll run/ --data - -q
    """
    _act(own.Asked(**locals()))


def _act(asked: own.Asked) -> None:
    """Measure, and leave what was asked for."""
    output = Output(json=asked.json, quiet=asked.quiet)
    asked.check()
    annealing = asked.annealing()
    batch = options.count(
        asked.batch_size, "--batch-size", AUTOMATIC_CHAINS if annealing else AUTOMATIC_BATCH
    )
    group = join(output)
    choice = ModelChoice(
        asked.checkpoint,
        asked.dataset,
        asked.model,
        asked.weights,
        group.device(asked.device),
        asked.threads,
        asked.cache_dir,
        asked.offline,
        asked.half,
    )
    protocol = Protocol(asked.split, asked.importance_samples, asked.limit, batch, asked.seed, annealing)
    if asked.simulated is not None:
        report = measure_simulated(choice, asked.simulated, protocol, output, group)
    else:
        place = DataPlace(asked.data, asked.cache_dir, asked.offline, output.note)
        place.check_stdin(choice, asked.split)
        report = measure(choice, place, protocol, output, group)
    if group.first:
        if asked.coded:
            report = dataclasses.replace(report, coded=code(report, output))
        deliver(report, asked, output)


def measure(
    choice: ModelChoice, place: DataPlace, protocol: Protocol, output: Output, group: "Group | None" = None
) -> "NllReport":
    """Return the NLL of a model on a data set, which a group of processes measures together."""
    from famecli.nll.score import score
    from famecli.runtime.distributed import ALONE

    group = group or ALONE
    with group.one_before_the_others():
        loaded = choice.load(output)
        images = place.images(choice, loaded, protocol.split)  # type: ignore[arg-type]

    def evaluate(levels: "np.ndarray") -> "ImageNlls":
        return protocol.evaluate(loaded, levels, output, group)

    return score(loaded, images, evaluate, limit=protocol.limit, seed=protocol.seed)


def measure_simulated(
    choice: ModelChoice, images: int, protocol: Protocol, output: Output, group: "Group"
) -> "NllReport":
    """Return the NLL of images that a model draws, with lower bounds beside.

    Raises:
        UsageError: It has no latents, so that its NLL is exact.
    """
    from famecli.data.dataset import fixed_levels
    from famecli.nll.ais import as_split, double, simulate
    from famecli.nll.report import NllReport
    from famecli.nll.score import BITS_SEED

    with group.one_before_the_others():
        loaded = choice.load(output)
    if not loaded.model.config.stochastic_layers:
        raise UsageError(f"{loaded.source} has no latents: its NLL is exact, and there is no gap to bound")
    started_s = time.monotonic()
    drawn = simulate(double(loaded.model), images, protocol.seed)
    split = as_split(loaded.model, drawn)
    scored = fixed_levels(split)
    nlls = protocol.evaluate(loaded, scored.levels, output, group, drawn.latents)
    return NllReport(loaded, split, scored, BITS_SEED, nlls, protocol.seed, time.monotonic() - started_s)


def code(report: "NllReport", output: Output) -> "CodeLength":
    """Return what the scored images cost as a file of `fame compress`; errors are those of `measure_code`."""
    from famecli.coding.compress import measure_code

    levels = report.scored.levels
    with output.progress("coding and decoding", 2 * len(levels)) as advance:
        return measure_code(report.checkpoint.model, levels, lambda done: advance(done, ""))
