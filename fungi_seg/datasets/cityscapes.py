"""Cityscapes, and data sets of other classes in its form: masks named `…_labelIds.png` whose values are label ids."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from fungi_seg.datasets.common import Dataset, check_once, files_by_id, pair, read_lines
from fungi_seg.datasets.masks import WORDS, IndexMasks
from fungi_seg.datasets.palettes import default_palette
from fungi_seg.datasets.paths import closest, composed
from fungi_seg.datasets.regions import VOID_LABELS
from fungi_seg.datasets.selection import BACKGROUND
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError
from fungi_seg.images import IMAGE_SUFFIXES

# label id, name, category and colour of the classes that are evaluated
EVALUATED = (
    (7, "road", "flat", (128, 64, 128)),
    (8, "sidewalk", "flat", (244, 35, 232)),
    (11, "building", "construction", (70, 70, 70)),
    (12, "wall", "construction", (102, 102, 156)),
    (13, "fence", "construction", (190, 153, 153)),
    (17, "pole", "object", (153, 153, 153)),
    (19, "traffic light", "object", (250, 170, 30)),
    (20, "traffic sign", "object", (220, 220, 0)),
    (21, "vegetation", "nature", (107, 142, 35)),
    (22, "terrain", "nature", (152, 251, 152)),
    (23, "sky", "sky", (70, 130, 180)),
    (24, "person", "human", (220, 20, 60)),
    (25, "rider", "human", (255, 0, 0)),
    (26, "car", "vehicle", (0, 0, 142)),
    (27, "truck", "vehicle", (0, 0, 70)),
    (28, "bus", "vehicle", (0, 60, 100)),
    (31, "train", "vehicle", (0, 80, 100)),
    (32, "motorcycle", "vehicle", (0, 0, 230)),
    (33, "bicycle", "vehicle", (119, 11, 32)),
)
LABELS = 34
VOID_ID = 255  # what −1, the license plates, becomes in a file of 8 bits
MASK = re.compile(r"(_gt[A-Z][a-z]+)?_labelIds$")
BESIDE = re.compile(r"_(labelIds|labelTrainIds|instanceIds|instanceTrainIds|color|polygons)$")
IMAGE_FOLDERS = ("leftImg8bit", "imgsFine/leftImg8bit", "images")  # the second as labelling tools export it
MASK_FOLDERS = ("gtFine", "gtCoarse")


def open_cityscapes(config: DataConfig, skip_bad: bool) -> Dataset:
    """`leftImg8bit/SPLIT` with `gtFine/SPLIT` (or `gtCoarse`), or images with `…_labelIds.png` of the same names.

    `data.split` is `train` where there is one. Classes are the 19 that are evaluated, the others void; or the names in
    the root's `classes.txt`, or `label_colors.txt` as labelling tools export it: line `i` for label id `i`, 255 void.
    """
    folder, split = _images(config)
    remarks: list[str] = []
    found = files_by_id(folder, IMAGE_SUFFIXES, remarks)
    images = {_plain(i): path for i, path in found.items() if not BESIDE.search(i)}
    base = _masks(config, split)
    masks = _label_ids(base)
    of_split = {i: path for i, path in masks.items() if split in PurePosixPath(i).parts}  # where the folder has more
    items, problems = pair(images, _by_image(images, of_split or masks), config.ids, skip_bad, str(folder))
    names, palette, groups, ids, others = _classes(config.folder)
    void = VOID_ID if config.void is None else config.void
    way_out = (
        f"Name classes of your own in data.root's classes.txt, the first for id 0; or the void value with data.void; "
        f"or {WORDS}"
    )
    read = IndexMasks(ids, (*others, void), way_out, void if config.void is None else None)
    return Dataset(items, names, palette, read, problems, tuple(remarks), groups)


def _images(config: DataConfig) -> tuple[Path, str | None]:
    """The folder of the split's images, and the split."""
    root = config.folder
    base = config.place("images") or _first(root / name for name in IMAGE_FOLDERS) or root
    splits = sorted(path.name for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    only = base.name == IMAGE_FOLDERS[0] and len(splits) == 1
    split = config.split or ("train" if "train" in splits else splits[0] if only else None)
    if split is None:
        return base, None
    found = _first((root / split / "images", base / split))
    if found is None:
        raise DataError(
            f"data.split is {split!r}, but there is no folder {str(base / split)!r}; there are: "
            f"{', '.join(splits) or 'none'}"
        )
    return found, split


def _masks(config: DataConfig, split: str | None) -> Path:
    root, given = config.folder, config.place("masks")
    bases = [given] if given else [root / name for name in MASK_FOLDERS] + [root]
    inside = [base / split for base in bases] if split else []
    return _first([*inside, *(bases if given or not split else [])]) or root


def _label_ids(base: Path) -> dict[str, Path]:
    """The masks below a folder.

    Raises:
        DataError: there are only such of the ids that classes have in training.
    """
    files = files_by_id(base, (".png",))
    masks = {MASK.sub("", i): path for i, path in files.items() if MASK.search(i)}
    trained = [] if masks else [path for i, path in files.items() if i.endswith("_labelTrainIds")]
    if trained:
        raise DataError(
            f"{base}: {len(trained)} masks are named …_labelTrainIds.png, such as {trained[0].name}, and none "
            f"…_labelIds.png, which are read; export or keep …_labelIds.png"
        )
    return masks


def _first(folders: Iterable[Path]) -> Path | None:
    return next((folder for folder in folders if folder.is_dir()), None)


def _plain(i: str) -> str:
    return i.removesuffix(f"_{IMAGE_FOLDERS[0]}")


def _by_image(images: dict[str, Path], masks: dict[str, Path]) -> dict[str, Path]:
    """The mask of each image, whose id ends its own; and those without an image, by their path."""
    named = defaultdict(list)
    for i, path in masks.items():
        named[composed(PurePosixPath(i).name)].append((f"/{composed(i)}", path))
    found = {}
    for i, image in images.items():
        fitting = [path for end, path in named[composed(PurePosixPath(i).name)] if end.endswith(f"/{composed(i)}")]
        mask = closest(image.with_name(fitting[0].name), fitting) if fitting else None
        if mask:
            found[i] = mask
    left = set(masks.values()) - set(found.values())
    return found | {path.as_posix(): path for path in sorted(left)}


def _classes(root: Path) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Names, palette, categories and label ids; and the ids of labels that are no classes."""
    listed, exported = root / "classes.txt", root / "label_colors.txt"
    if listed.is_file():
        names = read_lines(listed, "class list")
        colours = default_palette(names).tolist()
    elif exported.is_file():
        names, colours = _exported(exported)
    else:
        ids, named, groups, colours = zip(*EVALUATED, strict=True)
        return named, np.array(colours, np.uint8), groups, ids, tuple(set(range(LABELS)).difference(ids))
    check_once(names, f"class list of {str(root)!r}", "classes")
    ids = tuple(i for i, name in enumerate(names) if name not in VOID_LABELS)
    others = tuple(set(range(len(names))).difference(ids))
    return tuple(names[i] for i in ids), np.array([colours[i] for i in ids], np.uint8), (), ids, others


def _exported(path: Path) -> tuple[list[str], list[list[int]]]:
    """`r g b name` a line; where no label is black, id 0 is the background, without a line."""
    names, colours = [], []
    for line in read_lines(path, "class list"):
        *rgb, name = line.split(maxsplit=3)
        if len(rgb) == 3 and all(value.isdecimal() and int(value) < 256 for value in rgb):
            names.append(name)
            colours.append([int(value) for value in rgb])
        else:
            raise DataError(f"{path}: has the line {line!r:.80}; it must be like 128 64 128 road")
    if [0, 0, 0] not in colours:
        names, colours = [BACKGROUND, *names], [[0, 0, 0], *colours]
    return names, colours
