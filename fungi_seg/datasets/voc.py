"""Pascal VOC 2012: the standard `VOCdevkit` tree, and the flat `images/ SegmentationClassAug/ sets/` one."""

from __future__ import annotations

from fungi_seg.datasets.common import Dataset, files_by_id, pair, voc_palette
from fungi_seg.datasets.config import DataConfig
from fungi_seg.datasets.masks import IndexMasks
from fungi_seg.errors import DataError
from fungi_seg.images import IMAGE_SUFFIXES, MASK_SUFFIXES

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


def open_voc(config: DataConfig, skip_bad: bool) -> Dataset:
    """`data.split` names a list of the tree; `trainaug` takes its masks from `SegmentationClassAug`."""
    root, split = config.folder, config.split or "trainaug"
    for base in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
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
    list_path = config.ids or lists / f"{split}.txt"
    if not config.ids and not list_path.is_file():
        known = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise DataError(f"data.split is {split!r}, for which there is no {str(list_path)!r}; lists there: {known}")
    items, problems = pair(
        files_by_id(images, IMAGE_SUFFIXES), files_by_id(masks, MASK_SUFFIXES), list_path, skip_bad, str(list_path)
    )
    read = IndexMasks(range(len(CLASSES)), (255 if config.void is None else config.void,))
    return Dataset(items, CLASSES, voc_palette(len(CLASSES)), read, problems)
