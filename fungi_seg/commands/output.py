"""What commands print: tables and results on standard output, what was skipped or looks wrong beside them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Column, Table

from fungi_seg.datasets import DataConfig, Dataset, open_dataset
from fungi_seg.errors import listing
from fungi_seg.files import replacing
from fungi_seg.images import InputConfig

STANDARD_OUTPUT = "-"  # in place of the name of a file
FILE_WIDTH = 200  # columns of a table that goes into a file or a pipe

log = logging.getLogger(__name__)


def open_with_remarks(data: DataConfig, skip_bad: bool, input: InputConfig | None = None) -> Dataset:
    """Open a data set whose images are read as `input` says, and name what was taken although it looks wrong."""
    dataset = open_dataset(data, skip_bad, input)
    if dataset.remarks:
        log.warning("taken, but look at %d:\n%s", len(dataset.remarks), listing(dataset.remarks))
    return dataset


def report_skipped(skipped: Sequence[str]) -> None:
    """Name what was skipped, if anything was."""
    if skipped:
        log.warning("skipped %d:\n%s", len(skipped), listing(skipped))


def write(file: str | None, text: str) -> None:
    """Write to a file, if one is named; to standard output where its name is `-`."""
    if file == STANDARD_OUTPUT:
        print(text)
    elif file:
        with replacing(Path(file).expanduser()) as draft:
            draft.write_text(text, encoding="utf-8")


def console() -> Console:
    """Standard output, wide where it isn't a terminal."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH)


def print_notes(notes: Sequence[str], to: Console) -> None:
    """Notes of a report, less prominent than its figures."""
    for note in notes:
        to.print(f"note: {note}", style="dim", markup=False)


def right(header: str) -> Column:
    """A column of figures."""
    return Column(header, justify="right")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], justify: JustifyMethod = "right") -> None:
    """A table whose first column holds names; the others hold figures, unless they are justified another way."""
    table = Table(Column(header[0], overflow="fold"), *(Column(name, justify=justify) for name in header[1:]))
    for row in rows:
        table.add_row(*map(escape, row))
    console().print(table)
