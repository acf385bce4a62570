"""Reports as tables on standard output, and segmentations as files."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.markup import escape
from rich.table import Column, Table

from fungi_seg.commands.output import console, print_notes, print_table, right, write
from fungi_seg.evaluation import (
    CLASS_HEADER,
    COUNT_HEADER,
    IMAGE_HEADER,
    SEED_HEADER,
    Comparison,
    Report,
    SeedReport,
    class_table,
    comparison_explanation,
    count_rows,
    image_table,
    interval_words,
    result_table,
)
from fungi_seg.segmentation import LEVEL
from fungi_seg.sweep import SweepReport
from fungi_seg.whole_images import ImageReport

log = logging.getLogger(__name__)


def print_report(report: Report) -> None:
    """Print what an evaluation found."""
    print_table(CLASS_HEADER, report.class_rows())
    if report.worst_images():
        print_table(IMAGE_HEADER, report.image_rows())
    if report.objects:
        print_table(COUNT_HEADER, count_rows(report.objects))
    print_notes(report.notes, console())
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    memory = ", ".join(f"{where} {peak:.0f} MB" for where, peak in report.peak_memory_mb.items())
    print(f"{report.images} images; {stages}; peak memory: {memory}")
    print(
        f"mIoU {report.miou * 100:.2f} % ({LEVEL} % interval over images: {interval_words(report.interval)}), pixel "
        f"accuracy {report.pixel_accuracy * 100:.2f} %"
    )
    if report.confidence:
        print(report.confidence_line())
    for doubt in report.doubts:
        log.warning("DON'T TRUST THESE FIGURES: %s", doubt)


def print_seeds(report: SeedReport) -> None:
    """Print what evaluations with several seeds found."""
    print_table(SEED_HEADER, report.class_rows())
    if report.image_rows():
        print_table(IMAGE_HEADER[:3], report.image_rows())
    print_notes(report.notes, console())
    print(report.summary())
    for doubt in dict.fromkeys(doubt for one in report.reports for doubt in one.doubts):
        log.warning("DON'T TRUST THESE FIGURES: %s", doubt)


def print_comparison(comparison: Comparison) -> None:
    """Print results held against each other."""
    for table in (result_table, class_table, image_table):
        header, rows = table(comparison)
        if rows:
            print_table(header, rows)
    for note in (comparison_explanation(comparison), *comparison.notes):
        console().print(note, style="dim", markup=False)


def print_image_report(report: ImageReport) -> None:
    """Print what image features are worth."""
    header, rows = report.table()
    figures = (Column(name, justify="right", overflow="fold", min_width=5) for name in header[1:])
    table = Table(Column(header[0], no_wrap=True), *figures)
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)
    print_notes(report.notes, console())


def print_sweep(report: SweepReport, folder: Path) -> None:
    """Print what was found, and write it to `folder`."""
    header, rows = report.table()
    table = Table(*map(right, header))
    for row in rows:
        table.add_row(*row)
    console().print(table)
    for note in (report.explanation(), *report.notes):
        console().print(note, style="dim", markup=False)
    for ending, text in (("json", report.to_json()), ("csv", report.to_csv()), ("md", report.to_markdown())):
        write(str(folder / f"sweep.{ending}"), text)
    report.chart(folder / "sweep.png")
    print(report.summary())
    print(f"Look at: {folder / 'sweep.png'} {folder / 'sweep.md'}")
