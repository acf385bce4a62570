"""The command that looks at annotated images before they are used: `fungi-seg data inspect`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fungi_seg.commands.settings import Readers, Told
from fungi_seg.errors import UsageError
from fungi_seg.images import InputConfig


def inspect(
    path: str,
    data: Told = Told(),
    input: InputConfig = InputConfig(),
    out: str = "outputs/inspect",
    images: int = 12,
    limit: int | None = None,
    load: Readers = Readers(),
    json: str | None = None,
) -> None:
    """Guess the layout of annotated images, and show what is in them: classes, sizes, problems.

    Prints the options that other commands take for them, and writes OUT/contact_sheet.png.

    Args:
        path: a folder or JSON file; a little above or below the data set's own folder will do.
        data: what is given is not guessed.
        input: how images enter; which of their channels and planes are looked at. It goes into the commands, too.
        out: folder for the contact sheet.
        images: how many the contact sheet shows.
        limit: look at so many images of each split at most, taken at even distances.
        load: how images are worked through.
        json: file to write the report to, as JSON; - prints it in place of tables.
    """
    if images < 1:
        raise UsageError(f"images is {images}; the contact sheet must show at least 1")
    from fungi_seg.commands.data_looks import command_lines, found_splits, open_splits, print_report
    from fungi_seg.commands.output import STANDARD_OUTPUT, write
    from fungi_seg.datasets import data_sheet, inspect_data
    from fungi_seg.files import replacing

    guesses, others = found_splits(path, data.options)
    opened = open_splits(guesses, input)
    settings = {
        "layout": guesses[0].layout,
        "why": [g.why for g in guesses],
        "data": {g.split: asdict(g.config) for g in guesses},
    }
    report = inspect_data(opened, limit, load.workers, True, settings)
    sheet = Path(out).expanduser() / "contact_sheet.png"
    with replacing(sheet) as draft:
        data_sheet(report, images).save(draft)
    write(json, report.to_json())
    if json == STANDARD_OUTPUT:
        return
    print_report(report, guesses)
    for root in dict.fromkeys(f"{g.layout}: {g.config.root}" for g in others):
        print(f"also there: {root}")
    print("Use them:", *(f"  {line}" for line in command_lines(guesses, report, input)), sep="\n")
    print(f"Look at: {sheet}")
