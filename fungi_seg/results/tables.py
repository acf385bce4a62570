"""What was found in many images as tables: an image a line, an object a line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fungi_seg.files import replacing
from fungi_seg.results.records import ImageRecord

IMAGES, OBJECTS = "images.csv", "objects.csv"
PIXELS = (
    "image", "class", "id", "area_px", "centroid_x_px", "centroid_y_px", "left_px", "top_px", "width_px", "height_px",
    "equivalent_diameter_px", "eccentricity", "mean_confidence",
)  # fmt: skip
MICROMETRES = ("area_um2", "centroid_x_um", "centroid_y_um", "equivalent_diameter_um")


def write_tables(
    folder: Path,
    records: Iterable[ImageRecord],
    classes: Sequence[str],
    objects: bool = False,
    pixel_size: float | None = None,
) -> int:
    """Write `images.csv` and, where objects were counted, `objects.csv`, both whole or not at all.

    Args:
        folder: where.
        records: of the images.
        classes: names.
        objects: they were counted.
        pixel_size: width of a pixel in micrometres; without it there are pixels only.

    Returns:
        How many objects there are.

    Raises:
        FungiSegError: a file can't be written.
    """
    whats = ("px", "share", *(("objects",) if objects else ()))
    of_class = [f"{name}_{what}" for name in classes for what in whats]
    count = 0
    with ExitStack() as stack:
        columns = ("image", "width_px", "height_px", *of_class, "unknown_share", "mean_confidence", "seconds")
        images = _table(stack, folder / IMAGES, columns)
        counted = None
        if objects:
            counted = _table(stack, folder / OBJECTS, (*PIXELS, *(MICROMETRES if pixel_size else ())))
        for record in records:
            images.writerow(_sums(record, len(classes), objects))
            for row in record.objects or ():
                count += 1
                if counted:
                    counted.writerow([record.name, classes[int(row[1] or 0)], *_measures(row, pixel_size)])
    return count


def _table(stack: ExitStack, file: Path, columns: Sequence[str]) -> Any:
    draft = stack.enter_context(replacing(file))
    table = csv.writer(stack.enter_context(draft.open("w", newline="", encoding="utf-8")))
    table.writerow(columns)
    return table


def _sums(record: ImageRecord, classes: int, objects: bool) -> Iterator[Any]:
    size, pixels = record.width * record.height, dict(record.pixels)
    yield from (record.name, record.width, record.height)
    for index in range(classes):
        yield from (pixels.get(index, 0), f"{pixels.get(index, 0) / size:.6f}")
        if objects:
            yield record.objects_of(index)
    yield f"{record.unknown / size:.6f}"
    yield f"{record.sure:.4f}" if record.calibrated else ""
    yield f"{record.seconds:.3f}"


def _measures(row: Sequence[Any], pixel_size: float | None) -> Iterator[Any]:
    number, _, area, x, y, left, top, right, bottom, diameter, eccentricity, sure = row
    yield from (number, area, f"{x:.3f}", f"{y:.3f}", left, top, right - left, bottom - top)
    yield from (f"{diameter:.3f}", f"{eccentricity:.4f}", "" if sure is None else f"{sure:.4f}")
    if pixel_size:
        yield from (f"{value:.6g}" for value in (area * pixel_size**2, x * pixel_size, y * pixel_size))
        yield f"{diameter * pixel_size:.6g}"
