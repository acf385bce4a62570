"""Label Studio's JSON export: tasks, each an image and its annotations."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.datasets.brush import brushed
from fungi_seg.datasets.common import Dataset, Item, read_ids
from fungi_seg.datasets.json_heads import json_kind, peek
from fungi_seg.datasets.labelstudio_files import ImageFiles, MaskFiles, is_image, mask_files
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
    number,
    outlined,
    points_of,
    read_json,
    region_dataset,
    size_of,
    turned,
)
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError, listing

SHAPES = {"polygonlabels": "points", "brushlabels": "rle", "rectanglelabels": "width", "ellipselabels": "radiusX"}
WITHOUT_AREA = ("keypointlabels",)
SUGGESTED = 10  # tasks without an image for which the most similar file is named, which takes time for each


@dataclass(frozen=True)
class Task:
    """An annotated image.

    Attributes:
        where: what messages call it.
        id: of the task.
        annotation: the id of its annotation.
        image: where Label Studio has the image.
        results: what was annotated.
    """

    where: str
    id: str
    annotation: str
    image: str
    results: list[dict[str, Any]]


def open_labelstudio(config: DataConfig, skip_bad: bool) -> Dataset:
    """The JSON's tasks; later regions lie on those before them.

    Of several annotations of a task the ground truth counts, or else the last updated one with regions; of several
    labels of a region the first. Classes are `background` and the labels of all tasks, sorted, unless the root has a
    `classes.txt` or `labels.txt`. With `data.masks` the regions are the mask images there. Of an ellipse or turned
    rectangle are the pixels whose centres lie within; other outlines are filled as pycocotools does.
    """
    if config.split:
        raise DataError(
            f"data.split is {config.split!r}, but a Label Studio export has no splits; name each split's images by "
            f"--data.file_list, or its own export by --data.annotations"
        )
    root = config.folder
    path = config.place("annotations") or _only_export(root)
    listed, masks = listed_classes(root), config.place("masks")
    images = ImageFiles(config.place("images") or (root / "images" if (root / "images").is_dir() else root))
    problems: list[str] = []
    remarks: list[str] = []
    tasks = list(_tasks(path, problems, remarks))
    labels = _labels(tasks)
    files = mask_files(masks) if masks else None
    draw = partial(_masked, files, _tags(tasks), listed or labels) if files else _drawn
    found, lost = _with_images(tasks, images)
    problems += [] if config.ids else lost
    items, drawings = [], {}
    for i in read_ids(config.ids, found) if config.ids else found:
        try:
            if i not in found:
                raise DataError(f"no task has an image {i!r}")
            task, image = found[i]
            drawings[i] = draw(task, image, listed, remarks)
            items.append(Item(i, image, path))
        except DataError as error:
            problems.append(str(error))
    painted = {region.label for drawing in drawings.values() for region in drawing.regions}
    read = RegionMasks(listed or class_names(sorted(labels | painted)), drawings, files.state if files else "")
    return region_dataset(items, read, problems, remarks, skip_bad, path)


def _only_export(root: Path) -> Path:
    found = [path for path in sorted(root.glob("*.json")) if json_kind(peek(path)) == "labelstudio"]
    if len(found) != 1:
        other = "" if found else " (JSON-MIN can't be read)"
        raise DataError(
            f"data.root is {str(root)!r}, which holds {len(found)} JSON exports of Label Studio{other}; name the one "
            f"with --data.annotations:\n{listing(path.name for path in found or sorted(root.glob('*.json')))}"
        )
    return found[0]


def _tasks(path: Path, problems: list[str], remarks: list[str]) -> Iterator[Task]:
    """The tasks that are annotated."""
    written, without = read_json(path), 0
    written = written if isinstance(written, list) else [written]
    if any(_is_min(task) for task in written):
        raise DataError(f"{path}: this is Label Studio's JSON-MIN, which holds too little; export as JSON")
    for position, task in enumerate(written, 1):
        where = (
            f"task {task.get('id', f'number {position}')!s:.40}"
            if isinstance(task, dict)
            else f"task number {position}"
        )
        try:
            done = _annotations(task)
            if done:
                best, why = _best(done)
                results = entry(best, "result", list)
                if not all(isinstance(result, dict) for result in results):
                    raise DataError("result must be a list of dicts")
                yield Task(where, str(task.get("id")), str(best.get("id")), _address(task), results)
        except DataError as error:
            problems.append(f"{where}: {error}")
            continue
        without += not done
        if len(done) > 1:
            remarks.append(f"{where}: {len(done)} annotations; {why} (id {best.get('id')!s:.40}) counts")
    if without:
        remarks.append(f"{without} tasks without an annotation are left out")


def _is_min(task: Any) -> bool:
    """Whether it is a task of JSON-MIN: what was annotated stands beside the image, not below `annotations`."""
    if not isinstance(task, dict) or not task.keys().isdisjoint(("data", "annotations", "completions")):
        return False
    return any(key in ("image", "annotation_id") or key.endswith("labels") for key in task)


def _annotations(task: Any) -> list[dict[str, Any]]:
    """Those that weren't cancelled."""
    key = (
        "completions"
        if isinstance(task, dict) and "annotations" not in task and "completions" in task
        else "annotations"
    )
    found = entry(task, key, list)
    if not all(isinstance(annotation, dict) for annotation in found):
        raise DataError(f"{key} must be a list of dicts")
    return [a for a in found if not (a.get("was_cancelled") or a.get("skipped"))]


def _best(done: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """The annotation that counts, and what it is: the ground truth, or else the last updated one with regions."""
    truths = [annotation for annotation in done if annotation.get("ground_truth") is True]
    drawn = [annotation for annotation in truths or done if _has_regions(annotation)]
    last = max(reversed(drawn or truths or done), key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""))
    return last, "the ground truth" if truths else "the last updated one" + (" with regions" if drawn else "")


def _has_regions(annotation: dict[str, Any]) -> bool:
    results = annotation.get("result")
    return isinstance(results, list) and any(isinstance(result, dict) and _shape(result) for result in results)


def _address(task: dict[str, Any]) -> str:
    """Where the image is: the entry `image` of the data, or else the first one that is named like an image."""
    data = entry(task, "data", dict)
    given = data.get("image")
    texts = [given] if isinstance(given, str) else [value for value in data.values() if isinstance(value, str)]
    if not texts:
        raise DataError("data names no image")
    return next((text for text in texts if is_image(text)), texts[0])


def _with_images(tasks: list[Task], images: ImageFiles) -> tuple[dict[str, tuple[Task, Path]], list[str]]:
    """Tasks and images by the id of the image, and a line for each task that has none."""
    found: dict[str, tuple[Task, Path]] = {}
    lost: list[str] = []
    for task in tasks:
        try:
            path = images.find(task.image, suggest=len(lost) < SUGGESTED)
            i = images.id(path)
            if i in found:
                raise DataError(f"its image {path} is that of {found[i][0].where} too; remove one of the tasks")
            found[i] = task, path
        except DataError as error:
            lost.append(f"{task.where}: {error}")
    return found, lost


def _labels(tasks: list[Task]) -> set[str]:
    """All labels that count; wrong ones are errors where their region is read."""
    found = set()
    for result in (result for task in tasks for result in task.results if _shape(result)):
        try:
            found.add(class_of(_own_labels(result)[0], None))
        except (DataError, IndexError):
            continue
    return found


def _tags(tasks: list[Task]) -> set[str]:
    return {str(result.get("from_name")) for task in tasks for result in task.results}


def _shape(result: dict[str, Any]) -> str | None:
    """The entry that makes the result a region with an area; none where it is something else."""
    kind, value = result.get("type"), result.get("value")
    if kind == "labels" and isinstance(value, dict):
        return next((key for key in SHAPES.values() if key in value), None)
    return SHAPES.get(kind) if isinstance(kind, str) else None


def _own_labels(result: dict[str, Any]) -> list[Any]:
    kind, value = entry(result, "type", str), entry(result, "value", dict)
    return entry(value, kind, list) if kind in value else []


def _size(task: Task, image: Path) -> tuple[int, int]:
    sizes = {size_of(r.get("original_height"), r.get("original_width"), image) for r in task.results if _shape(r)}
    if len(sizes) > 1:
        raise DataError(f"its regions were drawn on images of {len(sizes)} sizes; annotate it again")
    return next(iter(sizes), None) or size_of(None, None, image)


def _drawn(task: Task, image: Path, listed: tuple[str, ...] | None, remarks: list[str]) -> Drawing:
    """The results with an area and a label."""
    regions, where = [], task.where
    try:
        size = _size(task, image)
        for position, result in enumerate(task.results, 1):
            where = f"{task.where}, result {position}"
            shape = _shape(result)
            if not shape:
                kind = result.get("type")
                if isinstance(kind, str) and kind.endswith("labels") and kind not in WITHOUT_AREA:
                    remarks.append(f"{where}: {kind} can't be read; left out")
                continue
            labels = _own_labels(result)
            if len(labels) != 1:
                remarks.append(f"{where}: {len(labels)} labels; " + ("the first one counts" if labels else "left out"))
            if labels:
                label = class_of(labels[0], listed)
                where = f"{where} ({label})"
                regions.append(Region(label, where, _painter(shape, result, size, where, remarks)))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return Drawing(size, tuple(regions))


def _masked(
    files: MaskFiles,
    tags: Collection[str],
    labels: Collection[str],
    task: Task,
    image: Path,
    listed: tuple[str, ...] | None,
    remarks: list[str],
) -> Drawing:
    """The mask images of the task's annotation."""
    try:
        found = list(files.regions(task.id, task.annotation, task.results, tags, labels))
        regions = [Region(class_of(label, listed), task.where, file.paint) for label, file in found]
        return Drawing(_size(task, image), tuple(regions))
    except DataError as error:
        raise DataError(f"{task.where}: {error}") from error


def _painter(shape: str, result: dict[str, Any], size: tuple[int, int], where: str, remarks: list[str]) -> Painter:
    """Results are in percent of the image's width and height."""
    value = entry(result, "value", dict)
    if result.get("image_rotation"):
        raise DataError("the image was turned in Label Studio; turn the file itself and annotate it again")
    if shape == "points":
        return outlined(points_of(value.get("points")) * (size[1] / 100, size[0] / 100), size, where, remarks)
    if shape == "rle":
        return partial(_fill_brushed, _bytes(value))
    x, y = number(value, "x") * size[1] / 100, number(value, "y") * size[0] / 100
    degrees = number(value, "rotation", 0.0)
    if shape == "radiusX":
        half = number(value, "radiusX") * size[1] / 100, number(value, "radiusY") * size[0] / 100
        return turned((x, y), half, degrees, size, True)
    width, height = number(value, "width") * size[1] / 100, number(value, "height") * size[0] / 100
    check_extents(width, height)
    if not degrees:
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
        return outlined(corners, size, where, remarks)
    along, down = math.cos(math.radians(degrees)) / 2, math.sin(math.radians(degrees)) / 2  # of half the sides
    centre = x + width * along - height * down, y + width * down + height * along
    return turned(centre, (width / 2, height / 2), degrees, size, False)


def _bytes(value: dict[str, Any]) -> bytes:
    written = entry(value, "rle", list)
    if value.get("format", "rle") != "rle" or not all(type(v) is int and 0 <= v < 256 for v in written):
        raise DataError("rle must be a list of numbers 0..255, of the format 'rle'")
    return bytes(written)


def _fill_brushed(data: bytes, mask: np.ndarray, value: int) -> None:
    mask[brushed(data, (mask.shape[0], mask.shape[1]))] = value
