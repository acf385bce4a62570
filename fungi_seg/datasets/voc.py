"""Pascal VOC 2012: the standard `VOCdevkit` tree, the flat `images/ SegmentationClassAug/ sets/` one, and such trees of
other classes, whose `labelmap.txt` holds their names and colours, as labelling tools export them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fungi_seg.datasets.common import Dataset, files_by_id, pair, read_lines
from fungi_seg.datasets.masks import Colour, ColourMasks, IndexMasks
from fungi_seg.datasets.palettes import voc_palette
from fungi_seg.datasets.regions import VOID_LABELS
from fungi_seg.datasets.selection import BACKGROUND
from fungi_seg.datasets.settings import DataConfig
from fungi_seg.errors import DataError, listing
from fungi_seg.images import IMAGE_SUFFIXES, MASK_SUFFIXES, VOID

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
VOID_VALUE = 255


def open_voc(config: DataConfig, skip_bad: bool) -> Dataset:
    """`data.split` names a list of the tree; `trainaug` takes its masks from `SegmentationClassAug`."""
    root, split = config.folder, config.split or "trainaug"
    bases = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    for base in bases:
        if (base / "labelmap.txt").is_file():
            return _open_labelmap(base, config, skip_bad)
    for base in bases:
        if (base / "JPEGImages").is_dir():
            masks = base / ("SegmentationClassAug" if split.endswith("aug") else "SegmentationClass")
            images, lists = base / "JPEGImages", base / "ImageSets" / "Segmentation"
            break
        if (base / "sets").is_dir():
            images, masks, lists = base / "images", base / "SegmentationClassAug", base / "sets"
            break
    else:
        raise DataError(
            f"data.root is {str(root)!r}, which holds no Pascal VOC: expected VOCdevkit/VOC2012 with JPEGImages, "
            f"SegmentationClass and ImageSets/Segmentation, or images, SegmentationClassAug and sets"
        )
    list_path = config.ids or _list(lists, split)
    remarks: list[str] = []
    items, problems = pair(
        files_by_id(config.place("images") or images, IMAGE_SUFFIXES, remarks),
        files_by_id(masks, MASK_SUFFIXES),
        list_path,
        skip_bad,
        str(list_path),
        masks,
    )
    void = VOID_VALUE if config.void is None else config.void
    read = IndexMasks(range(len(CLASSES)), (void,), assumed=VOID_VALUE if config.void is None else None)
    return Dataset(items, CLASSES, voc_palette(len(CLASSES)), read, problems, tuple(remarks))


def _list(lists: Path, split: str) -> Path:
    path = lists / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise DataError(f"data.split is {split!r}, for which there is no {str(path)!r}; lists there: {known}")
    return path


def _open_labelmap(base: Path, config: DataConfig, skip_bad: bool) -> Dataset:
    """The list `default`, or the only one, unless `data.split` names another; masks are read by their colours."""
    labels = read_labelmap(base / "labelmap.txt")
    images, lists = config.place("images") or base / "JPEGImages", base / "ImageSets" / "Segmentation"
    if not images.is_dir():
        raise DataError(
            f"data.root is {str(config.folder)!r}, where there are annotations but no {str(images)!r}: put the images "
            f"there, or name their folder with --data.images"
        )
    known = sorted(path.stem for path in lists.glob("*.txt"))
    split = config.split or ("default" if len(known) != 1 else known[0])
    list_path = config.ids or (_list(lists, split) if known or config.split else None)
    remarks: list[str] = []
    items, problems = pair(
        files_by_id(images, IMAGE_SUFFIXES, remarks),
        files_by_id(base / "SegmentationClass", MASK_SUFFIXES),
        list_path,
        skip_bad,
        str(list_path or base),
        base / "SegmentationClass",
    )
    classes = {name: colour for name, colour in labels.items() if name not in VOID_LABELS}
    names = list(classes)
    meaning = {colour: names.index(name) if name in classes else VOID for name, colour in labels.items()}
    colours = np.array([*classes.values()], np.uint8)
    return Dataset(items, tuple(names), colours, ColourMasks(meaning), problems, tuple(remarks))


def read_labelmap(path: Path) -> dict[str, Colour]:
    """Names and colours (r, g, b) of `labelmap.txt`, in its order, but `background` first.

    Its lines are `name:r,g,b:parts:actions`, and comments. Where no label has a colour they are those of Pascal VOC.

    Raises:
        DataError: unreadable, a line of another form, a name or the colour of a class twice, or no class.
    """
    lines = [line for line in read_lines(path, "label map") if not line.startswith("#")]
    written = [(name.strip(), rest.split(":")[0].strip()) for name, _, rest in (line.partition(":") for line in lines)]
    if any(colour for _, colour in written):
        colours = [_colour(colour) for _, colour in written]
    else:
        colours = [(r, g, b) for r, g, b in voc_palette(len(written)).tolist()]
    labels = {name: colour for (name, _), colour in zip(written, colours, strict=True) if name and colour is not None}
    own = (bool(name and c) and labels[name] == c for (name, _), c in zip(written, colours, strict=True))
    wrong = [line for line, right in zip(lines, own, strict=True) if not right]
    owners: dict[Colour, set[str]] = {}
    for name, colour in labels.items():
        owners.setdefault(colour, set()).add(name if name not in VOID_LABELS else VOID_LABELS[0])
    wrong += [f"{', '.join(sorted(names))} have one colour" for names in owners.values() if len(names) > 1]
    if wrong or labels.keys() <= set(VOID_LABELS):
        raise DataError(
            f"{path}: must hold a line like person:192,128,128:: for each class, with a name and a colour (red, green, "
            f"blue, 0..255 each) of its own; wrong are:\n{listing(wrong or ['no class is there'])}"
        )
    return {name: labels[name] for name in sorted(labels, key=lambda name: name != BACKGROUND)}


def _colour(text: str) -> Colour | None:
    values = [int(value) for value in text.split(",") if value.strip().isdecimal()]
    return (values[0], values[1], values[2]) if text.count(",") == 2 == len(values) - 1 and max(values) < 256 else None
