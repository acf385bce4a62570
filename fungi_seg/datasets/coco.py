"""COCO: a folder of images and a JSON file of instances, stuff, or panoptic segments."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fungi_seg.datasets.coco_json import Category, CocoJson, image_name, leaves, local_names, read_coco, relative_name
from fungi_seg.datasets.coco_readers import CocoOutlines, PanopticMasks
from fungi_seg.datasets.common import Dataset, Item, Reader, files_by_id, read_ids
from fungi_seg.datasets.json_heads import json_kind, peek
from fungi_seg.datasets.labelstudio_files import ImageFiles
from fungi_seg.datasets.masks import WORDS, IndexMasks
from fungi_seg.datasets.palettes import default_palette
from fungi_seg.datasets.paths import by_form, composed
from fungi_seg.datasets.selection import BACKGROUND
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError, listing
from fungi_seg.images import MASK_SUFFIXES

PREFIXES = ("instances", "panoptic", "stuff")
NO_CLASS = 0  # of pixel maps
LARGEST = 2**16 - 1  # value of a mask image
MANY = 0.1  # of the annotations; COCO's own files have about 1 % of crowds
CROWDED = "Datumaro writes so whatever was drawn as a mask: set iscrowd to 0 where it is an object"
TRIED = 1000  # images that a folder is recognised by
SUGGESTED = 10  # images that aren't found, for which the most similar file is named, which takes time for each

MaskOf = Callable[[str, int], tuple[Path, str | None]]  # id and row of an image: its mask, and what is wrong with it


class _Entry(NamedTuple):
    row: int
    item: Item
    faults: Sequence[str]


def open_coco(config: DataConfig, skip_bad: bool) -> Dataset:
    """Instances and stuff: `background`, then the categories by id; panoptic and pixel maps: the categories alone.

    Outlines and run lengths are painted from the largest area to the smallest; crowds are void.

    Raises:
        DataError: no JSON file or several, one that isn't COCO, and images or annotations with faults (such images
            are skipped with `skip_bad`).
    """
    path, masks = find_json(config), config.place("masks")
    coco = read_coco(path, maps=masks is not None)
    folder = _images_folder(config, coco)
    places = _Places(folder, config.place("images") is not None)
    if coco.panoptic:
        entries = _entries(coco, places, _segments_of(coco, config))
    elif masks is not None:
        entries = _entries(coco, places, _map_of(masks))
    else:
        entries = _entries(coco, places, lambda own, row: (path, None))
    chosen, problems = _chosen(coco, entries, config, skip_bad)
    classes, read = _reader(coco, {entry.item.id: entry.row for entry in chosen}, config)
    names = tuple(category.name for category in classes)
    groups = tuple(category.group for category in classes)
    items, remarks = tuple(entry.item for entry in chosen), (*_remarks(coco, chosen), *places.remarks(path))
    return Dataset(items, names, default_palette(names), read, problems, remarks, groups)


def find_json(config: DataConfig) -> Path:
    """The JSON file of `config`: data.annotations, that of data.split, or the only one.

    Raises:
        DataError: none, or several.
    """
    given, root, split = config.place("annotations"), config.folder, config.split
    if given is not None:
        return given
    if split:
        looked = [root / "annotations" / f"{prefix}_{split}.json" for prefix in PREFIXES]
        looked += [root / split / "_annotations.coco.json", root / "annotations" / f"{split}.json"]
        looked += [root / f"{split}.json"]
        found = [path for path in looked if path.is_file()][:1]
    else:
        looked = [root / "*.json", root / "annotations" / "*.json"]
        there = [path for pattern in looked for path in sorted(pattern.parent.glob(pattern.name))]
        kinds = {path: json_kind(peek(path)) for path in there}
        found = [path for path in there if kinds[path] in ("coco", "panoptic", "boxes")]
        found = found or [path for path in there if kinds[path] == "empty"]
    if len(found) != 1:
        what = f"{len(found)} COCO JSON files:\n{listing(found)}" if found else f"no COCO JSON:\n{listing(looked)}"
        raise DataError(
            f"data.root is {str(root)!r}, data.split {split!r}: found {what}\n"
            f"Name the split with --data.split, as in instances_SPLIT.json, or the file with --data.annotations"
        )
    return found[0]


def _images_folder(config: DataConfig, coco: CocoJson) -> Path:
    """Where the first image lies that is found."""
    given, root = config.place("images"), config.folder
    if given is not None:
        return given
    split = config.split or coco.path.stem.partition("_")[2]
    own = [root / split, root / "images" / split] if split else []
    folders = [*own, root / "images", root / "images" / "default", root, coco.path.parent]
    files = [image.file for image in coco.images[:TRIED] if not leaves(relative_name(image.file))]
    for file in files:
        for folder in folders:
            if any(os.path.isfile(folder / name) for name in local_names(file)):
                return folder
    if files:
        raise DataError(
            f"{coco.path}: its images, {files[0]!r} and others, weren't found in\n{listing(folders)}\n"
            f"Name their folder with --data.images"
        )
    return root


class _Places:
    """Where images lie.

    Args:
        folder: of the images.
        given: whether the user named it, so that a file there is taken by its name alone where `file_name` is of
            another machine. No file beyond the folder is ever taken.
    """

    def __init__(self, folder: Path, given: bool):
        self._folder, self._given = folder, given
        self._files: ImageFiles | None = None
        self._elsewhere: list[str] = []
        self._lost = 0

    def find(self, file: str) -> tuple[str, Path, str | None]:
        """The id and the file of an image, and what is wrong with it."""
        for name in local_names(file):
            if os.path.isfile(self._folder / name):
                return image_name(file), self._folder / name, None
        if not self._given:
            return image_name(file), self._folder, self._unfound(file)
        self._files = self._files or ImageFiles(self._folder)
        try:
            path = self._files.find(file, suggest=self._lost < SUGGESTED)
        except DataError as error:
            self._lost += 1
            return image_name(file), self._folder, str(error)
        self._elsewhere.append(f"{file}: {path.relative_to(self._folder).as_posix()}")
        return self._files.id(path), path, None

    def _unfound(self, file: str) -> str:
        leads = leaves(relative_name(file))
        why = (
            "file_name leads out of the images' folder" if leads else f"there is no such file in {str(self._folder)!r}"
        )
        return f"{why}; name the folder with --data.images, where the only file of that name is taken"

    def remarks(self, json: Path) -> list[str]:
        """What was found by its name only."""
        if not self._elsewhere:
            return []
        return [
            f"{json.name}: {len(self._elsewhere)} images don't lie where file_name says; those of the same name in "
            f"{self._folder} are taken, such as {self._elsewhere[0]}"
        ]


def _map_of(folder: Path) -> MaskOf:
    files = files_by_id(folder, MASK_SUFFIXES)
    forms = by_form(files)

    def find(own: str, row: int) -> tuple[Path, str | None]:
        names = [known for name in (own, PurePosixPath(own).name) for known in (name, forms.get(composed(name), ""))]
        found = next((files[name] for name in names if name in files), None)
        return (found, None) if found else (folder, f"there is no mask of that name in {str(folder)!r}")

    return find


def _segments_of(coco: CocoJson, config: DataConfig) -> MaskOf:
    folder = _segments_folder(coco, config)

    def find(own: str, row: int) -> tuple[Path, str | None]:
        for annotation in coco.annotations(row):
            name = annotation.get("file_name")
            path = folder / str(name)
            fine = isinstance(name, str) and not leaves(relative_name(name)) and os.path.isfile(path)
            return path, None if fine else f"there is no {name!r} in {str(folder)!r}"
        return folder, "it has no annotation"

    return find


def _segments_folder(coco: CocoJson, config: DataConfig) -> Path:
    given, root, name = config.place("masks"), config.folder, coco.path.stem
    folders = [coco.path.with_suffix(""), root / name, root / "annotations" / name]
    folders += [root / f"panoptic_{config.split}", root / "panoptic"] if config.split else [root / "panoptic"]
    found = given or next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(
            f"{coco.path}: the folder of its PNG files wasn't found; looked for\n{listing(folders)}\n"
            f"Name it with --data.masks"
        )
    return found


def _entries(coco: CocoJson, places: _Places, mask_of: MaskOf) -> dict[str, list[_Entry]]:
    """Images by id, each with what is wrong with it; several of one id can't be used."""
    found = [places.find(image.file) for image in coco.images]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, (own, _, _) in enumerate(found):
        rows[own].append(row)
    entries: dict[str, list[_Entry]] = defaultdict(list)
    for row, (own, path, fault) in enumerate(found):
        faults, file = list(coco.faults.get(row, ())), coco.images[row].file
        other = next((coco.images[other].file for other in rows[own] if other != row), None)
        if fault and (other is None or leaves(relative_name(file))):
            faults.append(fault)
        elif other is not None:
            same = image_name(other) == image_name(file)
            given = "has the same file_name, up to its suffix" if same else f"would be the same file, {path}"
            faults.append(f"another image, {other!r}, {given}")
        mask, why = mask_of(own, row)
        faults += [why] if why else []
        entries[own].append(_Entry(row, Item(own, path, mask), faults))
    return entries


def _chosen(
    coco: CocoJson, entries: dict[str, list[_Entry]], config: DataConfig, skip_bad: bool
) -> tuple[list[_Entry], tuple[str, ...]]:
    """The images that can be used, those of the file list or all, and a line for each that can't."""
    problems, kept = [], []
    for own in read_ids(config.ids, entries) if config.ids else sorted(entries):
        if own not in entries:
            problems.append(f"{own}: not among the images")
            continue
        for entry in entries[own]:
            if entry.faults:
                problems.append(_line(coco.images[entry.row].file, entry.faults))
            else:
                kept.append(entry)
    problems += coco.loose
    if problems and not skip_bad:
        raise DataError(
            f"{coco.path}: {len(problems)} images or annotations can't be used:\n{listing(problems)}\n"
            f"Correct them, or skip these images with --skip-bad"
        )
    if not kept:
        raise DataError(f"{coco.path}: no image can be used:\n{listing(problems)}")
    return kept, tuple(f"{coco.path.name}: {line}" for line in problems)


def _remarks(coco: CocoJson, chosen: Sequence[_Entry]) -> Iterator[str]:
    if not len(coco.starts) and not coco.panoptic:
        yield f"{coco.path.name}: 0 annotations, so that all of every image is background"
    if coco.crowds > MANY * coco.painted:
        yield (
            f"{coco.path.name}: {coco.crowds} of {coco.painted} annotations are crowds (iscrowd 1), so they are void; "
            f"{CROWDED}"
        )
    for category in coco.placeholders:
        yield (
            f"{coco.path.name}: category {category.id}, {category.name!r}, is left out: it is the super-category of "
            f"others, and no annotation is of it"
        )
    for entry in chosen:
        for line in coco.remarks.get(entry.row, ()):
            yield f"{coco.path.name}: {entry.item.image.name}: {line}"


def _line(file: str, faults: Sequence[str]) -> str:
    return f"{file}: {faults[0]}" + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else "")


def _reader(coco: CocoJson, rows: dict[str, int], config: DataConfig) -> tuple[list[Category], Reader]:
    """The classes, and what reads them.

    Raises:
        DataError: data.void where there are no mask values, annotations without outlines, or an id that is no value.
    """
    classes, maps = list(coco.categories), config.masks is not None and not coco.panoptic
    ids = [category.id for category in classes]
    if maps:
        return classes, _map_reader(ids, config.void)
    if config.void is not None:
        raise DataError(
            f"data.void is {config.void}, but {coco.path.name} has no mask values; leave it out (crowds are void), or "
            f"name a folder of pixel maps with --data.masks"
        )
    if coco.panoptic:
        return classes, PanopticMasks(coco, rows, {own: index for index, own in enumerate(ids)})
    if not len(coco.starts) and coco.path.stem.startswith("panoptic"):
        raise DataError(f"{coco.path}: names no segment of any image; export it again, or leave it out")
    if len(coco.starts) and not coco.painted:
        raise DataError(f"{coco.path}: no annotation has an outline or run lengths; segmentation needs them")
    if coco.crowds == coco.painted > 0:
        raise DataError(f"{coco.path}: all annotations are crowds (iscrowd 1), which are void; {CROWDED}")
    own = [category for category in classes if category.name == BACKGROUND]
    classes = [*(own or [Category(-1, BACKGROUND, "")]), *(c for c in classes if c.name != BACKGROUND)]
    return classes, CocoOutlines(coco, rows, {category.id: index for index, category in enumerate(classes)})


def _map_reader(ids: list[int], void: int | None) -> IndexMasks:
    wrong = [own for own in ids if not 0 <= own <= LARGEST]
    if wrong:
        raise DataError(f"categories of ids {wrong[:10]} can't be values of pixel maps, which are 0..{LARGEST}")
    none = [] if NO_CLASS in ids else [NO_CLASS]
    way_out = f"Add the category to the JSON file, name the void value with data.void, or {WORDS}"
    return IndexMasks(tuple(ids), (*none, *([] if void is None else [void])), way_out)
