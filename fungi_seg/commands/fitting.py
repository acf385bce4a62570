"""Settings of the vote that were fitted on a bank: found, kept, printed, and used by other commands."""

from __future__ import annotations

import logging

from rich.markup import escape
from rich.table import Table

from fungi_seg.bank import MemoryBank, SourceImages
from fungi_seg.commands.output import console, right
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import as_usage
from fungi_seg.features import PatchFeatures
from fungi_seg.segmentation import (
    DecoderConfig,
    DecoderOptions,
    Fit,
    Segmenter,
    changes_since_fit,
    fit_decoder,
    fitted_decoder,
)

log = logging.getLogger(__name__)


def fit_and_keep(
    bank: MemoryBank, data: DataConfig, features: PatchFeatures | None, progress: bool = True
) -> tuple[MemoryBank, Fit]:
    """The bank with settings of the vote fitted on it, newly opened, and what was found.

    One that is too small stays as it is, unless it holds settings from when it was larger.

    Args:
        bank: an open bank.
        data: where its annotated images lie.
        features: of its backbone; without them the bank's rows alone are looked at.
        progress: report on standard error.
    """
    found = fit_decoder(bank, images=SourceImages(bank, data), features=features, progress=progress)
    keep = found.choices or bank.manifest.decoder
    return bank.keep_decoder(found.record()) if keep else bank, found


def print_fit(bank: str, found: Fit) -> None:
    """Print what was chosen and why."""
    if found.choices:
        table = Table("setting", "taken", "published", "best", right("gain in mIoU"), right("95 % interval"))
        for c in found.choices:
            values = (escape(str(value)) for value in (c.value, c.published, c.tried))
            table.add_row(
                c.setting, *values, f"{100 * c.gain:+.2f}", "{:+.2f} to {:+.2f}".format(*(100 * x for x in c.interval))
            )
        console().print(table)
    for note in found.notes:
        print(f"{bank}: {note}")
    if found.facts:
        facts = found.facts
        images = facts.get("images at pixels")
        on = f"pixels of {images:.0f} of its images" if images else f"{facts['rows']:.0f} of its rows, without edges,"
        print(
            f"{bank}: on {on} by other images, mIoU {100 * facts['published']:.2f} % as published, "
            f"{100 * facts['fitted']:.2f} % as fitted"
        )
    if found.confidence:
        worth = found.confidence.facts()["right at score"]
        right_at = ", ".join(f"{100 * share:.0f} % at {score}" for score, share in worth.items())
        print(f"{bank}: of pixels by the score of their class, so many are right: {right_at}")


def check_sure(segmenter: Segmenter) -> None:
    """Raise unless it is known how sure classes are; say so where the bank was changed since that was learnt."""
    segmenter.check_calibrated()
    changes = changes_since_fit(segmenter.bank.history)
    if changes:
        log.warning(
            "%s: how sure classes are was learnt before the bank was changed (%s); fungi-seg bank fit learns it anew",
            segmenter.bank.place,
            ", ".join(changes),
        )


def decoder_for(bank: MemoryBank, options: DecoderOptions, fitted: bool = True) -> DecoderConfig:
    """What the options say; what they leave open as fitted on the bank, or as published."""
    base = fitted_decoder(bank.manifest.decoder, bank.place) if fitted else DecoderConfig()
    with as_usage():
        return options.over(base)


def unfitted_notes(bank: MemoryBank) -> list[str]:
    """What to say where settings fitted on the bank are asked for by name and there are none; it is logged too."""
    if bank.manifest.decoder:
        return []
    note = (
        f"nothing was fitted on the bank {bank.place}, so what the decoder leaves open is as published; fit it, if it "
        f"holds images enough: fungi-seg bank fit --bank {bank.place}"
    )
    log.warning("%s", note)
    return [note]
