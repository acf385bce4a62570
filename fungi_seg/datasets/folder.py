"""A folder of images and masks: `[split/]images`, `[split/]masks`, and `classes.txt` beside or above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fungi_seg.datasets.common import Dataset, check_once, files_by_id, pair, read_lines
from fungi_seg.datasets.masks import IndexMasks
from fungi_seg.datasets.palettes import default_palette
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.datasets.stacks import paired_planes
from fungi_seg.errors import DataError
from fungi_seg.images import MASK_SUFFIXES, RASTER_SUFFIXES

DEFAULT_VOID, DEFAULT_VOID_16 = 255, 65_535


def void_value(classes: int) -> int:
    """What stands for unlabelled or unknown in masks of so many classes."""
    return DEFAULT_VOID if classes <= DEFAULT_VOID else DEFAULT_VOID_16


def open_folder(config: DataConfig, skip_bad: bool, projection: str | None = None) -> Dataset:
    """Line `i` of `classes.txt` names class `i`; an optional `palette.txt` gives its colour as `r g b`.

    Stacks and videos are images for each plane, see `paired_planes`.
    """
    root = config.folder
    base = root / config.split if config.split else root
    names = tuple(read_lines(_beside(root, base, "classes.txt"), "class list"))
    check_once(names, f"class list of {str(root)!r}", "classes")
    usual = void_value(len(names))
    remarks: list[str] = []
    void = usual if config.void is None else config.void
    images = files_by_id(base / "images", RASTER_SUFFIXES, remarks)
    found = paired_planes(images, files_by_id(base / "masks", MASK_SUFFIXES), projection, (void,))
    remarks += found.remarks
    items, problems = pair(found.images, found.masks, config.ids, skip_bad, str(base), base / "masks", found.bad)
    colours = _palette(base / "palette.txt" if (base / "palette.txt").is_file() else root / "palette.txt", names)
    read = IndexMasks(range(len(names)), (void,), assumed=usual if config.void is None else None)
    return Dataset(items, names, colours, read, problems, tuple(remarks))


def _beside(root: Path, base: Path, name: str) -> Path:
    for folder in (base, root):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"no {name} in {str(root)!r}: write one with a class name a line, the first for mask value 0")


def _palette(path: Path, names: tuple[str, ...]) -> np.ndarray:
    count = len(names)
    if not path.is_file():
        return default_palette(names)
    lines = read_lines(path, "palette")
    try:
        colours = np.array([[int(v) for v in line.split()] for line in lines])
    except ValueError:
        colours = np.empty(0)
    if colours.shape != (count, 3) or colours.min() < 0 or colours.max() > 255:
        raise DataError(f"{path}: must hold one line 'r g b', 0..255 each, for each of the {count} classes")
    return colours.astype(np.uint8)
