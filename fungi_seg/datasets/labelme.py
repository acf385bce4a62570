"""LabelMe's JSON files: shapes drawn on one image each."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from fungi_seg.datasets.common import Dataset, Item, read_ids
from fungi_seg.datasets.json_heads import json_kind, peek
from fungi_seg.datasets.paths import composed, is_file, spellings
from fungi_seg.datasets.regions import (
    Drawing,
    Painter,
    Region,
    RegionMasks,
    check_extents,
    class_names,
    class_of,
    entry,
    listed_classes,
    outlined,
    points_of,
    read_json,
    region_dataset,
    size_of,
    turned,
)
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError, nearest
from fungi_seg.files import files_below
from fungi_seg.images import IMAGE_SUFFIXES

WITHOUT_AREA = ("line", "linestrip", "point", "points")
POINTS = {"rectangle": (2, 4), "circle": (2,), "mask": (2,)}
POINTS |= dict.fromkeys(("oriented_rectangle", "rotation", "quadrilateral"), (4,))  # the last two by X-AnyLabeling
TURNED = ("oriented_rectangle", "rotation")  # they may reach over the image's border
RECTANGLES = ("rectangle", *TURNED)
SHAPE_TYPES = ("polygon", *POINTS, *WITHOUT_AREA)
BROKEN_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Sheet:
    """What a JSON file holds.

    Attributes:
        path: of the file.
        content: its entries, but for the image that may be embedded.
        embedded: whether one was.
    """

    path: Path
    content: dict[str, Any]
    embedded: bool


def open_labelme(config: DataConfig, skip_bad: bool) -> Dataset:
    """JSON files anywhere below the root, or its sub-folder `data.split`; later shapes lie on those before them.

    Classes are `background` and the labels of all files below the root, sorted, unless it has a `classes.txt` or
    `labels.txt`. Of a circle are the pixels whose centres lie within; other outlines are filled as pycocotools does.
    """
    root = config.folder
    base = root / config.split if config.split else root
    if not base.is_dir():
        raise DataError(f"data.split is {config.split!r}, but there is no folder {str(base)!r}")
    listed = listed_classes(root)
    problems: list[str] = []
    remarks: list[str] = []
    sheets = list(_sheets(base if listed else root, problems, remarks))
    own = {_id(sheet.path, base): sheet for sheet in sheets if sheet.path.is_relative_to(base)}
    images, elsewhere = _images(base), config.place("images")
    given = _images(elsewhere) if elsewhere else {}
    items, drawings = [], {}
    for i in read_ids(config.ids, own) if config.ids else own:
        try:
            if i not in own:
                raise DataError(f"{base / i}.json: there is no LabelMe file of that name")
            image = _image(own[i], i, images, given)
            drawings[i] = _drawing(own[i], image, listed, remarks)
            items.append(Item(i, image, own[i].path))
        except DataError as error:
            problems.append(str(error))
    if not config.ids:
        remarks += _unused(images, own, items)
    read = RegionMasks(listed or class_names(sorted(_labels(sheets))), drawings)
    return region_dataset(items, read, problems, remarks, skip_bad, base)


def _sheets(folder: Path, problems: list[str], remarks: list[str]) -> Iterator[Sheet]:
    for path in files_below(folder, remarks):
        if not path.name.endswith(".json") or path.name.startswith("."):
            continue
        try:
            other = json_kind(peek(path)) not in ("labelme", "")  # which may be too large to be read for nothing
            content = None if other else read_json(path)
        except DataError as error:
            problems.append(str(error))
            continue
        if isinstance(content, dict) and "shapes" in content:
            yield Sheet(path, content, bool(content.pop("imageData", None)))
        else:
            remarks.append(f"{path}: has no shapes, so it is no LabelMe file; left out")


def _id(path: Path, base: Path) -> str:
    return path.relative_to(base).with_suffix("").as_posix()


def _images(folder: Path) -> dict[str, list[Path]]:
    found = defaultdict(list)
    for path in files_below(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            found[composed(_id(path, folder))].append(path)
    return dict(found)


def _image(sheet: Sheet, i: str, images: dict[str, list[Path]], given: dict[str, list[Path]]) -> Path:
    """Where imagePath says; else of the JSON's name, beside it or in `data.images`; else of the image's name there.

    Raises:
        DataError: there is none, or several that differ only in their suffix.
    """
    written = sheet.content.get("imagePath")
    named = PureWindowsPath(written if isinstance(written, str) else "").as_posix()
    for spelled in spellings(named) if named else ():
        if is_file(sheet.path.parent / spelled):
            return sheet.path.parent / spelled
    own, *names = (composed(name) for name in (i, sheet.path.stem, PurePosixPath(named).stem))
    found = images.get(own) or next(filter(None, (given.get(name) for name in (own, *names))), None)
    if found is None:
        inside = "; the JSON has it embedded: save it as a file beside the JSON"
        raise DataError(
            f"{sheet.path}: its image {written!r:.200} is neither there, nor is one named {sheet.path.stem} beside the "
            f"JSON or in the folder of --data.images{inside if sheet.embedded else ''}"
        )
    if len(found) > 1:
        raise DataError(
            f"{sheet.path}: its image {written!r:.200} isn't there, and {' and '.join(path.name for path in found)} in "
            f"{found[0].parent} may both be meant; remove or rename one"
        )
    return found[0]


def _drawing(sheet: Sheet, image: Path, listed: tuple[str, ...] | None, remarks: list[str]) -> Drawing:
    regions, where = [], "the image"
    try:
        size = size_of(sheet.content.get("imageHeight"), sheet.content.get("imageWidth"), image)
        for position, shape in enumerate(entry(sheet.content, "shapes", list), 1):
            where = f"shape {position}"
            kind = _kind(shape)
            if kind in WITHOUT_AREA:
                remarks.append(f"{sheet.path}: {where}: shape_type {kind} has no area; left out")
                continue
            label = class_of(shape.get("label"), listed)
            where = f"shape {position} ({label})"
            regions.append(Region(label, where, _painter(kind, shape, size, f"{sheet.path}: {where}", remarks)))
    except DataError as error:
        raise DataError(f"{sheet.path}: {where}: {error}") from error
    return Drawing(size, tuple(regions))


def _kind(shape: Any) -> str:
    kind = shape.get("shape_type") or "polygon" if isinstance(shape, dict) else shape
    if not isinstance(kind, str) or kind not in SHAPE_TYPES:
        raise DataError(
            f"shape_type is {kind!r:.80}; it must be one of {', '.join(SHAPE_TYPES)}"
            f"{nearest(str(kind)[:80], SHAPE_TYPES)}"
        )
    return kind


def _painter(kind: str, shape: dict[str, Any], size: tuple[int, int], where: str, remarks: list[str]) -> Painter:
    points = points_of(shape.get("points"))
    if kind != "polygon" and len(points) not in (counts := POINTS[kind]):
        raise DataError(f"a {kind} has {' or '.join(map(str, counts))} points, not {len(points)}")
    if kind == "mask":
        return _mask(points, entry(shape, "mask", str), size)
    if kind == "circle":
        (x, y), radius = points[0], float(np.hypot(*(points[1] - points[0])))
        return turned((x, y), (radius, radius), 0.0, size, True)
    if len(points) == 2 and kind == "rectangle":
        (left, top), (right, bottom) = points
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if kind in RECTANGLES:
        check_extents(*np.hypot(*np.diff(points[:3], axis=0).T).tolist())
    return outlined(points, size, where, remarks, clip=kind in TURNED)


def _mask(corners: np.ndarray, text: str, size: tuple[int, int]) -> Painter:
    """The crop between two corners, both included, but for what lies beyond the image's border."""
    (left, top), (right, bottom) = corners.astype(int).tolist()
    expected = min(right + 1, size[1]) - left, min(bottom + 1, size[0]) - top
    try:
        data = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(data)) as crop:
            found = crop.size
    except BROKEN_IMAGE as error:
        raise DataError(f"its mask can't be read as a PNG in base64 ({error})") from error
    if found != expected or min(left, top) < 0:
        raise DataError(
            f"its mask is {found[1]}×{found[0]} (height×width), but of the image, which is {size[0]}×{size[1]}, its "
            f"points span {expected[1]}×{expected[0]}"
        )
    return partial(_fill_mask, left, top, data)


def _fill_mask(left: int, top: int, data: bytes, mask: np.ndarray, value: int) -> None:
    try:
        with Image.open(io.BytesIO(data)) as crop:
            inside = np.asarray(crop.convert("L")) > 0
    except BROKEN_IMAGE as error:
        raise DataError(f"its mask can't be read as a PNG ({error})") from error
    mask[top : top + inside.shape[0], left : left + inside.shape[1]][inside] = value


def _labels(sheets: Iterable[Sheet]) -> set[str]:
    """All labels of shapes with an area; what is wrong with a file is an error when its own split is opened."""
    lists = (sheet.content["shapes"] for sheet in sheets if isinstance(sheet.content["shapes"], list))
    found = set()
    for shape in chain.from_iterable(lists):
        try:
            if _kind(shape) not in WITHOUT_AREA:
                found.add(class_of(shape.get("label"), None))
        except DataError:
            continue
    return found


def _unused(images: dict[str, list[Path]], own: dict[str, Sheet], items: list[Item]) -> list[str]:
    used = {item.image.resolve() for item in items}
    known = set(map(composed, own))
    spare = [path for i, paths in images.items() if i not in known for path in paths if path.resolve() not in used]
    return [f"{len(spare)} images without a JSON are left out, such as {spare[0]}"] if spare else []
