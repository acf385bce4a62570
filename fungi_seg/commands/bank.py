"""The commands that change, check and carry a memory bank: `fungi-seg bank …`."""

from __future__ import annotations

import json as json_module
import logging
from dataclasses import asdict
from pathlib import Path

from fungi_seg.bank import KEY_DTYPES
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import BankError, FungiSegError, UsageError, as_usage, check_choice, listing
from fungi_seg.features import PlacementConfig
from fungi_seg.images import LoadConfig, RunConfig
from fungi_seg.search import RECALL

log = logging.getLogger(__name__)


def inspect(bank: str, json: str | None = None) -> None:
    """Verify a memory bank and show what is in it.

    Args:
        bank: folder of the bank.
        json: file to write the facts to, as JSON; - prints them in place of tables.
    """
    from rich.markup import escape
    from rich.table import Table

    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.output import STANDARD_OUTPUT, console, right, write
    from fungi_seg.segmentation import Calibration

    opened = MemoryBank.open(bank)
    info, rows, kept = opened.info, opened.class_rows(), opened.manifest.decoder or {}
    sure, search = kept.get("confidence"), opened.search_choice()
    facts = {
        "rows": len(opened),
        "width": info.dim,
        "images": len(info.sources),
        "created": info.created,
        "backbone": info.backbone.name,
        "fingerprint": info.fingerprint,
        "features": asdict(info.features),
        "input": asdict(info.input),
        "build": info.build,
        "decoder": kept.get("settings", "as published; fungi-seg bank fit fits it"),
        "confidence": Calibration.of_record(sure, bank).facts() if sure else "unknown; fungi-seg bank fit learns it",
        "made by": info.made_by,
        "search": f"{search.kind}: {search.why}",
        "support rows": 0 if opened.support is None else len(opened.support),
    }
    classes = [{"name": n, "rows": int(r)} for n, r in zip(info.classes, rows, strict=True)]
    write(json, json_module.dumps(facts | {"classes": classes}, indent=1, ensure_ascii=False))
    if json == STANDARD_OUTPUT:
        return
    summary = Table("bank", escape(opened.place))
    for key, value in facts.items():
        text = json_module.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
        summary.add_row(key, escape(text))
    console().print(summary)
    table = Table("class", right("rows that hold it"), right("share %"), "colour")
    for name, count, colour in zip(info.classes, rows, info.palette, strict=True):
        block = f"[rgb({colour[0]},{colour[1]},{colour[2]})]██[/]"
        table.add_row(escape(name), str(count), f"{100 * count / len(opened):.1f}", block)
    console().print(table)


def append(
    bank: str,
    data: DataConfig = DataConfig(),
    rows: int | None = None,
    load: LoadConfig = LoadConfig(),
    backbone: PlacementConfig = PlacementConfig(),
    skip_bad: bool = False,
    negative: bool = False,
) -> None:
    """Add annotated images to a bank; classes are matched by name.

    Args:
        bank: folder of the bank.
        data: the annotated images; their ids must be new to the bank.
        rows: to add at most; by default as many an image as the bank has, or all if it has all.
        load: how images are worked through.
        backbone: where the bank's backbone runs.
        skip_bad: skip images and masks that can't be used.
        negative: the images hold none of the classes, so that what looks alike in them is no longer found; --data.root
            is a folder of images without masks, all of each is background (the same as --data.layout negative).
    """
    from fungi_seg.bank import append_images
    from fungi_seg.commands.bank_changes import add_images, as_negative

    if negative:
        data = as_negative(data)
    add_images(bank, append_images, data, rows, RunConfig(load, skip_bad, True), backbone)


def replace(
    bank: str,
    data: DataConfig = DataConfig(),
    rows: int | None = None,
    load: LoadConfig = LoadConfig(),
    backbone: PlacementConfig = PlacementConfig(),
    skip_bad: bool = False,
) -> None:
    """Give images of a bank another annotation.

    Args:
        bank: folder of the bank.
        data: images with their new annotation, all of which the bank has; --data.file_list names some of a folder.
        rows: to put in their place at most; by default as many an image as the bank has, or all if it has all.
        load: how images are worked through.
        backbone: where the bank's backbone runs.
        skip_bad: skip images and masks that can't be used.
    """
    from fungi_seg.bank import replace_images
    from fungi_seg.commands.bank_changes import add_images

    add_images(bank, replace_images, data, rows, RunConfig(load, skip_bad, True), backbone)


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
        raise UsageError("nothing to remove; name images with --ids or --file_list, or classes with --classes")
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import report_change
    from fungi_seg.datasets import read_ids

    opened = MemoryBank.open(bank)
    images = [*(ids or []), *(read_ids(Path(file_list), opened.info.sources) if file_list else [])]
    report_change(opened, opened.remove(images, classes or []))


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
    if not (rename or fuse or drop):
        raise UsageError("nothing to change; name classes with --rename, --fuse or --drop")
    names = dict(_pair(text, "rename", "old=new") for text in rename or [])
    fused = {new: parts.split("+") for new, parts in (_pair(text, "fuse", "new=one+other") for text in fuse or [])}
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import report_change

    opened = MemoryBank.open(bank)
    changed = opened.relabel(names, fused, drop or [])
    report_change(opened, changed)
    print(f"classes: {', '.join(changed.info.classes)}")


def merge(bank: str, others: list[str] | None = None, sharded: bool = False, overwrite: bool = False) -> None:
    """Add all rows of other banks of the same features; classes are matched by name. Or join the parts of one bank.

    Args:
        bank: folder of the bank that they are added to.
        others: folders of the banks that are added; they stay as they are.
        sharded: make the parts in the bank's folder, which build --shard wrote, the bank; their keys stay where they
            are.
        overwrite: with sharded, replace the bank that is there.
    """
    if sharded == bool(others):
        named = (
            f"others are {' '.join(others)} and sharded is true" if others else "neither others nor --sharded is given"
        )
        raise UsageError(f"{named}; name the banks to add, or join the parts of one with --sharded")
    if overwrite and not sharded:
        raise UsageError("--overwrite is of --sharded; rows that are added to a bank replace nothing")
    from fungi_seg.bank import MemoryBank, join_to_manifest
    from fungi_seg.commands.bank_changes import report_change

    if not others:
        made = join_to_manifest(bank, overwrite)
        print(f"{bank}: {len(made)} rows of {made.info.dim} from {made.info.build['images']} images")
        print(f"choose how they vote: fungi-seg bank fit --bank {bank}")
        return

    opened = MemoryBank.open(bank)
    merged = opened.merge(*others)
    report_change(opened, merged)
    new = merged.info.classes[len(opened.info.classes) :]
    if new:
        print(f"classes that were new to it: {', '.join(new)}; patches from before were never labelled as such")


def compact(bank: str, key_dtype: str | None = None) -> None:
    """Write a bank anew without what was removed, or with smaller keys; undo and checkout can't go back behind it.

    Args:
        bank: folder of the bank.
        key_dtype: how they are stored from now on: float16, int8 or int4.
    """
    with as_usage():
        check_choice("key_dtype", key_dtype or KEY_DTYPES[0], KEY_DTYPES)
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import megabytes, report_change

    opened = MemoryBank.open(bank)
    changed = opened.compact(key_dtype)
    report_change(opened, changed)
    print(f"{megabytes(opened)} MB before, {megabytes(changed)} MB now")
    if opened.revisions:
        print(f"no way back to earlier revisions any more (those were {', '.join(map(str, opened.revisions))})")


def index(bank: str, recall: float = RECALL, lists: int | None = None) -> None:
    """Keep codes for searching in a large bank, so that it is ready when it is opened.

    Args:
        bank: folder of the bank.
        recall: share of the true neighbours that searches should find, 0..1.
        lists: of the inverted lists; about the square root of the rows by default.
    """
    if not 0 < recall <= 1:
        raise UsageError(f"recall is {recall}; it must be above 0 and at most 1")
    from fungi_seg.bank import MemoryBank

    change = MemoryBank.open(bank).make_index(recall, lists).history[-1]
    print(f"{bank}: searches find {change['reached']:.2%} of the true neighbours of rows of the bank itself")


def fit(
    bank: str,
    data: DataConfig = DataConfig(),
    backbone: PlacementConfig = PlacementConfig(),
    json: str | None = None,
) -> None:
    """Choose how a bank's rows vote, each row being segmented by the other images, and keep that in the bank.

    Args:
        bank: folder of the bank.
        data: where its annotated images lie, if not where the bank's record says; on some of them class share,
            regression and edges are chosen pixel by pixel.
        backbone: where the bank's backbone runs.
        json: file to write the settings and their evidence to, as JSON; - prints them in place of a table.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.fitting import fit_and_keep, print_fit
    from fungi_seg.commands.output import STANDARD_OUTPUT, write

    opened, features = MemoryBank.open(bank), None
    try:
        features = opened.patch_features(**vars(backbone))
    except FungiSegError as error:
        log.warning("%s: fitted on its rows alone, for its backbone can't be had: %s", bank, error)
    found = fit_and_keep(opened, data, features)[1]
    write(json, json_module.dumps(found.record(), indent=1, ensure_ascii=False))
    if json != STANDARD_OUTPUT:
        print_fit(bank, found)


def verify(bank: str) -> None:
    """Check every byte of a bank: checksums, counts, ranges.

    Args:
        bank: folder of the bank.
    """
    from fungi_seg.bank import MemoryBank, bytes_of_earlier
    from fungi_seg.commands.bank_changes import megabytes

    opened = MemoryBank.open(bank)
    problems = opened.verify()
    if problems:
        raise BankError(f"{bank}: {len(problems)} problems:\n{listing(problems)}")
    print(f"{bank}: sound; {len(opened)} rows, {megabytes(opened)} MB")
    if opened.revisions:
        more = bytes_of_earlier(opened.path, opened.manifest) / 1e6
        print(f"earlier revisions {', '.join(map(str, opened.revisions))}: sound; {more:.1f} MB more")


def export(bank: str, file: str) -> None:
    """Write a bank as one file, or to an object store, to carry it elsewhere.

    Args:
        bank: folder of the bank.
        file: to write, such as bank.tar; or an address such as s3://bucket/banks/name for a folder there.
    """
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.bank_changes import megabytes

    opened = MemoryBank.open(bank)
    print(f"{opened.export(file)}: {megabytes(opened)} MB")


def import_(file: str, out: str) -> None:
    """Unpack a bank from the file or folder of an object store that export wrote.

    Args:
        file: that file, or the address of the folder.
        out: folder for the bank, new or empty.
    """
    from fungi_seg.bank import MemoryBank

    made = MemoryBank.import_file(file, out)
    print(f"{out}: {len(made)} rows of {len(made.info.sources)} images")


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not (left and equals and right):
        raise UsageError(f"{option} has {text!r}; it must be {form}")
    return left, right
