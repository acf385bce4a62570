"""Images into a bank, and what a change of a bank came to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from fungi_seg.bank import MemoryBank
from fungi_seg.commands.output import open_with_remarks, report_skipped
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import UsageError
from fungi_seg.features import PlacementConfig
from fungi_seg.images import RunConfig


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
    dataset = open_with_remarks(data, run.skip_bad)
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
    print(f"{after.path}: {len(before)} → {len(after)} rows, {images[0]} → {images[1]} images")


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
