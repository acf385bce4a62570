"""The commands that change, check and carry a memory bank: `fungi-seg bank …`."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fungi_seg.bank import MemoryBank, append_images, replace_images
from fungi_seg.commands.segmentation import open_told, tell_skipped
from fungi_seg.datasets import DataConfig, read_ids
from fungi_seg.errors import BankError, FungiSegError, listing
from fungi_seg.images import LoadConfig, RunConfig
from fungi_seg.search import RECALL


def append(
    bank: str,
    data: DataConfig = DataConfig(),
    rows: int | None = None,
    load: LoadConfig = LoadConfig(),
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Add annotated images to a bank; classes are matched by name.

    Args:
        bank: folder of the bank.
        data: the annotated images; their ids must be new to the bank.
        rows: to add at most; by default as many an image as the bank has, or all if it has all.
        load: how images are worked through.
        weights: local weights file, where it isn't where it was when the bank was built.
        device: auto, cpu, cuda, cuda:1, …
        dtype: auto, bfloat16 or float32.
        skip_bad: pass over images and masks that can't be used.
    """
    _add_images(bank, append_images, data, rows, RunConfig(load, skip_bad, True), (weights, device, dtype))


def replace(
    bank: str,
    data: DataConfig = DataConfig(),
    rows: int | None = None,
    load: LoadConfig = LoadConfig(),
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    skip_bad: bool = False,
) -> None:
    """Give images of a bank another annotation.

    Args:
        bank: folder of the bank.
        data: images with their new annotation, all of which the bank has; --data.file_list names some of a folder.
        rows: to put in their place at most; by default as many an image as the bank has, or all if it has all.
        load: how images are worked through.
        weights: local weights file, where it isn't where it was when the bank was built.
        device: auto, cpu, cuda, cuda:1, …
        dtype: auto, bfloat16 or float32.
        skip_bad: pass over images and masks that can't be used.
    """
    _add_images(bank, replace_images, data, rows, RunConfig(load, skip_bad, True), (weights, device, dtype))


def remove(
    bank: str, ids: list[str] | None = None, classes: list[str] | None = None, file_list: str | None = None
) -> None:
    """Remove images, or all patches that hold some classes.

    Args:
        bank: folder of the bank.
        ids: of images.
        classes: names; they stay in the list of classes.
        file_list: text file with ids of images, one a line.
    """
    if not (ids or classes or file_list):
        raise FungiSegError("nothing to remove; name images with --ids or --file_list, or classes with --classes")
    opened = MemoryBank.open(bank)
    images = [*(ids or []), *(read_ids(Path(file_list), opened.info.sources) if file_list else [])]
    _tell(opened, opened.remove(images, classes or []))


def relabel(
    bank: str, rename: list[str] | None = None, fuse: list[str] | None = None, drop: list[str] | None = None
) -> None:
    """Rename, fuse or drop classes of a bank.

    Args:
        bank: folder of the bank.
        rename: old=new, as many as there are.
        fuse: new=one+other+…: classes that become one.
        drop: classes that become void; patches that held nothing else go.
    """
    opened = MemoryBank.open(bank)
    names = dict(_pair(text, "rename", "old=new") for text in rename or [])
    fused = {new: parts.split("+") for new, parts in (_pair(text, "fuse", "new=one+other") for text in fuse or [])}
    changed = opened.relabel(names, fused, drop or [])
    _tell(opened, changed)
    print(f"classes: {', '.join(changed.info.classes)}")


def merge(others: list[str], bank: str) -> None:
    """Add all rows of other banks of the same features; classes are matched by name.

    Args:
        others: folders of the banks that are added; they stay as they are.
        bank: folder of the bank that they are added to.
    """
    opened = MemoryBank.open(bank)
    merged = opened.merge(*others)
    _tell(opened, merged)
    new = merged.info.classes[len(opened.info.classes) :]
    if new:
        print(f"classes that were new to it: {', '.join(new)}; patches from before were never labelled as such")


def compact(bank: str, kind: str | None = None) -> None:
    """Write a bank anew without what was removed, or with smaller keys.

    Args:
        bank: folder of the bank.
        kind: store keys as float16, int8 or int4 from now on.
    """
    opened = MemoryBank.open(bank)
    changed = opened.compact(kind)
    _tell(opened, changed)
    print(f"{_megabytes(opened)} MB before, {_megabytes(changed)} MB now")


def index(bank: str, recall: float = RECALL, lists: int | None = None) -> None:
    """Keep codes for searching in a large bank, so that it is ready when it is opened.

    Args:
        bank: folder of the bank.
        recall: share of the true neighbours that searches should find, 0..1.
        lists: of the inverted lists; about the square root of the rows by default.
    """
    deed = MemoryBank.open(bank).make_index(recall, lists).history[-1]
    print(f"{bank}: searches find {deed['reached']:.2%} of the true neighbours of rows of the bank itself")


def verify(bank: str) -> None:
    """Check every byte of a bank: checksums, counts, ranges.

    Args:
        bank: folder of the bank.
    """
    opened = MemoryBank.open(bank)
    problems = opened.verify()
    if problems:
        raise BankError(f"{bank}: {len(problems)} problems:\n{listing(problems)}")
    print(f"{bank}: sound; {len(opened)} rows, {_megabytes(opened)} MB")


def export(bank: str, file: str) -> None:
    """Write a bank as one file, to carry it elsewhere.

    Args:
        bank: folder of the bank.
        file: to write, such as bank.tar.
    """
    written = MemoryBank.open(bank).export(file)
    print(f"{written}: {written.stat().st_size / 1e6:.1f} MB")


def import_(file: str, out: str) -> None:
    """Unpack a bank from the file that export wrote.

    Args:
        file: that file.
        out: folder for the bank, new or empty.
    """
    made = MemoryBank.import_file(file, out)
    print(f"{out}: {len(made)} rows of {len(made.info.sources)} images")


def history(bank: str, json: bool = False) -> None:
    """Show what was done with a bank, when, and with which settings.

    Args:
        bank: folder of the bank.
        json: print JSON in place of a table, with all settings.
    """
    deeds = MemoryBank.open(bank).history
    if json:
        print(json_module.dumps(deeds, indent=1, ensure_ascii=False))
        return
    table = Table("when", "what", "rows after it", "with")
    for entry in deeds:
        settings = {key: entry[key] for key in entry if key not in ("time", "action", "rows", "made_by")}
        table.add_row(entry["time"], entry["action"], str(entry["rows"]), escape(_short(settings)))
    Console().print(table)


def _add_images(
    bank: str,
    change: Callable[..., MemoryBank],
    data: DataConfig,
    rows: int | None,
    run: RunConfig,
    where: tuple[str | None, str, str],
) -> None:
    """Append or replace; `where` are the backbone's weights, device and dtype."""
    opened = MemoryBank.open(bank)
    dataset = open_told(data, run.skip_bad)
    backbone = opened.patch_features(*where).backbone
    _tell(opened, change(opened, dataset, backbone, rows, run, {"data": asdict(data)}))


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise FungiSegError(f"{option} has {text!r}; it must be {form}")
    return left, right


def _tell(before: MemoryBank, after: MemoryBank) -> None:
    tell_skipped(after.history[-1].get("skipped", ()))
    images = len(before.info.sources), len(after.info.sources)
    print(f"{after.path}: {len(before)} → {len(after)} rows, {images[0]} → {images[1]} images")


def _megabytes(bank: MemoryBank) -> str:
    return f"{sum(entry.bytes for entry in bank.manifest.entries()) / 1e6:.1f}"


def _short(settings: dict[str, Any]) -> str:
    """Settings in a line or a few, without what is empty and without lists of many."""
    parts = []
    for key, value in settings.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v not in (None, "", [], {}, False)}
        if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 3:
            value = [*value[:3], "…"]
        if value not in (None, "", [], {}):
            parts.append(f"{key} {json_module.dumps(value, ensure_ascii=False)}"[:200])
    return "; ".join(parts)
