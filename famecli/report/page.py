"""The page: what its sections are, and those that draw."""

from collections.abc import Iterator, Sequence

from famecli.report.charts import ColourBar
from famecli.report.curves import kl_divergence, learning_curves
from famecli.report.document import Block, Document, Figures, Heading, Paragraph, Section
from famecli.report.pictures import TestImages, coloured, pairs, sheet, shown_bits
from famecli.report.report import RunReport, comparable
from famecli.report.told import configuration_section, nll_section, runs_section


def page(runs: Sequence[RunReport], made: str, seed: int, evaluated: bool) -> Document:
    """Return the page about `runs`.

    Args:
        runs: At least one.
        made: Versions and date.
        seed: Of samples, latents and pixels.
        evaluated: Whether NLLs were to be measured.
    """
    sections = [
        Section("Negative log-likelihood", list(nll_section(runs, evaluated))),
        Section("Runs", list(runs_section(runs))),
        Section("Learning curves", list(learning_curves(runs))),
        Section("KL divergence", list(kl_divergence(runs))),
        Section("Samples", list(_samples(runs, seed))),
        Section("Reconstructions", list(_reconstructions(runs))),
        Section("Bits per pixel", list(_bits(runs))),
        Section("Configuration", list(configuration_section(runs))),
    ]
    title = f"Report: {', '.join(run.name for run in runs)}"
    return Document(title, f"{made}, seed {seed}", [section for section in sections if section.blocks])


def _samples(runs: Sequence[RunReport], seed: int) -> Iterator[Block]:
    for number, run in enumerate(runs, 1):
        if run.samples is not None:
            yield from _head(runs, run)
            count = len(run.samples)
            caption = f"{count} samples, seeds {seed} to {seed + count - 1}, temperature 1."
            picture = sheet(f"samples-{number}", run.samples, f"{count} samples of {run.name}")
            yield Figures([picture], caption)


def _reconstructions(runs: Sequence[RunReport]) -> Iterator[Block]:
    for number, run in enumerate(runs, 1):
        if run.no_data and run.facts.model.stochastic_layers:
            yield Paragraph(f"{run.name}: no reconstructions without test images: {run.no_data}")
        images = run.images
        if images is not None and images.reconstructions is not None:
            yield from _head(runs, run)
            alt = f"Test images of {run.facts.dataset}, below each its reconstruction by {run.name}"
            pictures = list(pairs(f"rebuilt-{number}", images.originals, images.reconstructions, alt))
            caption = f"The first {len(images.originals)} test images, below each its reconstruction."
            yield Figures(pictures, caption)


def _bits(runs: Sequence[RunReport]) -> Iterator[Block]:
    """Yield the maps of each run, with one scale for runs on the same images and patches of the same side."""
    for run in runs:
        if run.no_data:
            yield Paragraph(f"{run.name}: no maps without test images: {run.no_data}")
    number = 0
    for group in comparable(runs):
        patches = _by_patch(group)
        if len(patches) > 1:
            yield Paragraph(
                "The bits of a pixel do not compare between models of different decoder.patch, which follow "
                "another order of pixels: each of these groups has a scale of its own."
            )
        for patch, seen in patches.items():
            number += 1
            high = shown_bits([images.bits for _, images in seen])
            for place, (run, images) in enumerate(seen, 1):
                yield from _head(runs, run)
                yield _map(f"bits-{number}-{place}", run, images, high)
            title = "Colours of the maps" + (f", decoder.patch = {patch}" if len(patches) > 1 else "")
            bar = ColourBar(f"scale-{number}", title, "bits per pixel", high)
            told = "The decoder's part, -log2 p(pixel | latents, earlier pixels), channels summed."
            yield Figures([bar], told)


def _by_patch(runs: Sequence[RunReport]) -> dict[int, list[tuple[RunReport, TestImages]]]:
    """Return runs that have maps, by the side of the decoder's patches."""
    found: dict[int, list[tuple[RunReport, TestImages]]] = {}
    for run in runs:
        if run.images is not None:
            found.setdefault(run.facts.model.decoder.patch, []).append((run, run.images))
    return found


def _map(name: str, run: RunReport, images: TestImages, high: float) -> Figures:
    alt = f"Test images, below each how many bits each of its pixels costs {run.name}"
    pictures = list(pairs(name, images.originals, coloured(images.bits, high), alt))
    totals = ", ".join(f"{each.sum():,.0f}" for each in images.bits)
    return Figures(pictures, f"Bits of each image's decoder part, in their order: {totals}.")


def _head(runs: Sequence[RunReport], run: RunReport) -> Iterator[Heading]:
    if len(runs) > 1:
        yield Heading(run.name)
