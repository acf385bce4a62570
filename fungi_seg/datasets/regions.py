"""Annotations drawn as labelled regions: their labels to classes, their outlines to pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeGuard, TypeVar

import numpy as np

from fungi_seg.datasets.common import Dataset, Item, Reader, check_once, read_lines
from fungi_seg.datasets.palettes import default_palette
from fungi_seg.datasets.selection import BACKGROUND
from fungi_seg.datasets.shapes import BEYOND, crosses_itself, filled, outline_fault, paint, whole
from fungi_seg.errors import DataError, listing, nearest
from fungi_seg.images import VOID, read_image

VOID_LABELS = ("__ignore__", "ignored", "void")
BACKGROUND_LABELS = (BACKGROUND, "_background_")
CLASS_LISTS = ("classes.txt", "labels.txt")
LARGEST = 1e9  # beyond it a coordinate is no position in an image

T = TypeVar("T")
Painter = Callable[[np.ndarray, int], None]  # sets the region's pixels on [H, W] to a value, in place


@dataclass(frozen=True)
class Region:
    """A part of an image.

    Attributes:
        label: what it shows.
        where: how the annotation's file counts it.
        paint: sets its pixels.
    """

    label: str
    where: str
    paint: Painter


@dataclass(frozen=True)
class Drawing:
    """All regions of an image.

    Attributes:
        size: `(height, width)` of the image that they were drawn on.
        regions: the later ones lie on top.
    """

    size: tuple[int, int]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class RegionMasks:
    """Paints the regions of an image; what none covers is background.

    Attributes:
        classes: names, `background` first.
        drawings: by the id of their image.
        files: what changes with the files that hold the regions, beside those of the items.
    """

    classes: tuple[str, ...]
    drawings: Mapping[str, Drawing] = field(repr=False)
    files: str = ""

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1.

        Raises:
            DataError: the image has another size than the one that was annotated, or a region can't be decoded.
        """
        drawing = self.drawings[item.id]
        if drawing.size != size:
            raise DataError(
                f"{item.mask}: {item.image.name} is {drawing.size[0]}×{drawing.size[1]} (height×width) there, but the "
                f"image is {size[0]}×{size[1]}; put the image that was annotated in its place"
            )
        mask = np.zeros(size, np.int16)
        for region in drawing.regions:
            try:
                region.paint(mask, VOID if region.label in VOID_LABELS else self.classes.index(region.label))
            except DataError as error:
                raise DataError(f"{item.mask}: {region.where}: {error}") from error
        return mask


class ClassReader(Reader, Protocol):
    """A reader that knows the names of classes."""

    @property
    def classes(self) -> tuple[str, ...]: ...


def region_dataset(
    items: Iterable[Item],
    read: ClassReader,
    problems: Iterable[str],
    remarks: Iterable[str],
    skip_bad: bool,
    where: Path,
) -> Dataset:
    """The data set of annotated images.

    Raises:
        DataError: there are problems and `skip_bad` is false, or there is no image.
    """
    items, problems, remarks = tuple(items), tuple(problems), tuple(remarks)
    if problems and not skip_bad:
        raise DataError(
            f"{where}: {len(problems)} annotations can't be used:\n{listing(problems)}\n"
            f"Correct them, or skip their images with --skip-bad"
        )
    if not items:
        why = f"\n{listing(problems or remarks)}" if problems or remarks else ""
        raise DataError(f"{where}: no annotated image was found; check data.root, data.layout and data.split{why}")
    return Dataset(items, read.classes, default_palette(read.classes), read, problems, remarks)


def listed_classes(root: Path) -> tuple[str, ...] | None:
    """The names in `classes.txt` or `labels.txt` of a folder, after background; none where there is no such file.

    Raises:
        DataError: a name stands there twice.
    """
    path = next((root / name for name in CLASS_LISTS if (root / name).is_file()), None)
    if path is None:
        return None
    names = read_lines(path, "class list")
    check_once(names, f"class list {str(path)!r}", "classes")
    return class_names(names)


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Background, then the other labels but those that stand for void."""
    return BACKGROUND, *(label for label in labels if label not in (*VOID_LABELS, *BACKGROUND_LABELS))


def class_of(label: Any, listed: tuple[str, ...] | None) -> str:
    """The class, or name for void, that a label stands for.

    Raises:
        DataError: the label is no text of one line, or isn't among the `listed` classes.
    """
    one_line = isinstance(label, str) and len(label.strip().splitlines()) == 1
    if not one_line or label.encode(errors="ignore").decode() != label:
        raise DataError(f"the label is {label!r:.80}; it must be a text of one line")
    name = BACKGROUND if label.strip() in BACKGROUND_LABELS else label.strip()
    if listed is not None and name not in (*listed, *VOID_LABELS):
        raise DataError(f"the label {name!r} isn't in the class list{nearest(name, listed)}")
    return name


def outlined(points: np.ndarray, size: tuple[int, int], where: str, remarks: list[str], clip: bool = False) -> Painter:
    """Fills an outline, `[P, 2]` x and y in pixels; one that crosses itself is remarked on.

    Args:
        points: of the outline.
        size: `(height, width)` of the image.
        where, remarks: what remarks call it, and where they are put.
        clip: it may reach over the image's border with a part, as long as its centre is within.

    Raises:
        DataError: it has too few points, or lies outside the image of `size`.
    """
    fault = outline_fault(points, size, max(size) if clip else BEYOND)
    if fault:
        raise DataError(fault)
    if clip:
        _check_centre(points.mean(0), size)
    if crosses_itself(points):
        remarks.append(f"{where}: the outline crosses itself")
    return partial(_fill, points)


def turned(
    centre: tuple[float, float], half: tuple[float, float], degrees: float, size: tuple[int, int], ellipse: bool
) -> Painter:
    """Fills an ellipse or a rectangle: the pixels whose centres lie within. It may reach over the image's border.

    Args:
        centre: x and y in pixels.
        half: half its extents, in pixels, before it is turned.
        degrees: clockwise.
        size: `(height, width)` of the image.
        ellipse: or a rectangle.

    Raises:
        DataError: it has no extent, or its centre lies outside the image.
    """
    check_extents(2 * half[0], 2 * half[1])
    _check_centre(centre, size)
    return partial(_fill_turned, centre, half, math.radians(degrees), ellipse)


def _check_centre(centre: Sequence[float] | np.ndarray, size: tuple[int, int]) -> None:
    if not (0 <= centre[0] <= size[1] and 0 <= centre[1] <= size[0]):
        raise DataError(
            f"the centre, {centre[0]:.1f}, {centre[1]:.1f} (x, y), lies outside the image, which is "
            f"{size[0]}×{size[1]} (height×width); it was drawn on an image of another size"
        )


def check_extents(along: float, across: float) -> None:
    """Refuse a shape without area.

    Raises:
        DataError: an extent, in pixels, isn't above 0.
    """
    if min(along, across) <= 0:
        raise DataError(f"it has no area: the extents are {along:.1f} and {across:.1f} pixels; they must be above 0")


def _fill(points: np.ndarray, mask: np.ndarray, value: int) -> None:
    paint(mask, filled([points], (mask.shape[0], mask.shape[1])), value)


def _fill_turned(
    centre: tuple[float, float], half: tuple[float, float], angle: float, ellipse: bool, mask: np.ndarray, value: int
) -> None:
    reach = math.hypot(*half)
    top, left = (max(0, math.floor(c - reach)) for c in (centre[1], centre[0]))
    box = mask[top : math.ceil(centre[1] + reach), left : math.ceil(centre[0] + reach)]
    y, x = np.ogrid[: box.shape[0], : box.shape[1]]
    right, down = x + left + 0.5 - centre[0], y + top + 0.5 - centre[1]
    along = (right * math.cos(angle) + down * math.sin(angle)) / half[0]
    across = (down * math.cos(angle) - right * math.sin(angle)) / half[1]
    box[(np.hypot(along, across) if ellipse else np.maximum(abs(along), abs(across))) <= 1] = value


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: unreadable, cut off, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: can't be read as JSON ({error}); it may be cut off: export it again") from error


def entry(record: Any, key: str, kind: type[T]) -> T:
    """`record[key]`, which must be a `kind`.

    Raises:
        DataError: it is missing, or something else.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{key} is {value!r:.80}; it must be a {kind.__name__}")
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number that can be a coordinate."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def number(record: Any, key: str, default: float | None = None) -> float:
    """`record[key]`, which must be a number.

    Raises:
        DataError: it is missing and there is no default, or something else.
    """
    value = record.get(key, default) if isinstance(record, dict) else None
    if not is_number(value):
        raise DataError(f"{key} is {value!r:.80}; it must be a number")
    return float(value)


def points_of(value: Any) -> np.ndarray:
    """`[P, 2]` float64 of a list of `[x, y]`.

    Raises:
        DataError: it is something else.
    """
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    if not pairs or not all(is_number(v) for pair in value for v in pair):
        raise DataError(f"points is {value!r:.80}; it must be a list of [x, y], in numbers")
    return np.array(value, np.float64).reshape(-1, 2)


def size_of(height: Any, width: Any, image: Path) -> tuple[int, int]:
    """`(height, width)` as given, or that of the image where neither is.

    Raises:
        DataError: they aren't whole numbers above 0, or the image can't be read.
    """
    if height is None and width is None:
        height, width, _ = read_image(image).shape
    sides = whole(height) or 0, whole(width) or 0
    if min(sides) <= 0:
        raise DataError(f"the image is {height!r:.40}×{width!r:.40} (height×width); both must be whole numbers above 0")
    return sides
