"""What `data inspect` finds and shows: splits, tables, and the commands that use them."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from fungi_seg.commands.output import console
from fungi_seg.datasets import DataConfig, DataReport, Dataset, Guess, SplitReport, guess, open_dataset, spread
from fungi_seg.errors import DataError, listing
from fungi_seg.images import InputConfig

EMBEDDED = "embedded"
SHOWN_ABSENT = 12
log = logging.getLogger(__name__)


def found_splits(path: str, given: dict[str, Any]) -> tuple[list[Guess], list[Guess]]:
    """The splits of the likeliest data set at `path`, with the options that were given, and what else is there.

    Raises:
        DataError: nothing known is there, and no layout was given.
    """
    try:
        found = [g for g in guess(path) if given.get("layout", g.layout) == g.layout]
    except DataError:
        if "layout" not in given:
            raise
        found = []
    if not found:
        where = Path(path).expanduser()
        config = DataConfig(given["layout"], str(where.parent if where.is_file() else where))
        found = [Guess(config, "all", "as --data.layout says", ())]
    best = found[0]
    same = [g for g in found if (g.layout, g.config.root) == (best.layout, best.config.root)]
    splits = list({g.split: g for g in reversed(same)}.values())[::-1]  # the first of each name
    if given.keys() & {"root", "split", "file_list", "annotations"}:
        wanted = given.get("split", best.split)
        splits = [g for g in splits if g.split == wanted] or [replace(best, split=wanted)]
        given = given if splits[0] not in same else {k: v for k, v in given.items() if k != "split"}
    taken = [replace(g, config=replace(g.config, **given)) for g in splits]
    return taken, [g for g in found if g not in same]


def open_splits(guesses: Sequence[Guess], input: InputConfig) -> dict[str, Dataset]:
    """The data sets by the name of their split; what can't be opened is named.

    Raises:
        DataError: none can be opened.
    """
    opened, faults = {}, []
    for one in guesses:
        try:
            opened[one.split] = open_dataset(one.config, True, input).entering(input, True)
        except DataError as error:
            faults.append(f"{one.split}: {error}")
    if not opened:
        raise DataError("\n".join(faults))
    if faults:
        log.warning("can't be opened:\n%s", listing(faults))
    return opened


def command_lines(guesses: Sequence[Guess], report: DataReport, input: InputConfig) -> list[str]:
    """What builds a bank from the first split, and evaluates it on the next one to evaluate on, if there is one.

    The backbone is the one that comes with the package, so that they run as they stand.
    """
    there = [g for g in guesses if g.split in report.splits]
    learn = next((g for g in there if g.split.startswith("train")), there[0])
    compare = [g for g in there if g is not learn and not g.split.startswith("train")]
    bank = f"memory_banks/{Path(learn.config.root).resolve().name}"
    split = report.splits[learn.split]
    entering = [part for key, value in _given(input).items() for part in (f"--input.{key}", value)]
    options = [*_options(learn.config, split), *_skip(split), *entering, "--backbone.name", EMBEDDED, "--out", bank]
    lines = [shlex.join(["fungi-seg", "build", *options])]
    for one in compare[:1]:
        options = [*_options(one.config, split), *_skip(report.splits[one.split])]
        lines.append(shlex.join(["fungi-seg", "evaluate", "--bank", bank, *options]))
    return lines


def _options(config: DataConfig, learn: SplitReport) -> list[str]:
    """Those that differ from what they are by default, and the layout; with what sets the bank's split right."""
    default = DataConfig()
    if learn.doubt:
        config = replace(config, values=(*config.values, *learn.doubt.values))
    values = {k: v for k, v in vars(config).items() if k in ("layout", "root") or v != getattr(default, k)}
    return [part for key, value in values.items() for part in (f"--data.{key}", _text(key, value))]


def _given(input: InputConfig) -> dict[str, str]:
    """What differs from the defaults, as it is typed."""
    default = InputConfig()
    given = {name: value for name, value in vars(input).items() if value != getattr(default, name)}
    return {name: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for name, v in given.items()}


def _text(key: str, value: Any) -> str:
    if isinstance(value, tuple):
        apart = r"\," if key == "merge" else ","  # a comma that belongs to a name
        quoted = any(apart in name for name in value)
        return json.dumps(value, ensure_ascii=False) if quoted else ",".join(value)
    return str(value)


def _skip(split: SplitReport) -> list[str]:
    """The option that skips images, where some can't be used."""
    return ["--skip-bad"] if split.dataset.problems or len(split.readable) < len(split.looks) else []


def print_report(report: DataReport, guesses: Sequence[Guess]) -> None:
    """Tables of splits and classes, and what is wrong with them."""
    print(f"{guesses[0].layout}: {guesses[0].config.root}")
    for one in guesses:
        print(f"  {one.split}: {one.why}")
    console().print(_split_table(report))
    console().print(_class_table(report))
    for name, split in report.splits.items():
        if len(split.looks) < split.images:
            print(f"{name}: {len(split.looks)} of {split.images} images were looked at, the others may differ")
        for what, lines in (("problems", split.problems), ("taken, but look at", split.dataset.remarks)):
            if lines:
                print(f"{name}, {what} ({len(lines)}):\n{listing(lines)}")
    for name, absent in report.absent.items():
        if absent:
            more = f", … and {len(absent) - SHOWN_ABSENT} more" if len(absent) > SHOWN_ABSENT else ""
            print(f"{name}: no pixel of {', '.join(absent[:SHOWN_ABSENT])}{more}")
    for line in report.across:
        print(line)


def _split_table(report: DataReport) -> Table:
    """A line of figures for each, a column for each split."""
    table = Table("", *(Column(escape(name), justify="right", overflow="fold") for name in report.splits))
    rows = {
        "images": lambda s: str(s.images),
        "looked at": lambda s: str(len(s.looks)),
        "readable": lambda s: str(len(s.readable)),
        "height": lambda s: _spread_words(spread(s.sizes[:, 0])),
        "width": lambda s: _spread_words(spread(s.sizes[:, 1])),
        "different sizes": lambda s: str(s.as_dict()["sizes"]),
        "kinds": lambda s: "\n".join(f"{count} {kind}" for kind, count in s.kinds.items()),
        "void %": lambda s: f"{100 * s.void:.1f}",
    }
    for title, value in rows.items():
        table.add_row(title, *(value(split) for split in report.splits.values()))
    return table


def _spread_words(values: dict[str, int]) -> str:
    if len(set(values.values())) < 2:
        return str(values.get("min", ""))
    return f"{values['min']} … {values['max']}, median {values['median']}"


def _class_table(report: DataReport) -> Table:
    """For each class and split the images that hold it and its share of the pixels."""
    grouped = any(report.groups)
    names = [Column(name, overflow="fold") for name in ("class", *(["of"] if grouped else []))]
    splits = [Column(escape(f"{name}: images, %"), justify="right") for name in report.splits]
    table = Table(*names, *splits, "colour")
    for name, group, colour in zip(report.classes, report.groups, report.palette.tolist(), strict=True):
        found = [split.classes.get(name, (0, 0.0)) for split in report.splits.values()]
        figures = [f"{images} {100 * share:7.2f}" for images, share in found]
        block = f"[rgb({colour[0]},{colour[1]},{colour[2]})]██[/]"
        table.add_row(escape(name), *([escape(group)] if grouped else []), *figures, block)
    return table
