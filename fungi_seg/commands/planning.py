"""The command that tells what a bank would take before it is built: plan."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fungi_seg.bank import (
    BankConfig,
    BankRecipe,
    Needs,
    Room,
    Survey,
    check_target,
    needs_of,
    refuse_unless_fits,
    room_at,
    shortages,
    size_text,
    survey,
)
from fungi_seg.datasets import DataConfig, open_dataset
from fungi_seg.errors import DataError
from fungi_seg.features import BackboneConfig, FeatureConfig, load_backbone
from fungi_seg.files import replacing
from fungi_seg.images import InputConfig, LoadConfig, RunConfig
from fungi_seg.planning import Timing, calibrate as run_calibration


def plan(
    out: str | None = None,
    data: DataConfig = DataConfig(),
    backbone: BackboneConfig = BackboneConfig(),
    features: FeatureConfig = FeatureConfig(),
    input: InputConfig = InputConfig(),
    bank: BankConfig = BankConfig(),
    load: LoadConfig = LoadConfig(),
    seed: int = 0,
    train_list: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    protocol: str | None = None,
    calibrate: bool = True,
    json: str | None = None,
) -> None:
    """Tell what a memory bank would take, before it is built: rows, disk, memory, time.

    Takes the options of build and the same section of a recipe. A bank that can't fit is refused, with settings that
    would.

    Args:
        out: folder of the bank; its disk is asked for space, that of the current folder if none is given.
        data: the annotated images.
        backbone: the frozen vision transformer.
        features: what a patch feature is made of.
        input: how an image becomes the backbone's input.
        bank: which patches are kept.
        load: how images are worked through.
        seed: fixes sampling and augmentation.
        train_list: text file with the ids to build from, one a line (the same as --data.file_list).
        skip_bad: pass over images and masks that can't be used.
        overwrite: the bank that is at --out may be replaced.
        protocol: take the build settings of native, hbird-v2, fungi, dip, or a .yaml file.
        calibrate: time a build of some of the images, about ten seconds.
        json: file to write the plan to, as JSON (bytes, seconds).
    """
    if train_list:
        data = replace(data, file_list=train_list)
    if out:
        check_target(Path(out).expanduser(), overwrite)
    dataset, model, place = open_dataset(data, skip_bad), load_backbone(**vars(backbone)), out or "."
    recipe = BankRecipe(features, input, bank, seed)
    seen = survey(dataset, recipe, model.patch_size)
    if not seen.sampled:
        raise DataError(
            f"data.root {data.root}: none of the images looked at can be read or is as large as a patch; the first is "
            f"{dataset.items[0].image}"
        )
    ask, room = needs_of(seen, model, features), room_at(Path(place))
    needs = ask(bank, load)
    lacking, timing = shortages(needs, room), None
    if calibrate and not lacking:
        timing = run_calibration(dataset, model, place, needs, recipe, RunConfig(load, skip_bad))
    if json:
        _write(Path(json).expanduser(), seen, needs, room, timing, lacking)
    table = Table("plan", escape(out or "a bank"))
    for name, text in _facts(seen, needs, room, timing, bank):
        table.add_row(name, escape(text))
    Console().print(table)
    refuse_unless_fits(ask, bank, load, room, place)
    print(_verdict(needs, room, timing))


def _facts(
    seen: Survey, needs: Needs, room: Room, timing: Timing | None, bank: BankConfig
) -> Iterator[tuple[str, str]]:
    """Name and value of each line of the table."""
    told = "" if seen.complete else f" (by the size of {seen.sampled})"
    copies = f" × {bank.epochs} epochs" if bank.epochs > 1 else ""
    yield "images", f"{seen.images}{copies}"
    yield "patches", f"{'' if seen.complete and not bank.augment else 'about '}{needs.patches}{told}"
    yield "rows", f"at most {needs.rows}, each a key of {needs.dim} numbers ({bank.keys})"
    yield "bank on disk", size_text(needs.bank)
    yield "beside it while it is built", size_text(needs.draft)
    yield "free disk", size_text(room.disk)
    yield "memory to build it", _of(needs.build_memory, room.memory, "free")
    yield "memory to search it", _of(needs.search_memory, room.all_memory, "in the machine")
    yield "index (auto, CPU)", needs.index
    if timing:
        least, most = timing.range
        times = f"{_minutes(timing.build)} ({_minutes(least)} to {_minutes(most)})"
        yield "time to build it", f"about {times}, by trials of {timing.images} images"
        yield "time to make the index", f"about {_minutes(timing.index)}"


def _of(needed: int, there: int | None, where: str) -> str:
    return size_text(needed) + (f" of {size_text(there)} {where}" if there is not None else "")


def _minutes(seconds: float) -> str:
    """A time for people: `40 s`, `2.5 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _verdict(needs: Needs, room: Room, timing: Timing | None) -> str:
    time = f" and takes about {_minutes(timing.build)}" if timing else ""
    return f"It fits: up to {needs.rows} rows; needs {size_text(needs.disk)} of {size_text(room.disk)} free disk{time}."


def _write(path: Path, seen: Survey, needs: Needs, room: Room, timing: Timing | None, lacking: list[str]) -> None:
    """All figures as JSON, in bytes and seconds."""
    values: dict[str, Any] = {"fits": not lacking, "lacking": lacking, "images": asdict(seen), "needs": asdict(needs)}
    values |= {"room": asdict(room), "timing": asdict(timing) | {"range": timing.range} if timing else None}
    with replacing(path) as draft:
        draft.write_text(json_module.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
