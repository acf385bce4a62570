"""Which layout annotated images lie in, by names and the beginnings of files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fungi_seg.datasets.cityscapes import BESIDE, IMAGE_FOLDERS, MASK_FOLDERS
from fungi_seg.datasets.coco_json import local_names
from fungi_seg.datasets.common import read_lines
from fungi_seg.datasets.folder import DEFAULT_VOID
from fungi_seg.datasets.json_heads import file_names, json_kind, peek
from fungi_seg.datasets.listings import can_be_listed, forget, names_in, subfolders
from fungi_seg.datasets.near_misses import jsons, listed, mask_values, nothing_found
from fungi_seg.datasets.paths import is_file
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.datasets.vectors import VECTOR_SUFFIXES
from fungi_seg.errors import DataError
from fungi_seg.images import IMAGE_SUFFIXES, RASTER_SUFFIXES

ABOVE, MOST, FEW = 3, 500, 24  # folders to go up; folders below and JSONs to look at
COCO_KEYS = {
    "coco": "images, outlines and categories",
    "panoptic": "images, segments and categories",
    "empty": "images and categories, 0 annotations",
}
COCO_NAMES = ("instances", "", "panoptic", "stuff", "person_keypoints")  # the likeliest first


@dataclass(frozen=True)
class Guess:
    """A way to open what is there.

    Attributes:
        config: the settings that open it.
        split: what the split is called; `all` where there is one only.
        why: the evidence, one line.
        parts: folders and files that it is read from.
    """

    config: DataConfig
    split: str
    why: str
    parts: tuple[Path, ...]

    @property
    def layout(self) -> str:
        """The layout's name."""
        return self.config.layout

    def touches(self, place: Path) -> bool:
        """Whether `place`, an absolute path, is, holds, or lies within one of the parts."""
        return any(part == place or part in place.parents or place in part.parents for part in self.parts)


Finder = Callable[[Path], list[Guess]]


def guess(path: str | Path) -> tuple[Guess, ...]:
    """The layouts that a folder, or one a little above or below it, has; one guess for each split, the best first.

    Args:
        path: the data set's folder, one that holds it or lies within it, or its JSON.

    Raises:
        DataError: no such folder or file, nothing known in it, or it can't be listed.
    """
    forget()
    place = Path(os.path.abspath(Path(path).expanduser()))
    if not os.path.exists(place):
        raise DataError(f"{str(path)!r}: there is no such folder or file")
    if place.is_dir() and not can_be_listed(place):
        raise DataError(f"{str(path)!r}: this folder can't be listed; ask its owner for leave to read it")
    for folders, within in _nearby(place):
        found = [g for find in FINDERS for folder in folders for g in _about(place, _tried(find, folder), within)]
        if found:
            return tuple(found)
    raise nothing_found(place)


def _nearby(place: Path) -> Iterator[tuple[list[Path], bool]]:
    """Where a data set's root may be, and whether it must be one that `place` is a part of."""
    start = place.parent if place.is_file() else place
    yield [start], place.is_file()
    if not place.is_file():
        below = subfolders(start)
        yield below, False
        yield [deeper for folder in below for deeper in subfolders(folder)][:MOST], False
    for folder in start.parents[:ABOVE]:
        yield [folder], True


def _about(place: Path, guesses: list[Guess], within: bool) -> list[Guess]:
    """Those that touch `place` first; none where they all lie beside it."""
    touching = [one for one in guesses if one.touches(place)]
    return [] if within and not touching else [*touching, *(one for one in guesses if one not in touching)]


def _tried(find: Finder, folder: Path) -> list[Guess]:
    """What `find` gives; nothing where a part of the folder can't be looked at."""
    try:
        return find(folder)
    except OSError:
        return []


def _ade20k(root: Path) -> list[Guess]:
    found = []
    for split, name in (("train", "training"), ("val", "validation")):
        parts = (root / "images" / name, root / "annotations" / name)
        if all(any(file.startswith("ADE_") for file in names_in(part).files) for part in parts):
            why = f"images/{name} and annotations/{name} hold files called ADE_…"
            found.append(Guess(DataConfig("ade20k", str(root), split), split, why, parts))
    return found


def _voc(root: Path) -> list[Guess]:
    named = (root / "labelmap.txt").is_file()
    flat = not named and not (root / "JPEGImages").is_dir()
    images, lists = ("images", "sets") if flat else ("JPEGImages", "ImageSets/Segmentation")
    stems = (name.removesuffix(".txt") for name in names_in(root / lists).files if name.endswith(".txt"))
    splits: list[str | None] = [*sorted(stems, key=_order)]
    found = []
    for split in splits or ([None] if named else []):
        masks = "SegmentationClass" if named or not (flat or str(split).endswith("aug")) else "SegmentationClassAug"
        there = [images, masks, *([f"{lists}/{split}.txt"] if split else []), *(["labelmap.txt"] if named else [])]
        parts = tuple(root / part for part in there)
        if all(part.is_dir() for part in parts[:2]):
            why = f"{listed(there)} are there"
            found.append(Guess(DataConfig("voc", str(root), split), split or "all", why, parts))
    return found


def _folder(root: Path) -> list[Guess]:
    found = []
    for base in sorted((root, *subfolders(root)), key=lambda base: (base != root, _order(base.name))):
        images, masks = base / "images", base / "masks"
        lists = [folder / "classes.txt" for folder in (base, root) if (folder / "classes.txt").is_file()]
        if lists and images.is_dir() and masks.is_dir():
            parts = (images, masks, lists[0])
            config = DataConfig("folder", str(root), None if base == root else base.name)
            why, void = f"{listed([_within(root, part) for part in parts])} are there", _other_void(lists[0], masks)
            if void is not None:
                config, why = replace(config, void=void), f"{why}; masks hold {void} beyond the classes, taken as void"
            found.append(Guess(config, config.split or "all", why, parts))
    return found


def _other_void(classes: Path, masks: Path) -> int | None:
    """The only value beyond the classes that a few masks hold, if not 255; beside one class it may be an object."""
    try:
        values = mask_values(masks)
        beyond = values[values >= len(read_lines(classes, "class list"))]
    except DataError:  # an error when they are read
        return None
    return int(beyond[0]) if len(beyond) == 1 < len(values) - 1 and beyond[0] != DEFAULT_VOID else None


def _cityscapes(root: Path) -> list[Guess]:
    """With the folders of Cityscapes, with a folder for each split, or with neither."""
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    masks = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    tried: list[tuple[str | None, Path, Path]]
    if images and masks:
        tried = [(base.name, images / base.name, base) for base in subfolders(masks)]
    else:
        bases = [base for base in subfolders(root) if (base / "images").is_dir()]
        tried = [(base.name, base / "images", base) for base in bases]
        tried += [(None, folder, root) for folder in (root / "images", root) if _holds_images(folder)][:1]
    found = []
    for split, pictures, base in sorted(tried, key=lambda one: _order(one[0] or "")):
        masked = next((path for folder in (base, *subfolders(base)) for path in _label_ids(folder)), None)
        if masked and pictures.is_dir():
            config, why = DataConfig("cityscapes", str(root), split), f"{_within(root, masked)} is there"
            found.append(Guess(config, split or "all", why, (pictures, base)))
    return found


def _holds_images(folder: Path) -> bool:
    """Whether there are images that aren't masks of Cityscapes."""
    parts = map(os.path.splitext, names_in(folder).files)
    return any(suffix.lower() in IMAGE_SUFFIXES and not BESIDE.search(stem) for stem, suffix in parts)


def _label_ids(folder: Path) -> Iterator[Path]:
    return (folder / name for name in names_in(folder).files if name.endswith("_labelIds.png"))


def _coco(root: Path) -> list[Guess]:
    return _coco_files(root, ("coco", "panoptic"))


def _unannotated_coco(root: Path) -> list[Guess]:
    """Apart from the others: such a file is also written beside COCO results."""
    return _coco_files(root, ("empty",))


def _coco_files(root: Path, kinds: Sequence[str]) -> list[Guess]:
    exported = [folder / "_annotations.coco.json" for folder in subfolders(root)]
    files = [path for folder in (root / "annotations", root) for path in jsons(folder)[:FEW]]
    files += [path for path in exported if path.is_file()][:FEW]
    ranked: list[tuple[tuple[int, str, int], Guess]] = []
    for path in files:
        text = peek(path)
        kind, (prefix, split) = json_kind(text), _coco_split(path)
        images = _coco_images(root, path, split, file_names(text))
        masks = next((p for p in (path.with_suffix(""), root / path.stem) if p.is_dir()), None)
        if images is None or kind not in kinds or (kind == "panoptic" and masks is None):
            continue
        keys = COCO_KEYS[kind]
        why = f"{path.relative_to(root).as_posix()} holds {keys}; its images lie in {_within(root, images)}"
        config = _coco_config(root, path, split, images, masks if kind == "panoptic" else None)
        rank = (*_order(split), COCO_NAMES.index(prefix))
        ranked.append((rank, Guess(config, split, why, (path, images))))
    return [one for _, one in sorted(ranked, key=lambda entry: entry[0])]


def _coco_split(path: Path) -> tuple[str, str]:
    """`instances_train2017.json` as `instances` and `train2017`; `train/_annotations.coco.json` as `train`."""
    if path.name == "_annotations.coco.json":
        return "", path.parent.name
    prefix = next((p for p in COCO_NAMES if p and path.stem.startswith(f"{p}_")), "")
    return prefix, path.stem[len(prefix) + 1 :] if prefix else path.stem


def _coco_images(root: Path, path: Path, split: str, names: list[str]) -> Path | None:
    """The folder of the images that a JSON names, if any of the first ones is found."""
    inner = root / "images"
    for folder in (root / split, inner / split, inner, inner / "default", path.parent, root):
        if any(is_file(folder / spelled) for name in names for spelled in local_names(name)):
            return folder
    return None


def _coco_config(root: Path, path: Path, split: str, images: Path, masks: Path | None) -> DataConfig:
    """Without what is found by itself."""
    usual = path == root / "annotations" / f"instances_{split}.json" and images == root / split
    if usual:
        return DataConfig("coco", str(root), split)
    found = DataConfig("coco", str(root), annotations=_within(root, path), images=_within(root, images))
    return replace(found, masks=_within(root, masks)) if masks else found


def _labelstudio(root: Path) -> list[Guess]:
    found = []
    for path in jsons(root)[:FEW]:
        if json_kind(peek(path)) == "labelstudio":
            why = f"{path.name} is a list of tasks with data and annotations"
            found.append(Guess(DataConfig("labelstudio", str(root), annotations=path.name), path.stem, why, (path,)))
    return found


def _labelme(root: Path) -> list[Guess]:
    found = []
    for base in sorted((root, *subfolders(root)), key=lambda base: (base != root, _order(base.name))):
        files = [path for path in jsons(base)[:FEW] if json_kind(peek(path)) == "labelme"]
        if files:
            split = None if base == root else base.name
            why = f"{files[0].relative_to(root).as_posix()} holds shapes"
            found.append(Guess(DataConfig("labelme", str(root), split), split or "all", why, (base,)))
    return found


def _geo(root: Path) -> list[Guess]:
    """By names alone: one file of polygons, or those of a raster's name."""
    found = []
    for base in sorted((root, *subfolders(root)), key=lambda base: (base != root, _order(base.name))):
        names = names_in(base).files
        polygons = [name for name in names if name.lower().endswith(VECTOR_SUFFIXES)]
        rasters = [name for name in names if name.lower().endswith(RASTER_SUFFIXES)]
        if polygons and rasters:
            paths = base / polygons[0], base / rasters[0]
            why = " may hold polygons over ".join(_within(root, path) for path in paths)
            split = None if base == root else base.name
            found.append(Guess(DataConfig("geo", str(root), split), split or "all", why, (base,)))
    return found


FINDERS: tuple[Finder, ...] = (  # the surest first
    _ade20k,
    _voc,
    _cityscapes,
    _folder,
    _coco,
    _labelstudio,
    _labelme,
    _geo,
    _unannotated_coco,
)


def _order(split: str) -> tuple[int, str]:
    """Splits to learn from first, then those to evaluate on."""
    usual = ("trainaug", "train", "train.*", "(?!val|test).*", "val.*", "test.*")
    if split.startswith("trainval"):
        return len(usual), split
    return next(rank for rank, pattern in enumerate(usual) if re.fullmatch(pattern, split, re.DOTALL)), split


def _within(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
