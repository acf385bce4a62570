"""What COCO says of an image, as class indices."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fungi_seg.datasets.coco_json import CocoJson
from fungi_seg.datasets.coco_table import segmentation_fault
from fungi_seg.datasets.common import Item
from fungi_seg.datasets.shapes import RunLengths, area, filled, paint
from fungi_seg.errors import DataError
from fungi_seg.images import VOID

SHOWN = 8
BACKGROUND_INDEX = 0
TURNED = " If its EXIF orientation turns it, annotate it again as it is shown, or remove the orientation from the file"


@dataclass(frozen=True, repr=False)
class CocoOutlines:
    """Paints outlines and run lengths, the largest first; crowds are void, what none covers is background, class 0.

    Attributes:
        coco: the annotations.
        rows: the row of each item's image in `coco.images`, by the item's id.
        classes: class index of each category id.
    """

    coco: CocoJson
    rows: Mapping[str, int]
    classes: Mapping[int, int]

    def __repr__(self) -> str:
        return f"CocoOutlines({_digest(self.classes)})"

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of an image of `size` `(height, width)`.

        Raises:
            DataError: the image is of another size than the file says, or than its annotations are.
        """
        row = self.rows[item.id]
        records = [record for record in self.coco.annotations(row) if record.get("segmentation")]
        _check_size(self.coco, row, item, size)
        if self.coco.images[row].size is None:
            self._check(records, item, size)
        canvas = np.full(size, BACKGROUND_INDEX, np.int16)
        for record in sorted(records, key=lambda record: -_area(record, size)):
            value = VOID if record.get("iscrowd") else self.classes[record["category_id"]]
            paint(canvas, _runs(record["segmentation"], size), value)
        return canvas

    def _check(self, records: list[dict[str, Any]], item: Item, size: tuple[int, int]) -> None:
        for record in records:
            why = segmentation_fault(record["segmentation"], size)
            if why:
                raise DataError(f"{self.coco.path}: {item.image.name}: annotation {record['id']}: {why}")


@dataclass(frozen=True, repr=False)
class PanopticMasks:
    """Reads PNG files whose colours are segment ids, R + 256 G + 65536 B; crowds and what is no segment are void.

    Attributes:
        coco: the segments.
        rows: the row of each item's image in `coco.images`, by the item's id.
        classes: class index of each category id.
    """

    coco: CocoJson
    rows: Mapping[str, int]
    classes: Mapping[int, int]

    def __repr__(self) -> str:
        return f"PanopticMasks({_digest(self.classes, self.coco.stamp)})"

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of an image of `size` `(height, width)`.

        Raises:
            DataError: the image is of another size, or the PNG holds a segment that the JSON file doesn't.
        """
        row = self.rows[item.id]
        _check_size(self.coco, row, item, size)
        segments = sorted(self.coco.annotations(row)[0]["segments_info"], key=lambda segment: segment["id"])
        ids = np.array([0, *(segment["id"] for segment in segments)])
        values = [VOID if s.get("iscrowd") else self.classes[s["category_id"]] for s in segments]
        found = _segment_ids(item.mask)
        places = np.searchsorted(ids, found).clip(max=len(ids) - 1)
        unknown = np.unique(found[ids[places] != found])
        if len(unknown):
            raise DataError(
                f"{item.mask}: holds segment ids that {self.coco.path} doesn't name: "
                f"{', '.join(map(str, unknown[:SHOWN]))}; the two must be of one export"
            )
        return np.array([VOID, *values], np.int16)[places]


def _segment_ids(path: Path) -> np.ndarray:
    """`[H, W]` int64."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("RGB", "RGBA"):
                raise DataError(f"{path}: is a {image.mode} image; segment ids must be RGB colours")
            return np.asarray(image)[..., :3].astype(np.int64) @ (1, 256, 65_536)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: can't be read as a mask ({error}); replace the file or leave it out") from error


def _check_size(coco: CocoJson, row: int, item: Item, size: tuple[int, int]) -> None:
    image = coco.images[row]
    if image.size not in (None, tuple(size)):
        more = TURNED if image.size == (size[1], size[0]) else ""
        raise DataError(
            f"{item.image}: the image is {size[0]}×{size[1]} (height×width), but {coco.path} says "
            f"{image.size[0]}×{image.size[1]} of image {image.id}; was the image resized or rotated?{more}"
        )


def _runs(segmentation: list | dict[str, Any], size: tuple[int, int]) -> RunLengths:
    if isinstance(segmentation, dict):
        return segmentation
    return filled([np.array(part, np.float64).reshape(-1, 2) for part in segmentation], size)


def _area(record: dict[str, Any], size: tuple[int, int]) -> float:
    """As the file has it where that is above 0, or counted."""
    written = record.get("area")
    if isinstance(written, int | float) and 0 < written < math.inf:
        return written
    return area(_runs(record["segmentation"], size))


def _digest(*settings: object) -> str:
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
