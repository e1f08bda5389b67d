"""Collects what a page shows of runs: reads files, loads models, draws and scores images."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from famecli.checkpoints.checkpoint import Checkpoint, load_checkpoint
from famecli.checkpoints.store import RUN_FILES, Store, checkpoint_file
from famecli.config.presets import model_config
from famecli.config.resolve import resolve
from famecli.config.schema import TrainConfig
from famecli.data.dataset import ImageSplit, even_part, load_split
from famecli.data.labels import labels_in
from famecli.data.preparation import AS_THEY_ARE, Preparation
from famecli.errors import UnavailableError, UsageError
from famecli.evaluation.score import EstimatorSettings, check_fits, score, scored_levels
from famecli.nll.record import NllRecord
from famecli.output import Output
from famecli.report.pictures import TestImages, draw_samples, reconstruct_and_score
from famecli.report.runs import RunFacts, read_run, unfinished_run, with_own_names

CONFIG = "config.toml"
NOTHING_YET = "there is no checkpoint yet."
NO_HASH = "no hash of its weights is recorded, so they cannot be checked."
# Keys of an NLL, and of its images, in the document.
NLL_KEYS = (
    "bound", "importance_samples", "given", "nats_per_image", "bits_per_dim", "stderr_nats_per_image",
    "stderr_bits_per_dim", "seed", "weights_sha256", "precision", "terms_nats_per_image", "curve", "origin",
)  # fmt: skip
SCORED_KEYS = ("dataset_id", "split", "images", "binarization", "pixels_sha256", "part", "preparation")


@dataclass(frozen=True)
class ReportOptions:
    """Options of a page.

    Args:
        samples: Number of samples of each run.
        images: Number of test images to reconstruct and to map.
        evaluate: Whether the NLL of the test split is measured.
        limit: Number of test images in that NLL, spread evenly over the split; None for all.
        seed: Seed of samples, latents and pixels.
        data: Folder of the data sets; None for the usual places.
    """

    samples: int = 64
    images: int = 8
    evaluate: bool = False
    limit: int | None = None
    seed: int = 0
    data: Path | None = None


@dataclass(frozen=True)
class RunReport:
    """A run on the page; each missing part has a reason.

    Args:
        facts: Content of the run's files.
        measured: NLL measured for the page; None if not measured.
        samples: Samples as bytes `(N, H, W, C)`.
        images: Test images, reconstructions and maps.
        sha256: SHA-256 of the checkpoint's file.
        no_model: Reason why there is no model, as the end of a sentence; empty where there is one.
        no_data: Reason why there are no test images; empty where there are, or where nothing needs them.
    """

    facts: RunFacts
    measured: NllRecord | None = None
    samples: np.ndarray | None = None
    images: TestImages | None = None
    sha256: str | None = None
    no_model: str = ""
    no_data: str = ""

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.facts.name

    @property
    def has_latents(self) -> bool:
        """Whether the model has latents."""
        return self.facts.model.stochastic_layers > 0

    @property
    def nlls(self) -> Sequence[NllRecord]:
        """Known NLLs, the most reliable first."""
        found = (self.measured, *self.facts.claims, self.facts.validation)
        return [nll for nll in found if nll is not None]

    def summary(self) -> dict[str, Any]:
        """Return the run's part of the schema `famecli/report/1`; units are in the keys."""
        facts = self.facts
        return {
            "name": facts.name,
            "path": facts.path,
            "sha256": self.sha256,
            "weights_sha256": facts.weights_sha256,
            "preset": facts.model.preset,
            "dataset": facts.dataset,
            "unit": facts.unit,
            "parameters": facts.parameters,
            "images_seen": facts.images_seen,
            "hours": facts.hours,
            "nlls": [_nll(nll) for nll in self.nlls],
            "validations": [
                {
                    "images": each.images,
                    "hours": each.hours,
                    "nats_per_image": each.nats_per_image,
                    "bits_per_dim": each.bits_per_dim,
                    "kl_nats": each.kl_nats,
                }
                for each in (facts.metrics.of("valid") if facts.metrics else [])
            ],
            "samples": 0 if self.samples is None else len(self.samples),
            "decoder_bits": [] if self.images is None else [float(each.sum()) for each in self.images.bits],
            "missing": [reason for reason in (self.no_model, self.no_data) if reason],
            "configuration": facts.settings(),
        }


def _nll(nll: NllRecord) -> dict[str, Any]:
    whole = dataclasses.asdict(nll)
    scored = {key: whole["data"][key] for key in SCORED_KEYS}
    return {"data": scored} | {key: whole[key] for key in NLL_KEYS}


def grouped_by(runs: Sequence[RunReport], key: Callable[[RunReport], Hashable]) -> list[list[RunReport]]:
    """Return runs grouped by key, in the order of their first runs."""
    groups: dict[Hashable, list[RunReport]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(groups.values())


def comparable(runs: Sequence[RunReport]) -> list[list[RunReport]]:
    """Return runs grouped by data set, shape and number of levels: their NLLs are comparable."""
    return grouped_by(
        runs, lambda run: (run.facts.images, run.facts.model.image_shape, run.facts.model.levels)
    )


@dataclass
class Collector:
    """Gathers what a page shows of runs.

    Args:
        options: Options of the page.
        store: Named weights, and the cache that also has the data sets.
        device: Device to compute on.
        output: Streams for notes, warnings and progress.
        splits: Test images that were read already, by data set, levels, channels and preparation.
    """

    options: ReportOptions
    store: Store
    device: torch.device
    output: Output
    splits: dict[tuple[str, int, int, Preparation], ImageSplit] = field(default_factory=dict)

    def collect(self, runs: Sequence[str]) -> list[RunReport]:
        """Return the facts of runs and what their models do; all files are read before anything is drawn.

        Args:
            runs: Run folders, checkpoints, or names of weights.

        Raises:
            FameError: A file is invalid, or an NLL is not finite.
        """
        return [self._report(facts) for facts in with_own_names([self._facts(run) for run in runs])]

    def _facts(self, run: str) -> RunFacts:
        folder = Path(run) if Path(run).is_dir() else None
        if (
            folder
            and (folder / CONFIG).is_file()
            and not any((folder / name).is_file() for name in RUN_FILES)
        ):
            # Placeholders: the file overrides every key.
            model, training = model_config("fame", "small", (1, 28, 28), 2), TrainConfig()
            return unfinished_run(run, folder, *resolve(model, training, folder / CONFIG, [])[:2])
        return read_run(run, checkpoint_file(run, self.store), folder)

    def _report(self, facts: RunFacts) -> RunReport:
        if facts.weights_sha256 is None:
            return RunReport(facts, no_model=NOTHING_YET if facts.parameters is None else NO_HASH)
        options, path = self.options, checkpoint_file(facts.path, self.store)
        loaded = load_checkpoint(path)
        loaded.model.on(self.device)
        self.output.note(f"{facts.model.preset} from {path} (ema weights) on {self.device}")
        split, no_data = None, ""
        if options.images or options.evaluate:
            split, no_data = self._test_split(loaded, facts.dataset)
        images = None
        if split is not None and options.images:
            part = even_part(len(split.pixels), options.images)
            scored = scored_levels(loaded, split, part)
            images = reconstruct_and_score(loaded.model, scored, options.seed)
        return RunReport(
            facts,
            self._measure(loaded, split) if split is not None and options.evaluate else None,
            self._samples(loaded) if options.samples else None,
            images,
            loaded.sha256,
            no_data=no_data,
        )

    def _test_split(self, loaded: Checkpoint, dataset: str | None) -> tuple[ImageSplit | None, str]:
        """Return the test images, or None and the reason why there are none."""
        config, store = loaded.model.config, self.store
        try:
            if dataset is None:
                raise UsageError(f"{loaded.source} does not say what it was trained on")
            used = loaded.provenance.prepared(AS_THEY_ARE, dataset)
            key = (dataset, config.levels, config.channels, used)
            if key not in self.splits:
                self.splits[key] = load_split(
                    dataset,
                    "test",
                    data=self.options.data,
                    cache_dir=store.cache_dir,
                    offline=store.offline,
                    report=store.report,
                    levels=config.levels,
                    channels=config.channels,
                    preparation=used,
                )
            split = self.splits[key]
            check_fits(loaded, split.info.shape, split.info.levels, dataset)
            if config.classes and labels_in(config.classes, split) is None:
                raise UsageError(f"{dataset} has no labels, which a model with classes needs")
        except (UnavailableError, UsageError) as error:
            hint = f" ({error.hint})" if error.hint else ""
            self.output.warn(f"no test images for {loaded.source}: {error}{hint}")
            return None, f"{error}."
        return split, ""

    def _measure(self, loaded: Checkpoint, split: ImageSplit) -> NllRecord:
        scored = scored_levels(loaded, split, even_part(len(split.pixels), self.options.limit))
        estimator = EstimatorSettings(seed=self.options.seed)
        with self.output.progress("evaluating", len(scored.levels)) as advance:
            return score(loaded, split, scored, estimator, advance=advance).nll

    def _samples(self, loaded: Checkpoint) -> np.ndarray:
        seeds = range(self.options.seed, self.options.seed + self.options.samples)
        with self.output.progress("sampling", len(seeds)) as advance:
            return draw_samples(loaded.model, seeds, advance)
