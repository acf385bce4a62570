"""The annotations of a JSON file of COCO as columns, checked in batches while the file is read."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any, TypeGuard

import numpy as np

from fungi_seg.datasets.json_stream import Element
from fungi_seg.datasets.shapes import BEYOND, LEAST_POINTS, crossing, outline_fault, runs_fault, whole

BOX, OUTLINE, RUNS = range(3)
CROWD = (None, 0, 1)
NO_ID = -(2**63)
BATCH = 1 << 18  # coordinates that are checked at a time
SLACK = 0.01  # pixels by which extents, kept in 32 bits, may be off
SEGMENTS = 2**24  # ids that a colour of 8 bits a channel can hold


class AnnotationTable:
    """Columns of what was added, a row for each annotation.

    Args:
        maps: pixel maps give the classes, so that nothing but panoptic annotations is kept.

    Attributes:
        panoptic: whether the annotations describe segments of a PNG; nothing was added while it is none.
        ids: of the annotations, `NO_ID` where they have none.
        images: the image ids they name.
        starts: first byte of each.
        lengths: bytes of each.
        kinds: `BOX`, `OUTLINE` or `RUNS`.
        reach: four float32 each, the least x and y and the largest ones; of run lengths 0, 0, width and height.
        used: category ids that are named, and `used_by` the rows that do.
        crowds: how many that can be painted are crowds.
        crossed: rows of outlines that cross themselves.
        emptied: rows with outlines that have no points, beside others.
        faults: rows that can't be used, and why.
        untied: what has no image id, one line each.
    """

    def __init__(self, maps: bool = False):
        self.panoptic: bool | None = None
        self.ids, self.images, self.starts, self.used = (array("q") for _ in range(4))
        self.lengths, self.used_by, self.kinds, self.reach = array("i"), array("i"), array("b"), array("f")
        self.crowds = 0
        self.crossed: list[int] = []
        self.emptied: list[int] = []
        self.faults: list[tuple[int, str]] = []
        self.untied: list[str] = []
        self._maps = maps
        self._forget()

    def name(self, row: int) -> str:
        """What the annotation is called in messages."""
        found = self.ids[row]
        return f"annotation {found}" if found != NO_ID else f"annotation at byte {self.starts[row]}"

    def add(self, element: Element) -> None:
        """Add an annotation; its outlines are checked with many others."""
        record, row = element.value, len(self.ids)
        if self.panoptic is None:
            self.panoptic = isinstance(record, dict) and "segments_info" in record
        if self._maps and not self.panoptic:
            return
        own, image = (whole(record.get(k)) if isinstance(record, dict) else None for k in ("id", "image_id"))
        if image is None:
            self.untied.append(_untied(element, own))
            return
        self.ids.append(NO_ID if own is None else own)
        self.images.append(image)
        self.starts.append(element.start)
        self.lengths.append(element.length)
        self.kinds.append(BOX)
        self.reach.extend((0, 0, 0, 0))
        why = self._add_segments(row, record) if self.panoptic else self._add_outline(row, record)
        if why:
            self.faults.append((row, why))

    def finish(self) -> None:
        """Check what waits to be checked."""
        if not self._sizes:
            return
        points = np.frombuffer(self._coordinates).reshape(-1, 2)
        sizes, owners = np.array(self._sizes), np.array(self._owners)
        starts = sizes.cumsum() - sizes
        rows, firsts = np.unique(owners, return_index=True)
        low = np.minimum.reduceat(np.minimum.reduceat(points, starts), firsts)
        high = np.maximum.reduceat(np.maximum.reduceat(points, starts), firsts)
        with np.errstate(over="ignore"):
            np.frombuffer(self.reach, np.float32).reshape(-1, 4)[rows] = np.hstack([low, high])
        numbers = np.nan_to_num(points, posinf=0, neginf=0)
        crossed = crossing(numbers, np.repeat(np.arange(len(sizes)), sizes))
        self.crossed += np.unique(owners[crossed]).tolist()
        self._forget()

    @property
    def painted(self) -> int:
        """How many have outlines or run lengths."""
        return len(self.kinds) - self.kinds.count(BOX)

    def odd(self) -> list[tuple[int, str]]:
        """Rows that look wrong and can be used, and why."""
        boxes = [] if self.panoptic else np.flatnonzero(np.array(self.kinds) == BOX).tolist()
        written = [(row, "no outline, only a box; left out") for row in boxes]
        written += [(row, "an outline has no points; left out") for row in self.emptied]
        return [(row, "an outline crosses itself") for row in self.crossed] + written

    def unknown(self, known: Sequence[int]) -> list[tuple[int, str]]:
        """Rows that name a category which isn't `known`."""
        used = np.array(self.used, np.int64)
        rows = np.flatnonzero(~np.isin(used, known)).tolist()
        return [(self.used_by[row], f"there is no category of id {self.used[row]}") for row in rows]

    def doubled(self) -> list[tuple[int, str]]:
        """Rows whose id another one has too; of a panoptic file, those of one image."""
        ids = np.array(self.images if self.panoptic else self.ids, np.int64)
        _, places, counts = np.unique(ids, return_inverse=True, return_counts=True)
        rows = np.flatnonzero((counts[places] > 1) & (ids != NO_ID)).tolist()
        what = "the image has another one" if self.panoptic else "another one has the same id"
        return [(row, what) for row in rows]

    def suspects(self, rows: np.ndarray, sizes: Sequence[tuple[int, int] | None]) -> np.ndarray:
        """Those whose segmentation doesn't seem to fit its image, int64.

        Args:
            rows: the row of each one's image, −1 where there is none.
            sizes: `(height, width)` of the images, where they are known.
        """
        borders = np.array([(np.nan, np.nan) if size is None else size[::-1] for size in sizes], np.float32)[rows]
        reach, kinds = np.array(self.reach, np.float32).reshape(-1, 4), np.array(self.kinds)
        most = BEYOND - SLACK
        beyond = (reach[:, 2:] > borders + most).any(1) | (reach[:, :2] < -most).any(1) | ~np.isfinite(reach).all(1)
        other = (reach[:, 2:] != borders).any(1) & np.isfinite(borders).all(1)
        odd = np.select([kinds == OUTLINE, kinds == RUNS], [beyond, other], False)
        odd[[row for row, _ in self.faults]] = False
        return np.flatnonzero(odd & (rows >= 0))

    def _forget(self) -> None:
        self._coordinates = array("d")
        self._sizes: list[int] = []  # points of each outline
        self._owners: list[int] = []  # row of each outline

    def _add_outline(self, row: int, record: dict[str, Any]) -> str | None:
        category, segmentation = whole(record.get("category_id")), drawn(record.get("segmentation"))
        if self.ids[row] == NO_ID or category is None:
            written = f"id is {record.get('id')!r:.40} and category_id {record.get('category_id')!r:.40}"
            return f"{written}; both must be whole numbers"
        self._use(row, category)
        if record.get("iscrowd") not in CROWD:
            return f"iscrowd is {record['iscrowd']!r}; it must be 0 or 1"
        if not segmentation:
            return None
        if segmentation is not record["segmentation"]:
            self.emptied.append(row)
        self.crowds += bool(record.get("iscrowd"))
        self.kinds[row] = RUNS if isinstance(segmentation, dict) else OUTLINE
        if isinstance(segmentation, dict):
            why = runs_fault(segmentation, None)
            if not why:
                self.reach[-2:] = array("f", segmentation["size"][::-1])
            return why
        return self._add_points(row, segmentation)

    def _add_points(self, row: int, segmentation: Any) -> str | None:
        try:
            sizes = [len(part) for part in segmentation]
            coordinates = array("d", chain.from_iterable(segmentation))
        except (TypeError, OverflowError):
            return segmentation_fault(segmentation, None)
        if any(size % 2 or size < 2 * LEAST_POINTS for size in sizes):
            return segmentation_fault(segmentation, None)
        self._coordinates.extend(coordinates)
        self._sizes += [size // 2 for size in sizes]
        self._owners += [row] * len(sizes)
        if len(self._coordinates) > BATCH:
            self.finish()
        return None

    def _add_segments(self, row: int, record: dict[str, Any]) -> str | None:
        segments = record.get("segments_info")
        if not isinstance(segments, list) or not isinstance(record.get("file_name"), str):
            return "must have segments_info, a list, and the file_name of a PNG"
        seen = set()
        for segment in segments:
            own, category = (
                whole(segment.get(k)) if isinstance(segment, dict) else None for k in ("id", "category_id")
            )
            if own is None or not 0 < own < SEGMENTS or category is None:
                return f"each of segments_info must have an id, 1..{SEGMENTS - 1}, and a category_id"
            if segment.get("iscrowd") not in CROWD:
                return f"segment {own}: iscrowd is {segment['iscrowd']!r}; it must be 0 or 1"
            if own in seen:
                return f"segment {own} is there twice"
            seen.add(own)
            self._use(row, category)
        return None

    def _use(self, row: int, category: int) -> None:
        self.used.append(category)
        self.used_by.append(row)


def _untied(element: Element, own: int | None) -> str:
    name = f"annotation at byte {element.start}" if own is None else f"annotation {own}"
    if not isinstance(element.value, dict):
        return f"{name}: is {element.value!r:.40}, not an object"
    return f"{name}: image_id is {element.value.get('image_id')!r:.40}; it must be a whole number"


def drawn(segmentation: Any) -> Any:
    """A segmentation without outlines that have no points, itself where there is none of these."""
    if isinstance(segmentation, list) and [] in segmentation:
        return [part for part in segmentation if part != []]
    return segmentation


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value of a JSON file is a whole number that can be an id."""
    return type(value) is int and abs(value) < 2**63


def segmentation_fault(segmentation: Any, size: tuple[int, int] | None) -> str | None:
    """Why the segmentation of an annotation can't be painted, or nothing.

    Args:
        segmentation: a list of outlines `[x1, y1, x2, y2, …]`, or run lengths.
        size: `(height, width)` of the image; none where it isn't known.
    """
    if isinstance(segmentation, dict):
        return runs_fault(segmentation, size)
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        return "the segmentation must be a list of outlines [x1, y1, x2, y2, …], or run lengths with size and counts"
    for part in segmentation:
        if len(part) % 2:
            return f"the outline has {len(part)} numbers; it must have an x and a y for each point"
        points = _as_points(part)
        why = "the outline has coordinates that are no numbers" if points is None else outline_fault(points, size)
        if why:
            return why
    return None


def _as_points(part: list[Any]) -> np.ndarray | None:
    """`[x1, y1, x2, y2, …]` as `[P, 2]` float64; none where these are no numbers."""
    if not all(isinstance(value, int | float) for value in part):
        return None
    try:
        return np.array(part, np.float64).reshape(-1, 2)
    except OverflowError:
        return None
