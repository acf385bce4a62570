"""The command that looks for mistakes in a bank: audit."""

from __future__ import annotations

from pathlib import Path

from fungi_seg.datasets import DataConfig
from fungi_seg.errors import UsageError
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig


def audit(
    bank: str,
    out: str | None = None,
    top: int = 20,
    decoder: DecoderConfig = DecoderConfig(),
    index: IndexConfig = IndexConfig(),
    data: DataConfig = DataConfig(),
) -> None:
    """Segment each annotated image of a bank by all the others: wrong masks, thin classes, images that can go.

    With --out: OUT/index.html and OUT/suspicious.png show the most suspicious annotations, OUT/audit.json and
    OUT/audit.md hold all figures.

    Args:
        bank: folder of the bank.
        out: folder for the report.
        top: how many of the most suspicious images are shown.
        decoder: how neighbours vote.
        index: how neighbours are searched.
        data: where the annotated images lie, if not where they were when the bank was built (--data.root DIR).
    """
    if top < 1:
        raise UsageError(f"top is {top}; at least 1 image must be shown")
    from fungi_seg.audit import CLASS_HEADER, IMAGE_HEADER, REDUNDANT_HEADER, audit_bank, write_audit
    from fungi_seg.bank import MemoryBank, SourceImages
    from fungi_seg.commands.output import print_table

    opened = MemoryBank.open(bank)
    found = audit_bank(opened, decoder, index, progress=True)
    print_table(CLASS_HEADER, found.class_rows())
    print_table(IMAGE_HEADER, found.image_rows(top))
    if found.redundant:
        print_table(REDUNDANT_HEADER, found.redundant_rows()[:top])
    print(found.verdict())
    print(f"Redundant images: {found.redundant_line()}")
    if thin := found.thin_line():
        print(thin)
    if out:
        images = SourceImages(opened, data)
        print("Look at:", *map(str, write_audit(found, opened, images, Path(out).expanduser(), top)[:2]))
