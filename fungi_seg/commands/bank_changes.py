"""Images into a bank, and what a change of a bank came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from fungi_seg.bank import Difference, MemoryBank
from fungi_seg.commands.output import open_with_remarks, print_table, report_skipped
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import UsageError
from fungi_seg.features import PlacementConfig
from fungi_seg.images import RunConfig

SHOWN = 5  # names of images or classes


def add_images(
    bank: str,
    change: Callable[..., MemoryBank],
    data: DataConfig,
    rows: int | None,
    run: RunConfig,
    placement: PlacementConfig,
) -> None:
    """Append or replace images by `change`, and say what came of it."""
    opened = MemoryBank.open(bank)
    dataset = open_with_remarks(data, run.skip_bad, opened.info.input)
    backbone = opened.patch_features(**vars(placement)).backbone
    report_change(opened, change(opened, dataset, backbone, rows, run, {"data": asdict(data)}))


def as_negative(data: DataConfig) -> DataConfig:
    """The same folder, as one of images that hold none of the classes."""
    if data.layout not in (DataConfig.layout, "negative"):
        raise UsageError(
            f"--negative and --data.layout {data.layout}: images that hold none of the classes have no annotation to "
            f"be read; leave one of both out"
        )
    return replace(data, layout="negative")


def report_change(before: MemoryBank, after: MemoryBank) -> None:
    """Rows and images of a bank before and after."""
    report_skipped(after.history[-1].get("skipped", ()))
    images = len(before.info.sources), len(after.info.sources)
    print(f"{after.place}: {len(before)} → {len(after)} rows, {images[0]} → {images[1]} images")


def report_return(before: MemoryBank, after: MemoryBank) -> None:
    """Which revision a bank went back to, and how to take that back."""
    report_change(before, after)
    print(
        f"as it was at revision {after.history[-1]['to']} (this is revision {after.revision}); to take that back: "
        f"fungi-seg bank checkout --bank {after.place} --revision {before.revision}"
    )


def print_difference(bank: MemoryBank, found: Difference) -> None:
    """What differs between two revisions of a bank."""
    old, new = found.revisions
    between = [entry["action"] for entry in bank.history[min(old, new) : max(old, new)]]
    print(f"{bank.place}: revision {old} → {new}, between them: {', '.join(between) or 'nothing'}")
    print(f"rows: {found.rows[0]} → {found.rows[1]}")
    names = {
        "images that came": found.images_added,
        "images that went": found.images_removed,
        "images with other rows or labels": found.images_changed,
        "classes that came": found.classes_added,
        "classes that went": found.classes_removed,
    }
    for what, listed in names.items():
        if listed:
            print(f"{what}: {len(listed)} ({', '.join(listed[:SHOWN])}{', …' if len(listed) > SHOWN else ''})")
    rows = [[c.name, *map(str, (c.old, c.new, c.added, c.removed))] for c in found.classes if c.added or c.removed]
    if rows:
        print_table(["class", f"rows at {old}", f"rows at {new}", "came", "went"], rows)
    for name, (value, other) in found.settings.items():
        print(f"{name}: {_text(value)} → {_text(other)}")


def _text(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def megabytes(bank: MemoryBank) -> str:
    """What its files take."""
    return f"{sum(entry.bytes for entry in bank.manifest.entries()) / 1e6:.1f}"


def short(settings: dict[str, Any]) -> str:
    """Settings in a line or a few, without what is empty and without lists of many."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v not in (None, "", [], {}, False)}
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 3:
            value = [*value[:3], "…"]
        if value not in (None, "", [], {}):
            parts.append(f"{key} {json.dumps(value, ensure_ascii=False)}"[:200])
    return "; ".join(parts)
