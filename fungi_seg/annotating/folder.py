"""A folder's images as the page lists them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fungi_seg.bank import MANIFEST
from fungi_seg.config import from_dict
from fungi_seg.errors import DataError, FungiSegError, check_choice, listing
from fungi_seg.images import InputConfig
from fungi_seg.rasters import file_of
from fungi_seg.results import find_images

SORTS = ("doubt", "name")
FILTERS = ("all", "unlooked", "annotated", "open")


@dataclass(frozen=True)
class Seen:
    """What was found in an image when it was segmented.

    Attributes:
        version: of the annotations that it was segmented by.
        doubt: 0..1.
        areas: share of the image by class index.
        mask: of the image made smaller, `[h, w]`, as PNG.
    """

    version: int
    doubt: float
    areas: dict[int, float]
    mask: bytes


@dataclass
class Record:
    """An image of the folder.

    Attributes:
        number: its place in the order of names.
        name: its path within the folder without suffix.
        path: its file.
        size: `(H, W)` once it was read.
        looked: somebody looked at it.
        problem: why it can't be used.
        seen: what was found in it.
        edits: strokes since the server was started, so that its thumbnail is known to have changed.
    """

    number: int
    name: str
    path: Path
    size: tuple[int, int] | None = None
    looked: bool = False
    problem: str | None = None
    seen: Seen | None = None
    edits: int = field(default=0, compare=False)

    def as_json(self, status: str, in_bank: bool) -> dict[str, Any]:
        """What the page is told of it."""
        height, width = self.size or (None, None)
        return {
            "id": self.number,
            "name": self.name,
            "status": status,
            "looked": self.looked,
            "in_bank": in_bank,
            "width": width,
            "height": height,
            "doubt": None if self.seen is None else round(self.seen.doubt, 4),
            "areas": None if self.seen is None else {str(k): round(v, 5) for k, v in self.seen.areas.items()},
            "problem": self.problem,
            "stamp": f"{self.edits}-{self.seen.version if self.seen else 0}",
        }


def chosen(
    records: Sequence[Record], status: dict[str, str], sort: str, kept: str, class_index: int | None
) -> list[Record]:
    """Records that are asked for, in order.

    Args:
        records: all, in the order of names.
        status: of those that aren't `none`, by name.
        sort: `doubt` (the most doubtful first, those not segmented yet last) or `name`.
        kept: `all`, `unlooked`, `annotated` (with strokes or a mask) or `open` (without).
        class_index: only images in which this class was found.

    Raises:
        FungiSegError: another order or filter.
    """
    check_choice("sort", sort, SORTS)
    check_choice("filter", kept, FILTERS)
    keep = {
        "all": lambda one: True,
        "unlooked": lambda one: not one.looked,
        "annotated": lambda one: one.name in status,
        "open": lambda one: one.name not in status,
    }[kept]
    found = [one for one in records if keep(one)]
    if class_index is not None:
        found = [one for one in found if one.seen and one.seen.areas.get(class_index)]
    if sort == "doubt":
        found.sort(key=lambda one: -2.0 if one.problem else one.seen.doubt if one.seen else -1.0, reverse=True)
    return found


def input_of(bank: Path, given: InputConfig) -> InputConfig:
    """How a bank's images enter, as its description says; `given` where there is no bank, or none that can be read."""
    try:
        return from_dict(InputConfig, json.loads((bank / MANIFEST).read_bytes())["info"]["input"], "input")
    except (OSError, ValueError, KeyError, TypeError, FungiSegError):  # whoever opens the bank tells
        return given


def images_within(folder: Path, remarks: list[str], input: InputConfig | None = None) -> dict[str, Path]:
    """The images below a folder by their names; those that a link leads to out of the folder are left out.

    Args:
        folder: searched through.
        remarks: gets a line for what is left out.
        input: how images are read, which says what becomes of stacks.

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r}: no such folder; name one with images")
    found, root = find_images([str(folder)], remarks, input=input), folder.resolve()
    inside = {name: path for name, path in found.items() if file_of(path).resolve().is_relative_to(root)}
    if len(inside) < len(found):
        remarks.append(
            f"{len(found) - len(inside)} images left out: links that lead out of {folder}; serve the folder they lie in"
        )
    odd = sorted(name for name in inside if name != name.strip() or len(name.splitlines()) > 1)
    if odd:
        remarks.append(
            f"{len(odd)} images left out, as lists of a name a line can't hold theirs: line breaks, or spaces at "
            f"an end; rename them:\n{listing([repr(name) for name in odd])}"
        )
    inside = {name: path for name, path in inside.items() if name not in odd}
    if not inside:
        raise DataError(f"{str(folder)!r}: no image in it can be used:\n" + "\n".join(remarks))
    return inside
