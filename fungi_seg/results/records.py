"""What is kept of each segmented image, for tables, the page and a later run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.config import from_dict
from fungi_seg.segmentation import Object, Objects, Segmentation

BINS = 20  # of a histogram over 0..1


@dataclass(frozen=True)
class ImageRecord:
    """What was found in an image, in few numbers.

    Attributes:
        name: as its files in the folder are called, without suffix.
        file: the image, as it was named.
        sha256: of the image's file.
        width, height: in pixels.
        pixels: by class index, those that are there: `(index, pixels)`.
        unknown: pixels without a class.
        sure: mean over pixels of the probability that their class is right, 0..1, or of the winning class's score.
        calibrated: `sure` is a probability.
        histogram: pixels by that number, in `BINS` bins of one width over 0..1.
        voters: annotated images with the largest shares of the vote, and those shares.
        seconds: that the image took.
        files: what was written, relative to the folder of results.
        sizes: of these files, in bytes.
        note: what a caption has to say of the pictures.
        objects: what was counted, a row each: number, class index, area, centroid x and y, box (left, top, right,
            bottom), equivalent diameter, eccentricity, mean confidence; none where nothing was counted.
        coco: what COCO results hold of it, if they are written.
        correction: SHA-256 of the mask file that took the place of predictions, empty without one.
    """

    name: str
    file: str
    sha256: str
    width: int
    height: int
    pixels: tuple[tuple[int, int], ...]
    unknown: int
    sure: float
    calibrated: bool
    histogram: tuple[int, ...]
    voters: tuple[tuple[str, float], ...]
    seconds: float
    files: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    note: str = ""
    objects: tuple[tuple[float | None, ...], ...] | None = None
    coco: dict[str, Any] | None = None
    correction: str = ""

    def to_json(self) -> str:
        """A line of JSON."""
        return json.dumps(vars(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> ImageRecord:
        """What `to_json` wrote.

        Raises:
            ValueError: a line that is cut off, or something else.
        """
        return from_dict(cls, json.loads(line), "a record of an image")

    def lost(self, folder: Path) -> list[str]:
        """Those of its files that aren't there as they were written."""
        pairs = zip(self.files, self.sizes, strict=True)
        return [file for file, size in pairs if not (there := folder / file).is_file() or there.stat().st_size != size]

    def objects_of(self, index: int) -> int:
        """How many objects of a class were counted."""
        return sum(row[1] == index for row in self.objects or ())


def record_of(
    found: Segmentation,
    name: str,
    file: Path,
    sha256: str,
    seconds: float,
    objects: Objects | None = None,
    coco: dict[str, Any] | None = None,
) -> ImageRecord:
    """The record of a segmented image, without its files; the arguments are those of `ImageRecord`."""
    height, width = found.mask.shape
    pixels = np.bincount(found.mask.ravel(), minlength=len(found.classes))
    there = np.flatnonzero(pixels[: len(found.classes)])
    sure = found.sure
    bins = np.bincount(np.minimum(sure.ravel() * BINS, BINS - 1).astype(np.uint8), minlength=BINS)
    return ImageRecord(
        name=name,
        file=str(file),
        sha256=sha256,
        width=width,
        height=height,
        pixels=tuple((int(index), int(pixels[index])) for index in there),
        unknown=int(found.mask.size - pixels[: len(found.classes)].sum()),
        sure=float(sure.mean()),
        calibrated=found.calibration is not None,
        histogram=tuple(bins.tolist()),
        voters=found.voters,
        seconds=round(seconds, 4),
        objects=None if objects is None else tuple(map(object_row, objects.found)),
        coco=coco,
    )


def object_row(one: Object) -> tuple[float | None, ...]:
    """As in `ImageRecord.objects`."""
    sure = None if one.confidence is None else round(one.confidence, 4)
    shape = (round(one.equivalent_diameter, 4), round(one.eccentricity, 5))
    centre = (round(one.centroid[0], 4), round(one.centroid[1], 4))
    return (one.number, one.class_index, one.area, *centre, *one.box, *shape, sure)
