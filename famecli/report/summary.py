"""The figures of a page for other programs: the schema `famecli/report/1`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from famecli.nll.record import NllRecord
from famecli.report.metrics import Record
from famecli.report.report import RunReport
from famecli.report.runs import differences

SCHEMA = "famecli/report/1"


def summary(runs: Sequence[RunReport], out: str, files: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the document; units are in the keys.

    Args:
        runs: Of the page.
        out: The page's path.
        files: Paths of its images, where they are files.
        seed: Of samples, latents and pixels.
    """
    return {
        "schema": SCHEMA,
        "out": out,
        "files": list(files),
        "seed": seed,
        "runs": [_run(run) for run in runs],
        "differences": dict(differences([run.facts for run in runs])),
    }


def _run(run: RunReport) -> dict[str, Any]:
    facts = run.facts
    return {
        "name": facts.name,
        "path": facts.path,
        "sha256": run.sha256,
        "weights_sha256": facts.weights_sha256,
        "preset": facts.model.preset,
        "dataset": facts.dataset,
        "unit": facts.unit,
        "parameters": facts.parameters,
        "images_seen": facts.images_seen,
        "hours": facts.hours,
        "nlls": [_nll(nll) for nll in run.nlls],
        "validations": [_validation(each) for each in (facts.metrics.of("valid") if facts.metrics else [])],
        "samples": 0 if run.samples is None else len(run.samples),
        "decoder_bits": [] if run.images is None else [float(each.sum()) for each in run.images.bits],
        "missing": [reason for reason in (run.no_model, run.no_data) if reason],
        "configuration": facts.settings(),
    }


def _nll(nll: NllRecord) -> dict[str, Any]:
    data, terms = nll.data, nll.terms_nats_per_image
    return {
        "data": {
            "dataset_id": data.dataset_id,
            "split": data.split,
            "images": data.images,
            "binarization": data.binarization,
            "pixels_sha256": data.pixels_sha256,
        },
        "bound": nll.bound,
        "importance_samples": nll.importance_samples,
        "nats_per_image": nll.nats_per_image,
        "bits_per_dim": nll.bits_per_dim,
        "stderr_nats_per_image": nll.stderr_nats_per_image,
        "stderr_bits_per_dim": nll.stderr_bits_per_dim,
        "seed": nll.seed,
        "weights_sha256": nll.weights_sha256,
        "precision": nll.precision,
        "terms_nats_per_image": None if terms is None else dataclasses.asdict(terms),
        "curve": [dataclasses.asdict(point) for point in nll.curve],
        "origin": nll.origin,
    }


def _validation(record: Record) -> dict[str, Any]:
    return {
        "images": record.images,
        "hours": record.hours,
        "nats_per_image": record.nats_per_image,
        "bits_per_dim": record.bits_per_dim,
        "kl_nats": record.kl_nats,
    }
