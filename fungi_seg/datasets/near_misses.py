"""What to say of a folder in which no known layout is found."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from fungi_seg.datasets.json_heads import file_names, json_kind, peek
from fungi_seg.datasets.listings import names_in, subfolders
from fungi_seg.datasets.masks import WORDS, values_in
from fungi_seg.errors import DataError, listing
from fungi_seg.images import IMAGE_SUFFIXES, MASK_SUFFIXES

FEW, MANY = 5, 40  # files and folders to look at; values that are too many for class ids
Name = TypeVar("Name", str, Path)
BRUSHED = "task-*-annotation-*-by-*.png"

TREES = {
    "folder": "ROOT/classes.txt, ROOT/[SPLIT/]images/*.jpg, ROOT/[SPLIT/]masks/*.png",
    "voc": "ROOT/JPEGImages/*.jpg, ROOT/SegmentationClass[Aug]/*.png, ROOT/ImageSets/Segmentation/SPLIT.txt"
    "[, ROOT/labelmap.txt]",
    "ade20k": "ROOT/images/training/ADE_*.jpg, ROOT/annotations/training/ADE_*.png (150 classes)",
    "coco": "ROOT/SPLIT/*.jpg, ROOT/annotations/instances_SPLIT.json; or --data.annotations JSON --data.images FOLDER",
    "labelme": "ROOT/[SPLIT/]*.jpg, and a JSON of the same name beside each",
    "labelstudio": "ROOT/*.json, an exported list of tasks, and the images it names",
    "cityscapes": "ROOT/leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, ROOT/gtFine/SPLIT/CITY/*_gtFine_labelIds.png",
    "mmseg": "what a configuration of MMSegmentation describes: --data.annotations CONFIG.py; never guessed",
    "geo": "ROOT/[SPLIT/]*.tif, and a GeoPackage or GeoJSON of the same name beside each, or one of all",
    "negative": "ROOT/[SPLIT/]*.jpg alone, which hold none of the classes; never guessed",
}


def nothing_found(place: Path) -> DataError:
    """What is at `place`, what it nearly is, and what it could be."""
    there = [place.name] if place.is_file() else list(_contents(place))
    near = list(_near(place))
    parts = [
        f"{str(place)!r}: annotated images in a known layout were found neither there nor a little above or below",
        f"there is:\n{listing(there) or '  nothing'}",
        *([f"near misses:\n{listing(near)}"] if near else []),
        f"layouts, for --data.layout:\n{listing((f'{name}: {tree}' for name, tree in TREES.items()), len(TREES))}",
    ]
    return DataError("\n".join(parts))


def jsons(folder: Path) -> list[Path]:
    """The JSON files of a folder, by name."""
    return [folder / name for name in names_in(folder).files if name.endswith(".json")]


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _contents(folder: Path) -> Iterator[str]:
    """Sub-folders and kinds of files, one line each."""
    for inner in subfolders(folder):
        files = _kinds(inner)
        yield f"{inner.name}/ ({files or 'no files'})"
    if files := _kinds(folder):
        yield files


def _kinds(folder: Path) -> str:
    counts = Counter(os.path.splitext(name)[1].lower() or name for name in names_in(folder).files)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(FEW))


def _near(place: Path) -> Iterator[str]:
    if place.is_file():
        yield from _json_miss(place, place.name)
        return
    for folder in (place, *subfolders(place)):
        yield from _tree_misses(folder, "" if folder == place else f"{folder.name}/")
    for folder in (place, place / "annotations"):
        for path in jsons(folder)[:FEW]:
            yield from _json_miss(path, path.relative_to(place).as_posix())
    classes = [folder for inner in subfolders(place)[:FEW] for folder in subfolders(inner) or [inner]]
    if len(classes) > 1 and all(_holds_images_only(folder) for folder in classes):
        yield (
            f"{classes[0].relative_to(place).as_posix()}/ and {len(classes) - 1} more folders hold images and nothing "
            f"else: if they are classes of whole images, see fungi-seg extract"
        )


def _tree_misses(folder: Path, name: str) -> Iterator[str]:
    """Halves of a tree; `name` is what the folder is called before its parts."""
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        yield (
            f"{name}images/ and {name}masks/ are there, but no classes.txt beside or above them: write one with a "
            f"class name a line, the first for mask value 0; {_values(folder / 'masks')}"
        )
    voc = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    missing = [part for part in voc if not (folder / part).is_dir()]
    if 0 < len(missing) < len(voc):
        there, without = listed([part for part in voc if part not in missing]), " and no ".join(missing)
        yield (
            f"{name}{there} as Pascal VOC has it, but no {without}: put it there, or for images elsewhere give "
            f"--data.layout voc --data.images FOLDER"
        )
    if (folder / "images" / "training").is_dir() and (folder / "annotations" / "training").is_dir():
        yield (
            f"{name}images/training and {name}annotations/training are as ADE20K has them, but no file is called "
            f"ADE_…: --data.layout ade20k reads them if their classes are those 150"
        )
    if fnmatch.filter(names_in(folder).files, BRUSHED):
        yield (
            f"{name or './'} holds masks that Label Studio exported; its JSON is needed too: --data.layout labelstudio "
            f"--data.annotations JSON --data.masks FOLDER"
        )


def _values(masks: Path) -> str:
    try:
        values = mask_values(masks)
    except DataError as error:
        return str(error)
    held = ", ".join(map(str, values[:MANY]))
    if len(values) > MANY:
        held += ", …: too many for classes; were the masks saved as JPEG, or smoothed? Where they are ids of instances"
    elif values[-1] >= len(values):
        held += "; where these aren't line numbers and 255 for void"
    else:
        return f"a few of the masks hold the values {held}"
    return f"a few of the masks hold the values {held}, {WORDS}"


def mask_values(masks: Path) -> np.ndarray:
    """The values that a few mask files of a folder hold, sorted.

    Raises:
        DataError: no mask, or one that can't be read.
    """
    files = _spaced([path for few in islice(_few_masks(masks), FEW) for path in few])
    if not files:
        raise DataError(f"there is no mask in {masks.name} ({', '.join(MASK_SUFFIXES)})")
    return np.unique(np.concatenate([np.unique(values_in(path)) for path in files]))


def _few_masks(folder: Path) -> Iterator[list[Path]]:
    """A few mask files of each folder that has some."""
    for base, inner, names in os.walk(folder):
        inner.sort()
        masks = sorted(name for name in names if os.path.splitext(name)[1].lower() in MASK_SUFFIXES)
        if masks:
            yield [Path(base, name) for name in _spaced(masks)]


def _spaced(names: list[Name]) -> list[Name]:
    """A few of them, at even distances."""
    return names[:: max(1, len(names) // FEW)][:FEW]


def _json_miss(path: Path, name: str) -> Iterator[str]:
    text = peek(path)
    kind, images = json_kind(text), file_names(text)
    if kind in ("coco", "panoptic", "empty") and images:
        missing = f"no image of it was found, such as {images[0]!r}; name their folder with --data.images"
        masks = "the folder of its PNGs is not beside it; name it with --data.masks"
        yield f"{name} holds annotations of COCO, but {masks if kind == 'panoptic' else missing}"
    elif kind == "boxes":
        yield f"{name} holds boxes without outlines: they don't give a class for each pixel"
    elif kind == "results":
        yield f"{name} holds predictions for COCO, not annotations: it names no classes"
    elif not kind:
        yield f"{name} holds nothing that is known of COCO, LabelMe or Label Studio"


def _holds_images_only(folder: Path) -> bool:
    files = [name for name in names_in(folder).files if not name.startswith(".")]
    return bool(files) and all(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in files)
