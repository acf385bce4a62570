"""A plan as lines of a table, as JSON and as a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fungi_seg.bank import BankConfig, Needs, Room, Survey, size_text
from fungi_seg.planning import Timing


def facts(seen: Survey, needs: Needs, room: Room, timing: Timing | None, bank: BankConfig) -> Iterator[tuple[str, str]]:
    """Name and value of each line of the table."""
    by = "" if seen.complete else f" (by the size of {seen.sampled})"
    copies = f" × {bank.epochs} epochs" if bank.epochs > 1 else ""
    yield "images", f"{seen.images}{copies}"
    yield "patches", f"{'' if seen.complete and not bank.augment else 'about '}{needs.patches}{by}"
    yield "rows", f"at most {needs.rows}, each a key of {needs.dim} numbers ({bank.key_dtype})"
    yield "bank on disk", size_text(needs.bank)
    yield "beside it while it is built", size_text(needs.draft)
    yield "free disk", size_text(room.disk)
    yield "memory to build it", _of(needs.build_memory, room.memory, "free")
    yield "memory to search it", _of(needs.search_memory, room.all_memory, "in the machine")
    yield "index (auto, CPU)", f"{needs.index}: {needs.index_why}"
    if timing:
        least, most = timing.range
        times = f"{minutes(timing.build)} ({minutes(least)} to {minutes(most)})"
        yield "time to build it", f"about {times}, by trials of {timing.images} images"
        yield "time to make the index", f"about {minutes(timing.index)}"


def _of(needed: int, there: int | None, where: str) -> str:
    return size_text(needed) + (f" of {size_text(there)} {where}" if there is not None else "")


def minutes(seconds: float) -> str:
    """A time for people: `40 s`, `2.5 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def verdict(needs: Needs, room: Room, timing: Timing | None) -> str:
    """The plan in a sentence."""
    time = f" and takes about {minutes(timing.build)}" if timing else ""
    return f"It fits: up to {needs.rows} rows; needs {size_text(needs.disk)} of {size_text(room.disk)} free disk{time}."


def as_json(seen: Survey, needs: Needs, room: Room, timing: Timing | None, missing: list[str]) -> str:
    """All figures, in bytes and seconds."""
    values: dict[str, Any] = {"fits": not missing, "missing": missing, "images": asdict(seen), "needs": asdict(needs)}
    values |= {"room": asdict(room), "timing": asdict(timing) | {"range": timing.range} if timing else None}
    return json.dumps(values, indent=1, ensure_ascii=False)
