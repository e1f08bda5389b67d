"""What a checkpoint's header says, as a document and as a model card in Markdown. No torch here."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from famecli.checkpoints.claims import FURTHER
from famecli.checkpoints.header import CHECKPOINT_SCHEMA, parse_header, read_checkpoint
from famecli.checkpoints.history import cpu_hours, described, seeds, thread_hours, trainings
from famecli.config.presets import PRESETS
from famecli.errors import InputError, brief
from famecli.runtime.environment import SCHEMA

BOUNDS = {"exact": "exact", "elbo": "-ELBO, one draw of the latents", "iwae": "importance-weighted"}
# What a schedule is made of, in the order of a card.
SCHEDULE = (
    "optimizer", "muon_lr", "lr", "batch_size", "warmup_images", "rate_warmup_images", "beta",
    "free_nats", "ema_halflife_images", "seed",
)  # fmt: skip


def checkpoint_info(path: Path, *, tensors: bool = False) -> dict[str, Any]:
    """Return what a checkpoint says of itself, as `famecli/info/1`.

    Args:
        path: File of the checkpoint, `-` for stdin.
        tensors: Whether names, types and shapes of its tensors are listed.

    Raises:
        InputError: The file is missing or damaged, or is no checkpoint.
    """
    content = read_checkpoint(path)
    header = parse_header(content, len(content), str(path))
    metadata = header.metadata
    if metadata.get("schema") != CHECKPOINT_SCHEMA:
        found = brief(repr(metadata.get("schema")))
        raise InputError(f"{path} is no checkpoint but a file of schema {found}")
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "path": str(path),
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "file_schema": metadata.get("schema"),
        "parameters": header.parameters,
        "weights": ["ema", "raw"] if header.has_raw else ["ema"],
        **{key: metadata.get(key) for key in ("model", "training", "provenance", "claim")},
        FURTHER: metadata.get(FURTHER) or [],
    }
    if tensors:
        facts["tensors"] = {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape)}
            for name, tensor in sorted(header.tensors.items())
        }
    return facts


def model_card(name: str, facts: dict[str, Any]) -> str:
    """Return the card of a checkpoint.

    Args:
        name: What it is called.
        facts: `famecli/info/1`, as `fame info --json` prints it.

    Raises:
        ConfigError, KeyError, TypeError, ValueError: The header is not as famecli writes it.

    Source: the sections: arXiv:1810.03993; the table on top: the hub's model cards.
    """
    model, provenance = facts["model"], facts["provenance"] or {}
    preset = PRESETS.get(model["preset"])
    title = preset.title if preset else "a model of its own"
    shape = f"{model['channels']}x{model['height']}x{model['width']}"
    parts = [
        f"---\nlicense: mit\nlibrary_name: famecli\ndatasets: [{provenance.get('dataset')}]\n---",
        f"# {name}",
        f"`{model['preset']}`, {title}: {facts['parameters']:,} parameters, for images {shape} of "
        f"{model['levels']} levels.",
        "## Likelihood",
        _claim(facts["claim"], facts[FURTHER]),
        "## Training",
        _training(facts),
        "## Use",
        f"```sh\nfame sample {name} -n 64 -o grid.png\nfame evaluate-nll {name}\nfame verify {name}\n```",
        "It describes images like those it was trained on, and nothing else. Its samples and its likelihoods "
        "are not made for decisions about people.",
        f"sha256 of the file: `{facts['sha256']}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _claim(claim: dict[str, Any] | None, further: Sequence[dict[str, Any]]) -> str:
    if not claim:
        return "None is claimed: `fame evaluate-nll CKPT --record FILE` measures one."
    data = claim["data"]
    rows = [
        ("NLL", f"{_nats(claim)}, {claim['bits_per_dim']:.4f} bits/dim"),
        ("estimator", f"{BOUNDS[claim['bound']]}, K = {claim['importance_samples']}, seed {claim['seed']}"),
        ("data", f"{data['dataset_id']}, {data['split']}, {data['images']:,} images"),
        ("binarization", data["binarization"]),
        ("sha256 of what was scored", f"`{data['pixels_sha256']}`"),
        ("sha256 of the weights", f"`{claim['weights_sha256']}`"),
    ]
    if rates := claim["terms_nats_per_image"]["kl"]:
        layers = " + ".join(f"{rate:.2f}" for rate in rates)
        rows.insert(1, ("KL per layer, from the image", f"{layers} nats"))
    return _table(rows + [_further(each) for each in further])


def _further(claim: dict[str, Any]) -> tuple[str, str]:
    """Return the row of a claim by another estimator, beside what one draw says of the same images."""
    data = claim["data"]
    one = [point["nats_per_image"] for point in claim["curve"] if point["importance_samples"] == 1]
    beside = f", where K = 1 gives {one[0]:.2f}" if one else ""
    images = f"the first {data['images']:,} images of {data['dataset_id']}, {data['split']}"
    return (
        f"{BOUNDS[claim['bound']]}, K = {claim['importance_samples']}, seed {claim['seed']}",
        f"{_nats(claim)} on {images}{beside}",
    )


def _nats(claim: dict[str, Any]) -> str:
    stderr = claim["stderr_nats_per_image"]
    spread = "" if stderr is None else f" +- {stderr:.2f}"
    return f"{claim['nats_per_image']:.2f}{spread} nats/image"


def _training(facts: dict[str, Any]) -> str:
    config, provenance, past = facts["training"] or {}, facts["provenance"] or {}, trainings(facts)
    schedule = ", ".join(f"{key} {config[key]}" for key in SCHEDULE if key in config)
    rows = [
        ("images seen", f"{sum(each.images_seen for each in past):,}"),
        ("time", f"{thread_hours(past):.2f} hours of one thread, {provenance.get('device')}"),
        *((("CPU time", f"{hours:.2f} hours"),) if (hours := cpu_hours(past)) is not None else ()),
        ("seeds", ", ".join(map(str, seeds(past)))),
        ("schedule", schedule),
    ]
    if init := provenance.get("init"):
        rows[-1:] = [
            ("trainings", described(past)),
            ("weights before the last", f"`{init['weights_sha256']}`"),
            ("schedule of the last", schedule),
        ]
    return _table(rows)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)])
