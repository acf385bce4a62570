"""A JSON file of COCO, read and checked; of its annotations it is kept where in the file they stand."""

from __future__ import annotations

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np

from fungi_seg.datasets.coco_table import AnnotationTable, drawn, segmentation_fault
from fungi_seg.datasets.json_heads import encoding
from fungi_seg.datasets.json_stream import Element, elements_of
from fungi_seg.datasets.paths import spellings
from fungi_seg.datasets.shapes import whole
from fungi_seg.errors import DataError, listing
from fungi_seg.files import stamp

LISTS = ("images", "annotations", "categories")

Lines = dict[int, list[str]]  # by the row of an image


class CocoImage(NamedTuple):
    """An image that the file names; `size` is `(height, width)`, none where the file doesn't say."""

    id: int
    file: str
    size: tuple[int, int] | None


class Category(NamedTuple):
    """A class; `group` is its super-category, empty where it has none."""

    id: int
    name: str
    group: str


@dataclass(frozen=True)
class CocoJson:
    """What a JSON file of COCO holds.

    Attributes:
        path: the file.
        stamp: of the file when it was read.
        panoptic: whether annotations describe the segments of a PNG rather than outlines.
        images: as they stand in the file.
        categories: sorted by id.
        placeholders: categories that were left out.
        faults: what is wrong with an image, by its row in `images`; such an image can't be used.
        loose: what is wrong and belongs to no image, so that it can be left out.
        remarks: what looks wrong and can be used, by the row of its image.
        painted: how many annotations have an outline or run lengths.
        crowds: how many of these are crowds.
        first: `[I + 1]` int64: the annotations of image `i` are `first[i]` up to `first[i + 1]`.
        starts: `[A]` int64, the first byte of each.
        lengths: `[A]` int32, its bytes.
    """

    path: Path
    stamp: list[int]
    panoptic: bool
    images: Sequence[CocoImage]
    categories: Sequence[Category]
    placeholders: Sequence[Category]
    faults: Lines
    loose: Sequence[str]
    remarks: Lines
    painted: int
    crowds: int
    first: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def annotations(self, row: int) -> list[dict[str, Any]]:
        """The annotations of the image at `row` of `images`, in the order of the file.

        Raises:
            DataError: the file has changed since.
        """
        rows = slice(self.first[row], self.first[row + 1])
        return list(_read_again(self.path, self.stamp, self.starts[rows], self.lengths[rows]))


def read_coco(path: Path, maps: bool = False) -> CocoJson:
    """Read and check a JSON file of COCO.

    Args:
        path: instances, stuff or panoptic.
        maps: pixel maps give the classes, so that outlines and run lengths don't matter.

    Raises:
        DataError: not COCO, or with faults that can't be put down to images.
    """
    before = stamp(path)
    images, categories, table = _Images(), _Categories(), AnnotationTable(maps)
    add = {"images": images.add, "annotations": table.add, "categories": categories.add}
    for element in elements(path, LISTS):
        add[element.key](element)
    table.finish()
    if not table.ids:
        _refuse(path, table.untied, "annotations belong to no image")
    if table.panoptic or not maps:
        categories.leave_placeholders(set(table.used))
    return _tied(path, before, images, categories, table)


def elements(path: Path, lists: Collection[str]) -> Iterator[Element]:
    """The elements of `lists`, as `stream` gives them.

    Raises:
        DataError: as `stream` does, and for a file that isn't in UTF-8.
    """
    found = encoding(path)
    if not found.startswith("utf-8"):
        raise DataError(f"{path}: is in {found.upper()}; JSON must be in UTF-8: convert it, or export it again")
    yield from elements_of(path, lists)


def relative_name(file: str) -> str:
    """A `file_name` with `/` between its folders, `.` and `..` resolved."""
    return posixpath.normpath(file.replace("\\", "/"))


def local_names(file: str) -> Iterator[str]:
    """What the file of a `file_name` may be called within the images' folder: as it stands, decoded, in NFC and NFD."""
    for written in dict.fromkeys((file, unquote(file))):
        name = relative_name(written)
        if not leaves(name):
            yield from spellings(name)


def leaves(name: str) -> bool:
    """Whether a path leads out of the images' folder."""
    return bool(name.split("/")[0] in ("..", "") or PureWindowsPath(name).drive)


def image_name(file: str) -> str:
    """What the image of a `file_name` is called: its path without suffix, divided by `/`."""
    path = PurePosixPath(relative_name(file))
    return (path.with_suffix("") if path.name else path).as_posix()


def image_fault(file: str, sides: tuple[Any, Any]) -> str | None:
    """Why an image can't be of that `file_name`, height and width (none where the file doesn't say), or nothing."""
    if PurePosixPath(relative_name(file)).name in ("", ".."):
        return f"file_name is {file!r}; it must be the name of a file"
    if sides != (None, None) and not all((whole(side) or 0) > 0 for side in sides):
        return f"height is {sides[0]!r} and width {sides[1]!r}; both must be whole numbers above 0"
    return None


def image_size(sides: tuple[Any, Any]) -> tuple[int, int] | None:
    """Height and width as they stand in a JSON file; nothing where they are missing or no whole numbers."""
    height, width = map(whole, sides)
    return None if height is None or width is None else (height, width)


class _Images:
    """Images as they are read, and what is wrong with them."""

    def __init__(self) -> None:
        self.found: list[CocoImage] = []
        self.faults: list[tuple[int, str]] = []
        self.loose: list[str] = []

    def add(self, element: Element) -> None:
        value = element.value if isinstance(element.value, dict) else {}
        own, file, sides = whole(value.get("id")), value.get("file_name"), (value.get("height"), value.get("width"))
        if own is None or not isinstance(file, str) or not file:
            self.loose.append(f"image at byte {element.start}: needs an id, a whole number, or a file_name")
            return
        why = image_fault(file, sides)
        if why:
            self.faults.append((len(self.found), why))
        self.found.append(CocoImage(own, file, None if why else image_size(sides)))

    def doubled(self) -> list[tuple[int, str]]:
        """Rows whose id another one has too."""
        twice = set(_twice(image.id for image in self.found))
        return [(row, f"image id {im.id} is there twice") for row, im in enumerate(self.found) if im.id in twice]


class _Categories:
    """Categories as they are read, and what is wrong with them."""

    def __init__(self) -> None:
        self.found: list[Category] = []
        self.placeholders: list[Category] = []
        self.problems: list[str] = []

    def add(self, element: Element) -> None:
        value = element.value if isinstance(element.value, dict) else {}
        own, name, group = whole(value.get("id")), value.get("name"), value.get("supercategory")
        if own is None or not isinstance(name, str) or not name.strip():
            self.problems.append(f"category at byte {element.start}: needs an id, a whole number, or a name")
        else:
            self.found.append(Category(own, name, group if isinstance(group, str) and group != "none" else ""))

    def leave_placeholders(self, used: Collection[int]) -> None:
        """Leave out what Roboflow puts first: a category of id 0, not `used`, named like the others' super-category."""
        if 0 in used:
            return
        groups = {category.group for category in self.found}
        self.placeholders = [c for c in self.found if (c.id, c.group) == (0, "") and c.name in groups - {""}]
        self.found = [category for category in self.found if category not in self.placeholders]

    def sorted(self, path: Path) -> list[Category]:
        """All of them.

        Raises:
            DataError: ones that are incomplete or there twice, or none.
        """
        for what, values in (("id", [c.id for c in self.found]), ("name", [c.name for c in self.found])):
            for value in _twice(values):
                ids = ", ".join(str(c.id) for c in self.found if value in (c.id, c.name))
                self.problems.append(f"categories of ids {ids}: have the same {what}, {value!r}")
        _refuse(path, self.problems, "categories are alike or unusable")
        if not self.found:
            raise DataError(f"{path}: 'categories' is empty; it must name the classes, each with id and name")
        return sorted(self.found)


def _twice(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _refuse(path: Path, lines: Sequence[str], what: str) -> None:
    if lines:
        raise DataError(f"{path}: {len(lines)} {what}:\n{listing(lines)}\nCorrect them, or export the file again")


def _tied(path: Path, before: list[int], images: _Images, categories: _Categories, table: AnnotationTable) -> CocoJson:
    """Annotations put to their images, with what is wrong with both."""
    classes = categories.sorted(path)
    if not images.found:
        raise DataError(f"{path}: 'images' names no image")
    ids, sizes = [image.id for image in images.found], [image.size for image in images.found]
    rows = _rows(ids, np.array(table.images, np.int64))
    starts, lengths = np.array(table.starts, np.int64), np.array(table.lengths, np.int32)
    problems = [*table.faults, *table.unknown([category.id for category in classes]), *table.doubled()]
    suspects = table.suspects(rows, sizes)
    records = _read_again(path, before, starts[suspects], lengths[suspects])
    for number, record in zip(suspects.tolist(), records, strict=True):
        why = segmentation_fault(record["segmentation"], sizes[rows[number]])
        problems += [(number, why)] if why else []
    faults = _lines(table, rows, problems)
    for row, why in images.faults + images.doubled():
        faults[row].append(why)
    orphans = np.flatnonzero(rows < 0).tolist()
    loose = [f"{table.name(number)}: there is no image of id {table.images[number]}" for number in orphans]
    order = np.argsort(rows, kind="stable")
    return CocoJson(
        path=path,
        stamp=before,
        panoptic=bool(table.panoptic),
        images=images.found,
        categories=classes,
        placeholders=categories.placeholders,
        faults=faults,
        loose=images.loose + table.untied + loose,
        remarks=_lines(table, rows, table.odd()),
        painted=table.painted,
        crowds=table.crowds,
        first=np.searchsorted(rows[order], np.arange(len(ids) + 1)),
        starts=starts[order],
        lengths=lengths[order],
    )


def _rows(ids: Sequence[int], wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in `ids`, −1 where it doesn't; the first place of several."""
    known = np.array(ids, np.int64)
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known[order], wanted).clip(max=len(ids) - 1)
    found: np.ndarray = np.where(known[order][places] == wanted, order[places], -1)
    return found


def _lines(table: AnnotationTable, rows: np.ndarray, written: Iterable[tuple[int, str]]) -> Lines:
    """What is said of annotations, by the row of their image; those without an image are listed elsewhere."""
    lines: Lines = defaultdict(list)
    for number, what in written:
        if rows[number] >= 0:
            lines[int(rows[number])].append(f"{table.name(number)}: {what}")
    return lines


def _read_again(path: Path, before: list[int], starts: np.ndarray, lengths: np.ndarray) -> Iterator[dict[str, Any]]:
    """The annotations at these places of the file.

    Raises:
        DataError: it has changed since they were found there.
    """
    if stamp(path) != before:
        raise DataError(f"{path}: has changed since it was opened; open the data set again")
    with path.open("rb") as file:
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            file.seek(start)
            record = json.loads(file.read(length))
            yield record | ({"segmentation": drawn(record["segmentation"])} if "segmentation" in record else {})
