"""What a report shows of runs: files are read, models loaded, images drawn and scored."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from famecli.checkpoints.source import RUN_FILES
from famecli.cli.groups import Machine
from famecli.cli.sources import DataSource, ModelSource
from famecli.config.presets import model_config
from famecli.config.resolve import resolve
from famecli.config.schema import ModelConfig, TrainConfig
from famecli.errors import UnavailableError, UsageError
from famecli.output import Output

if TYPE_CHECKING:
    import numpy as np

    from famecli.checkpoints.checkpoint import Checkpoint
    from famecli.data.dataset import ImageSplit
    from famecli.report.nlls import Nll
    from famecli.report.pictures import TestImages
    from famecli.report.report import RunReport
    from famecli.report.runs import RunFacts

CONFIG = "config.toml"
NOTHING_YET = "there is no checkpoint yet."
NO_HASH = "no hash of its weights is recorded, so they cannot be checked."


@dataclass(frozen=True)
class Wishes:
    """What a page is to show.

    Args:
        samples: Of each run.
        images: Of the test split.
        evaluate: Whether its NLL is measured.
        limit: With the first images alone; None for all.
        seed: Of everything random.
    """

    samples: int
    images: int
    evaluate: bool
    limit: int | None
    seed: int


@dataclass
class Collector:
    """Gathers what a page shows of runs.

    Args:
        choices: The runs.
        place: Where test images are looked for.
        machine: Device and threads.
        wishes: What is shown.
        output: The command's streams.
        splits: Test images that were read already, by data set and levels of the model.
    """

    choices: list[ModelSource]
    place: DataSource
    machine: Machine
    wishes: Wishes
    output: Output
    splits: "dict[tuple[str, int], ImageSplit]" = field(default_factory=dict)

    def collect(self) -> "list[RunReport]":
        """Return what the runs say and what their models do; all files are read before anything is drawn.

        Raises:
            FameError: A file is not what it should be, or an NLL is not finite.
        """
        from famecli.report.runs import with_own_names

        facts = with_own_names([self._facts(choice) for choice in self.choices])
        return [self._run(each, choice) for each, choice in zip(facts, self.choices, strict=True)]

    def _facts(self, choice: ModelSource) -> "RunFacts":
        from famecli.report.runs import read_run, unfinished_run

        assert choice.checkpoint is not None
        word, folder = choice.checkpoint, Path(choice.checkpoint)
        if not folder.is_dir():
            return read_run(word, choice.path(self.output), None)
        config = folder / CONFIG
        if config.is_file() and not any((folder / name).is_file() for name in RUN_FILES):
            return unfinished_run(word, folder, *resolve(*_any_configuration(), config, []))
        return read_run(word, choice.path(self.output), folder)

    def _run(self, facts: "RunFacts", choice: ModelSource) -> "RunReport":
        from famecli.report.report import RunReport

        if facts.weights_sha256 is None:
            return RunReport(facts, no_model=NOTHING_YET if facts.parameters is None else NO_HASH)
        loaded, wishes = choice.load(self.output, self.machine.torch_device()), self.wishes
        split, no_data = None, ""
        if wishes.images or wishes.evaluate:
            split, no_data = self._test_split(choice, loaded)
        return RunReport(
            facts,
            self._measure(loaded, split) if split is not None and wishes.evaluate else None,
            self._samples(loaded) if wishes.samples else None,
            self._images(loaded, split) if split is not None and wishes.images else None,
            loaded.sha256,
            no_data=no_data,
        )

    def _test_split(self, choice: ModelSource, loaded: "Checkpoint") -> "tuple[ImageSplit | None, str]":
        """Return the test images, or None and why there are none."""
        from famecli.nll.score import check_fits

        levels = loaded.model.config.levels
        try:
            dataset = choice.dataset_of(loaded)
            if (dataset, levels) not in self.splits:
                self.splits[dataset, levels] = self.place.split(dataset, "test", levels, self.output)
            split = self.splits[dataset, levels]
            check_fits(loaded, split.info.shape, split.info.levels, dataset)
        except (UnavailableError, UsageError) as error:
            self.output.warn(f"no test images for {loaded.source}: {error}")
            return None, f"{error}."
        return split, ""

    def _measure(self, loaded: "Checkpoint", split: "ImageSplit") -> "Nll":
        from famecli.nll.score import EstimatorSettings, score, scored_levels
        from famecli.report.nlls import nll_of_claim

        scored = scored_levels(loaded, split, self.wishes.limit)
        with self.output.progress("evaluating", len(scored.levels)) as advance:
            found = score(loaded, split, scored, EstimatorSettings(seed=self.wishes.seed), advance=advance)
        return nll_of_claim(found.claim(), "measured", loaded.source)

    def _samples(self, loaded: "Checkpoint") -> "np.ndarray":
        from famecli.report.pictures import draw_samples

        seeds = range(self.wishes.seed, self.wishes.seed + self.wishes.samples)
        with self.output.progress("sampling", len(seeds)) as advance:
            return draw_samples(loaded.model, seeds, advance)

    def _images(self, loaded: "Checkpoint", split: "ImageSplit") -> "TestImages":
        from famecli.data.dataset import fixed_levels
        from famecli.nll.score import BITS_SEED
        from famecli.report.pictures import look_at

        return look_at(
            loaded.model, fixed_levels(split, BITS_SEED, self.wishes.images).levels, self.wishes.seed
        )


def _any_configuration() -> "tuple[ModelConfig, TrainConfig]":
    """Return configurations that those of a file, which are whole, take the place of."""
    return model_config("fame", "small", (1, 28, 28), 2), TrainConfig()
