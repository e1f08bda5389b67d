"""Model cards: the description of a checkpoint for people, as Markdown. No torch here."""

import shlex
from collections.abc import Iterable

from famecli.checkpoints.description import Description
from famecli.checkpoints.provenance import in_words, time_in_words
from famecli.config.presets import PRESETS
from famecli.escape import code, counted, fenced, markdown, yaml
from famecli.nll.record import NllRecord, unit_of

# The hub's task of models without classes. It has no task for class-conditional models, and the page of
# another task would offer what they cannot do, so their task is named by a tag, which is free text.
TASK, OF_A_CLASS = "unconditional-image-generation", "class-conditional-image-generation"

# Keys of a schedule, in the order of a card.
SCHEDULE = (
    "optimizer", "muon_lr", "lr", "batch_size", "warmup_images", "decoder_only", "rate_warmup_images", "beta",
    "free_nats", "ema_halflife_images", "augment", "augment_part", "seed",
)  # fmt: skip


def model_card(described: Description, repository: str = "", licence: str | None = None) -> str:
    """Return the card of a checkpoint.

    Args:
        described: Description of the checkpoint.
        repository: `ORG/REPO` of the hub, if the card is for that page.
        licence: Identifier of the licence of the weights; None to name no licence.

    Source: the sections: arXiv:1810.03993; the table on top: the hub's model cards.
    """
    model, name = described.model, repository.rpartition("/")[2] or described.name
    preset, typed = PRESETS.get(model.preset), shlex.quote(name)
    pulled = f"pip install 'famecli[hub]'\nfame weights pull hf://{repository}\n" if repository else ""
    parts = [
        f"---\n{_metadata(described, name, licence)}\n---",
        f"# {markdown(name)}",
        f"{code(model.preset)}, {preset.title if preset else 'a model of its own'}: "
        f"{described.header.parameters:,} parameters, for images "
        f"{model.channels}x{model.height}x{model.width} of {model.levels} levels"
        + (f", given one of {len(model.classes)} classes." if model.classes else "."),
        "## Likelihood",
        _likelihood(*described.claims),
        "## Training",
        _training(described),
        "## Use",
        fenced(
            f"{pulled}fame sample {typed} -n 64 -o grid.png\nfame evaluate-nll {typed}\nfame verify {typed}",
            "sh",
        ),
        "It describes images like those it was trained on, and nothing else. Its samples and its likelihoods "
        "are not made for decisions about people.",
        f"sha256 of the file: `{described.sha256}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(described: Description, name: str, licence: str | None) -> str:
    """Return the table on top of a card: lines of YAML, with a result of the hub's index for each claim."""
    lines = [
        *(() if licence is None else (f"license: {yaml(licence)}",)),
        "library_name: famecli",
        f"tags: [{OF_A_CLASS}]" if described.model.classes else f"pipeline_tag: {TASK}",
        f"datasets: [{yaml(str(described.provenance.dataset))}]",
    ]
    if described.claims:
        task, levels = OF_A_CLASS if described.model.classes else TASK, described.model.levels
        results = "".join(_result(claim, levels, task) for claim in described.claims)
        lines.append(f"model-index:\n- name: {yaml(name)}\n  results:{results}")
    return "\n".join(lines)


def _result(claim: NllRecord, levels: int, task: str) -> str:
    """Return a claim as a result of the hub's index; names hold the protocol, since the page shows names."""
    data, bits = claim.data, claim.bits_per_dim
    in_bits = unit_of(levels) == "bits/dim" and bits is not None
    value, stderr = (
        (bits, claim.stderr_bits_per_dim) if in_bits else (claim.nats_per_image, claim.stderr_nats_per_image)
    )
    spread = "" if stderr is None else f", +- {stderr:.4f}"
    metric = f"NLL, {'bits/dim' if in_bits else 'nats/image'} ({_estimator(claim)}{spread})"
    return f"""
  - task:
      type: {task}
      name: Density estimation
    dataset:
      type: {yaml(str(data.dataset_id))}
      name: {yaml(str(data))}
      split: {yaml(data.split)}
      args: {{pixels_sha256: {yaml(str(data.pixels_sha256))}}}
    metrics:
    - type: nll
      name: {yaml(metric)}
      value: {value:.4f}"""


def _likelihood(claim: NllRecord | None = None, *further: NllRecord) -> str:
    if claim is None:
        return "None is claimed: `fame evaluate-nll CKPT --record FILE` measures one."
    data, terms = claim.data, claim.terms_nats_per_image
    bits = "" if claim.bits_per_dim is None else f", {claim.bits_per_dim:.4f} bits/dim"
    rows = [
        ("NLL", _nats(claim) + bits),
        ("estimator", _estimator(claim)),
        ("data", f"{data.dataset_id}, {data.split}, {counted(data.images or 0)}{data.prepared}"),
        ("binarization", str(data.binarization)),
    ]
    hashes = [
        ("sha256 of what was scored", code(str(data.pixels_sha256))),
        ("sha256 of the weights", code(str(claim.weights_sha256))),
    ]
    if terms is not None and terms.kl:
        layers = " + ".join(f"{rate:.2f}" for rate in terms.kl)
        rows.insert(1, ("KL per layer, from the image", f"{layers} nats"))
    return _table(
        [*_shown(rows), *hashes, *_shown((_estimator(each), _on_first_images(each)) for each in further)]
    )


def _on_first_images(claim: NllRecord) -> str:
    """Return a further claim, with the one-draw NLL of the same images."""
    data, one = claim.data, claim.one_draw_nats
    beside = "" if one is None else f", where K = 1 gives {one:.2f}"
    beside += "" if claim.accuracy is None else f", accuracy {claim.accuracy:.2%}"
    first = "" if data.part else "the first "
    images = f"{first}{counted(data.images or 0)} of {data.dataset_id}, {data.split}"
    return f"{_nats(claim)} on {images}{beside}"


def _estimator(claim: NllRecord) -> str:
    return f"{claim.estimator.name}, K = {claim.importance_samples}, seed {claim.seed}"


def _nats(claim: NllRecord) -> str:
    stderr = claim.stderr_nats_per_image
    spread = "" if stderr is None else f" +- {stderr:.2f}"
    return f"{claim.nats_per_image:.2f}{spread} nats/image"


def _training(described: Description) -> str:
    found, config = described.provenance, described.header.metadata.get("training")
    # As stored: older checkpoints lack keys, and their defaults have changed.
    stored = config if isinstance(config, dict) else {}
    schedule = ", ".join(f"{key} {stored[key]}" for key in SCHEDULE if key in stored)
    cpu_hours = found.total_cpu_hours
    rows = [
        ("images seen", f"{found.total_images:,}"),
        ("time", time_in_words(found.trainings)),
        *(() if cpu_hours is None else (("CPU time", f"{cpu_hours:.2f} hours"),)),
        ("seeds", ", ".join(map(str, found.seeds))),
        *(() if found.data is None else (("training data", str(found.data)),)),
        *((("preparation", words),) if (words := str(found.preparation or "")) else ()),
    ]
    if found.init is None:
        return _table(_shown([*rows, ("schedule", schedule)]))
    rows.append(("trainings", in_words(found.trainings)))
    before = ("weights before the last", code(found.init.weights_sha256))
    return _table([*_shown(rows), before, *_shown([("schedule of the last", schedule)])])


def _shown(rows: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return rows of text as rows of Markdown."""
    return [(markdown(key), markdown(value)) for key, value in rows]


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows)])
